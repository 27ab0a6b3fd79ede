//! What keeps packets from believing an entry that is another's: tags, zones, and inserts that race.

use std::{collections::HashSet, sync::Barrier, thread, time::Duration};

use dataplane_core::{
    abi::{FLOW_REPLY, FlowV4, ServiceKeyV4, ServiceRef, ServiceWord, StateWord, TupleV4},
    memory::{SimulatedInterface, Target},
    pipeline::{DropReason, Hook, PassReason, Seen, Verdict},
    tables::Store,
    wire::Be16,
};
use dataplane_testkit::frames::{
    Dissected, Frame,
    flags::{ACK, SYN},
};

use crate::host::{BACK, FRONT_MAC, Host, TCP, V4, assert_forwarded, tcp, towards_front};

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

/// Its backend serves another frontend still, and its index is another's by now.
#[test]
fn a_flow_ends_with_its_frontend_and_counts_for_no_other() {
    let mut host = Host::new();
    let backend = host.backend(V4.backend);
    let gone = host.service(V4.service, TCP, &[backend]);
    host.service("203.0.113.99:80", TCP, &[backend]);
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
    let answer = Frame::tcp(V4.backend.parse().unwrap(), V4.client.parse().unwrap(), SYN | ACK);
    assert_eq!(host.backend_sends(&answer).verdict, Verdict::Forward);
    assert_eq!(host.counters(gone).reply_packets, 1);

    let tables = host.simulator.tables();
    let key = ServiceKeyV4 {
        address: std::net::Ipv4Addr::new(203, 0, 113, 10).into(),
        port: Be16::new(80),
        protocol: TCP,
        scope: 0,
    };
    tables.services_v4().remove(&key).unwrap();
    tables.service_words().store(gone.index, &[ServiceWord::new(1, key.tag() ^ 1).0]).unwrap();
    assert_eq!(host.client_sends(&syn()).verdict, NO_SERVICE);
    // What the backend still has to say is translated, and counted for nobody.
    let late = host.backend_sends(&answer);
    assert_eq!(late.verdict, Verdict::Forward);
    assert_eq!(Dissected::of(&late.frame).unwrap().source, V4.service.parse().unwrap());
    assert_eq!((host.counters(gone).packets, host.counters(gone).reply_packets), (1, 1));
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
        host.simulator.tables().opening_v4().entries().map(|entry| entry.unwrap().0.zone).collect();
    assert_eq!(zones, HashSet::from([0, 7]));
}

/// The only connection's entry of one direction.
fn half(host: &Host, replies: bool) -> (TupleV4, FlowV4) {
    let entries: Vec<_> = host.simulator.tables().opening_v4().entries().map(Result::unwrap).collect();
    *entries.iter().find(|(_, flow)| (flow.flags & FLOW_REPLY != 0) == replies).unwrap()
}

fn put(host: &Host, (tuple, flow): &(TupleV4, FlowV4)) {
    host.simulator.tables().opening_v4().insert(tuple, flow).unwrap();
}

/// Another connection's replies may stand where this one's did.
#[test]
fn a_reply_entry_of_another_backend_is_not_kept_alive() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    let other = host.backend(V4.other_backend);
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
    let (tuple, mut foreign) = half(&host, true);
    foreign.backend = other;
    put(&host, &(tuple, foreign));
    host.pass(Duration::from_secs(2));
    assert_eq!(host.client_sends(&tcp(V4.client, V4.service, ACK)).verdict, Verdict::Forward);
    assert_eq!(half(&host, true), (tuple, foreign));
    assert_ne!(half(&host, false).1.last_seen, foreign.last_seen, "its own half was refreshed");
}

