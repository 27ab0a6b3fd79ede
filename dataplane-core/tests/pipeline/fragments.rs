//! Packets in parts. What comes out is put together by the testkit, as a receiver does it, and read as a whole.

use std::{net::SocketAddr, thread, time::Duration};

use dataplane_core::{
    abi::LIST_MASQUERADE,
    memory::{Outcome, SimulatedInterface},
    pipeline::{AnswerReason, DropReason, Hook, LeaveReason, PassReason, Verdict},
    tables::Store,
};
use dataplane_testkit::frames::{Dissected, Extension, Frame, Transport, flags::*, join, split};

use crate::host::*;

const UNKNOWN: Verdict = Verdict::Pass(PassReason::Fragment);
const NO_SERVICE: Verdict = Verdict::Pass(PassReason::NoService);
const IDENTIFICATION: u32 = 0x7777;

/// A datagram of so many bytes that routers may split.
fn datagram(source: &str, destination: &str, length: usize) -> Frame {
    let mut frame = udp(source, destination);
    (frame.fragment, frame.identification) = (0, IDENTIFICATION as u16);
    frame.payload = (0..length).map(|number| number as u8).collect();
    frame
}

/// The parts that arrive at the front.
fn from_client(frame: &Frame) -> Vec<Vec<u8>> {
    split(&frame.clone().link(FRONT_MAC, CLIENT_MAC), IDENTIFICATION, 1000)
}

fn from_backend(frame: &Frame) -> Vec<Vec<u8>> {
    split(&frame.clone().link(BACK_MAC, BACKEND_MAC), IDENTIFICATION, 1000)
}

/// Runs parts in this order through both hooks.
fn run(host: &Host, interface: u32, parts: &[Vec<u8>]) -> Vec<Outcome> {
    parts.iter().map(|part| host.simulator.receive(interface, part)).collect()
}

/// All parts were forwarded, and together they are the translated packet.
#[track_caller]
fn assert_whole(outcomes: &[Outcome], sent: &Frame, source: &str, destination: &str) {
    for outcome in outcomes {
        assert_eq!(outcome.verdict, Verdict::Forward);
        assert_eq!(outcome.sent, outcomes[0].sent);
    }
    let frames: Vec<_> = outcomes.iter().map(|outcome| &outcome.frame).collect();
    let whole = join(&frames).expect("parts of one packet");
    let seen = Dissected::of(&whole).unwrap();
    assert_eq!(seen.hop_limit, sent.hop_limit - 1);
    assert_translated(&seen, sent, source, destination);
}

fn records(host: &Host) -> u32 {
    let tables = host.simulator.tables();
    tables.fragments_v4().fill().unwrap() + tables.fragments_v6().fill().unwrap()
}

#[test]
fn later_parts_follow_the_first_there_and_back() {
    for cast in [V4, V6] {
        for checksum in [true, false] {
            let mut host = Host::new();
            let service = host.serve(cast, UDP);
            let mut question = datagram(cast.client, cast.service, 3500);
            question.transport = Transport::Udp { checksum };
            let mut answer = datagram(cast.backend, cast.client, 5000);
            answer.transport = question.transport;
            for _ in 0..2 {
                let outcomes = run(&host, FRONT, &from_client(&question));
                assert_eq!(outcomes.len(), 4);
                assert_whole(&outcomes, &question, cast.client, cast.backend);
                let outcomes = run(&host, BACK, &from_backend(&answer));
                assert_whole(&outcomes, &answer, cast.service, cast.client);
            }
            // Two entries of conntrack, one record for each direction, and each part is a packet.
            assert_eq!((host.entries(), records(&host)), (2, 2));
            let counters = host.counters(service);
            assert_eq!((counters.flows, counters.packets, counters.reply_packets), (1, 8, 12));
        }
    }
}

#[test]
fn later_parts_follow_the_first_in_any_order_among_themselves() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let question = datagram(cast.client, cast.service, 4500);
        let mut parts = from_client(&question);
        parts[1..].reverse();
        assert_whole(&run(&host, FRONT, &parts), &question, cast.client, cast.backend);
    }
}

#[test]
fn later_parts_follow_the_first_on_another_cpu() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let question = datagram(cast.client, cast.service, 4500);
        let parts = from_client(&question);
        let mut outcomes = run(&host, FRONT, &parts[..1]);
        let host = &host;
        thread::scope(|scope| {
            let others: Vec<_> = parts[1..]
                .iter()
                .map(|part| scope.spawn(move || host.simulator.receive(FRONT, part)))
                .collect();
            outcomes.extend(others.into_iter().map(|other| other.join().unwrap()));
        });
        assert_whole(&outcomes, &question, cast.client, cast.backend);
    }
}

