//! The witness sees what it is there for: each rule of its is broken on purpose, by a single write, and it says so.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use dataplane_core::{
    abi::{BackendRef, BackendV4, SLOT_LINE_WORDS, ServiceKeyV4, ServiceRef, ServiceWord, SlotHeader},
    memory::MemoryTables,
    model::{Frontend, Protocol},
    tables::{Capacity, Store},
    wire::Be16,
};
use dataplane_testkit::{
    fill::{FilledService, Filler},
    witness::Witness,
};

const FRONTEND: &str = "203.0.113.10:80";
const FIRST: &str = "192.0.2.1:8080";
const SECOND: &str = "192.0.2.2:8080";
/// A line that nobody uses.
const FREE_LINE: u32 = 20;

/// A frontend that leads to the first of two backends; the second is there for flows only.
struct World {
    witness: Witness,
    filler: Filler,
    service: FilledService,
    first: BackendRef,
    second: BackendRef,
}

impl World {
    fn new() -> Self {
        let witness = Witness::new(Arc::new(MemoryTables::new(Capacity::small())));
        let mut filler = Filler::default();
        let first = filler.backend(&witness, FIRST.parse().unwrap(), false).unwrap();
        let second = filler.backend(&witness, SECOND.parse().unwrap(), false).unwrap();
        let service = filler.service(&witness, FRONTEND.parse().unwrap(), 6, &[first]).unwrap();
        Self { witness, filler, service, first, second }
    }

    fn key() -> ServiceKeyV4 {
        let address = std::net::Ipv4Addr::new(203, 0, 113, 10).into();
        ServiceKeyV4 { address, port: Be16::new(80), protocol: 6, scope: 0 }
    }

    fn tag() -> u32 {
        Self::key().tag()
    }

    /// Writes a list of one entry.
    fn write_list(&self, line: u32, entry: BackendRef) {
        let words = [SlotHeader::new(1, 0, 0).0, 0, 0, 0, entry.0];
        self.witness.slots().store(line * SLOT_LINE_WORDS, &words).unwrap();
    }

    fn point_to(&self, line: u32) {
        self.witness.service_words().store(0, &[ServiceWord::new(line, Self::tag()).0]).unwrap();
    }

    /// Writes the row of a backend.
    fn write_backend(&self, place: BackendRef, generation: u32, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let SocketAddr::V4(address) = address else { panic!("an IPv4 backend") };
        let port = Be16::new(address.port());
        let row = BackendV4 { generation, port, address: (*address.ip()).into(), ..BackendV4::default() };
        let words: [u64; 2] = zerocopy::transmute!(row);
        self.witness.backends_v4().store(place.index(), &words).unwrap();
    }

    /// Lets the frontend lead to the second backend. Readers may still be with the first.
    fn switch(&mut self) {
        self.filler.point(&self.witness, self.service, &[self.second]).unwrap();
    }

    /// Takes the frontend out of the hash. Readers may still hold what the hash said.
    fn remove(&self) {
        assert!(self.witness.services_v4().remove(&Self::key()).unwrap());
    }
}

/// What the witness says to something that must not be.
fn objection(wrong: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(wrong)).expect_err("nobody objected");
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap()
}

/// Does the right thing up to `prepare`, and then what must draw an objection.
fn objects(prepare: impl FnOnce(&mut World), wrong: impl FnOnce(&mut World), expected: &str) {
    let mut world = World::new();
    prepare(&mut world);
    let said = objection(|| wrong(&mut world));
    assert!(said.contains(expected), "{said:?} instead of {expected:?}");
}

fn nothing(_: &mut World) {}

#[test]
fn the_hash_must_lead_to_the_frontends_own_word() {
    let insert = |world: &mut World, reference| {
        world.witness.services_v4().insert(&World::key(), &reference).unwrap();
    };
    let tag = World::tag();
    objects(nothing, |world| insert(world, ServiceRef::new(0, tag ^ 1)), "a tag that is not its key's");
    objects(nothing, |world| insert(world, ServiceRef::new(5, tag)), "is another's");
    let others = ServiceWord::new(1, tag ^ 1).0;
    objects(nothing, |world| world.witness.service_words().store(0, &[others]).unwrap(), "is another's");
    objects(nothing, |world| world.witness.service_words().store(0, &[0]).unwrap(), "is another's");
}

#[test]
fn a_word_must_lead_to_a_whole_list() {
    objects(nothing, |world| world.point_to(0), "a word points to line 0");
    let unwritten = |world: &mut World| {
        let frontend = Frontend::new("203.0.113.10".parse().unwrap(), 80, Protocol::Tcp).unwrap();
        world.witness.allow(&frontend, vec![FIRST.parse().unwrap()]);
    };
    objects(unwritten, |world| world.point_to(FREE_LINE), "leads to [], which nobody wanted");
    objects(unwritten, World::switch, "leads to [192.0.2.2:8080], which nobody wanted");
}

