//! A controller on these tables. Writes may fail for a while; in the end all is as it is desired.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dataplane_core::{
    Controller, ControllerError, SourceHandle,
    model::{Backend, Choice, Frontend, MaglevSize, Protocol, Service, Weight},
    reconcile::Usage,
    source::Precedence,
    state::{Phase, Refusal, RemovalGuard},
    tables::Store,
};

use super::{Case, settle};
use crate::witness::resolve;

pub(super) const CASES: &[Case] = &[
    Case { name: "services of both families are written, with weights", run: both_families },
    Case { name: "a change reaches the tables, and what it frees is free", run: changes },
    Case { name: "a draining backend is not chosen and not gone", run: draining },
    Case { name: "a frontend changes hands without a gap", run: takeover },
    Case { name: "a service without backends is not the same as none", run: no_backends },
    Case { name: "full frontends: new ones are refused, old ones serve, room is used", run: full_frontends },
    Case { name: "full backends: new ones are refused, old ones serve, room is used", run: full_backends },
    Case { name: "full slots: new lists are refused, old ones serve, room is used", run: full_slots },
    Case { name: "everything comes and goes again and again, and nothing is left", run: churn },
    Case { name: "a controller goes on from what another one left", run: goes_on },
];

/// A controller with one source.
struct World {
    store: Arc<dyn Store>,
    control: Controller,
    source: SourceHandle,
    now: Duration,
}

impl World {
    fn new(store: Arc<dyn Store>) -> Self {
        let world = Self::unsynced(store);
        world.source.synced();
        world
    }

    fn unsynced(store: Arc<dyn Store>) -> Self {
        // Where writes fail, so may what it does at first.
        let build = || Controller::builder(store.clone()).removal_guard(RemovalGuard::off()).build();
        let control = (0..1000).find_map(|_| build().ok()).expect("a controller of these tables");
        let source = control.register("conformance", Precedence::default()).expect("a fresh name");
        Self { store, control, source, now: Duration::ZERO }
    }

    fn replace(&mut self, services: impl IntoIterator<Item = Service>) {
        self.source.replace(services).expect("a picture without conflicts");
        self.settle();
    }

    fn settle(&mut self) {
        self.now = settle(&self.control, self.now);
    }

    fn phase(&self, name: &str) -> Phase {
        self.control.status_of("conformance", name).expect("a service that is there").phase
    }

    #[track_caller]
    fn leads_to(&self, frontend: &Frontend, backends: &[(u8, usize)]) {
        let mut expected: Vec<SocketAddr> = backends
            .iter()
            .flat_map(|&(host, times)| {
                vec![backend(host, frontend.address().is_ipv6()).socket_address(); times]
            })
            .collect();
        expected.sort_unstable();
        assert_eq!(resolve(&*self.store, frontend), Some(expected));
    }

    /// Takes everything out: then nothing may be left.
    fn ends_empty(mut self) {
        self.replace([]);
        assert_eq!(self.control.status(), []);
        let mut usage = self.control.usage();
        assert_eq!(usage.holes, 1, "the slots are one piece again");
        usage.holes = 0;
        assert_eq!(usage, Usage::default());
        assert_eq!(self.store.services_v4().fill(), Ok(0));
        assert_eq!(self.store.services_v6().fill(), Ok(0));
        for array in [self.store.backends_v4(), self.store.backends_v6(), self.store.service_words()] {
            for index in 0..array.capacity() {
                let word = array.load(index, 0).expect("a word");
                assert_eq!(word as u32, 0, "{} {index}", array.name());
            }
        }
    }
}

fn v4(port: u16) -> Frontend {
    Frontend::new("203.0.113.1".parse().expect("an address"), port, Protocol::Tcp).expect("a frontend")
}

fn v6(port: u16) -> Frontend {
    Frontend::new("2001:db8::1".parse().expect("an address"), port, Protocol::Udp).expect("a frontend")
}

