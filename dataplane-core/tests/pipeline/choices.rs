//! Which backend a connection has, and when it gets another.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane_core::{
    abi::{SLOT_LINE_WORDS, ServiceWord, SlotHeader, TupleV4, TupleV6},
    pipeline::{AnswerReason, PassReason, Verdict},
    tables::{Store, Tuple},
    wire::Be16,
};
use dataplane_testkit::frames::{Dissected, Frame, flags::*};

use crate::host::*;

/// What makes the pipeline choose the first or the last entry of a list.
const FIRST: Option<u32> = Some(0);
const LAST: Option<u32> = Some(u32::MAX);

#[test]
fn a_draining_backend_keeps_its_connections_and_gets_no_new_ones() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let draining = host.backend(cast.backend);
        let active = host.backend(cast.other_backend);
        let service = host.service(cast.service, TCP, &[draining]);
        host.client_sends(&tcp(cast.client, cast.service, SYN));

        host.point(service, &[active]);
        for flags in [ACK, ACK | PSH, SYN] {
            let frame = tcp(cast.client, cast.service, flags);
            assert_forwarded(&host.client_sends(&frame), &frame, cast.client, cast.backend);
        }
        let answer = tcp(cast.backend, cast.client, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
        let other_client = cast.client.replace("40000", "40001");
        let frame = tcp(&other_client, cast.service, SYN);
        assert_forwarded(&host.client_sends(&frame), &frame, &other_client, cast.other_backend);
    }
}

#[test]
fn who_still_tries_to_connect_to_a_draining_backend_gets_another() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let draining = host.backend(cast.backend);
        let active = host.backend(cast.other_backend);
        let service = host.service(cast.service, TCP, &[draining]);
        let syn = tcp(cast.client, cast.service, SYN);
        host.client_sends(&syn);
        host.point(service, &[active]);
        host.drain(draining, cast);

        let straggler = tcp(cast.client, cast.service, ACK);
        assert_forwarded(&host.client_sends(&straggler), &straggler, cast.client, cast.backend);
        assert_forwarded(&host.client_sends(&syn), &syn, cast.client, cast.other_backend);
        assert_eq!((host.counters(service).flows, host.entries()), (2, 2));
    }
}

#[test]
fn a_syn_moves_no_connection_that_stands_from_a_draining_backend() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let draining = host.backend(cast.backend);
        let active = host.backend(cast.other_backend);
        let service = host.service(cast.service, TCP, &[draining]);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
        host.client_sends(&tcp(cast.client, cast.service, ACK));
        host.point(service, &[active]);
        host.drain(draining, cast);

        for flags in [SYN, ACK | PSH] {
            let frame = tcp(cast.client, cast.service, flags);
            assert_forwarded(&host.client_sends(&frame), &frame, cast.client, cast.backend);
        }
    }
}

#[test]
fn the_connections_of_a_backend_that_is_gone_get_another() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let gone = host.backend(cast.backend);
        let stays = host.backend(cast.other_backend);
        let service = host.service(cast.service, TCP, &[gone]);
        host.client_sends(&tcp(cast.client, cast.service, SYN));

        host.point(service, &[stays]);
        host.remove(gone, cast);
        let frame = tcp(cast.client, cast.service, ACK);
        assert_forwarded(&host.client_sends(&frame), &frame, cast.client, cast.other_backend);
        assert_eq!((host.counters(service).flows, host.entries()), (2, 2));
        let late = tcp(cast.backend, cast.client, ACK);
        assert_eq!(host.backend_sends(&late).verdict, Verdict::Pass(PassReason::NoService));
        let answer = tcp(cast.other_backend, cast.client, ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
    }
}

#[test]
fn the_last_words_of_a_backend_that_is_gone_reach_the_client() {
    let mut host = Host::new();
    let gone = host.backend(V4.backend);
    let service = host.service(V4.service, TCP, &[gone]);
    host.client_sends(&tcp(V4.client, V4.service, SYN));
    host.point(service, &[]);
    host.remove(gone, V4);
    let answer = tcp(V4.backend, V4.client, FIN | ACK);
    assert_forwarded(&host.backend_sends(&answer), &answer, V4.service, V4.client);
}

#[test]
fn a_service_without_a_backend_drops_what_is_new() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.backend(cast.backend);
        let service = host.service(cast.service, TCP, &[backend]);
        let frame = tcp(cast.client, cast.service, SYN);
        host.client_sends(&frame);
        host.point(service, &[]);
        assert_forwarded(&host.client_sends(&frame), &frame, cast.client, cast.backend);
        let new = tcp(&cast.client.replace("40000", "40001"), cast.service, SYN);
        assert_eq!(host.client_sends(&new).verdict, Verdict::Answer(AnswerReason::NoBackend));
        assert_eq!((host.counters(service).drops, host.entries()), (1, 2));
    }
}

