//! Affinity: clients that come to the same backend again, and when they do not.

use std::{net::Ipv4Addr, time::Duration};

use dataplane_core::{
    abi::{AffinityEntry, AffinityHead, AffinityKeyV4, BackendRef, LIST_AFFINITY, LIST_MASQUERADE},
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    pipeline::Verdict,
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    fill::{FilledService, Filler},
    frames::{Dissected, Frame, flags::*},
};

use crate::host::*;

/// What makes the pipeline choose the first or the last entry of a list.
const FIRST: Option<u32> = Some(0);
const LAST: Option<u32> = Some(u32::MAX);

const TIMEOUT: Duration = Duration::from_secs(30);

/// A service of two backends, with affinity.
struct Story {
    host: Host,
    cast: Cast,
    service: FilledService,
    one: BackendRef,
    other: BackendRef,
    next_port: u16,
}

impl Story {
    fn new(cast: Cast) -> Self {
        let mut host = Host::new();
        host.affinity(TIMEOUT);
        let one = host.backend(cast.backend);
        let other = host.backend(cast.other_backend);
        let service = host.service(cast.service, TCP, &[one, other]);
        Self { host, cast, service, one, other, next_port: 40_000 }
    }

    /// A client's new connection, where the choice would be this; to which backend it comes.
    fn connects(&mut self, random: Option<u32>) -> &'static str {
        let (client, service) = (self.cast.client, self.cast.service);
        self.connects_from(client, service, random)
    }

    fn connects_from(&mut self, client: &str, service: &str, random: Option<u32>) -> &'static str {
        self.next_port += 1;
        let client = client.replace("40000", &self.next_port.to_string());
        self.sends(&tcp(&client, service, SYN), random)
    }

    fn sends(&mut self, frame: &Frame, random: Option<u32>) -> &'static str {
        self.host.simulator.set_choice(random);
        let outcome = self.host.client_sends(frame);
        assert_eq!(outcome.verdict, Verdict::Forward);
        let destination = Dissected::of(&outcome.frame).unwrap().destination;
        let backends = [self.cast.backend, self.cast.other_backend];
        backends.into_iter().find(|backend| destination == backend.parse().unwrap()).unwrap()
    }

    fn remembered(&self) -> u32 {
        let tables = self.host.simulator.tables();
        tables.affinity_v4().fill().unwrap() + tables.affinity_v6().fill().unwrap()
    }
}

/// The key of the client with this last byte.
fn key_of(last: u8, story: &Story) -> AffinityKeyV4 {
    AffinityKeyV4 { client: Ipv4Addr::new(192, 0, 2, last).into(), frontend: story.service.index }
}

#[test]
fn a_client_comes_to_its_backend_again_whatever_its_port() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        assert_eq!(story.connects(FIRST), cast.backend);
        for random in [LAST, LAST, FIRST, LAST] {
            assert_eq!(story.connects(random), cast.backend);
        }
        assert_eq!(story.remembered(), 1);
        assert_eq!(story.host.counters(story.service).flows, 5);
        // Another client has its own.
        let neighbour = cast.client.replace("7:40000", "8:40000").replace("::7]", "::8]");
        assert_eq!(story.connects_from(&neighbour, cast.service, LAST), cast.other_backend);
        assert_eq!(story.connects_from(&neighbour, cast.service, FIRST), cast.other_backend);
        assert_eq!(story.connects(LAST), cast.backend);
        assert_eq!(story.remembered(), 2);
    }
}

#[test]
fn each_frontend_has_clients_of_its_own() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        let elsewhere = cast.service.replace("]:80", "]:443").replace("10:80", "10:443");
        story.host.service(&elsewhere, TCP, &[story.one, story.other]);
        story.host.service(cast.service, UDP, &[story.one, story.other]);
        assert_eq!(story.connects(FIRST), cast.backend);
        let (client, service) = (cast.client, cast.service);
        assert_eq!(story.connects_from(client, &elsewhere, LAST), cast.other_backend);
        assert_eq!(story.sends(&udp(client, service), LAST), cast.other_backend);
        assert_eq!(story.connects(LAST), cast.backend);
        assert_eq!(story.connects_from(client, &elsewhere, FIRST), cast.other_backend);
        assert_eq!(story.sends(&udp(&client.replace("40000", "40007"), service), FIRST), cast.other_backend);
        assert_eq!(story.remembered(), 3);
    }
}