fn backend(host: u8, six: bool) -> Backend {
    let address = if six { format!("2001:db8:1::{host:x}") } else { format!("192.0.2.{host}") };
    Backend::new(address.parse().expect("an address"), 8080).expect("a backend")
}

fn weighed(host: u8, weight: u32) -> Backend {
    backend(host, false).with_weight(Weight::new(weight).expect("a weight"))
}

fn service(name: &str, frontends: &[Frontend], hosts: &[u8]) -> Service {
    let six = frontends.first().is_some_and(|frontend| frontend.address().is_ipv6());
    with_backends(name, frontends, hosts.iter().map(|&host| backend(host, six)))
}

fn with_backends(name: &str, frontends: &[Frontend], backends: impl IntoIterator<Item = Backend>) -> Service {
    Service::builder(name).frontends(frontends.iter().copied()).backends(backends).build().expect("a service")
}

fn both_families(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    world.replace([
        service("six", &[v6(1), v6(2)], &[1, 2, 3]),
        with_backends("four", &[v4(1)], [weighed(1, 6), weighed(2, 4), weighed(3, 0)]),
    ]);
    world.leads_to(&v6(1), &[(1, 1), (2, 1), (3, 1)]);
    world.leads_to(&v6(2), &[(1, 1), (2, 1), (3, 1)]);
    world.leads_to(&v4(1), &[(1, 3), (2, 2)]);
    assert_eq!(world.control.usage().backends_v4, 3);
    world.ends_empty();
}

fn changes(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    for hosts in [&[1, 2][..], &[2, 3], &[3], &[1, 2, 3, 4, 5, 6, 7], &[7]] {
        world.replace([service("web", &[v4(80), v4(81)], hosts)]);
        let expected: Vec<(u8, usize)> = hosts.iter().map(|&host| (host, 1)).collect();
        world.leads_to(&v4(80), &expected);
        world.leads_to(&v4(81), &expected);
        let usage = world.control.usage();
        assert_eq!((usage.backends_v4, usage.lists, usage.limbo), (hosts.len() as u32, 1, 0));
    }
    world.replace([service("web", &[v4(81), v4(82)], &[7])]);
    assert_eq!(resolve(&*world.store, &v4(80)), None);
    world.leads_to(&v4(82), &[(7, 1)]);
    // The same name, in the other family.
    world.replace([service("web", &[v6(81)], &[1])]);
    assert_eq!(resolve(&*world.store, &v4(81)), None);
    world.leads_to(&v6(81), &[(1, 1)]);
    world.ends_empty();
}

fn draining(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    world.replace([service("web", &[v4(80)], &[1, 2])]);
    world.replace([with_backends("web", &[v4(80)], [backend(1, false), backend(2, false).draining()])]);
    world.leads_to(&v4(80), &[(1, 1)]);
    assert_eq!(world.control.usage().backends_v4, 2);
    let living = |world: &World| {
        let array = world.store.backends_v4();
        (0..array.capacity())
            .filter(|&index| array.load(index, 0).is_some_and(|word| word as u32 != 0))
            .count()
    };
    assert_eq!(living(&world), 2);
    world.replace([service("web", &[v4(80)], &[1])]);
    assert_eq!((world.control.usage().backends_v4, living(&world)), (1, 1));
    world.ends_empty();
}

fn takeover(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    let rival = world.control.register("rival", Precedence::new(1)).expect("a fresh name");
    rival.synced();
    world.replace([service("web", &[v4(80), v4(81)], &[1])]);
    rival.replace([service("mine", &[v4(80)], &[2])]).expect("a picture");
    world.settle();
    world.leads_to(&v4(80), &[(2, 1)]);
    world.leads_to(&v4(81), &[(1, 1)]);
    assert_eq!(world.phase("web"), Phase::Conflict);
    rival.replace([]).expect("a picture");
    world.settle();
    world.leads_to(&v4(80), &[(1, 1)]);
    assert_eq!(world.phase("web"), Phase::Applied);
    world.ends_empty();
}

