//! Long random histories of a controller: after each single write every reader resolves, in the end the tables hold
//! what a naive model says, and once everything is gone nothing is left.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    Controller, SourceHandle,
    abi::{BackendV4, BackendV6},
    memory::MemoryTables,
    model::{
        Affinity, AffinityTimeout, Backend, BackendState, Choice, Frontend, MaglevSize, Masquerade, Protocol,
        Service, ServiceName, Weight,
    },
    reconcile::{NextWake, Usage},
    source::Precedence,
    state::{Phase, RemovalGuard},
    tables::{Capacity, Store},
};
use dataplane_testkit::{conformance::settle, faulty::FaultyStore, maglev::slow_table, witness::Witness};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

const OWNERS: [(&str, i32); 3] = [("ada", 1), ("bob", 2), ("cyd", 2)];

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Upsert(usize, Vec<Wish>),
    Remove(usize, u8),
    Picture(usize, Vec<Wish>),
    Return(usize),
    Synced(usize),
    Steps(u8),
    Later(u16),
    Rest,
    /// The controller is killed after so many writes, and another one goes on from what is in the tables.
    Killed(u16),
}

/// A service that somebody wants.
#[derive(Clone, Debug)]
struct Wish {
    name: u8,
    six: bool,
    frontends: BTreeSet<u8>,
    backends: BTreeMap<u8, (u16, bool)>,
    /// The size of its Maglev table, if it has one.
    maglev: Option<u32>,
    masqueraded: bool,
    /// How many seconds it remembers clients, if it does.
    affinity: Option<u32>,
}

/// Sizes of Maglev tables: not smaller than there are backends in a wish, and so small that shares are coarse.
const SIZES: [u32; 3] = [7, 13, 41];

const SEED: u64 = 77;

impl Wish {
    fn service(&self) -> Service {
        let frontends = self.frontends.iter().map(|&n| frontend(n, self.six));
        let backends = self.backends.iter().map(|(&n, &(weight, draining))| {
            let address = if self.six { format!("2001:db8:1::{n:x}") } else { format!("192.0.2.{}", n + 1) };
            let state = if draining { BackendState::Draining } else { BackendState::Active };
            Backend::new(address.parse().unwrap(), 8080)
                .unwrap()
                .with_weight(Weight::new(weight.into()).unwrap())
                .with_state(state)
        });
        let choice =
            self.maglev.map_or(Choice::Random, |size| Choice::Maglev(MaglevSize::new(size).unwrap()));
        let masquerade = if self.masqueraded { Masquerade::Auto } else { Masquerade::Never };
        let service = Service::builder(&format!("s{}", self.name)).frontends(frontends).backends(backends);
        let affinity = self.affinity.map_or(Affinity::None, |seconds| Affinity::ClientIp {
            timeout: AffinityTimeout::new(seconds).unwrap(),
        });
        service.choice(choice).masquerade(masquerade).affinity(affinity).build().unwrap()
    }
}

fn frontend(n: u8, six: bool) -> Frontend {
    let address = if six { "2001:db8::1" } else { "203.0.113.1" };
    Frontend::new(address.parse().unwrap(), 80 + u16::from(n), Protocol::Tcp).unwrap()
}

/// Every frontend that any service may have.
fn frontends() -> impl Iterator<Item = Frontend> {
    (0..6).flat_map(|n| [frontend(n, false), frontend(n, true)])
}

/// Where a frontend of this service leads to, worked out by counting: a common divisor is looked for, not computed. With a
/// Maglev table each backend counts as often as it has a place there.
fn leads_to(service: &Service) -> Vec<SocketAddr> {
    let chosen: Vec<&Backend> = service
        .backends()
        .iter()
        .filter(|backend| backend.state() == BackendState::Active && backend.weight().get() > 0)
        .collect();
    if let Choice::Maglev(size) = service.choice() {
        let weights: Vec<_> = chosen.iter().map(|b| (b.socket_address(), b.weight().get())).collect();
        let mut addresses = slow_table(size.get(), SEED, &weights);
        addresses.sort_unstable();
        return addresses;
    }
    let divisor =
        (1..=256).rev().find(|divisor| chosen.iter().all(|b| b.weight().get() % divisor == 0)).unwrap();
    let mut addresses = Vec::new();
    for backend in chosen {
        for _ in 0..backend.weight().get() / divisor {
            addresses.push(backend.socket_address());
        }
    }
    addresses.sort_unstable();
    addresses
}

