//! Whoever sent what is dropped hears of it.
//!
//! The oracle is an answer put together by the testkit, whose checksums are summed up from the bytes.

use std::{net::SocketAddr, time::Duration};

use dataplane_core::{
    Controller,
    memory::{Outcome, SimulatedInterface, Target},
    model::{Backend, Frontend, Masquerade, Protocol, Service, Weight},
    pipeline::{AnswerReason, DropReason, Hook, LeaveReason, Verdict},
    source::Precedence,
};
use dataplane_testkit::frames::{Dissected, Extension, Frame, flags::*};

use crate::host::*;

/// Bytes of IP packet that an error has at most.
fn longest(cast: Cast) -> usize {
    if address(cast.client).is_ipv4() { 576 } else { 1280 }
}

fn network_length(cast: Cast) -> usize {
    if address(cast.client).is_ipv4() { 20 } else { 40 }
}

/// Where the transport checksum stands in an IP packet without options.
fn checksum_at(cast: Cast, protocol: u8) -> usize {
    network_length(cast) + if protocol == TCP { 16 } else { 6 }
}

/// Finishes the checksum at `at` as a network card does: the sum of everything from `from` on is put there.
fn finish(packet: &mut [u8], from: usize, at: usize) {
    let mut sum = 0u32;
    for pair in packet[from..].chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// An ICMP error about `sent` came out, from the address that it was for: its checksum is right, also where a network card
/// still finishes that of the quoted packet.
#[track_caller]
fn assert_error(cast: Cast, outcome: &Outcome, sent: &Frame, message: (u8, u8, u32)) {
    let Dissected { protocol, .. } = Dissected::of(&sent.build()).unwrap();
    let quoted = sent.packet();
    let quoted = &quoted[..quoted.len().min(longest(cast) - network_length(cast) - 8)];
    let before = network_length(cast) + 8;
    let got = outcome.frame[14..].to_vec();
    assert_eq!(got.len(), before + quoted.len());
    let is_v4 = network_length(cast) == 20;
    let beyond = if is_v4 { usize::from(sent.ip_options) * 4 } else { sent.extensions.len() * 8 };
    let checksum = checksum_at(cast, protocol) + beyond;
    let transport = checksum - if protocol == TCP { 16 } else { 6 };
    for finished in [false, true] {
        let mut got = got.clone();
        if finished {
            finish(&mut got, before + transport, before + checksum);
        }
        let mut quoted = quoted.to_vec();
        quoted[checksum..checksum + 2].copy_from_slice(&got[before + checksum..before + checksum + 2]);
        let (kind, code, rest) = message;
        let mut expected =
            Frame::icmp(sent.destination.ip(), sent.source.ip(), kind, code, rest).payload(&quoted);
        expected.identification = 0;
        assert_eq!(got, expected.packet(), "finished: {finished}");
    }
    assert_eq!(outcome.frame[..6], sent.clone().link(FRONT_MAC, CLIENT_MAC).build()[6..12]);
}

#[test]
fn a_service_without_a_backend_says_so() {
    for (cast, kind) in [(V4, (3, 3, 0)), (V6, (1, 4, 0))] {
        let mut host = Host::new();
        let service = host.service(cast.service, UDP, &[]);
        for length in [0, 1, 7, 100, 2000] {
            let question = udp(cast.client, cast.service).payload(&vec![7; length]);
            let left = host.at(Hook::Xdp, &question);
            assert_untouched(&left, &towards_front(&question), Verdict::Leave(LeaveReason::Answer));
            let outcome = host.client_sends(&question);
            assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::NoBackend));
            assert_eq!(outcome.sent.map(|hop| hop.interface), Some(FRONT));
            assert_error(cast, &outcome, &question, kind);
        }
        assert_eq!((host.counters(service).drops, host.entries()), (5, 0));
    }
}

