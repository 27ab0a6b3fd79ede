//! Tables that a controller finds: what one left, with words of any kind written over it.
//!
//! Whatever stands there, the next controller goes on from it without a panic; once its source has spoken, the tables
//! hold what it said and nothing else, as on tables that were empty; and once it wants nothing any more, nothing is left.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use dataplane_core::{
    Controller, SourceHandle,
    abi::{BackendRef, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader},
    compile::ServiceKey,
    memory::MemoryTables,
    model::{Affinity, AffinityTimeout, Backend, Choice, Frontend, MaglevSize, Protocol, Service, Weight},
    reconcile::Usage,
    source::Precedence,
    state::RemovalGuard,
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    conformance::settle,
    witness::{Witness, resolve},
};
use zerocopy::FromBytes as _;

const CAPACITY: Capacity = Capacity {
    frontends: 12,
    slots: 512,
    backends: 12,
    conntrack: 8,
    opening: 8,
    nat: 64,
    affinity: 64,
    fragments: 8,
};
/// Frontends that may be wanted, of each family.
const FRONTENDS: u8 = 4;
/// Backends that may be wanted, of each family.
const BACKENDS: u8 = 4;

/// Something written to the tables behind a controller's back. Numbers are small now and then, so that they hit.
#[derive(Arbitrary, Debug)]
enum Damage {
    /// Any word at any place.
    Word { array: u8, place: Number, word: Number, value: u64 },
    /// A word that leads to a list, with the tag of a frontend.
    Point { index: Number, frontend: u8, base: Number },
    /// The first word of a list.
    Header { line: Number, entries: Number, table: Number },
    /// An entry of a list.
    Entry { place: Number, index: Number, generation: Number },
    /// A frontend in the hash, with its tag or with another one.
    List { frontend: u8, index: Number, tag: Option<u32> },
    /// Any key in the hash.
    Key { six: bool, key: [u8; 20], index: Number },
    /// A frontend out of the hash.
    Unlist { frontend: u8 },
    /// One backend's words at another one's place.
    Copy { six: bool, from: Number, to: Number },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    Any(u32),
}

impl Number {
    fn get(self) -> u32 {
        match self {
            Self::Small(number) => u32::from(number) % 16,
            Self::Any(number) => number,
        }
    }

    fn below(self, end: u32) -> u32 {
        self.get() % end
    }
}

/// What a source says: a byte for each service, whose bits are its frontends and backends.
#[derive(Arbitrary, Debug)]
struct Wishes([(u8, u8, u8); 4]);

impl Wishes {
    fn services(&self) -> Vec<Service> {
        let mut taken = 0u8;
        let mut services = Vec::new();
        for (number, &(frontends, backends, kind)) in (0u8..).zip(&self.0) {
            let mine = frontends & !taken;
            let six = kind & 1 != 0;
            // What one family's service has, the other's leaves alone, too.
            taken |= mine;
            let own = |bits: u8, most: u8| (0..most).filter(move |bit| bits >> bit & 1 != 0);
            let frontends: Vec<Frontend> = own(mine, FRONTENDS).map(|bit| frontend(bit, six)).collect();
            if frontends.is_empty() {
                continue;
            }
            let weight = |bit: u8| u32::from(kind >> 2 & bit & 3) + u32::from(kind >> 4 & 1);
            let backends = own(backends, BACKENDS).map(|bit| {
                let backend =
                    backend(bit, six).with_weight(Weight::new(weight(bit)).expect("a small weight"));
                if backends >> (bit + 4) & 1 != 0 { backend.draining() } else { backend }
            });
            let choice =
                MaglevSize::new(13).ok().filter(|_| kind & 2 != 0).map_or(Choice::Random, Choice::Maglev);
            let service = Service::builder(&format!("s{number}")).frontends(frontends).backends(backends);
            let timeout = AffinityTimeout::default();
            let affinity = if kind & 0x20 != 0 { Affinity::ClientIp { timeout } } else { Affinity::None };
            services.push(service.choice(choice).affinity(affinity).build().expect("a service"));
        }
        services
    }
}

fn frontend(n: u8, six: bool) -> Frontend {
    let address = if six { "2001:db8::1" } else { "203.0.113.1" };
    Frontend::new(address.parse().expect("an address"), 80 + u16::from(n), Protocol::Tcp).expect("a frontend")
}

fn all_frontends() -> impl Iterator<Item = Frontend> {
    (0..FRONTENDS).flat_map(|n| [frontend(n, false), frontend(n, true)])
}

fn backend(n: u8, six: bool) -> Backend {
    let address = if six { format!("2001:db8:1::{n:x}") } else { format!("192.0.2.{n}") };
    Backend::new(address.parse().expect("an address"), 8080).expect("a backend")
}

