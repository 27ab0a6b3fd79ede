//! ICMP errors about packets of flows.
//!
//! The oracle is the same error about the same packet as it was before its translation, put together by the testkit: what
//! comes out must be that, byte for byte.

use std::{net::IpAddr, time::Duration};

use dataplane_core::{
    memory::Outcome,
    pipeline::{DropReason, Hook, LeaveReason, PassReason, Verdict},
    tables::Store,
};
use dataplane_testkit::{
    fill::FilledService,
    frames::{Extension, Frame, Transport, flags::*},
};

use crate::host::*;

/// Routers behind the interfaces.
const CLIENTS_ROUTER: [&str; 2] = ["192.0.2.99", "2001:db8:1::99"];
const BACKENDS_ROUTER: [&str; 2] = ["198.51.100.99", "2001:db8:2::99"];

/// Types and codes of errors, with the second half of their headers: all kinds, and those that carry an MTU.
const ERRORS: [&[(u8, u8, u32)]; 2] = [
    &[(3, 1, 0), (3, 3, 0), (3, 4, 1300), (11, 0, 0), (12, 0, 0x1400_0000)],
    &[(1, 0, 0), (1, 4, 0), (2, 0, 1300), (3, 0, 0), (4, 1, 40)],
];

fn family(cast: Cast) -> usize {
    usize::from(address(cast.client).is_ipv6())
}

fn error(source: IpAddr, destination: IpAddr, (kind, code, rest): (u8, u8, u32), quoted: &[u8]) -> Frame {
    Frame::icmp(source, destination, kind, code, rest).payload(quoted)
}

/// An error of the kind that is never about anything else than what it quotes.
fn unreachable(cast: Cast, source: &str, quoted: &[u8]) -> Frame {
    let destination = address(cast.client);
    error(source.parse().unwrap(), destination, ERRORS[family(cast)][0], quoted)
}

/// What came out is this error, one hop on.
#[track_caller]
fn assert_became(outcome: &Outcome, mut expected: Frame) {
    assert_eq!(outcome.verdict, Verdict::Forward);
    expected.hop_limit -= 1;
    assert_eq!(&outcome.frame[14..], &expected.packet()[..]);
}

/// The packet with its addresses and ports as these say.
fn between(packet: &Frame, source: &str, destination: &str) -> Frame {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Frame { source, destination, ..packet.clone() }
}

/// A connection, of which both sides have sent something.
fn connected(cast: Cast, protocol: u8) -> Host {
    connection(cast, protocol).0
}

fn connection(cast: Cast, protocol: u8) -> (Host, FilledService) {
    let mut host = Host::new();
    let service = host.serve(cast, protocol);
    for (client, source, destination) in [
        (true, cast.client, cast.service),
        (false, cast.backend, cast.client),
        (true, cast.client, cast.service),
    ] {
        let frame = packet(protocol, source, destination);
        let outcome = if client { host.client_sends(&frame) } else { host.backend_sends(&frame) };
        assert_eq!(outcome.verdict, Verdict::Forward);
    }
    (host, service)
}

fn packet(protocol: u8, source: &str, destination: &str) -> Frame {
    if protocol == TCP { tcp(source, destination, ACK) } else { udp(source, destination) }
}

/// Every entry of conntrack, with all that it says.
fn entries(host: &Host) -> Vec<String> {
    let tables = host.simulator.tables();
    let v4 = tables.conntrack_v4().entries().map(|entry| format!("{:?}", entry.unwrap()));
    let v6 = tables.conntrack_v6().entries().map(|entry| format!("{:?}", entry.unwrap()));
    let mut all: Vec<_> = v4.chain(v6).collect();
    all.sort();
    all
}

#[test]
fn an_error_about_a_clients_packet_comes_from_the_service() {
    for (cast, protocol) in [(V4, TCP), (V4, UDP), (V6, TCP), (V6, UDP)] {
        let host = connected(cast, protocol);
        let sent = packet(protocol, cast.client, cast.service);
        let arrived = between(&sent, cast.client, cast.backend);
        for &message in ERRORS[family(cast)] {
            for reporter in [BACKENDS_ROUTER[family(cast)].parse().unwrap(), address(cast.backend)] {
                let about = error(reporter, address(cast.client), message, &arrived.packet());
                let expected = error(address(cast.service), address(cast.client), message, &sent.packet());
                assert_became(&host.backend_sends(&about), expected);
            }
        }
    }
}