#[test]
fn a_later_part_before_the_first_passes_untouched() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let parts = from_client(&datagram(cast.client, cast.service, 1500));
        assert_untouched(&host.simulator.receive(FRONT, &parts[1]), &parts[1], UNKNOWN);
        let counters = host.simulator.tables().counters();
        assert_eq!(counters.verdict(Hook::Xdp, UNKNOWN).unwrap(), 1);
        assert_eq!(counters.verdict(Hook::Ingress, UNKNOWN).unwrap(), 1);
        assert_eq!(host.entries(), 0);
        for part in &parts {
            assert_eq!(host.simulator.receive(FRONT, part).verdict, Verdict::Forward);
        }
    }
}

#[test]
fn masqueraded_parts_come_back() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let own: SocketAddr =
            if cast.client.starts_with('[') { "[2001:db8:2::1]:50000" } else { "198.51.100.1:50000" }
                .parse()
                .unwrap();
        let mut back = SimulatedInterface::new(BACK, BACK_MAC);
        back.masquerade_v4 = Some("198.51.100.1".parse().unwrap());
        back.masquerade_v6 = Some("2001:db8:2::1".parse().unwrap());
        host.simulator.add_interface(back).unwrap();
        let ports = dataplane_core::model::NatPorts::new(50_000..=50_003).unwrap();
        host.simulator.tables().set_nat_ports(ports);
        host.list_flags(LIST_MASQUERADE);
        host.serve(cast, UDP);
        let own = own.to_string();
        let question = datagram(cast.client, cast.service, 2500);
        let answer = datagram(cast.backend, &own, 2500);
        for _ in 0..2 {
            assert_whole(&run(&host, FRONT, &from_client(&question)), &question, &own, cast.backend);
            assert_whole(&run(&host, BACK, &from_backend(&answer)), &answer, cast.service, cast.client);
        }
    }
}

#[test]
fn a_record_is_trusted_as_long_as_receivers_wait() {
    for (cast, seconds) in [(V4, 30), (V6, 60)] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let parts = from_client(&datagram(cast.client, cast.service, 1500));
        assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, Verdict::Forward);
        host.pass(Duration::from_secs(seconds));
        assert_eq!(host.simulator.receive(FRONT, &parts[1]).verdict, Verdict::Forward);
        // Two ticks are more than what it is rounded up by.
        host.pass(Duration::from_millis(270));
        assert_untouched(&host.simulator.receive(FRONT, &parts[1]), &parts[1], UNKNOWN);
        // The first part once more makes it known anew, though the flow may be another.
        assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, Verdict::Forward);
        assert_eq!(host.simulator.receive(FRONT, &parts[1]).verdict, Verdict::Forward);
    }
}

#[test]
fn an_identification_that_is_used_again_is_of_the_newest_packet() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let [one, other] = [cast.backend, cast.other_backend].map(|backend| host.backend(backend));
        host.service(cast.service, UDP, &[one]);
        let second: SocketAddr = cast.service.parse().unwrap();
        let second = SocketAddr::new(second.ip(), 81).to_string();
        host.service(&second, UDP, &[other]);
        for _ in 0..2 {
            for (service, backend) in [(cast.service, cast.backend), (&second, cast.other_backend)] {
                let question = datagram(cast.client, service, 2500);
                assert_whole(&run(&host, FRONT, &from_client(&question)), &question, cast.client, backend);
            }
        }
        assert_eq!(records(&host), 1);
        // Now of a packet that is nobody's here.
        let foreign = SocketAddr::new(address(cast.service), 99).to_string();
        let parts = from_client(&datagram(cast.client, &foreign, 1500));
        for part in &parts {
            assert_untouched(&host.simulator.receive(FRONT, part), part, NO_SERVICE);
        }
    }
}

/// What is not ours leaves no record, and costs those that are ours no room.
#[test]
fn the_first_part_of_a_packet_that_is_not_ours_is_not_noted() {
    for cast in [V4, V6] {
        let host = Host::new();
        let parts = from_client(&datagram(cast.client, cast.service, 1500));
        assert_untouched(&host.simulator.receive(FRONT, &parts[0]), &parts[0], NO_SERVICE);
        assert_untouched(&host.simulator.receive(FRONT, &parts[1]), &parts[1], UNKNOWN);
        assert_eq!(records(&host), 0);
    }
}