/// Reads what happens out of `data`, and lets it happen.
///
/// # Panics
/// Where the tables are not in the end as they are wanted.
pub fn go_on(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((first, damage, second)) = input.arbitrary::<(Wishes, Vec<Damage>, Wishes)>() else {
        return;
    };
    let tables = Arc::new(MemoryTables::new(CAPACITY));
    let (control, agent) = begin(tables.clone());
    agent.replace(first.services()).expect("a picture without conflicts");
    settle(&control, Duration::ZERO);
    drop((control, agent));
    for damage in &damage {
        damage.befall(&tables);
    }

    let (control, agent) = begin(tables.clone());
    let services = second.services();
    agent.replace(services.clone()).expect("a picture without conflicts");
    let now = settle(&control, Duration::ZERO);
    // Who can't be read has no room that anybody else needs: but who can is not taken out yet.
    agent.synced();
    settle(&control, now);
    drop((control, agent));

    // The same as on tables that were empty.
    let empty = Arc::new(MemoryTables::new(CAPACITY));
    let (control, agent) = begin(empty.clone());
    agent.replace(services.clone()).expect("a picture without conflicts");
    settle(&control, Duration::ZERO);
    for frontend in all_frontends() {
        let (found, expected) = (leads_to(&*tables, &frontend), leads_to(&*empty, &frontend));
        assert_eq!(found, expected, "{frontend}");
    }
    let count = |tables: &MemoryTables| {
        (tables.services_v4().fill().expect("a table"), tables.services_v6().fill().expect("a table"))
    };
    assert_eq!(count(&tables), count(&empty), "frontends that nobody wants");
    drop((control, agent));

    // All of it moves under a witness's eyes, and goes.
    let witness = Arc::new(Witness::new(tables));
    let (control, agent) = begin(witness.clone());
    agent.synced();
    agent.replace(services).expect("a picture without conflicts");
    let now = settle(&control, Duration::ZERO);
    witness.marks_match_lists();
    witness.addresses_match_frontends();
    agent.replace(first.services()).expect("a picture without conflicts");
    let now = settle(&control, now);
    witness.marks_match_lists();
    witness.addresses_match_frontends();
    agent.replace([]).expect("a picture without conflicts");
    settle(&control, now);
    let mut usage = control.usage();
    assert_eq!(usage.holes, 1, "{usage:?}");
    usage.holes = 0;
    assert_eq!(usage, Usage::default());
    assert_eq!(witness.contents(), (0, 0, 0));
}

fn begin(store: Arc<dyn Store>) -> (Controller, SourceHandle) {
    let control =
        Controller::builder(store).removal_guard(RemovalGuard::off()).build().expect("a controller");
    let agent = control.register("agent", Precedence::default()).expect("a fresh name");
    (control, agent)
}

fn leads_to(store: &dyn Store, frontend: &Frontend) -> Option<Vec<SocketAddr>> {
    resolve(store, frontend)
}

impl Damage {
    fn befall(&self, tables: &MemoryTables) {
        // What is beyond the end of a table is not written.
        let known = |n: u8| frontend(n / 2 % FRONTENDS, n & 1 != 0);
        let insert = |key: ServiceKey, reference: ServiceRef| {
            let full = match key {
                ServiceKey::V4(key) => tables.services_v4().insert(&key, &reference),
                ServiceKey::V6(key) => tables.services_v6().insert(&key, &reference),
            };
            full.unwrap_or(());
        };
        let slot = |place: u32, word: u64| tables.slots().store(place, &[word]).unwrap_or(());
        match *self {
            Self::Word { array, place, word, value } => {
                let arrays =
                    [tables.service_words(), tables.slots(), tables.backends_v4(), tables.backends_v6()];
                let array = arrays[usize::from(array) % arrays.len()];
                let place = place.below(array.capacity());
                let mut words: Vec<u64> =
                    (0..array.width()).map(|word| array.load(place, word).unwrap_or(0)).collect();
                words[word.below(array.width()) as usize] = value;
                array.store(place, &words).unwrap_or(());
            }
            Self::Point { index, frontend, base } => {
                let tag = ServiceKey::from(&known(frontend)).tag();
                let words = tables.service_words();
                let word = ServiceWord::new(base.get(), tag);
                words.store(index.below(words.capacity()), &[word.0]).unwrap_or(());
            }
            Self::Header { line, entries, table } => {
                slot(line.below(64) * 8, SlotHeader::new(entries.get(), table.get() as u16, 0).0);
            }
            Self::Entry { place, index, generation } => {
                slot(place.below(512), BackendRef::new(index.get(), generation.get()).0);
            }
            Self::List { frontend, index, tag } => {
                let key = ServiceKey::from(&known(frontend));
                insert(key, ServiceRef::new(index.get(), tag.unwrap_or(key.tag())));
            }
            Self::Key { six: false, key, index } => {
                if let Ok((key, _)) = ServiceKeyV4::read_from_prefix(&key) {
                    insert(ServiceKey::V4(key), ServiceRef::new(index.get(), key.tag()));
                }
            }
            Self::Key { six: true, key, index } => {
                if let Ok((key, _)) = ServiceKeyV6::read_from_prefix(&key) {
                    insert(ServiceKey::V6(key), ServiceRef::new(index.get(), key.tag()));
                }
            }
            Self::Unlist { frontend } => match ServiceKey::from(&known(frontend)) {
                ServiceKey::V4(key) => drop(tables.services_v4().remove(&key)),
                ServiceKey::V6(key) => drop(tables.services_v6().remove(&key)),
            },
            Self::Copy { six, from, to } => {
                let array = if six { tables.backends_v6() } else { tables.backends_v4() };
                let words: Vec<u64> = (0..array.width())
                    .map(|word| array.load(from.below(array.capacity()), word).unwrap_or(0))
                    .collect();
                array.store(to.below(array.capacity()), &words).unwrap_or(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_testkit::frames::Rng;

    use super::*;

    /// Without a fuzzer, too: what any bytes do.
    #[test]
    fn any_bytes_are_gone_on_from() {
        let mut rng = Rng::new(7);
        for length in 0..600 {
            go_on(&rng.bytes(length % 300));
        }
    }
}