/// Its source stays: whoever traces the path from the backend wants to see who it was.
#[test]
fn an_error_about_an_answer_comes_to_the_backend() {
    for (cast, protocol) in [(V4, TCP), (V4, UDP), (V6, TCP), (V6, UDP)] {
        let host = connected(cast, protocol);
        let sent = packet(protocol, cast.backend, cast.client);
        let arrived = between(&sent, cast.service, cast.client);
        for &message in ERRORS[family(cast)] {
            for reporter in [CLIENTS_ROUTER[family(cast)].parse().unwrap(), address(cast.client)] {
                let about = error(reporter, address(cast.service), message, &arrived.packet());
                let expected = error(reporter, address(cast.backend), message, &sent.packet());
                assert_became(&host.client_sends(&about), expected);
            }
        }
    }
}

/// RFC 792 asks for 8 bytes of the transport header; whether the checksum is among what is there, is not for the
/// translation to mind.
#[test]
fn a_quotation_may_be_cut_anywhere_behind_the_ports() {
    for (cast, protocol) in [(V4, TCP), (V4, UDP), (V6, TCP), (V6, UDP)] {
        let host = connected(cast, protocol);
        let sent = packet(protocol, cast.client, cast.service);
        let (arrived, sent) = (between(&sent, cast.client, cast.backend).packet(), sent.packet());
        let headers = if cast.client == V4.client { 20 } else { 40 };
        for length in 0..=arrived.len() {
            // Half a checksum is left as it is: nobody can check it.
            if protocol == TCP && length == headers + 17 {
                continue;
            }
            let about = unreachable(cast, BACKENDS_ROUTER[family(cast)], &arrived[..length]);
            let outcome = host.backend_sends(&about);
            if length < headers + 8 {
                let bytes = about.link(BACK_MAC, BACKEND_MAC).build();
                assert_untouched(&outcome, &bytes, Verdict::Pass(PassReason::Malformed));
            } else {
                let service = address(cast.service).to_string();
                assert_became(&outcome, unreachable(cast, &service, &sent[..length]));
            }
        }
    }
}

#[test]
fn options_and_extension_headers_of_a_quotation_are_stepped_over() {
    for cast in [V4, V6] {
        let host = connected(cast, UDP);
        let mut sent = udp(cast.client, cast.service);
        sent.ip_options = 10;
        sent.extensions = vec![Extension::HopByHop(0), Extension::Destination(1), Extension::Fragment(0)];
        // The first part of a packet that somebody split.
        sent.fragment = 0x2000;
        let arrived = between(&sent, cast.client, cast.backend);
        let about = unreachable(cast, BACKENDS_ROUTER[family(cast)], &arrived.packet());
        let service = address(cast.service).to_string();
        assert_became(&host.backend_sends(&about), unreachable(cast, &service, &sent.packet()));
    }
}

#[test]
fn a_datagram_without_a_checksum_is_quoted_without() {
    let host = connected(V4, UDP);
    let mut sent = udp(V4.client, V4.service);
    sent.transport = Transport::Udp { checksum: false };
    let arrived = between(&sent, V4.client, V4.backend);
    let about = unreachable(V4, BACKENDS_ROUTER[0], &arrived.packet());
    assert_became(&host.backend_sends(&about), unreachable(V4, "203.0.113.10", &sent.packet()));
}

#[test]
fn an_error_leaves_no_trace_in_a_table() {
    for cast in [V4, V6] {
        let (mut host, service) = connection(cast, UDP);
        let arrived = udp(cast.client, cast.backend).packet();
        let about = unreachable(cast, BACKENDS_ROUTER[family(cast)], &arrived);
        let (before, counters) = (entries(&host), host.counters(service));
        host.pass(Duration::from_secs(100));
        assert_eq!(host.backend_sends(&about).verdict, Verdict::Forward);
        assert_eq!((entries(&host), host.counters(service)), (before.clone(), counters));
        // Nor does it keep the flow alive, or find it once it is over.
        host.pass(Duration::from_secs(100));
        let outcome = host.backend_sends(&about);
        assert_untouched(
            &outcome,
            &about.link(BACK_MAC, BACKEND_MAC).build(),
            Verdict::Pass(PassReason::NoService),
        );
        assert_eq!((entries(&host), host.counters(service)), (before, counters));
    }
}