#[test]
fn a_syn_on_a_closed_connection_chooses_anew() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backends = [host.backend(cast.backend), host.backend(cast.other_backend)];
        let service = host.service(cast.service, TCP, &backends);
        let send = |host: &Host, flags, to: &str| {
            let frame = tcp(cast.client, cast.service, flags);
            assert_forwarded(&host.client_sends(&frame), &frame, cast.client, to);
        };
        host.simulator.set_choice(FIRST);
        send(&host, SYN, cast.backend);
        host.simulator.set_choice(LAST);
        send(&host, SYN, cast.backend); // open: a retransmission stays where it is
        host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
        send(&host, FIN | ACK, cast.backend);
        send(&host, SYN, cast.backend); // half closed
        host.backend_sends(&tcp(cast.backend, cast.client, FIN | ACK));
        send(&host, ACK, cast.backend); // closed, and this is its last acknowledgement
        host.pass(Duration::from_secs(1));
        send(&host, SYN, cast.other_backend);
        assert_eq!((host.counters(service).flows, host.entries()), (2, 2));
        let answer = tcp(cast.other_backend, cast.client, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
    }
}

#[test]
fn a_forged_reset_moves_no_connection_that_goes_on() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backends = [host.backend(cast.backend), host.backend(cast.other_backend)];
        let service = host.service(cast.service, TCP, &backends);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
        host.client_sends(&tcp(cast.client, cast.service, ACK));
        host.simulator.set_choice(LAST);
        for goes_on in [true, false] {
            host.client_sends(&tcp(cast.client, cast.service, RST));
            host.pass(Duration::from_secs(1));
            if goes_on {
                host.client_sends(&tcp(cast.client, cast.service, ACK | PSH));
            } else {
                host.backend_sends(&tcp(cast.backend, cast.client, ACK));
            }
            host.pass(Duration::from_secs(60));
            let syn = tcp(cast.client, cast.service, SYN);
            assert_forwarded(&host.client_sends(&syn), &syn, cast.client, cast.backend);
            assert_eq!(host.backend_sends(&tcp(cast.backend, cast.client, ACK)).verdict, Verdict::Forward);
        }
        assert_eq!(host.counters(service).flows, 1);
    }
}

#[test]
fn new_connections_are_spread_over_the_list() {
    let mut host = Host::new();
    let (one, other) = (host.backend(V4.backend), host.backend(V4.other_backend));
    host.service(V4.service, UDP, &[one, other, other, other]);
    host.simulator.set_choice(None);
    let mut hits = 0;
    const FLOWS: u32 = 400;
    for port in 1..=FLOWS {
        let out = host.client_sends(&udp(&format!("192.0.2.7:{port}"), V4.service));
        let seen = Dissected::of(&out.frame).unwrap();
        hits += u32::from(seen.destination == V4.backend.parse().unwrap());
    }
    // A quarter of 400: 100, and four standard deviations of 8.7 to either side.
    assert!((65..=135).contains(&hits), "{hits} of {FLOWS}");
}

/// What a flow hashes to. What that is made of, and that it is spread evenly, the tests of the hash hold.
fn hash(client: &str, service: &str, protocol: u8, seed: u64) -> u64 {
    let (client, service): (SocketAddr, SocketAddr) = (client.parse().unwrap(), service.parse().unwrap());
    let (from, to) = (Be16::new(client.port()), Be16::new(service.port()));
    let hash = match (client.ip(), service.ip()) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            TupleV4::new(client.into(), service.into(), from, to, protocol).hash(seed)
        }
        (IpAddr::V6(client), IpAddr::V6(service)) => {
            TupleV6::new(client.into(), service.into(), from, to, protocol).hash(seed)
        }
        _ => panic!("two families"),
    };
    hash.into()
}

