//! A controller that begins with tables which are not empty: what another one left, or somebody broke.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    Controller, ControllerError, SourceHandle,
    abi::{BackendRef, BackendV4, ServiceRef, ServiceWord, SlotHeader},
    compile::{FrontendRow, ServiceKey},
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    model::{
        Affinity, AffinityTimeout, Backend, Choice, Frontend, MaglevSize, Masquerade, Protocol, Service,
        Weight,
    },
    pipeline::{Hook, Verdict},
    reconcile::Usage,
    source::Precedence,
    state::RemovalGuard,
    tables::{Capacity, Cause, Store},
};
use dataplane_testkit::{
    conformance::settle,
    faulty::FaultyStore,
    frames::{Frame, flags},
    witness::{Witness, resolve},
};
use zerocopy::FromBytes as _;

const SEED: u64 = 4711;

fn tables() -> Arc<MemoryTables> {
    Arc::new(MemoryTables::new(Capacity::small()))
}

fn frontend(port: u16) -> Frontend {
    Frontend::new("203.0.113.1".parse().unwrap(), port, Protocol::Tcp).unwrap()
}

fn backend(host: u8) -> Backend {
    Backend::new([192, 0, 2, host].into(), 8080).unwrap()
}

fn service(port: u16, hosts: &[u8]) -> Service {
    let backends = hosts.iter().map(|&host| backend(host));
    let builder = Service::builder(&format!("s{port}")).frontend(frontend(port)).backends(backends);
    builder.masquerade(Masquerade::Never).build().unwrap()
}

/// A controller with one source, which has said nothing.
struct Run {
    control: Controller,
    agent: SourceHandle,
}

impl Run {
    fn begin(store: Arc<dyn Store>) -> Self {
        let control = Controller::builder(store).removal_guard(RemovalGuard::off()).maglev_seed(SEED);
        let control = control.build().unwrap();
        let agent = control.register("agent", Precedence::default()).unwrap();
        Self { control, agent }
    }

    fn says(&self, services: &[Service]) {
        self.agent.replace(services.to_vec()).unwrap();
        settle(&self.control, Duration::ZERO);
    }

    fn is_synced(&self) {
        self.agent.synced();
        settle(&self.control, Duration::ZERO);
    }

    fn ends_empty(self, store: &dyn Store) {
        self.is_synced();
        self.says(&[]);
        let usage = Usage::default();
        let found = self.control.usage();
        assert_eq!(
            (found.frontends, found.frontend_indexes, found.lists, found.lines),
            (0, 0, 0, 0),
            "{found:?}"
        );
        assert_eq!((found.backends_v4, found.backends_v6, found.limbo), (0, 0, 0), "{found:?}");
        assert_eq!((found.holes, found.unclaimed), (1, usage.unclaimed));
        for array in [store.backends_v4(), store.backends_v6(), store.service_words()] {
            assert!(
                (0..array.capacity()).all(|index| array.load(index, 0).unwrap() as u32 == 0),
                "{}",
                array.name()
            );
        }
        assert_eq!((store.services_v4().fill(), store.services_v6().fill()), (Ok(0), Ok(0)));
    }
}

/// Services of every kind that there is.
fn all_kinds() -> Vec<Service> {
    let six = |host: u8| Backend::new(format!("2001:db8:1::{host:x}").parse().unwrap(), 53).unwrap();
    let dns = |port| Frontend::new("2001:db8::53".parse().unwrap(), port, Protocol::Udp).unwrap();
    let weighed = |host, weight| backend(host).with_weight(Weight::new(weight).unwrap());
    let maglev = |size| Choice::Maglev(MaglevSize::new(size).unwrap());
    let build = |name: &str, frontends: &[Frontend], backends: Vec<Backend>, choice| {
        let builder = Service::builder(name).frontends(frontends.iter().copied()).backends(backends);
        builder.choice(choice).build().unwrap()
    };
    let remembers = |name: &str, frontends: &[Frontend], backends: Vec<Backend>, seconds| {
        let builder = Service::builder(name).frontends(frontends.iter().copied()).backends(backends);
        let timeout = AffinityTimeout::new(seconds).unwrap();
        builder.affinity(Affinity::ClientIp { timeout }).build().unwrap()
    };
    vec![
        build(
            "random",
            &[frontend(1), frontend(2)],
            vec![weighed(1, 3), weighed(2, 1), weighed(3, 0)],
            Choice::Random,
        ),
        build(
            "draining",
            &[frontend(3)],
            vec![backend(1), backend(4).draining(), backend(5).local()],
            Choice::Random,
        ),
        build("all-drain", &[frontend(4)], vec![backend(6).draining()], Choice::Random),
        build("nobody", &[frontend(5)], vec![], Choice::Random),
        build(
            "maglev",
            &[frontend(6)],
            vec![weighed(1, 5), weighed(7, 2), backend(8).draining()],
            maglev(101),
        ),
        build("six", &[dns(53), dns(54)], vec![six(1), six(2).draining()], Choice::Random),
        build("six-maglev", &[dns(55)], (1..9).map(six).collect(), maglev(13)),
        remembers("affinity", &[frontend(7)], vec![weighed(1, 2), backend(9)], 30),
        remembers("six-affinity", &[dns(56)], vec![six(1), six(3)], 10_800),
    ]
}

