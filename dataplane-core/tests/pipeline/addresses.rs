//! What comes to a virtual address and is of no service.
//!
//! The oracle of a reply is one put together by the testkit, whose checksums are summed up from the bytes.

use dataplane_core::{
    memory::{SimulatedInterface, Target},
    pipeline::{AddressSettings, AnswerReason, DropReason, Hook, LeaveReason, PassReason, Verdict},
};
use dataplane_testkit::frames::{Extension, Frame};

use crate::host::*;

/// Types of an echo request and its reply.
fn echo(cast: Cast) -> (u8, u8) {
    if address(cast.client).is_ipv4() { (8, 0) } else { (128, 129) }
}

pub fn ping(cast: Cast, length: usize) -> Frame {
    let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
    let (request, _) = echo(cast);
    Frame::icmp(address(cast.client), address(cast.service), request, 0, 0x1234_0007).payload(&payload)
}

/// A host that serves one port of the address, and has a route to it: else nobody could tell that it is not its own.
fn host(cast: Cast) -> Host {
    let mut host = Host::new();
    host.serve(cast, TCP);
    route(&mut host, cast, Target::Unreachable);
    host
}

fn route(host: &mut Host, cast: Cast, target: Target) {
    host.simulator.routes_mut().insert(address(cast.service).into(), target);
}

fn set(host: &Host, answer_ping: bool, drop_unserved_ports: bool) {
    host.simulator.tables().set_addresses(AddressSettings { answer_ping, drop_unserved_ports });
}

const ANSWERED: Verdict = Verdict::Answer(AnswerReason::Echo);
const OWN: Verdict = Verdict::Pass(PassReason::OwnAddress);

#[test]
fn a_ping_is_answered_whatever_its_length() {
    for cast in [V4, V6] {
        let host = host(cast);
        for length in [0, 1, 56, 57, 1400] {
            let mut question = ping(cast, length);
            (question.hop_limit, question.traffic_class) = (3, 0x20);
            let left = host.at(Hook::Xdp, &question);
            assert_untouched(&left, &towards_front(&question), Verdict::Leave(LeaveReason::Answer));
            let outcome = host.client_sends(&question);
            assert_eq!(outcome.verdict, ANSWERED);
            let (_, reply) = echo(cast);
            let mut expected =
                Frame::icmp(address(cast.service), address(cast.client), reply, 0, 0x1234_0007)
                    .payload(&question.payload);
            (expected.hop_limit, expected.traffic_class) = (64, 0x20);
            (expected.identification, expected.fragment) = (question.identification, question.fragment);
            assert_eq!(outcome.frame[14..], expected.packet());
            assert_eq!(outcome.frame[..12], *[CLIENT_MAC, FRONT_MAC].as_flattened());
            assert_eq!(outcome.sent.unwrap().interface, FRONT);
        }
        assert_eq!(host.entries(), 0, "a ping leaves no trace");
    }
}

#[test]
fn a_tagged_ping_is_answered_without_its_tag() {
    for cast in [V4, V6] {
        let host = host(cast);
        let plain = host.client_sends(&ping(cast, 9));
        let mut tagged = ping(cast, 9);
        tagged.tags = vec![(0x8100, 5)];
        let outcome = host.client_sends(&tagged);
        assert_eq!((outcome.verdict, outcome.frame), (ANSWERED, plain.frame));
    }
}

#[test]
fn what_is_no_ping_to_a_virtual_address_is_left_alone() {
    for cast in [V4, V6] {
        let host = host(cast);
        let protocol = Verdict::Pass(PassReason::Protocol);
        let untouched = |frame: &Frame, verdict| {
            assert_untouched(&host.client_sends(frame), &towards_front(frame), verdict);
        };
        let (request, reply) = echo(cast);
        let icmp = |kind, code| Frame::icmp(address(cast.client), address(cast.service), kind, code, 7);
        untouched(&icmp(reply, 0), protocol);
        untouched(&icmp(request, 1), protocol);
        // Not a service's.
        let other = address(cast.other_backend);
        untouched(&Frame::icmp(address(cast.client), other, request, 0, 7), protocol);
        let mut fragment = ping(cast, 16);
        (fragment.fragment, fragment.extensions) = (0x2000, vec![Extension::Fragment(1)]);
        untouched(&fragment, protocol);
        let mut beyond = ping(cast, 16);
        (beyond.ip_options, beyond.extensions) = (1, vec![Extension::HopByHop(0)]);
        untouched(&beyond, protocol);
        let mut group = ping(cast, 16);
        group.from[0] |= 1;
        let bytes = group.to_front();
        assert_untouched(&host.simulator.receive(FRONT, &bytes), &bytes, protocol);
        set(&host, false, false);
        untouched(&ping(cast, 16), protocol);
    }
}