/// For how many ticks, of 2^27 ns each, a service remembers clients.
fn remembers(service: &Service) -> u64 {
    match service.affinity() {
        Affinity::ClientIp { timeout } => {
            let nanoseconds = u64::from(timeout.seconds()) * 1_000_000_000;
            nanoseconds / (1 << 27) + 1
        }
        _ => 0,
    }
}

/// The backends that have a generation, as they stand in the tables.
fn living_backends(store: &dyn Store) -> Vec<(SocketAddr, Place)> {
    let mut living = Vec::new();
    for (table, six) in [(store.backends_v4(), false), (store.backends_v6(), true)] {
        for index in 0..table.capacity() {
            let words: Vec<u64> = (0..table.width()).map(|word| table.load(index, word).unwrap()).collect();
            let (generation, address) = if six {
                let row = BackendV6::read_from_bytes(words.as_bytes()).unwrap();
                (row.generation, SocketAddr::new(row.address.into(), row.port.get()))
            } else {
                let row = BackendV4::read_from_bytes(words.as_bytes()).unwrap();
                (row.generation, SocketAddr::new(row.address.into(), row.port.get()))
            };
            if generation != 0 {
                living.push((address, Place { index, generation }));
            }
        }
    }
    living
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        0u8..5,
        prop::bool::weighted(0.3),
        prop::collection::btree_set(0u8..6, 1..4),
        prop::collection::btree_map(0u8..8, (0u16..5, prop::bool::weighted(0.2)), 0..6),
        prop::option::weighted(0.4, prop::sample::select(&SIZES[..])),
        any::<bool>(),
        prop::option::weighted(0.3, prop::sample::select(&[1, 10_800][..])),
    )
        .prop_map(|(name, six, frontends, backends, maglev, masqueraded, affinity)| Wish {
            name,
            six,
            frontends,
            backends,
            maglev,
            masqueraded,
            affinity,
        })
}

fn event() -> impl Strategy<Value = Event> {
    let owner = 0..OWNERS.len();
    prop_oneof![
        8 => (owner.clone(), prop::collection::vec(wish(), 1..3)).prop_map(|(o, w)| Event::Upsert(o, w)),
        4 => (owner.clone(), 0u8..5).prop_map(|(o, n)| Event::Remove(o, n)),
        2 => (owner.clone(), prop::collection::vec(wish(), 0..4)).prop_map(|(o, w)| Event::Picture(o, w)),
        1 => owner.clone().prop_map(Event::Return),
        2 => owner.prop_map(Event::Synced),
        6 => (1u8..4).prop_map(Event::Steps),
        2 => (1u16..500).prop_map(Event::Later),
        1 => Just(Event::Rest),
        2 => (0u16..60).prop_map(Event::Killed),
    ]
}

/// What one owner wants, said naively.
#[derive(Default)]
struct OwnerModel {
    synced: bool,
    /// With whether it was mentioned since the owner came (back).
    services: BTreeMap<ServiceName, (Service, bool)>,
}

struct World {
    witness: Arc<Witness>,
    store: Arc<FaultyStore>,
    /// `None` between two of them.
    control: Option<Controller>,
    per_step: usize,
    sources: Vec<Option<SourceHandle>>,
    model: Vec<OwnerModel>,
    /// Where backends were first seen that have been named ever since.
    places: BTreeMap<SocketAddr, Place>,
    /// What stood when a controller was killed, until every source has spoken to the next one.
    left: Option<Left>,
    is_narrow: bool,
    now: Duration,
}

/// What a controller left.
struct Left {
    /// Where frontends led that nobody has named since.
    frontends: BTreeMap<Frontend, Vec<SocketAddr>>,
    places: BTreeMap<SocketAddr, Place>,
}

/// A place in the table of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u32,
    generation: u32,
}

impl World {
    fn new(capacity: Capacity, one_in: u32, seed: u64, per_step: usize) -> Self {
        let witness = Arc::new(Witness::new(Arc::new(MemoryTables::new(capacity))));
        let store = Arc::new(FaultyStore::new(witness.clone(), one_in, seed));
        let model = OWNERS.iter().map(|_| OwnerModel::default()).collect();
        let mut world = Self {
            witness,
            store,
            control: None,
            per_step,
            sources: Vec::new(),
            model,
            places: BTreeMap::new(),
            left: None,
            is_narrow: capacity == NARROW,
            now: Duration::ZERO,
        };
        world.begin();
        world
    }