#[test]
fn what_is_said_again_costs_no_write() {
    let tables = tables();
    let store = Arc::new(FaultyStore::new(Arc::new(Witness::new(tables)), 0, 0));
    let first = Run::begin(store.clone());
    first.says(&all_kinds());
    assert!(store.writes() > 0);
    drop(first);
    // In whatever order, all at once or one after the other.
    for reverse in [false, true] {
        let second = Run::begin(store.clone());
        let begun = store.writes();
        let mut services = all_kinds();
        if reverse {
            services.reverse();
            for service in services {
                second.agent.transaction().upsert(service).commit().unwrap();
                settle(&second.control, Duration::ZERO);
            }
        } else {
            second.says(&services);
        }
        assert_eq!(second.control.usage().unclaimed, 0);
        second.is_synced();
        assert_eq!(store.writes(), begun, "reverse: {reverse}");
    }
    // Another seed is another table: of those with a Maglev table, and of no others.
    let third = Controller::builder(store.clone()).maglev_seed(SEED + 1).build().unwrap();
    let agent = third.register("agent", Precedence::default()).unwrap();
    let begun = store.writes();
    agent.replace(all_kinds()).unwrap();
    third.step(Duration::ZERO);
    assert_eq!(store.writes() - begun, 4, "two lists and two words");
    settle(&third, Duration::ZERO);
    drop((third, agent));
    Run::begin(store.clone()).ends_empty(&*store);
}

/// A connection that began before goes on afterwards, also to a backend that takes no new ones, and a new one comes.
#[test]
fn connections_live_through_a_restart() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let tables = tables();
    let mut simulator = Simulator::new(tables.clone());
    simulator.add_interface(SimulatedInterface::new(1, MAC)).unwrap();
    simulator.routes_mut().insert("192.0.2.0/24".parse().unwrap(), Target::Link(1));
    let send = |port: u16, flags| {
        let client = SocketAddr::from(([198, 51, 100, 7], port));
        let frame =
            Frame::tcp(client, "203.0.113.1:80".parse().unwrap(), flags).link(MAC, [2, 0, 0, 0, 0, 9]);
        let ran = simulator.run(Hook::Ingress, 1, &frame.build());
        assert_eq!(ran.verdict, Verdict::Forward, "{port}");
        ran.frame[30..34].to_vec()
    };
    let run = Run::begin(tables.clone());
    run.says(&[service(80, &[1, 2, 3])]);
    let went: BTreeMap<u16, Vec<u8>> = (1000..1060).map(|port| (port, send(port, flags::SYN))).collect();
    assert_eq!(went.values().collect::<BTreeSet<_>>().len(), 3);
    drop(run);
    drop(Run::begin(tables.clone()));
    for (port, backend) in &went {
        assert_eq!(send(*port, flags::ACK), *backend, "nobody has said anything yet");
    }
    // One of them drains from now on.
    let backends = [backend(1), backend(2), backend(3).draining()];
    let draining = Service::builder("s80").frontend(frontend(80)).backends(backends);
    let draining = draining.masquerade(Masquerade::Never).build().unwrap();
    for _ in 0..2 {
        let run = Run::begin(tables.clone());
        run.says(std::slice::from_ref(&draining));
        run.is_synced();
    }
    for port in 2000..2060 {
        assert_ne!(send(port, flags::SYN), [192, 0, 2, 3]);
    }
    for (port, backend) in went {
        assert_eq!(send(port, flags::ACK), backend);
    }
}