/// Towards the link of the clients, its own source address as it is.
trait ToFront {
    fn to_front(&self) -> Vec<u8>;
}

impl ToFront for Frame {
    fn to_front(&self) -> Vec<u8> {
        let mut frame = self.clone();
        frame.to = FRONT_MAC;
        frame.build()
    }
}

/// The stack answers for its own addresses, and has what nobody knows a way to.
#[test]
fn an_address_of_the_hosts_own_is_its_stacks() {
    for cast in [V4, V6] {
        let mut host = host(cast);
        set(&host, true, true);
        let unserved = [udp(cast.client, cast.service), tcp(cast.client, cast.service, 2)];
        let unserved = unserved.map(|frame| to_port(frame, 22));
        route(&mut host, cast, Target::Local);
        for frame in unserved.iter().chain([&ping(cast, 16)]) {
            assert_untouched(&host.client_sends(frame), &towards_front(frame), OWN);
        }
        host.simulator.routes_mut().remove(address(cast.service).into());
        for frame in unserved.iter().chain([&ping(cast, 16)]) {
            assert_untouched(&host.client_sends(frame), &towards_front(frame), OWN);
        }
        // Who is led elsewhere by a route is nobody here, whether it is a black hole or the way to the internet.
        for target in [Target::Unreachable, Target::Link(BACK), Target::Gateway(FRONT, address(cast.client))]
        {
            route(&mut host, cast, target);
            for frame in &unserved {
                assert_eq!(host.client_sends(frame).verdict, Verdict::Drop(DropReason::NoPort));
            }
            assert_eq!(host.client_sends(&ping(cast, 16)).verdict, ANSWERED);
        }
    }
}

fn to_port(mut frame: Frame, port: u16) -> Frame {
    frame.destination.set_port(port);
    frame
}

#[test]
fn a_port_without_a_service_is_dropped_where_that_is_asked_for() {
    for cast in [V4, V6] {
        let host = host(cast);
        let served = tcp(cast.client, cast.service, 2);
        let unserved = [udp(cast.client, cast.service), to_port(served.clone(), 81)];
        let no_service = Verdict::Pass(PassReason::NoService);
        for frame in &unserved {
            assert_untouched(&host.client_sends(frame), &towards_front(frame), no_service);
        }
        set(&host, true, true);
        for frame in &unserved {
            for hook in [Hook::Xdp, Hook::Ingress] {
                assert_eq!(host.at(hook, frame).verdict, Verdict::Drop(DropReason::NoPort), "{hook:?}");
            }
            // What the host sends there itself is none of it.
            assert_untouched(&host.at(Hook::Egress, frame), &towards_front(frame), no_service);
        }
        assert_forwarded(&host.client_sends(&served), &served, cast.client, cast.backend);
        let elsewhere = tcp(cast.client, cast.other_backend, 2);
        assert_untouched(&host.client_sends(&elsewhere), &towards_front(&elsewhere), no_service);
        assert_eq!(host.entries(), 2);
    }
}

#[test]
fn a_ping_that_can_not_be_answered_is_dropped_by_name() {
    for cast in [V4, V6] {
        let mut host = host(cast);
        let drop = |reason| Verdict::Drop(reason);
        host.simulator.tables().set_answers_a_second(0);
        assert_eq!(host.client_sends(&ping(cast, 16)).verdict, drop(DropReason::AnswerLimit));
        host.simulator.tables().set_answers_a_second(10);
        let mut interface = SimulatedInterface::new(FRONT, FRONT_MAC);
        interface.mtu = 1300;
        host.simulator.add_interface(interface).unwrap();
        assert_eq!(host.client_sends(&ping(cast, 1290)).verdict, drop(DropReason::TooBig));
        host.simulator.routes_mut().insert(address(cast.client).into(), Target::Unreachable);
        assert_eq!(host.client_sends(&ping(cast, 16)).verdict, drop(DropReason::Unreachable));
    }
}