    /// A controller begins, with what is in the tables.
    fn begin(&mut self) {
        let build = || {
            Controller::builder(self.store.clone())
                .removal_guard(RemovalGuard::off())
                .services_per_step(self.per_step)
                .maglev_seed(SEED)
                .build()
        };
        // Where writes fail, so may this.
        let control = (0..1000).find_map(|_| build().ok()).unwrap();
        self.sources = OWNERS
            .iter()
            .map(|&(name, precedence)| Some(control.register(name, Precedence::new(precedence)).unwrap()))
            .collect();
        self.control = Some(control);
    }

    fn control(&self) -> &Controller {
        self.control.as_ref().unwrap()
    }

    fn killed(&mut self, writes: u16) {
        self.store.die_after(writes.into());
        for _ in 0..40 {
            if let NextWake::At(time) = self.control().step(self.now) {
                self.now = self.now.max(time);
            }
            if self.store.is_dead() {
                break;
            }
        }
        // Whoever was not killed in the midst of it was before it went on.
        self.sources.clear();
        self.control = None;
        self.store.revive();
        let mut places: BTreeMap<SocketAddr, Vec<Place>> = BTreeMap::new();
        for (address, place) in living_backends(&*self.store) {
            places.entry(address).or_default().push(place);
        }
        let places = places.into_iter().filter_map(|(address, found)| match found[..] {
            [place] => Some((address, place)),
            _ => None,
        });
        let frontends = frontends().filter_map(|frontend| Some((frontend, self.witness.resolve(&frontend)?)));
        self.left = Some(Left { frontends: frontends.collect(), places: places.collect() });
        self.places.clear();
        for model in &mut self.model {
            *model = OwnerModel::default();
        }
        self.begin();
    }