#[test]
fn nothing_goes_before_every_registered_source_has_spoken() {
    let tables = tables();
    let first = Run::begin(tables.clone());
    first.says(&[service(1, &[1]), service(2, &[2]), service(3, &[1, 2, 3])]);
    drop(first);
    let second = Run::begin(tables.clone());
    let late = second.control.register("late", Precedence::default()).unwrap();
    second.says(&[service(1, &[1])]);
    second.is_synced();
    // One is synced, and the other one has not said a word.
    let leads_to = |port| resolve(&*tables, &frontend(port));
    let [one, two, three] = [1, 2, 3].map(|host| backend(host).socket_address());
    assert_eq!([1, 2, 3].map(leads_to), [Some(vec![one]), Some(vec![two]), Some(vec![one, two, three])]);
    assert_eq!(second.control.usage().unclaimed, 2);
    // A change is no reason to wait.
    second.says(&[service(1, &[2])]);
    assert_eq!([1, 2].map(leads_to), [Some(vec![two]), Some(vec![two])]);
    late.transaction().upsert(service(3, &[3])).commit().unwrap();
    settle(&second.control, Duration::ZERO);
    assert_eq!([2, 3].map(leads_to), [Some(vec![two]), Some(vec![three])]);
    late.synced();
    settle(&second.control, Duration::ZERO);
    assert_eq!([1, 2, 3].map(leads_to), [Some(vec![two]), None, Some(vec![three])]);
    assert_eq!((second.control.usage().unclaimed, second.control.usage().backends_v4), (0, 2));
    drop(late);
    assert_eq!(second.control.register("late", Precedence::default()).map(drop), Ok(()));
    second.is_synced();
}

/// Tables that are full refuse what is new, and do not make room by taking out what nobody has named yet.
#[test]
fn what_nobody_named_yet_makes_no_room() {
    let capacity = Capacity { frontends: 2, ..Capacity::small() };
    let tables = Arc::new(MemoryTables::new(capacity));
    let first = Run::begin(tables.clone());
    first.says(&[service(1, &[1]), service(2, &[2])]);
    drop(first);
    let second = Run::begin(tables.clone());
    // There is room for one of these two, but only once the other one is gone.
    let wide =
        Service::builder("wide").frontends([frontend(2), frontend(3)]).backend(backend(3)).build().unwrap();
    second.says(std::slice::from_ref(&wide));
    assert_eq!(resolve(&*tables, &frontend(1)), Some(vec![backend(1).socket_address()]));
    assert_eq!(resolve(&*tables, &frontend(2)), Some(vec![backend(2).socket_address()]));
    second.is_synced();
    assert_eq!(resolve(&*tables, &frontend(1)), None);
    assert_eq!(resolve(&*tables, &frontend(2)), Some(vec![backend(3).socket_address()]));
    assert_eq!(resolve(&*tables, &frontend(3)), Some(vec![backend(3).socket_address()]));
    second.ends_empty(&*tables);
}

/// A flow holds a backend's index and generation for hours. Whoever has that place later is another one, whoever gave it.
#[test]
fn generations_go_on() {
    let tables = tables();
    let mut seen: BTreeMap<BackendRef2, SocketAddr> = BTreeMap::new();
    for round in 1..40u8 {
        let run = Run::begin(tables.clone());
        run.is_synced();
        run.says(&[service(1, &[round, round + 100])]);
        for index in 0..tables.backends_v4().capacity() {
            let words = [0, 1].map(|word| tables.backends_v4().load(index, word).unwrap());
            let row = BackendV4::read_from_bytes(zerocopy::IntoBytes::as_bytes(&words)).unwrap();
            if row.generation != 0 {
                let address = SocketAddr::new(row.address.into(), row.port.get());
                let before = *seen.entry((index, row.generation)).or_insert(address);
                assert_eq!(before, address, "{index} {}", row.generation);
            }
        }
        if round % 3 == 0 {
            run.says(&[]);
        }
    }
    assert_eq!(seen.len(), 78, "each of them once");
    assert!(seen.last_key_value().unwrap().0.0 < 8, "places are used again: {seen:?}");
}

type BackendRef2 = (u32, u32);