/// Backends that all have weight 0 are none for who comes anew, and go on for who came before.
#[test]
fn a_service_whose_backends_all_have_weight_0_says_so() {
    for (cast, unreachable) in [(V4, (3, 3, 0)), (V6, (1, 4, 0))] {
        let host = Host::new();
        let control = Controller::new(host.simulator.tables().clone()).unwrap();
        let agent = control.register("test", Precedence::default()).unwrap();
        agent.synced();
        let [service, one, other] =
            [cast.service, cast.backend, cast.other_backend].map(|text| text.parse::<SocketAddr>().unwrap());
        let weigh = |weights: [u32; 2], seconds| {
            let frontends = [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| Frontend::new(service.ip(), service.port(), protocol).unwrap());
            let backends = [one, other].into_iter().zip(weights).map(|(address, weight)| {
                let backend = Backend::new(address.ip(), address.port()).unwrap();
                backend.with_weight(Weight::new(weight).unwrap())
            });
            let web = Service::builder("web").frontends(frontends).backends(backends);
            let web = web.masquerade(Masquerade::Never).build().unwrap();
            agent.transaction().upsert(web).commit().unwrap();
            control.step(Duration::from_secs(seconds));
        };
        let refused = |client: &str| {
            let question = udp(client, cast.service);
            let outcome = host.client_sends(&question);
            assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::NoBackend));
            assert_error(cast, &outcome, &question, unreachable);
            let outcome = host.client_sends(&tcp(client, cast.service, SYN));
            assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::NoBackend));
            assert_eq!(Dissected::of(&outcome.frame).unwrap().rest[9], RST | ACK);
        };
        weigh([0, 0], 0);
        refused(cast.client);
        assert_eq!(host.entries(), 0);
        weigh([0, 1], 1);
        let syn = tcp(cast.client, cast.service, SYN);
        assert_forwarded(&host.client_sends(&syn), &syn, cast.client, cast.other_backend);
        weigh([0, 0], 2);
        let ack = tcp(cast.client, cast.service, ACK);
        assert_forwarded(&host.client_sends(&ack), &ack, cast.client, cast.other_backend);
        refused(&cast.client.replace("40000", "40001"));
    }
}

/// RFC 9293, 3.5.2, group 1.
#[test]
fn a_service_without_a_backend_resets_connections() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.service(cast.service, TCP, &[]);
        for (flags, payload, numbers) in [
            (SYN, 0, (0, 2, RST | ACK)),
            (SYN, 5, (0, 7, RST | ACK)),
            (FIN, 3, (0, 5, RST | ACK)),
            (ACK, 9, (0x0102_0304, 0, RST)),
        ] {
            let sent = tcp(cast.client, cast.service, flags).payload(&vec![7; payload]);
            let mut frame = towards_front(&sent);
            // The builder acknowledges nothing: its number is put in here, where none is to be read too.
            let at = 14 + network_length(cast) + 8;
            frame[at..at + 4].copy_from_slice(&0x0102_0304u32.to_be_bytes());
            let outcome = host.simulator.receive(FRONT, &frame);
            assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::NoBackend));
            for finished in [false, true] {
                let mut answer = outcome.frame.to_vec();
                if finished {
                    finish(&mut answer, 14 + network_length(cast), 14 + checksum_at(cast, TCP));
                }
                let seen = Dissected::of(&answer).unwrap();
                assert!(seen.checksums_hold(), "{seen:?}, finished: {finished}");
                assert_eq!((seen.source, seen.destination), (sent.destination, sent.source));
                let number = |at: usize| u32::from_be_bytes(seen.rest[at..at + 4].try_into().unwrap());
                assert_eq!((number(0), number(4), seen.rest[9]), numbers, "flags {flags}");
                assert_eq!(answer.len(), 14 + network_length(cast) + 20);
            }
        }
        // What can't open a connection is not answered, and what has options is not reset.
        for flags in [RST, RST | ACK, SYN | ACK] {
            let stray = tcp(cast.client, cast.service, flags);
            assert_eq!(host.client_sends(&stray).verdict, Verdict::Drop(DropReason::NoFlow));
        }
        let mut options = tcp(cast.client, cast.service, SYN);
        (options.ip_options, options.extensions) = (1, vec![Extension::Destination(0)]);
        assert_eq!(host.client_sends(&options).verdict, Verdict::Drop(DropReason::NoBackend));
    }
}