#[test]
fn parts_of_another_packet_are_told_apart() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let parts = from_client(&datagram(cast.client, cast.service, 1500));
        assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, Verdict::Forward);
        let v4 = cast.client == V4.client;
        // Identification, source, destination, and of IPv4 the protocol.
        let places = if v4 { vec![19, 29, 33, 23] } else { vec![61, 37, 53] };
        for place in places {
            let mut other = parts[1].clone();
            other[place] ^= 0x10;
            assert_untouched(&host.simulator.receive(FRONT, &other), &other, UNKNOWN);
        }
        // Another zone.
        let mut zone = SimulatedInterface::new(FRONT, FRONT_MAC);
        zone.zone = 5;
        host.simulator.add_interface(zone).unwrap();
        assert_untouched(&host.simulator.receive(FRONT, &parts[1]), &parts[1], UNKNOWN);
    }
}

/// RFC 1858: a first part that lacks a part of its TCP header shows a filter no flags, and a later one may change them.
#[test]
fn a_first_part_without_its_whole_tcp_header_is_dropped_by_name() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        let mut segment = tcp(cast.client, cast.service, SYN).link(FRONT_MAC, CLIENT_MAC);
        segment.transport = Transport::Tcp { flags: SYN, options: 8 };
        segment.fragment = 0;
        let tiny = Verdict::Drop(DropReason::TinyFragment);
        for (count, size) in [8, 16, 24].into_iter().enumerate() {
            let parts = split(&segment, IDENTIFICATION, size);
            assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, tiny, "{size}");
            assert_eq!(host.counters(service).drops, count as u64 + 1);
            assert_untouched(&host.simulator.receive(FRONT, &parts[1]), &parts[1], UNKNOWN);
        }
        assert_eq!((host.entries(), records(&host)), (0, 0));
        // With all of it, it is a packet as any other; of a flow that is known, too.
        for _ in 0..2 {
            let parts = split(&segment, IDENTIFICATION, 32);
            assert_whole(&run(&host, FRONT, &parts), &segment, cast.client, cast.backend);
        }
        let parts = split(&segment, IDENTIFICATION, 16);
        assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, tiny);
        // Nobody's stays so.
        let foreign = SocketAddr::new(address(cast.service), 99).to_string();
        segment.destination = foreign.parse().unwrap();
        for part in split(&segment, 5, 16) {
            let outcome = host.simulator.receive(FRONT, &part);
            assert!(matches!(outcome.verdict, Verdict::Pass(_)));
            assert_eq!(&outcome.frame[..], &part[..]);
        }
    }
}

#[test]
fn a_later_part_never_writes_over_a_tcp_header() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        let mut segment = tcp(cast.client, cast.service, SYN).link(FRONT_MAC, CLIENT_MAC);
        segment.fragment = 0;
        segment.payload = vec![7; 60];
        let first = &split(&segment, IDENTIFICATION, 40)[0];
        assert_eq!(host.simulator.receive(FRONT, first).verdict, Verdict::Forward);
        let parts = split(&segment, IDENTIFICATION, 8);
        for overlapping in &parts[1..3] {
            assert_untouched(&host.simulator.receive(FRONT, overlapping), overlapping, UNKNOWN);
        }
        assert_eq!(host.simulator.receive(FRONT, &parts[3]).verdict, Verdict::Forward);
    }
}

/// A datagram may be split anywhere behind its header.
#[test]
fn a_datagram_in_the_smallest_parts_goes_through() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let question = datagram(cast.client, cast.service, 21);
        let parts = split(&question.clone().link(FRONT_MAC, CLIENT_MAC), IDENTIFICATION, 8);
        assert_eq!(parts.len(), 4);
        assert_whole(&run(&host, FRONT, &parts), &question, cast.client, cast.backend);
    }
}

#[test]
fn what_contradicts_itself_is_dropped_or_passes() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let parts = from_client(&datagram(cast.client, cast.service, 1500));
        let l4 = parts[0].len() - 1000;
        let mut short = parts[0].clone();
        // A datagram of 7 bytes, header and all.
        short[l4 + 4..l4 + 6].copy_from_slice(&[0, 7]);
        assert_eq!(host.simulator.receive(FRONT, &short).verdict, Verdict::Drop(DropReason::Malformed));
        // So short that it has no ports: no table could apply.
        let mut empty = parts[0].clone();
        empty.truncate(l4 + 4);
        if cast.client == V4.client {
            empty[16..18].copy_from_slice(&24u16.to_be_bytes());
        } else {
            empty[18..20].copy_from_slice(&12u16.to_be_bytes());
        }
        let malformed = Verdict::Pass(PassReason::Malformed);
        assert_untouched(&host.simulator.receive(FRONT, &empty), &empty, malformed);
        assert_eq!(records(&host), 0);
    }
}