#[test]
fn a_second_controller_is_refused() {
    let tables = tables();
    let refused = || Controller::new(tables.clone()).map(drop);
    assert_eq!(refused(), Ok(()));
    let Run { control, agent } = Run::begin(tables.clone());
    assert_eq!(refused(), Err(ControllerError::Claimed));
    assert!(ControllerError::Claimed.to_string().contains("drop it first"));
    let running = control.spawn().unwrap();
    drop(control);
    assert_eq!(refused(), Err(ControllerError::Claimed), "its thread may write");
    drop(running);
    assert_eq!(refused(), Err(ControllerError::Claimed), "its source may commit");
    // Tables that stand in front of these are these.
    let behind = Arc::new(Witness::new(tables.clone()));
    assert_eq!(Controller::new(behind).map(drop), Err(ControllerError::Claimed));
    drop(agent);
    assert_eq!(refused(), Ok(()));
    // Who fails at the beginning does not keep them.
    let first = Run::begin(tables.clone());
    first.says(&[service(1, &[1])]);
    drop(first);
    let faulty = Arc::new(FaultyStore::new(tables.clone(), 1, 0));
    let failed = Controller::new(faulty).map(drop);
    assert!(
        matches!(failed, Err(ControllerError::Table(error)) if matches!(error.cause, Cause::System { .. })),
        "{failed:?}"
    );
    assert_eq!(refused(), Ok(()));
    assert_eq!(resolve(&*tables, &frontend(1)), Some(vec![backend(1).socket_address()]));
}

#[test]
fn most_of_what_served_is_held_back_until_it_is_confirmed() {
    let hosts: Vec<u8> = (1..40).collect();
    for by_document in [false, true] {
        let tables = tables();
        let first = Run::begin(tables.clone());
        first.says(&[service(1, &hosts), service(2, &[1])]);
        drop(first);
        let control = Controller::new(tables.clone()).unwrap();
        let agent = control.register("agent", Precedence::default()).unwrap();
        agent.replace([service(2, &[1])]).unwrap();
        agent.synced();
        let now = settle(&control, Duration::ZERO);
        assert!(control.holds_unclaimed_back());
        assert_eq!(control.usage().unclaimed, 1);
        assert_eq!(resolve(&*tables, &frontend(1)).unwrap().len(), hosts.len());
        if by_document {
            agent.transaction().upsert(service(2, &[1])).full_picture().confirm_removals().commit().unwrap();
        } else {
            agent.confirm();
        }
        settle(&control, now);
        assert!(!control.holds_unclaimed_back());
        assert_eq!(resolve(&*tables, &frontend(1)), None);
        assert_eq!(control.usage().backends_v4, 1);
    }
    // What is in the queue yet is not lost.
    let tables = tables();
    let many: Vec<Service> = (1..30).map(|port| service(port, &[1, 2])).collect();
    let first = Run::begin(tables.clone());
    first.says(&many);
    drop(first);
    let control = Controller::builder(tables.clone()).services_per_step(1).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.replace(many).unwrap();
    agent.synced();
    for step in 0..40 {
        control.step(Duration::ZERO);
        assert!(!control.holds_unclaimed_back(), "step {step}");
    }
    assert_eq!((control.usage().unclaimed, control.usage().frontends), (0, 29));
    drop((control, agent));
    // Where it is named after all, it is as it was.
    let tables = Arc::new(MemoryTables::new(Capacity::small()));
    let first = Run::begin(tables.clone());
    first.says(&[service(1, &hosts)]);
    drop(first);
    let control = Controller::new(tables.clone()).unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    let now = settle(&control, Duration::ZERO);
    assert!(control.holds_unclaimed_back());
    agent.replace([service(1, &hosts)]).unwrap();
    settle(&control, now);
    assert_eq!(control.usage().unclaimed, 0);
    assert_eq!(resolve(&*tables, &frontend(1)).unwrap().len(), hosts.len());
}