/// The place is the upper half of hash times size, and what stands there is chosen, whatever the dice say.
#[test]
fn a_maglev_table_says_where_a_flow_goes() {
    const TABLE: [u16; 7] = [1, 0, 0, 1, 1, 0, 1];
    for (cast, seed) in [(V4, 0), (V6, 0x0123_4567_89ab_cdef)] {
        let mut host = Host::new();
        let backends = [host.backend(cast.backend), host.backend(cast.other_backend)];
        let service = host.service(cast.service, TCP, &[]);
        host.point_by_maglev(service, &backends, &TABLE, seed);
        host.simulator.set_choice(None);
        let mut seen = [0; TABLE.len()];
        for port in 1..=300 {
            let client = cast.client.replace("40000", &port.to_string());
            let place = ((hash(&client, cast.service, TCP, seed) * TABLE.len() as u64) >> 32) as usize;
            seen[place] += 1;
            let to = [cast.backend, cast.other_backend][usize::from(TABLE[place])];
            let frame = tcp(&client, cast.service, SYN);
            assert_forwarded(&host.client_sends(&frame), &frame, &client, to);
        }
        // A seventh of 300: 43, and four standard deviations of 6 to either side.
        assert!(seen.iter().all(|count| (19..=67).contains(count)), "{seen:?}");
    }
}

/// Each number of a tuple has a say: with one of them changed, a flow goes elsewhere as often as chance has it.
#[test]
fn all_of_the_tuple_chooses_in_a_maglev_table() {
    const FLOWS: usize = 400;
    // A host for each, since two connections of one client to one backend would be in each other's way.
    let go_to = |frame: &dyn Fn(usize) -> Frame| {
        let mut host = Host::new();
        let backends = [host.backend(V4.backend), host.backend(V4.other_backend)];
        let table: Vec<u16> = (0..499).map(|place| place % 2).collect();
        for (service, protocol) in
            [(V4.service, TCP), (V4.service, UDP), ("203.0.113.11:80", TCP), ("203.0.113.10:81", TCP)]
        {
            let service = host.service(service, protocol, &[]);
            host.point_by_maglev(service, &backends, &table, 5);
        }
        let flows = (1..=FLOWS).map(|port| {
            let out = host.client_sends(&frame(port));
            assert_eq!(out.verdict, Verdict::Forward);
            Dissected::of(&out.frame).unwrap().destination
        });
        flows.collect::<Vec<_>>()
    };
    let client = |port: usize| format!("192.0.2.7:{port}");
    let as_it_is = go_to(&|port| tcp(&client(port), V4.service, SYN));
    let others: [&dyn Fn(usize) -> Frame; 5] = [
        &|port| udp(&client(port), V4.service),
        &|port| tcp(&client(port), "203.0.113.11:80", SYN),
        &|port| tcp(&client(port), "203.0.113.10:81", SYN),
        &|port| tcp(&format!("192.0.2.8:{port}"), V4.service, SYN),
        &|port| tcp(&client(port + 20_000), V4.service, SYN),
    ];
    let differ =
        others.map(|other| go_to(other).iter().zip(&as_it_is).filter(|(one, two)| one != two).count());
    // Half of 400, and five standard deviations of 10 to either side.
    assert!(differ.iter().all(|count| (150..=250).contains(count)), "{differ:?} of {FLOWS}");
}

/// Bytes that are no list of ours are a miss, and never a reason to go elsewhere.
#[test]
fn a_maglev_table_that_is_not_ours_is_a_miss() {
    let mut host = Host::new();
    let backend = host.backend(V4.backend);
    let service = host.service(V4.service, TCP, &[]);
    let frame = tcp(V4.client, V4.service, SYN);
    for index in [1, 2, 0x7fff, u16::MAX] {
        host.point_by_maglev(service, &[backend], &[index; 5], 0);
        assert_eq!(host.client_sends(&frame).verdict, Verdict::Answer(AnswerReason::NoBackend), "{index}");
    }
    let tables = host.simulator.tables().clone();
    let tag = ServiceWord(tables.service_words().load(service.index, 0).unwrap()).tag();
    let last = tables.slots().capacity() / SLOT_LINE_WORDS - 1;
    for (entries, places) in [(1, 65_521), (1, u16::MAX), (1000, 13), (u32::MAX, 13), (u32::MAX, u16::MAX)] {
        let words = [SlotHeader::new(entries, places, 0).0, 0, 0, 0, backend.0, u64::MAX, u64::MAX, u64::MAX];
        tables.slots().store(last * SLOT_LINE_WORDS, &words).unwrap();
        tables.service_words().store(service.index, &[ServiceWord::new(last, tag).0]).unwrap();
        let verdict = host.client_sends(&frame).verdict;
        // Where a list claims to be longer than all slots, its table may be anywhere: all that is asked is no panic.
        if entries < tables.slots().capacity() {
            assert_eq!(verdict, Verdict::Answer(AnswerReason::NoBackend), "{entries}, {places}");
        }
    }
}