    fn source(&self, owner: usize) -> &SourceHandle {
        self.sources[owner].as_ref().unwrap()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Upsert(owner, wishes) => self.commit(owner, &wishes, &[], false),
            Event::Picture(owner, wishes) => self.commit(owner, &wishes, &[], true),
            Event::Remove(owner, name) => self.commit(owner, &[], &[name], false),
            Event::Return(owner) => {
                self.sources[owner] = None;
                let (name, precedence) = OWNERS[owner];
                self.sources[owner] =
                    Some(self.control().register(name, Precedence::new(precedence)).unwrap());
                let model = &mut self.model[owner];
                model.synced = false;
                model.services.values_mut().for_each(|(_, mentioned)| *mentioned = false);
            }
            Event::Synced(owner) => self.synced(owner),
            Event::Steps(steps) => {
                for _ in 0..steps {
                    if let NextWake::At(time) = self.control().step(self.now) {
                        self.now = self.now.max(time.min(self.now + Duration::from_millis(20)));
                    }
                    self.what_was_left_stands();
                    self.named_backends_keep_their_places();
                }
            }
            Event::Later(milliseconds) => self.now += Duration::from_millis(milliseconds.into()),
            Event::Rest => self.now = settle(self.control(), self.now),
            Event::Killed(writes) => self.killed(writes),
        }
        self.what_was_left_stands();
        self.named_backends_keep_their_places();
    }

    /// Nothing that was left goes before every source has spoken.
    fn what_was_left_stands(&mut self) {
        if self.model.iter().all(|model| model.synced) {
            self.left = None;
        }
        for (frontend, addresses) in self.left.iter().flat_map(|left| &left.frontends) {
            assert_eq!(self.witness.resolve(frontend).as_ref(), Some(addresses), "{frontend}");
        }
    }

    /// Who is named before and after a change keeps index and generation, or its flows would break: in whatever order the
    /// services are written, and however long that takes.
    fn named_backends_keep_their_places(&mut self) {
        if self.is_narrow {
            // Who is refused is not in the tables, and neither are those that only it names.
            return;
        }
        let status = self.control().status();
        let mut named: BTreeMap<SocketAddr, bool> = BTreeMap::new();
        for (owner, service) in self.winners() {
            let found = status.iter().find(|s| s.owner.as_str() == owner && s.service == *service.name());
            let stands = found.is_some_and(|s| matches!(s.phase, Phase::Applied | Phase::Conflict));
            for backend in service.backends() {
                *named.entry(backend.socket_address()).or_default() |= stands;
            }
        }
        self.places.retain(|address, _| named.contains_key(address));
        let mut living: BTreeMap<SocketAddr, Vec<Place>> = BTreeMap::new();
        for (address, place) in living_backends(&*self.store) {
            living.entry(address).or_default().push(place);
        }
        for (address, stands) in named {
            let found = living.get(&address).map_or(&[][..], Vec::as_slice);
            match (self.places.get(&address), found) {
                (Some(place), found) => {
                    assert!(found.contains(place), "{address} had {place:?}, and has {found:?}");
                }
                (None, found)
                    if let Some(place) = self.left.as_ref().and_then(|left| left.places.get(&address)) =>
                {
                    assert!(found.contains(place), "{address} was left at {place:?}, and has {found:?}");
                    self.places.insert(address, *place);
                }
                // Where there are two, the other one is on its way out.
                (None, [place]) if stands => {
                    self.places.insert(address, *place);
                }
                (None, _) => {}
            }
        }
    }

    /// The services that have a frontend at least, with their owners.
    fn winners(&self) -> Vec<(&'static str, &Service)> {
        let mut winners: Vec<(&'static str, &Service)> = Vec::new();
        for (owner, service) in frontends().filter_map(|frontend| self.winner(&frontend)) {
            if !winners.iter().any(|(name, other)| (*name, other.name()) == (owner, service.name())) {
                winners.push((owner, service));
            }
        }
        winners
    }

    fn synced(&mut self, owner: usize) {
        self.source(owner).synced();
        let model = &mut self.model[owner];
        if !model.synced {
            model.synced = true;
            model.services.retain(|_, (_, mentioned)| *mentioned);
        }
    }

    fn commit(&mut self, owner: usize, wishes: &[Wish], removals: &[u8], full: bool) {
        let services: Vec<Service> = wishes.iter().map(Wish::service).collect();
        let removals: Vec<ServiceName> =
            removals.iter().map(|n| ServiceName::new(&format!("s{n}")).unwrap()).collect();
        let mut transaction = self.source(owner).transaction().upserts(services.clone());
        for name in &removals {
            transaction = transaction.remove(name);
        }
        if full {
            transaction = transaction.full_picture();
        }
        let committed = transaction.commit();

        // The same, naively.
        let model = &self.model[owner];
        let mut next = model.services.clone();
        for name in &removals {
            next.remove(name);
        }
        if full && model.synced {
            next.clear();
        } else if full {
            next.values_mut().for_each(|(_, mentioned)| *mentioned = false);
        }
        let mut valid = true;
        let mut names = BTreeSet::new();
        for service in &services {
            valid &= names.insert(service.name().clone());
            next.insert(service.name().clone(), (service.clone(), true));
        }
        let mut claimed = BTreeSet::new();
        for (service, _) in next.values().filter(|(_, mentioned)| *mentioned) {
            for frontend in service.frontends() {
                valid &= claimed.insert(*frontend);
            }
        }
        assert_eq!(committed.is_ok(), valid, "{committed:?}");
        if valid {
            self.model[owner].services = next;
            if let Some(left) = &mut self.left {
                let named: BTreeSet<&Frontend> = services.iter().flat_map(Service::frontends).collect();
                left.frontends.retain(|frontend, _| !named.contains(frontend));
            }
            for service in &services {
                for frontend in service.frontends() {
                    self.witness.allow(frontend, leads_to(service));
                }
            }
        }
    }

    /// Who is to have a frontend, by going through everybody.
    fn winner(&self, frontend: &Frontend) -> Option<(&'static str, &Service)> {
        let claims = self.model.iter().zip(OWNERS).flat_map(|(model, (owner, precedence))| {
            let services = model.services.values();
            services.map(move |(service, mentioned)| (*mentioned, precedence, owner, service))
        });
        let claims = claims.filter(|(_, _, _, service)| service.frontends().contains(frontend));
        claims
            .max_by_key(|&(mentioned, precedence, owner, service)| {
                (mentioned, precedence, std::cmp::Reverse((owner, service.name())))
            })
            .map(|(_, _, owner, service)| (owner, service))
    }

    fn tables_are_as_the_model_says(&self) {
        for frontend in frontends() {
            let left = || self.left.as_ref()?.frontends.get(&frontend).cloned();
            let expected = self.winner(&frontend).map(|(_, service)| leads_to(service)).or_else(left);
            assert_eq!(self.witness.resolve(&frontend), expected, "{frontend}");
            if let Some((_, service)) = self.winner(&frontend) {
                assert_eq!(self.witness.affinity(&frontend), Some(remembers(service)), "{frontend}");
            }
        }
        if self.left.is_none() {
            self.witness.marks_match_lists();
            self.witness.addresses_match_frontends();
        }
    }

    /// Where there was not room for all: who is there is there as desired, and who is refused has a reason.
    fn tables_hold_what_the_status_says(&self) {
        let status = self.control().status();
        for (owner, model) in OWNERS.iter().zip(&self.model) {
            for (name, (service, _)) in &model.services {
                let found = status.iter().find(|s| s.owner.as_str() == owner.0 && s.service == *name);
                match &found.unwrap_or_else(|| panic!("{name} of {} was lost", owner.0)).phase {
                    Phase::Applied => {
                        for frontend in service.frontends() {
                            assert_eq!(self.witness.resolve(frontend), Some(leads_to(service)), "{frontend}");
                            assert_eq!(
                                self.witness.affinity(frontend),
                                Some(remembers(service)),
                                "{frontend}"
                            );
                        }
                    }
                    Phase::Refused(_) | Phase::Conflict => {}
                    other => panic!("{name} of {} is {other:?}", owner.0),
                }
            }
        }
        assert_eq!(status.len(), self.model.iter().map(|model| model.services.len()).sum::<usize>());
    }

    fn ends_empty(mut self) {
        for owner in 0..OWNERS.len() {
            self.synced(owner);
            self.commit(owner, &[], &[], true);
        }
        settle(self.control(), self.now);
        assert_eq!(self.control().status(), []);
        let mut usage = self.control().usage();
        assert_eq!(usage.holes, 1, "{usage:?}");
        usage.holes = 0;
        assert_eq!(usage, Usage::default());
        assert_eq!(self.witness.contents(), (0, 0, 0));
        assert!(self.witness.checks() > 0 || self.store.writes() == 0);
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, max_shrink_iters: 4096, ..ProptestConfig::default() }
}

