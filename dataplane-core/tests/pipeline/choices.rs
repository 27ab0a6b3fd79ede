//! Which backend a connection has, and when it gets another.

use std::time::Duration;

use dataplane_core::pipeline::{DropReason, PassReason, Verdict};
use dataplane_testkit::frames::flags::*;

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
        assert_eq!(host.client_sends(&new).verdict, Verdict::Drop(DropReason::NoBackend));
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
        host.simulator.set_random(FIRST);
        send(&host, SYN, cast.backend);
        host.simulator.set_random(LAST);
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
        host.simulator.set_random(LAST);
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
    host.simulator.set_random(None);
    let mut hits = 0;
    const FLOWS: u32 = 400;
    for port in 1..=FLOWS {
        let out = host.client_sends(&udp(&format!("192.0.2.7:{port}"), V4.service));
        let seen = dataplane_testkit::frames::Dissected::of(&out.frame).unwrap();
        hits += u32::from(seen.destination == V4.backend.parse().unwrap());
    }
    // A quarter of 400: 100, and four standard deviations of 8.7 to either side.
    assert!((65..=135).contains(&hits), "{hits} of {FLOWS}");
}