#[test]
fn without_the_flag_nothing_is_remembered() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        story.host.list_flags(0);
        story.host.point(story.service, &[story.one, story.other]);
        assert_eq!(story.connects(FIRST), cast.backend);
        assert_eq!(story.connects(LAST), cast.other_backend);
        assert_eq!(story.remembered(), 0);
    }
}

/// Opening counts, and what goes over a connection does not.
#[test]
fn a_client_is_forgotten_once_it_opens_nothing_for_the_time_out() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        assert_eq!(story.connects(FIRST), cast.backend);
        for _ in 0..5 {
            story.host.pass(TIMEOUT - Duration::from_millis(1));
            assert_eq!(story.connects(LAST), cast.backend);
        }
        for _ in 0..3 {
            story.host.pass(Duration::from_secs(11));
            let frame = tcp(&cast.client.replace("40000", "40006"), cast.service, ACK);
            assert_eq!(story.sends(&frame, LAST), cast.backend, "its connection stands");
        }
        assert_eq!(story.connects(LAST), cast.other_backend);
        assert_eq!(story.connects(FIRST), cast.other_backend, "from now on");
        assert_eq!(story.remembered(), 1);
    }
}

/// A second is 7.5 ticks: who comes every 0.9 s always comes in time.
#[test]
fn the_shortest_time_out_holds_for_who_comes_in_time() {
    let mut story = Story::new(V4);
    story.host.affinity(Duration::from_secs(1));
    story.host.point(story.service, &[story.one, story.other]);
    assert_eq!(story.connects(FIRST), V4.backend);
    for _ in 0..50 {
        story.host.pass(Duration::from_millis(900));
        assert_eq!(story.connects(LAST), V4.backend);
    }
    story.host.pass(Duration::from_millis(1250));
    assert_eq!(story.connects(LAST), V4.other_backend);
}

/// It left this service, or drains in it; whether it stands for others does not matter, nor whether its mark is set yet.
#[test]
fn a_backend_that_the_list_does_not_name_gets_no_client() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        assert_eq!(story.connects(FIRST), cast.backend);
        story.host.point(story.service, &[story.other]);
        assert_eq!(story.connects(FIRST), cast.other_backend);
        // Back again, it does not get back who has found another.
        story.host.point(story.service, &[story.one, story.other]);
        assert_eq!(story.connects(FIRST), cast.other_backend);
        // Connections that stand stay.
        let first = tcp(&cast.client.replace("40000", "40001"), cast.service, ACK);
        assert_eq!(story.sends(&first, FIRST), cast.backend);
        assert_eq!(story.remembered(), 1);
    }
}

#[test]
fn a_backend_that_is_gone_gets_no_client() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        assert_eq!(story.connects(FIRST), cast.backend);
        story.host.remove(story.one, cast);
        story.host.point(story.service, &[story.other]);
        assert_eq!(story.connects(FIRST), cast.other_backend);
    }
}

/// Where its place was given to another, which serves the same service.
#[test]
fn who_has_the_place_of_a_backend_does_not_have_its_clients() {
    let mut story = Story::new(V4);
    assert_eq!(story.connects(FIRST), V4.backend);
    let key = key_of(7, &story);
    let table = story.host.simulator.tables().affinity_v4();
    let entry = table.get(&key).unwrap().unwrap();
    let predecessor = BackendRef::new(story.one.index(), story.one.generation() + 1);
    table.insert(&key, &AffinityEntry { backend: predecessor, ..entry }).unwrap();
    assert_eq!(story.connects(LAST), V4.other_backend);
}

#[test]
fn each_backend_of_a_long_list_is_found_in_it() {
    for length in [1, 2, 3, 7, 8, 9, 64] {
        for weight in [1, 3] {
            let mut story = Story::new(V4);
            let others = (2..length).map(|n| story.host.backend(&format!("198.51.100.{}:9", 10 + n)));
            let all: Vec<_> = [story.one, story.other].into_iter().chain(others).take(length).collect();
            // As often as its weight says, one backend after the other.
            let list: Vec<_> = all.iter().flat_map(|&backend| vec![backend; weight]).collect();
            story.host.point(story.service, &list);
            for (place, &backend) in all.iter().enumerate() {
                let client = format!("192.0.2.{}:40000", 100 + place);
                let places = list.len() as u64;
                let random = (((place * weight) as u64) << 32).div_ceil(places) as u32;
                let opens = |story: &mut Story, random| {
                    story.next_port += 1;
                    let frame = tcp(&client.replace("40000", &story.next_port.to_string()), V4.service, SYN);
                    story.host.simulator.set_choice(random);
                    story.host.client_sends(&frame)
                };
                opens(&mut story, Some(random));
                let key = key_of(100 + place as u8, &story);
                let entry =
                    |story: &Story| story.host.simulator.tables().affinity_v4().get(&key).unwrap().unwrap();
                let first = entry(&story);
                assert_eq!(first.backend, backend);
                opens(&mut story, LAST);
                assert_eq!(entry(&story), first, "place {place} of {length}");
            }
        }
    }
}

