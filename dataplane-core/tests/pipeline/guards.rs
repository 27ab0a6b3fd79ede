//! What keeps packets from believing an entry that is another's: tags, zones, and inserts that race.

use std::{collections::HashSet, sync::Barrier, thread};

use dataplane_core::{
    abi::{ServiceKeyV4, ServiceRef, ServiceWord},
    memory::SimulatedInterface,
    pipeline::{DropReason, Hook, PassReason, Verdict},
    tables::Store,
    wire::Be16,
};
use dataplane_testkit::frames::{Dissected, Frame, flags::SYN};

use crate::host::{FRONT_MAC, Host, TCP, V4, towards_front};

const NO_SERVICE: Verdict = Verdict::Pass(PassReason::NoService);

fn syn() -> Frame {
    Frame::tcp(V4.client.parse().unwrap(), V4.service.parse().unwrap(), SYN)
}

/// The word's index was given to another frontend since the hash was read.
#[test]
fn a_word_with_another_tag_is_not_followed() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    let words = host.simulator.tables().service_words();
    let word = ServiceWord(words.load(service.index, 0).unwrap());
    words.store(service.index, &[ServiceWord::new(word.base(), word.tag() ^ 1).0]).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, NO_SERVICE);
    words.store(service.index, &[word.0]).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
}

/// The hash element was recycled for another frontend while it was read.
#[test]
fn a_reference_with_another_tag_is_not_followed() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    let key = ServiceKeyV4 {
        address: std::net::Ipv4Addr::new(203, 0, 113, 10).into(),
        port: Be16::new(80),
        protocol: TCP,
        scope: 0,
    };
    let other = ServiceRef::new(service.index, key.tag() ^ 1);
    host.simulator.tables().services_v4().insert(&key, &other).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, NO_SERVICE);
}

/// An unlinked frontend's word is 0.
#[test]
fn a_cleared_word_is_not_followed() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    host.simulator.tables().service_words().store(service.index, &[0]).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, NO_SERVICE);
}

#[test]
fn the_same_tuple_in_two_zones_is_two_connections() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    let mut elsewhere = SimulatedInterface::new(9, FRONT_MAC);
    elsewhere.zone = 7;
    host.simulator.add_interface(elsewhere).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
    assert_eq!(host.simulator.run(Hook::Ingress, 9, &towards_front(&syn())).verdict, Verdict::Forward);
    assert_eq!((host.counters(service).flows, host.entries()), (2, 4));
    let zones: HashSet<_> =
        host.simulator.tables().conntrack_v4().entries().map(|entry| entry.unwrap().0.zone).collect();
    assert_eq!(zones, HashSet::from([0, 7]));
}

/// A SYN and its retransmissions on many CPUs at once: one connection, one backend, nobody dropped.
#[test]
fn racing_packets_of_one_connection_agree() {
    const THREADS: usize = 4;
    for round in 0..200u16 {
        let mut host = Host::new();
        let backends = [host.backend(V4.backend), host.backend(V4.other_backend)];
        let service = host.service(V4.service, TCP, &backends);
        host.simulator.set_random(None);
        let mut frame = syn();
        frame.source.set_port(1024 + round);
        let barrier = Barrier::new(THREADS);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let run = || {
                barrier.wait();
                host.at(Hook::Ingress, &frame)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let destinations: HashSet<_> = outcomes
            .iter()
            .map(|outcome| {
                // Who lost hands the packet to the stack, which finds the way to the winner's backend.
                assert!(
                    matches!(outcome.verdict, Verdict::Forward | Verdict::Deliver),
                    "{}",
                    outcome.verdict
                );
                Dissected::of(&outcome.frame).unwrap().destination
            })
            .collect();
        assert_eq!(destinations.len(), 1, "round {round}: {destinations:?}");
        assert_eq!((host.counters(service).flows, host.entries()), (1, 2), "round {round}");
    }
}

#[test]
fn without_room_for_a_connection_the_packet_is_dropped_by_name() {
    use dataplane_core::{
        memory::{MemoryTables, Simulator, Target},
        tables::Capacity,
    };
    use dataplane_testkit::fill::Filler;

    let tables = std::sync::Arc::new(MemoryTables::new(Capacity { conntrack: 0, ..Capacity::small() }));
    let mut filler = Filler::default();
    let backend = filler.backend(&*tables, V4.backend.parse().unwrap(), false).unwrap();
    let service = filler.service(&*tables, V4.service.parse().unwrap(), TCP, &[backend]).unwrap();
    let mut simulator = Simulator::new(tables.clone());
    simulator.add_interface(SimulatedInterface::new(2, FRONT_MAC)).unwrap();
    simulator.routes_mut().insert("198.51.100.0/24".parse().unwrap(), Target::Link(2));
    let outcome = simulator.run(Hook::Ingress, 2, &towards_front(&syn()));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ConntrackFull));
    assert_eq!(tables.counters().service(service.index).unwrap().drops, 1);
}