#[test]
fn what_is_no_error_about_a_flow_passes() {
    for cast in [V4, V6] {
        let host = connected(cast, UDP);
        let router = BACKENDS_ROUTER[family(cast)].parse().unwrap();
        let client = address(cast.client);
        let arrived = udp(cast.client, cast.backend);
        let kind = ERRORS[family(cast)][0];
        let quote = arrived.packet();
        let mut later = arrived.clone();
        (later.fragment, later.extensions) = (0x0010, vec![Extension::Fragment(0x0100)]);
        let other = Frame::other(arrived.source, arrived.destination, 132).payload(&[7; 40]);
        let mut other_version = quote.clone();
        other_version[0] ^= 0x10;
        let stranger = udp(cast.client, cast.other_backend);
        let mut is_echo = vec![(128, 0, 1), (135, 0, 0), (200, 0, 0)];
        if cast.client == V4.client {
            is_echo = vec![(8, 0, 1), (0, 0, 1), (4, 0, 0), (5, 0, 0), (13, 0, 0)];
        }
        let mut cases: Vec<_> = is_echo
            .into_iter()
            .map(|kind| (error(router, client, kind, &quote), PassReason::Protocol))
            .collect();
        cases.extend([
            (error(router, client, kind, &later.packet()), PassReason::Fragment),
            (error(router, client, kind, &other.packet()), PassReason::Protocol),
            (error(router, client, kind, &other_version), PassReason::Malformed),
            (error(router, client, kind, &stranger.packet()), PassReason::NoService),
            // It goes to somebody else than who sent what it quotes.
            (
                error(router, CLIENTS_ROUTER[family(cast)].parse().unwrap(), kind, &quote),
                PassReason::Malformed,
            ),
            // A client's packet as it was before its translation: nobody behind us has seen it.
            (error(router, client, kind, &udp(cast.client, cast.service).packet()), PassReason::NoService),
        ]);
        for (frame, reason) in cases {
            let bytes = frame.clone().link(BACK_MAC, BACKEND_MAC).build();
            assert_untouched(&host.backend_sends(&frame), &bytes, Verdict::Pass(reason));
        }
    }
}

#[test]
fn an_error_to_a_backend_that_is_gone_passes() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.backend(cast.backend);
        host.service(cast.service, UDP, &[backend]);
        host.client_sends(&udp(cast.client, cast.service));
        host.remove(backend, cast);
        let quote = udp(cast.service, cast.client).packet();
        let router = CLIENTS_ROUTER[family(cast)].parse().unwrap();
        let about = error(router, address(cast.service), ERRORS[family(cast)][0], &quote);
        let outcome = host.client_sends(&about);
        assert_untouched(&outcome, &towards_front(&about), Verdict::Pass(PassReason::NoService));
    }
}

/// A backend on this host says that its port is closed: the answer leaves by the uplink.
#[test]
fn a_local_backends_error_is_translated_on_its_way_out() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.local_backend(cast.backend);
        host.service(cast.service, UDP, &[backend]);
        let sent = udp(cast.client, cast.service);
        assert_eq!(host.client_sends(&sent).verdict, Verdict::Deliver);
        let quote = between(&sent, cast.client, cast.backend).packet();
        let about = unreachable(cast, &address(cast.backend).to_string(), &quote);
        let outcome = host.at(Hook::Egress, &about);
        assert_eq!(outcome.verdict, Verdict::Deliver);
        let expected = unreachable(cast, &address(cast.service).to_string(), &sent.packet());
        assert_eq!(&outcome.frame[14..], &expected.packet()[..], "the stack has taken the hop already");

        // And what is wrong with its own answers comes to it through the stack.
        let answer = udp(cast.backend, cast.client);
        let quote = between(&answer, cast.service, cast.client).packet();
        let router = CLIENTS_ROUTER[family(cast)].parse().unwrap();
        let about = error(router, address(cast.service), ERRORS[family(cast)][2], &quote);
        let left = host.at(Hook::Xdp, &about);
        assert_untouched(&left, &towards_front(&about), Verdict::Leave(LeaveReason::Local));
        let outcome = host.at(Hook::Ingress, &about);
        assert_eq!(outcome.verdict, Verdict::Deliver);
        let expected = error(router, address(cast.backend), ERRORS[family(cast)][2], &answer.packet());
        assert_eq!(&outcome.frame[14..], &expected.packet()[..]);
    }
}

#[test]
fn an_error_goes_the_way_of_a_packet() {
    for cast in [V4, V6] {
        let host = connected(cast, UDP);
        let quote = udp(cast.service, cast.client).packet();
        let router = CLIENTS_ROUTER[family(cast)].parse().unwrap();
        let mut about = error(router, address(cast.service), ERRORS[family(cast)][0], &quote);
        about.hop_limit = 1;
        assert_eq!(host.client_sends(&about).verdict, Verdict::Drop(DropReason::HopLimit));
        about.hop_limit = 2;
        about.tags = vec![(0x8100, 5)];
        let left = host.at(Hook::Xdp, &about);
        assert_untouched(&left, &towards_front(&about), Verdict::Leave(LeaveReason::Tagged));
        let outcome = host.at(Hook::Ingress, &about);
        let quote = udp(cast.backend, cast.client).packet();
        let mut expected = error(router, address(cast.backend), ERRORS[family(cast)][0], &quote);
        expected.hop_limit = 2;
        assert_became(&outcome, expected);
    }
}