/// The kernel put another flow in an entry's place while a packet copied it: one half is of the one, the other of the other.
/// The second may be of the same tuple.
#[test]
fn an_entry_that_is_half_anothers_is_not_followed() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
    let other = host.backend(V4.other_backend);
    host.point(service, &[other]);
    let (tuple, whole) = half(&host, false);
    let comes_to = || Dissected::of(&host.at(Hook::Ingress, &syn()).frame).unwrap().destination;
    let torn = [
        FlowV4 { tail_tag: whole.tail_tag ^ 1, ..whole },
        FlowV4 { state: StateWord::new(whole.state.seen(), whole.state.tag() ^ 1), ..whole },
        FlowV4 { incarnation: whole.incarnation ^ 1, ..whole },
    ];
    for torn in torn {
        put(&host, &(tuple, torn));
        assert_eq!(comes_to(), V4.other_backend.parse().unwrap(), "{torn:?}");
        assert_eq!(half(&host, false), (tuple, torn));
    }
    put(&host, &(tuple, whole));
    assert_eq!(comes_to(), V4.backend.parse().unwrap());
}

/// Another CPU set the mark and is about to remove the entry.
#[test]
fn an_entry_that_is_being_replaced_is_left_alone() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    assert_eq!(host.client_sends(&syn()).verdict, Verdict::Forward);
    let other = host.backend(V4.other_backend);
    host.point(service, &[other]);
    for replies in [false, true] {
        let (tuple, mut dying) = half(&host, replies);
        dying.state = StateWord::new(dying.state.seen() | Seen::DYING, dying.state.tag());
        put(&host, &(tuple, dying));
    }
    let (dying, dying_replies) = (half(&host, false), half(&host, true));
    for flags in [SYN, ACK] {
        let frame = tcp(V4.client, V4.service, flags);
        // It goes by its own choice.
        assert_forwarded(&host.at(Hook::Xdp, &frame), &frame, V4.client, V4.other_backend);
        let outcome = host.at(Hook::Ingress, &frame);
        assert_eq!((outcome.verdict, outcome.sent.unwrap().interface), (Verdict::Forward, BACK));
        assert_eq!(Dissected::of(&outcome.frame).unwrap().destination, V4.other_backend.parse().unwrap());
        assert_eq!((half(&host, false), half(&host, true)), (dying, dying_replies));
    }
    assert_eq!((host.counters(service).flows, host.entries()), (1, 2));
    assert_eq!(host.backend_sends(&tcp(V4.backend, V4.client, SYN | ACK)).verdict, NO_SERVICE);
}

/// A SYN and its retransmissions on many CPUs at once: one connection, one backend, nobody dropped.
#[test]
fn racing_packets_of_one_connection_agree() {
    const THREADS: usize = 4;
    const OTHER_BACK: u32 = 4;
    for round in 0..200u16 {
        let hook = if round % 2 == 0 { Hook::Ingress } else { Hook::Xdp };
        let mut host = Host::new();
        host.simulator.add_interface(SimulatedInterface::new(OTHER_BACK, [2, 0, 0, 0, 0, 4])).unwrap();
        let routes = host.simulator.routes_mut();
        let other_backend: std::net::SocketAddr = V4.other_backend.parse().unwrap();
        routes.insert("198.51.100.3/32".parse().unwrap(), Target::Link(OTHER_BACK));
        routes.insert_neighbor(OTHER_BACK, other_backend.ip(), [2, 0, 0, 0, 2, 3]);
        let backends = [host.backend(V4.backend), host.backend(V4.other_backend)];
        let service = host.service(V4.service, TCP, &backends);
        host.simulator.set_choice(None);
        let mut frame = syn();
        frame.source.set_port(1024 + round);
        let barrier = Barrier::new(THREADS);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let run = || {
                barrier.wait();
                host.at(hook, &frame)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let destinations: HashSet<_> = outcomes
            .iter()
            .map(|outcome| {
                let destination = Dissected::of(&outcome.frame).unwrap().destination;
                // Who lost finds the way to the winner's backend.
                assert_eq!(outcome.verdict, Verdict::Forward);
                let way = if destination == other_backend { OTHER_BACK } else { BACK };
                assert_eq!(outcome.sent.unwrap().interface, way, "round {round}: {destination}");
                destination
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

    let tables = std::sync::Arc::new(MemoryTables::new(Capacity { opening: 0, ..Capacity::small() }));
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