/// What no controller writes, in the midst of what one did: whoever is whole serves on, and the rest does no harm.
#[test]
fn broken_tables_are_mended() {
    let row = |port, index| FrontendRow { frontend: frontend(port), index };
    let insert = |tables: &MemoryTables, key: ServiceKey, reference| match key {
        ServiceKey::V4(key) => tables.services_v4().insert(&key, &reference).unwrap(),
        ServiceKey::V6(key) => tables.services_v6().insert(&key, &reference).unwrap(),
    };
    let word = |tables: &MemoryTables, index, word: ServiceWord| {
        tables.service_words().store(index, &[word.0]).unwrap()
    };
    type Break<'a> = (&'a str, Box<dyn Fn(&MemoryTables) + 'a>);
    let breaks: Vec<Break<'_>> = vec![
        ("a frontend without a word", Box::new(|t| insert(t, row(9, 50).key(), row(9, 50).reference()))),
        ("a word without a frontend", Box::new(|t| word(t, 50, row(9, 50).word(1)))),
        ("a frontend with another's index", Box::new(|t| insert(t, row(9, 0).key(), row(9, 0).reference()))),
        (
            "a frontend beyond the words",
            Box::new(|t| insert(t, row(9, 0).key(), row(9, 1 << 30).reference())),
        ),
        ("a frontend with another tag", Box::new(|t| insert(t, row(9, 0).key(), ServiceRef::new(50, 1)))),
        (
            "a protocol that no service has",
            Box::new(|t| {
                let ServiceKey::V4(mut key) = row(9, 50).key() else { panic!() };
                key.protocol = 132;
                insert(t, ServiceKey::V4(key), ServiceRef::new(50, key.tag()));
            }),
        ),
        (
            "port 0",
            Box::new(|t| {
                let ServiceKey::V4(mut key) = row(9, 50).key() else { panic!() };
                key.port = dataplane_core::wire::Be16::new(0);
                insert(t, ServiceKey::V4(key), ServiceRef::new(50, key.tag()));
            }),
        ),
        (
            "a word that leads to line 0",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(0));
            }),
        ),
        (
            "a word that leads beyond the slots",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(u32::MAX));
            }),
        ),
        (
            "a list that goes on beyond the slots",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(40));
                t.slots().store(320, &[SlotHeader::new(u32::MAX - 4, 0, 0).0]).unwrap();
            }),
        ),
        (
            "a table that goes on beyond the slots",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(40));
                t.slots().store(320, &[SlotHeader::new(0, u16::MAX, 0).0]).unwrap();
            }),
        ),
        (
            "a list that begins in another one",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(2));
                t.slots().store(16, &[SlotHeader::new(1, 0, 0).0]).unwrap();
            }),
        ),
        (
            "a list of backends that are not there",
            Box::new(|t| {
                insert(t, row(9, 50).key(), row(9, 50).reference());
                word(t, 50, row(9, 50).word(40));
                let entries = [
                    BackendRef::new(0, 77),
                    BackendRef::new(1 << 30, 1),
                    BackendRef::new(40, 0),
                    BackendRef(0),
                ];
                let words = entries.map(|entry| entry.0);
                t.slots().store(320, &[&[SlotHeader::new(4, 0, 0).0, 0, 0, 0][..], &words].concat()).unwrap();
            }),
        ),
        (
            "a backend that stands twice",
            Box::new(|t| {
                let words = [0, 1].map(|word| t.backends_v4().load(0, word).unwrap());
                t.backends_v4().store(60, &words).unwrap();
            }),
        ),
        ("a backend that is nobody", Box::new(|t| t.backends_v4().store(60, &[u64::MAX, u64::MAX]).unwrap())),
        (
            "a mark of draining",
            Box::new(|t| {
                let first = t.backends_v4().load(0, 0).unwrap();
                t.backends_v4().store(0, &[first | 1 << 49]).unwrap();
            }),
        ),
        (
            "a list with another backend than it had",
            Box::new(|t| {
                let first = t.slots().load(12, 0).unwrap();
                t.slots().store(12, &[first ^ 1]).unwrap();
            }),
        ),
    ];
    for (what, broken) in &breaks {
        let tables = tables();
        let hosts: Vec<u8> = (1..20).collect();
        let services = [service(1, &hosts), service(2, &[1, 2])];
        let first = Run::begin(tables.clone());
        first.says(&services);
        drop(first);
        broken(&tables);
        let second = Run::begin(tables.clone());
        second.says(&services);
        second.is_synced();
        let all: Vec<SocketAddr> = hosts.iter().map(|&host| backend(host).socket_address()).collect();
        assert_eq!(resolve(&*tables, &frontend(1)), Some(all), "{what}");
        // And their address.
        assert_eq!(tables.services_v4().fill(), Ok(3), "{what}");
        let usage = second.control.usage();
        assert_eq!(
            (usage.frontends, usage.frontend_indexes, usage.lists, usage.backends_v4),
            (2, 2, 2, 19),
            "{what}"
        );
        // What it says of places is true: a witness looks on while everything changes.
        drop(second);
        let witness = Arc::new(Witness::new(tables.clone()));
        let third = Run::begin(witness.clone());
        third.is_synced();
        third.says(&[service(2, &[30, 31]), service(3, &hosts)]);
        witness.marks_match_lists();
        witness.addresses_match_frontends();
        third.says(&services);
        witness.marks_match_lists();
        witness.addresses_match_frontends();
        third.ends_empty(&*tables);
    }
}