/// Other protocols have no flows.
#[test]
fn parts_of_other_protocols_pass_untouched() {
    for cast in [V4, V6] {
        let host = Host::new();
        let echo = if cast.client == V4.client { 8 } else { 128 };
        let icmp = Frame::icmp(address(cast.client), address(cast.service), echo, 0, 1).payload(&[7; 100]);
        let other = Frame::other(cast.client.parse().unwrap(), cast.service.parse().unwrap(), 50);
        for mut frame in [icmp, other.payload(&[7; 100])] {
            frame.fragment = 0;
            let parts = split(&frame.link(FRONT_MAC, CLIENT_MAC), IDENTIFICATION, 64);
            for (part, reason) in parts.iter().zip([PassReason::Protocol, PassReason::Fragment]) {
                assert_untouched(&host.simulator.receive(FRONT, part), part, Verdict::Pass(reason));
            }
        }
    }
}

#[test]
fn an_atomic_fragment_is_whole_and_one_of_two_fragment_headers_is_not() {
    let mut host = Host::new();
    host.serve(V6, UDP);
    let mut frame = udp(V6.client, V6.service);
    frame.extensions = vec![Extension::HopByHop(0), Extension::Fragment(0)];
    assert_forwarded(&host.client_sends(&frame), &frame, V6.client, V6.backend);
    assert_eq!(records(&host), 0);
    frame.extensions = vec![Extension::HopByHop(0), Extension::Fragment(1)];
    assert_eq!(host.client_sends(&frame).verdict, Verdict::Forward);
    assert_eq!(records(&host), 1);
    frame.extensions = vec![Extension::Fragment(1), Extension::Fragment(1)];
    assert_untouched(&host.client_sends(&frame), &towards_front(&frame), UNKNOWN);
    // Options behind the fragment header are a part of what is split.
    frame.extensions = vec![Extension::Fragment(1), Extension::Destination(0)];
    assert_eq!(host.client_sends(&frame).verdict, Verdict::Forward);
}

/// Later parts are never answered; the first one is, as a whole packet is.
#[test]
fn a_later_part_is_dropped_in_silence() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let mut question = datagram(cast.client, cast.service, 1500);
        let parts = from_client(&question);
        assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, Verdict::Forward);
        question.hop_limit = 1;
        let parts = from_client(&question);
        let left = Verdict::Leave(LeaveReason::Answer);
        assert_untouched(&host.simulator.run(Hook::Xdp, FRONT, &parts[1]), &parts[1], left);
        let silent = host.simulator.run(Hook::Ingress, FRONT, &parts[1]);
        assert_eq!(silent.verdict, Verdict::Drop(DropReason::HopLimit));
        let answered = host.simulator.run(Hook::Ingress, FRONT, &parts[0]);
        assert_eq!(answered.verdict, Verdict::Answer(AnswerReason::HopLimit));
    }
}

/// Parts to a backend on this host are the stack's to put together; those of its replies are translated on their way out.
#[test]
fn parts_of_a_local_flow_are_delivered_and_their_replies_translated() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.local_backend(cast.backend);
        host.service(cast.service, UDP, &[backend]);
        let question = datagram(cast.client, cast.service, 2500);
        let outcomes = run(&host, FRONT, &from_client(&question));
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Deliver));
        let frames: Vec<_> = outcomes.iter().map(|outcome| &outcome.frame).collect();
        let seen = Dissected::of(&join(&frames).unwrap()).unwrap();
        assert_eq!(seen.hop_limit, question.hop_limit);
        assert_translated(&seen, &question, cast.client, cast.backend);

        let answer = datagram(cast.backend, cast.client, 2500);
        let parts = split(&answer.clone().link(CLIENT_MAC, FRONT_MAC), IDENTIFICATION, 1000);
        let outcomes = parts.iter().map(|part| host.simulator.run(Hook::Egress, FRONT, part));
        let frames: Vec<_> = outcomes
            .map(|outcome| {
                assert_eq!(outcome.verdict, Verdict::Deliver);
                outcome.frame
            })
            .collect();
        let seen = Dissected::of(&join(&frames).unwrap()).unwrap();
        assert_translated(&seen, &answer, cast.service, cast.client);
    }
}

/// A full table gives up its oldest packets, whose later parts then pass untouched.
#[test]
fn the_table_of_parts_gives_up_the_oldest() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let frame = datagram(cast.client, cast.service, 1500).link(FRONT_MAC, CLIENT_MAC);
        let sent: Vec<_> = (0..1000).map(|number| split(&frame, number, 1000)).collect();
        for parts in &sent {
            assert_eq!(host.simulator.receive(FRONT, &parts[0]).verdict, Verdict::Forward);
        }
        assert_eq!(records(&host), 1 << 8);
        assert_untouched(&host.simulator.receive(FRONT, &sent[0][1]), &sent[0][1], UNKNOWN);
        assert_eq!(host.simulator.receive(FRONT, &sent[999][1]).verdict, Verdict::Forward);
    }
}