/// Where each flow would have a place of its own in the table.
#[test]
fn affinity_goes_before_maglev() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        let table: Vec<u16> = (0..101).map(|place| place % 2).collect();
        story.host.point_by_maglev(story.service, &[story.one, story.other], &table, 3);
        let first = story.connects(FIRST);
        for _ in 0..40 {
            assert_eq!(story.connects(FIRST), first);
        }
        story.host.list_flags(0);
        story.host.point_by_maglev(story.service, &[story.one, story.other], &table, 3);
        let without: std::collections::HashSet<_> = (0..40).map(|_| story.connects(FIRST)).collect();
        assert_eq!(without.len(), 2);
    }
}

/// The element of a hash is recycled, and being filled: what a reader copies is partly another's.
#[test]
fn what_is_not_wholly_the_clients_is_not_believed() {
    let damages: [fn(AffinityEntry) -> AffinityEntry; 4] = [
        |entry| AffinityEntry { tail: entry.tail ^ 1, ..entry },
        |entry| AffinityEntry { head: AffinityHead::new(entry.head.life(), entry.head.tag() ^ 1), ..entry },
        |entry| AffinityEntry { head: AffinityHead::new(entry.head.life() ^ 1, entry.head.tag()), ..entry },
        |entry| {
            AffinityEntry::new(
                AffinityHead::beginning(entry.head.tag() ^ 1, 5),
                entry.backend,
                entry.last_seen,
            )
        },
    ];
    for damage in damages {
        let mut story = Story::new(V4);
        assert_eq!(story.connects(FIRST), V4.backend);
        let key = key_of(7, &story);
        let entry = story.host.simulator.tables().affinity_v4().get(&key).unwrap().unwrap();
        let damaged = damage(entry);
        story.host.simulator.tables().affinity_v4().insert(&key, &damaged).unwrap();
        assert_eq!(story.connects(LAST), V4.other_backend);
        let left = story.host.simulator.tables().affinity_v4().get(&key).unwrap();
        assert_eq!(left, Some(damaged), "it may be another's");
    }
}

/// A connection whose source is translated is opened in a stage of its own.
#[test]
fn clients_of_masqueraded_services_come_again_too() {
    for cast in [V4, V6] {
        let mut story = Story::new(cast);
        for interface in [FRONT, BACK] {
            let mut facts =
                SimulatedInterface::new(interface, if interface == FRONT { FRONT_MAC } else { BACK_MAC });
            facts.masquerade_v4 = Some([198, 51, 100, 1].into());
            facts.masquerade_v6 = Some("2001:db8:2::1".parse().unwrap());
            story.host.simulator.add_interface(facts).unwrap();
        }
        story.host.list_flags(LIST_AFFINITY | LIST_MASQUERADE);
        story.host.point(story.service, &[story.one, story.other]);
        assert_eq!(story.connects(FIRST), cast.backend);
        assert_eq!(story.connects(LAST), cast.backend);
    }
}

#[test]
fn without_room_clients_are_served_and_not_remembered() {
    let tables = std::sync::Arc::new(MemoryTables::new(Capacity { affinity: 0, ..Capacity::small() }));
    let mut filler = Filler::default();
    (filler.list_flags, filler.affinity) = (LIST_AFFINITY, 100);
    let backend = filler.backend(&*tables, V4.backend.parse().unwrap(), false).unwrap();
    filler.service(&*tables, V4.service.parse().unwrap(), TCP, &[backend]).unwrap();
    let mut simulator = Simulator::new(tables);
    simulator.add_interface(SimulatedInterface::new(FRONT, FRONT_MAC)).unwrap();
    simulator.add_interface(SimulatedInterface::new(BACK, BACK_MAC)).unwrap();
    simulator.routes_mut().insert("198.51.100.0/24".parse().unwrap(), Target::Link(BACK));
    simulator.routes_mut().insert_neighbor(BACK, address(V4.backend), BACKEND_MAC);
    let outcome = simulator.receive(FRONT, &towards_front(&tcp(V4.client, V4.service, SYN)));
    assert_eq!(outcome.verdict, Verdict::Forward);
}