fn no_backends(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    world.replace([service("web", &[v4(80)], &[])]);
    world.leads_to(&v4(80), &[]);
    assert_eq!(resolve(&*world.store, &v4(81)), None);
    world.replace([with_backends("web", &[v4(80)], [backend(1, false).draining()])]);
    world.leads_to(&v4(80), &[]);
    world.ends_empty();
}

fn full_frontends(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    // The other half is for addresses.
    let capacity = world.store.services_v4().capacity() as u16 / 2;
    let old = |n: u16| service(&format!("old{n}"), &[v4(n + 1)], &[1]);
    world.replace((0..capacity - 1).map(old));
    let new = || service("new", &[v4(10_001), v4(10_002)], &[2]);
    world.replace((0..capacity - 1).map(old).chain([new()]));
    assert!(matches!(world.phase_of_refused("new"), Some(Refusal::NoRoom { needed: 2, free: 1, .. })));
    for n in 0..capacity - 1 {
        world.leads_to(&v4(n + 1), &[(1, 1)]);
    }
    assert_eq!(resolve(&*world.store, &v4(10_001)), None);
    // It comes in by itself once there is room.
    world.replace((0..capacity - 2).map(old).chain([new()]));
    assert_eq!(world.phase("new"), Phase::Applied);
    world.leads_to(&v4(10_002), &[(2, 1)]);
    world.ends_empty();
}

fn full_backends(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    let capacity = world.store.backends_v4().capacity() as u8;
    let hosts: Vec<u8> = (1..=capacity).collect();
    world.replace([service("old", &[v4(1)], &hosts)]);
    // Shared backends take no room; a new one does.
    world.replace([service("old", &[v4(1)], &hosts), service("shared", &[v4(2)], &hosts[..3])]);
    let new = || service("new", &[v4(3)], &[1, capacity + 1]);
    world.replace([service("old", &[v4(1)], &hosts), new()]);
    assert!(matches!(world.phase_of_refused("new"), Some(Refusal::NoRoom { needed: 1, free: 0, .. })));
    let all: Vec<(u8, usize)> = hosts.iter().map(|&host| (host, 1)).collect();
    world.leads_to(&v4(1), &all);
    assert_eq!(resolve(&*world.store, &v4(3)), None);
    world.replace([service("old", &[v4(1)], &hosts[1..]), new()]);
    world.leads_to(&v4(1), &all[1..]);
    // Host 1 is still held by nobody but the new service: its place serves again.
    assert!(matches!(world.phase_of_refused("new"), Some(Refusal::NoRoom { .. })));
    world.replace([service("old", &[v4(1)], &hosts[2..]), new()]);
    world.leads_to(&v4(3), &[(1, 1), (capacity + 1, 1)]);
    world.ends_empty();
}

fn full_slots(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    let slots = world.store.slots().capacity();
    // Two lists of a little more than a third each.
    let third = slots / 3 / 256 * 256 + 256;
    let large = |name: &str, port: u16, extra: u8| {
        let shares = third / 256;
        let heavy = (1..=shares as u8).map(|host| weighed(host, 256));
        with_backends(name, &[v4(port)], heavy.chain([weighed(100 + extra, 1)]))
    };
    let shares: Vec<(u8, usize)> = (1..=(third / 256) as u8).map(|host| (host, 256)).collect();
    world.replace([large("old", 1, 0)]);
    world.replace([large("old", 1, 0), large("new", 2, 0)]);
    let refused = world.phase_of_refused("new");
    let expected: Vec<(u8, usize)> = shares.iter().copied().chain([(100, 1)]).collect();
    world.leads_to(&v4(1), &expected);
    if refused.is_some() {
        assert_eq!(resolve(&*world.store, &v4(2)), None);
        // A change that needs a second list is refused too, and the old list serves.
        world.replace([large("old", 1, 1)]);
        assert!(world.phase_of_refused("old").is_some());
        world.leads_to(&v4(1), &expected);
        // Another service takes the frontend: what the old one held is the room that it needs.
        world.replace([large("other", 1, 2)]);
        let expected: Vec<(u8, usize)> = shares.iter().copied().chain([(102, 1)]).collect();
        world.leads_to(&v4(1), &expected);
    }
    assert!(refused.is_some(), "the slots had room for two lists of more than a third and a change");
    world.ends_empty();
}