#[test]
fn a_list_must_name_those_who_are_there_and_take_flows() {
    let nobody = |world: &mut World| world.write_list(FREE_LINE, BackendRef::new(0, 0));
    objects(nobody, |world| world.point_to(FREE_LINE), "names nobody");
    let former = |world: &mut World| world.write_list(FREE_LINE, BackendRef::new(0, 7));
    objects(former, |world| world.point_to(FREE_LINE), "who is gone");
    let remove = |world: &mut World| world.filler.remove_backend(&world.witness, world.first, false).unwrap();
    objects(nothing, remove, "who is gone");
    let drain = |world: &mut World| world.filler.drain_backend(&world.witness, world.first, false).unwrap();
    objects(nothing, drain, "who drains");
}

#[test]
fn a_maglev_table_must_name_each_entry_and_no_others() {
    let table = |places: &'static [u16]| {
        move |world: &mut World| {
            let entries = [world.first, world.second];
            let (witness, service) = (&world.witness, world.service);
            world.filler.point_by_maglev(witness, service, &entries, places, 3).unwrap();
        }
    };
    objects(nothing, table(&[0, 1, 2, 0, 1]), "a place for an entry that it does not have");
    objects(nothing, table(&[1, 1, 1, 1, 1]), "an entry without a place");
    let mut world = World::new();
    table(&[0, 1, 1, 1, 0])(&mut world);
    let frontend = Frontend::new("203.0.113.10".parse().unwrap(), 80, Protocol::Tcp).unwrap();
    let expected = [FIRST, FIRST, SECOND, SECOND, SECOND].map(|address| address.parse().unwrap());
    assert_eq!(world.witness.resolve(&frontend), Some(expected.to_vec()));
}

#[test]
fn nothing_changes_under_readers_who_came_before_the_grace_period() {
    let remove = |world: &mut World| world.filler.remove_backend(&world.witness, world.first, false).unwrap();
    objects(
        World::switch,
        |world| world.write_list(1, world.second),
        "list 1 of V4 changed under its readers",
    );
    objects(World::switch, remove, "who is gone");
    let elsewhere = |world: &mut World| world.write_backend(world.first, 1, SECOND);
    objects(World::switch, elsewhere, "backend 0 of V4 changed under its readers");
    // Who holds what the hash said follows the word, as long as it has its tag.
    let removed = |world: &mut World| {
        world.remove();
        world.write_list(FREE_LINE, BackendRef::new(0, 0));
    };
    objects(removed, |world| world.point_to(FREE_LINE), "names nobody");
}

#[test]
fn nothing_changes_under_holders_of_flows_before_the_grace_period() {
    let gone = |world: &mut World| world.filler.remove_backend(&world.witness, world.second, false).unwrap();
    let other = |world: &mut World| world.write_backend(world.second, 2, "192.0.2.3:8080");
    objects(gone, other, "changed under who copies it");
    let same = |world: &mut World| world.write_backend(world.second, 2, SECOND);
    objects(gone, same, "was given to another at once");
}

#[test]
fn after_the_grace_period_all_of_it_is_well() {
    let mut world = World::new();
    let before = world.witness.checks();
    world.switch();
    world.witness.synchronize().unwrap();
    world.filler.remove_backend(&world.witness, world.first, false).unwrap();
    world.witness.synchronize().unwrap();
    world.write_backend(world.first, 2, "192.0.2.3:8080");
    world.write_list(1, BackendRef::new(0, 2));
    world.point_to(1);
    world.remove();
    world.witness.synchronize().unwrap();
    world.witness.service_words().store(0, &[0]).unwrap();
    assert!(world.witness.checks() >= before + 10, "each write is looked at, each grace period too");
}

#[test]
fn each_word_of_a_row_is_a_write_of_its_own() {
    let world = World::new();
    let before = world.witness.checks();
    world.write_backend(BackendRef::new(9, 1), 1, "192.0.2.9:80");
    assert_eq!(world.witness.checks() - before, 2);
}

#[test]
fn the_mark_of_draining_must_be_where_no_list_leads() {
    let world = World::new();
    let said = objection(|| world.witness.marks_match_lists());
    assert!(said.contains("backend 1 of V4: marked false"), "{said}");
    world.filler.drain_backend(&world.witness, world.second, false).unwrap();
    world.witness.marks_match_lists();
    // Nothing leads to the first any more; and only the mark is missing.
    world.remove();
    let said = objection(|| world.witness.marks_match_lists());
    assert!(said.contains("backend 0 of V4: marked false"), "{said}");
}