#[test]
fn what_is_too_big_for_its_route_hears_of_the_mtu() {
    for (cast, kind) in [(V4, (3, 4, 1280)), (V6, (2, 0, 1280))] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        let mut narrow = SimulatedInterface::new(BACK, BACK_MAC);
        narrow.mtu = 1280;
        host.simulator.add_interface(narrow).unwrap();
        let big = tcp(cast.client, cast.service, ACK).payload(&[7; 1400]);
        let outcome = host.client_sends(&big);
        assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::TooBig));
        assert_error(cast, &outcome, &big, kind);

        // The other way: a backend's answer, and a narrow link to the clients.
        assert_eq!(host.client_sends(&tcp(cast.client, cast.service, SYN)).verdict, Verdict::Forward);
        let mut narrow = SimulatedInterface::new(FRONT, FRONT_MAC);
        narrow.mtu = 1280;
        host.simulator.add_interface(narrow).unwrap();
        let mut narrow = SimulatedInterface::new(BACK, BACK_MAC);
        narrow.mtu = 1500;
        host.simulator.add_interface(narrow).unwrap();
        let big = tcp(cast.backend, cast.client, ACK).payload(&[7; 1400]);
        let outcome = host.backend_sends(&big);
        assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::TooBig));
        assert_eq!(outcome.sent.map(|hop| hop.interface), Some(BACK));
        assert_eq!(outcome.frame[..6], BACKEND_MAC);
    }
}

#[test]
fn a_used_up_hop_limit_is_told() {
    for (cast, kind) in [(V4, (11, 0, 0)), (V6, (3, 0, 0))] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        for options in [false, true] {
            let mut last = udp(cast.client, cast.service);
            last.hop_limit = 1;
            if options {
                (last.ip_options, last.extensions) = (3, vec![Extension::Destination(0)]);
            }
            let outcome = host.client_sends(&last);
            assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::HopLimit));
            assert_error(cast, &outcome, &last, kind);
        }
        // Tags are gone from the answer, as from everything that we send.
        let mut tagged = udp(cast.client, cast.service);
        (tagged.hop_limit, tagged.tags) = (1, vec![(0x8100, 5)]);
        let outcome = host.client_sends(&tagged);
        assert_eq!(outcome.verdict, Verdict::Answer(AnswerReason::HopLimit));
        tagged.tags.clear();
        assert_error(cast, &outcome, &tagged, kind);
    }
}

/// A reset is never answered (RFC 9293, 3.5.2; RFC 1122, 3.2.2), whatever keeps it from its way.
#[test]
fn a_reset_at_its_last_hop_is_dropped_in_silence() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
        for (flags, verdict) in [
            (RST, Verdict::Drop(DropReason::HopLimit)),
            (RST | ACK, Verdict::Drop(DropReason::HopLimit)),
            (ACK, Verdict::Answer(AnswerReason::HopLimit)),
        ] {
            let mut last = tcp(cast.client, cast.service, flags);
            last.hop_limit = 1;
            assert_eq!(host.client_sends(&last).verdict, verdict, "{flags:#x}");
        }
    }
}

#[test]
fn answers_are_limited() {
    let mut host = Host::new();
    host.service(V4.service, UDP, &[]);
    host.simulator.tables().set_answers_a_second(10);
    let storm = |host: &Host| {
        let verdicts: Vec<_> =
            (0..100).map(|_| host.client_sends(&udp(V4.client, V4.service)).verdict).collect();
        let answered = verdicts.iter().filter(|v| **v == Verdict::Answer(AnswerReason::NoBackend)).count();
        let limited = verdicts.iter().filter(|v| **v == Verdict::Drop(DropReason::AnswerLimit)).count();
        assert_eq!(answered + limited, 100);
        answered
    };
    assert!((1..=10).contains(&storm(&host)));
    assert_eq!(storm(&host), 0);
    host.pass(Duration::from_secs(2));
    assert!((9..=11).contains(&storm(&host)));
    host.simulator.tables().set_answers_a_second(0);
    host.pass(Duration::from_secs(2));
    assert_eq!(storm(&host), 0);
}

/// Nobody is told where there is nobody to tell, or no way to them.
#[test]
fn what_has_no_way_back_is_dropped_in_silence() {
    let mut host = Host::new();
    host.service(V4.service, UDP, &[]);
    let question = udp("198.18.0.1:4000", V4.service);
    assert_eq!(host.client_sends(&question).verdict, Verdict::Drop(DropReason::NoBackend));
    host.simulator.routes_mut().insert("198.18.0.0/24".parse().unwrap(), Target::Local);
    assert_eq!(host.client_sends(&question).verdict, Verdict::Drop(DropReason::NoBackend));
    let from_group = udp(V4.client, V4.service).link(FRONT_MAC, [3, 0, 0, 0, 0, 1]).build();
    let outcome = host.simulator.receive(FRONT, &from_group);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoBackend));
}