fn churn(store: Arc<dyn Store>) {
    let mut world = World::new(store);
    for round in 0..30u8 {
        let services = (0..10u8).filter(|n| (n + round) % 3 > 0).map(|n| {
            let hosts: Vec<u8> = (0..n % 5).map(|host| 1 + (host * 7 + round) % 40).collect();
            let port = 1 + u16::from((n + round) % 12) * 2;
            let frontends = if n % 2 == 0 { [v4(port), v4(port + 1)] } else { [v6(port), v6(port + 1)] };
            service(&format!("s{n}"), &frontends, &hosts)
        });
        world.replace(services.collect::<Vec<_>>());
        assert!(world.control.status().iter().all(|status| status.phase == Phase::Applied));
    }
    world.ends_empty();
}

fn goes_on(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone());
    let choice = Choice::Maglev(MaglevSize::new(13).expect("a prime"));
    let maglev =
        Service::builder("maglev").frontend(v6(9)).backend(backend(4, true)).backend(backend(5, true));
    let services = [
        service("six", &[v6(1), v6(2)], &[1, 2, 3]),
        with_backends(
            "four",
            &[v4(1)],
            [weighed(1, 6), weighed(2, 4), weighed(3, 0), backend(4, false).draining()],
        ),
        maglev.choice(choice).build().expect("a service"),
        service("gone", &[v4(7)], &[9]),
    ];
    world.replace(services.clone());
    let backends = || {
        [store.backends_v4(), store.backends_v6()].map(|array| {
            let rows = (0..array.capacity()).map(|index| array.load(index, 0).expect("a word"));
            rows.collect::<Vec<_>>()
        })
    };
    let lists = || (0..store.slots().capacity()).map(|n| store.slots().load(n, 0)).collect::<Vec<_>>();
    let before = (backends(), lists(), resolve(&*store, &v6(9)));
    for round in 0..3 {
        let World { control, source, now, .. } = world;
        let second = Controller::new(store.clone());
        assert_eq!(second.err(), Some(ControllerError::Claimed), "while the first one lives");
        drop((control, source));
        world = World::unsynced(store.clone());
        world.now = now;
        // Whoever says the same again finds it as it was.
        world.source.replace(services[..3].to_vec()).expect("a picture without conflicts");
        world.settle();
        if round == 0 {
            world.leads_to(&v4(7), &[(9, 1)]);
            assert_eq!(world.control.usage().unclaimed, 1);
            assert_eq!((backends(), lists(), resolve(&*store, &v6(9))), before);
        }
        world.leads_to(&v6(2), &[(1, 1), (2, 1), (3, 1)]);
        world.leads_to(&v4(1), &[(1, 3), (2, 2)]);
        world.source.synced();
        world.settle();
        assert_eq!(resolve(&*store, &v4(7)), None, "nobody named it");
        assert_eq!(world.control.usage().unclaimed, 0);
        let [v4, v6] = backends();
        assert_eq!(v6, before.0[1]);
        assert_eq!(v4[..4], before.0[0][..4]);
        assert!(v4[4..].iter().all(|row| *row as u32 == 0));
    }
    world.ends_empty();
}

impl World {
    fn phase_of_refused(&self, name: &str) -> Option<Refusal> {
        match self.phase(name) {
            Phase::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