const ROOM: Capacity = Capacity {
    frontends: 32,
    slots: 4096,
    backends: 40,
    conntrack: 8,
    opening: 8,
    nat: 8,
    affinity: 8,
    fragments: 8,
};

/// Too little for all that may be wanted.
const NARROW: Capacity = Capacity {
    frontends: 5,
    slots: 48,
    backends: 6,
    conntrack: 8,
    opening: 8,
    nat: 8,
    affinity: 8,
    fragments: 8,
};

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn every_reference_resolves_at_every_step(
        events in prop::collection::vec(event(), 1..120),
        per_step in 1usize..6,
    ) {
        let mut world = World::new(ROOM, 0, 0, per_step);
        for event in events {
            world.happen(event);
        }
        world.now = settle(world.control(), world.now);
        world.tables_are_as_the_model_says();
        world.ends_empty();
    }

    #[test]
    fn it_gets_there_although_one_write_in_ten_fails(
        events in prop::collection::vec(event(), 1..120),
        per_step in 1usize..6,
        seed in any::<u64>(),
    ) {
        let mut world = World::new(ROOM, 10, seed, per_step);
        for event in events {
            world.happen(event);
        }
        world.now = settle(world.control(), world.now);
        world.tables_are_as_the_model_says();
        world.ends_empty();
    }

    #[test]
    fn narrow_tables_refuse_and_lose_nothing(
        events in prop::collection::vec(event(), 1..120),
        per_step in 1usize..6,
        seed in any::<u64>(),
        one_in in prop_oneof![Just(0u32), Just(10)],
    ) {
        let mut world = World::new(NARROW, one_in, seed, per_step);
        for event in events {
            world.happen(event);
        }
        world.store.heal();
        world.now = settle(world.control(), world.now);
        world.tables_hold_what_the_status_says();
        world.ends_empty();
    }
}
