//! Half-open connections stand apart: what forged sources open pushes out nobody who came through a handshake.
//!
//! The two million packets are in `tests/floods.rs`; here they are fewer.

use std::net::SocketAddr;

use dataplane_core::{
    memory::MemoryTables,
    pipeline::{DropReason, PassReason, Verdict},
    tables::Capacity,
};
use dataplane_testkit::frames::{Rng, flags::*};

use crate::{host::*, siege::*};

#[test]
fn connections_outlive_a_flood_of_either_protocol() {
    for (cast, protocol, seed) in [(V4, TCP, 1), (V6, TCP, 2), (V4, UDP, 3), (V6, UDP, 4)] {
        connections_outlive_a_flood(cast, protocol, seed, 24_000);
    }
}

#[test]
fn masqueraded_connections_outlive_a_flood_of_either_family() {
    for (cast, seed) in [(V4, 1), (V6, 2)] {
        masqueraded_connections_outlive_a_flood(cast, seed, 20_000);
    }
}

/// Which table an entry stands in shows whether its client came through.
#[test]
fn a_connection_is_moved_when_it_is_confirmed() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        let mut places = Vec::new();
        let way = story.sends(client, SYN);
        places.push(story.host.places());
        story.answers(way, SYN | ACK);
        places.push(story.host.places());
        story.sends(client, SYN);
        places.push(story.host.places());
        story.sends(client, ACK);
        places.push(story.host.places());
        story.answers(way, ACK);
        story.sends(client, ACK | PSH);
        places.push(story.host.places());
        assert_eq!(places, [[0, 2], [0, 2], [0, 2], [2, 0], [2, 0]]);
    }
}

/// Who is sent a SYN with an ACK that he did not ask for resets: forged sources that exist confirm nothing.
#[test]
fn a_reset_confirms_no_connection() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        let way = story.sends(client, SYN);
        story.answers(way, SYN | ACK);
        assert_eq!(story.sends(client, RST), way);
        assert_eq!(story.host.places(), [0, 2]);
    }
}

#[test]
fn what_can_open_no_connection_is_dropped_by_name() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        for (flags, opens) in [
            (RST, false),
            (RST | ACK, false),
            (SYN | RST, false),
            (SYN | ACK, false),
            (SYN | ACK | PSH, false),
            (0, true),
            (ACK, true),
            (FIN | ACK, true),
            (PSH, true),
        ] {
            let out = story.host.client_sends(&packet(TCP, client, story.service(), flags));
            let expected = if opens { Verdict::Forward } else { Verdict::Drop(DropReason::NoFlow) };
            assert_eq!(out.verdict, expected, "flags {flags}");
            if !opens {
                assert_eq!(story.host.places(), [0, 0], "flags {flags}");
            }
        }
        let elsewhere = SocketAddr::new(story.service().ip(), 9);
        let reset = packet(TCP, client, elsewhere, RST);
        assert_eq!(story.host.client_sends(&reset).verdict, Verdict::Pass(PassReason::NoService));
        // The same flags of a flow that is known are its own affair.
        let way = story.sends(client, SYN);
        story.answers(way, SYN | ACK);
        assert_eq!((story.sends(client, SYN | ACK), story.sends(client, RST)), (way, way));
    }
}

/// One whose connection stands in conntrack holds the tuple of its answers against one that is not confirmed, and the
/// other way round.
#[test]
fn the_tuple_of_the_answers_is_one_connections_in_either_table() {
    for cast in [V4, V6] {
        for confirmed in [false, true] {
            let mut host = Host::new();
            let backend = host.backend(cast.backend);
            host.service(cast.service, TCP, &[backend]);
            let other_service = cast.service.replace(":80", ":81");
            host.service(&other_service, TCP, &[backend]);
            host.client_sends(&tcp(cast.client, cast.service, SYN));
            host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
            if confirmed {
                host.client_sends(&tcp(cast.client, cast.service, ACK));
            }
            let before = host.places();
            let second = tcp(cast.client, &other_service, SYN);
            assert_eq!(host.client_sends(&second).verdict, Verdict::Drop(DropReason::TupleInUse));
            assert_eq!(host.places(), before);
            // Closed, it is nobody's.
            host.backend_sends(&tcp(cast.backend, cast.client, RST));
            assert_forwarded(&host.client_sends(&second), &second, cast.client, cast.backend);
            let answer = tcp(cast.backend, cast.client, SYN | ACK);
            assert_forwarded(&host.backend_sends(&answer), &answer, &other_service, cast.client);
        }
    }
}

/// Chi-square over eight backends of one weight: 7 degrees of freedom, and a value above 29 comes once in 7,000 times. The
/// seed is always the same, and so is the value.
#[test]
fn the_hash_spreads_connections_as_evenly_as_dice() {
    for (cast, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let story = Story::new(cast, protocol, 0);
        let v6 = address(cast.client).is_ipv6();
        let mut rng = Rng::new(7);
        // What differs is little, or a lot: neighbours' ports, neighbours' addresses, everybody.
        let kinds: [&mut dyn FnMut(u32) -> SocketAddr; 3] = [
            &mut |number| SocketAddr::new(address(cast.client), 1_024 + number as u16),
            &mut |number| neighbour(cast, number),
            &mut |_| forged(&mut rng, v6),
        ];
        for (kind, client) in (0..).zip(kinds) {
            const FLOWS: u32 = 16_000;
            let mut hits = [0u32; BACKENDS as usize];
            for number in 0..FLOWS {
                let (_, backend) = story.sends(client(number), SYN);
                let place = (0..BACKENDS).position(|place| backend_of(cast, place) == backend).unwrap();
                hits[place] += 1;
            }
            let even = f64::from(FLOWS) / f64::from(BACKENDS);
            let chi: f64 = hits.iter().map(|&hits| (f64::from(hits) - even).powi(2) / even).sum();
            assert!(chi < 29.0, "kind {kind}: {hits:?} is {chi:.1}");
        }
    }
}

/// One of 16,000 clients that use the same port.
fn neighbour(cast: Cast, number: u32) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    if address(cast.client).is_ipv6() {
        ([0x2001, 0xdb8, 5, 0, 0, 0, 0, number as u16], 5_000).into()
    } else {
        ([11, 0, high, low], 5_000).into()
    }
}

/// Another secret is another spread.
#[test]
fn the_seed_says_where_connections_go() {
    let place = |seed| {
        let story = Story::new(V4, TCP, 0);
        story.host.simulator.tables().set_choice_seed(seed);
        (0..200).map(|number| story.sends(story.client(number), SYN).1).collect::<Vec<_>>()
    };
    let [first, again, other] = [1, 1, 2].map(place);
    assert_eq!(first, again);
    let differ = first.iter().zip(&other).filter(|(one, other)| one != other).count();
    // Seven eighths of 200: 175, and five standard deviations of 4.7 to either side.
    assert!((151..=199).contains(&differ), "{differ}");
}

/// Where there is no room for what is to be moved, the connection goes on where it stands.
#[test]
fn a_connection_stays_where_it_is_where_there_is_no_room() {
    let tables = MemoryTables::new(Capacity { conntrack: 0, ..Capacity::small() });
    let mut host = Host::with(tables);
    host.serve(V4, TCP);
    for flags in [SYN, ACK, ACK] {
        let frame = tcp(V4.client, V4.service, flags);
        assert_forwarded(&host.client_sends(&frame), &frame, V4.client, V4.backend);
        let answer = tcp(V4.backend, V4.client, ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, V4.service, V4.client);
        assert_eq!(host.places(), [0, 2]);
    }
}
