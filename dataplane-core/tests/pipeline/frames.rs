//! Frames that are out of the ordinary.

use dataplane_core::{
    memory::{SimulatedInterface, Target},
    pipeline::{AnswerReason, DropReason, Hook, LeaveReason, PassReason, Verdict},
    tables::Store,
};
use dataplane_testkit::frames::{Dissected, Extension, Frame, flags::*};

use crate::host::*;

/// A SYN to the service, out of the ordinary in some way.
fn syn(cast: Cast, change: impl FnOnce(&mut Frame)) -> Frame {
    let mut frame = tcp(cast.client, cast.service, SYN);
    change(&mut frame);
    frame
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    host.serve(V6, TCP);
    for words in [0, 1, 10] {
        let frame = syn(V4, |frame| frame.ip_options = words);
        assert_forwarded(&host.client_sends(&frame), &frame, V4.client, V4.backend);
    }
    let lists: [&[Extension]; 4] = [
        &[Extension::HopByHop(0)],
        &[Extension::HopByHop(1), Extension::Destination(2), Extension::Routing(0)],
        &[Extension::Authentication, Extension::Destination(0)],
        &[Extension::Fragment(0)],
    ];
    for list in lists {
        let frame = syn(V6, |frame| frame.extensions = list.to_vec());
        assert_forwarded(&host.client_sends(&frame), &frame, V6.client, V6.backend);
    }
}

#[test]
fn a_tag_is_left_to_tcx_which_takes_it_off() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        for tags in [&[(0x8100, 5)][..], &[(0x88a8, 7), (0x8100, 5)]] {
            let frame = syn(cast, |frame| frame.tags = tags.to_vec());
            let left = host.at(Hook::Xdp, &frame);
            assert_untouched(&left, &towards_front(&frame), Verdict::Leave(LeaveReason::Tagged));
            let forwarded = host.at(Hook::Ingress, &frame);
            assert_eq!(forwarded.verdict, Verdict::Forward);
            let seen = Dissected::of(&forwarded.frame).unwrap();
            assert_eq!((seen.tags, seen.hop_limit), (0, 63));
            assert_translated(&seen, &frame, cast.client, cast.backend);
        }
    }
}

#[test]
fn a_packet_on_its_last_hop_is_dropped_and_opens_nothing() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        for hop_limit in [0, 1] {
            let frame = syn(cast, |frame| frame.hop_limit = hop_limit);
            assert_eq!(host.at(Hook::Xdp, &frame).verdict, Verdict::Leave(LeaveReason::Answer));
            assert_eq!(host.at(Hook::Ingress, &frame).verdict, Verdict::Answer(AnswerReason::HopLimit));
        }
        assert_eq!((host.counters(service).drops, host.entries()), (2, 0));
        let frame = syn(cast, |frame| frame.hop_limit = 2);
        assert_forwarded(&host.client_sends(&frame), &frame, cast.client, cast.backend);
    }
}

#[test]
fn a_packet_too_big_for_its_route_is_split_by_the_stack_or_dropped() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        let mut narrow = SimulatedInterface::new(BACK, BACK_MAC);
        narrow.mtu = 1280;
        host.simulator.add_interface(narrow).unwrap();
        let headers = udp(cast.client, cast.service).payload(b"").build().len() - 14;
        let big = udp(cast.client, cast.service).payload(&vec![7; 1281 - headers]);
        let fits = udp(cast.client, cast.service).payload(&vec![7; 1280 - headers]);

        assert_eq!(host.at(Hook::Ingress, &big).verdict, Verdict::Answer(AnswerReason::TooBig));
        assert_eq!(host.entries(), 0);
        let left = host.at(Hook::Xdp, &big);
        assert_untouched(&left, &towards_front(&big), Verdict::Leave(LeaveReason::TooBig));
        assert_forwarded(&host.client_sends(&fits), &fits, cast.client, cast.backend);
    }
    let mut host = Host::new();
    host.serve(V4, UDP);
    let mut may_be_split = udp(V4.client, V4.service).payload(&[7; 1600]);
    may_be_split.fragment = 0;
    let delivered = host.client_sends(&may_be_split);
    assert_eq!(delivered.verdict, Verdict::Deliver);
    let seen = Dissected::of(&delivered.frame).unwrap();
    assert_eq!(seen.hop_limit, 64, "the stack takes the hop");
    assert_translated(&seen, &may_be_split, V4.client, V4.backend);
}

#[test]
fn a_neighbour_that_is_not_known_is_left_to_tcx() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        host.simulator.routes_mut().remove_neighbor(BACK, address(cast.backend));
        let frame = syn(cast, |_| {});
        let left = host.at(Hook::Xdp, &frame);
        assert_untouched(&left, &towards_front(&frame), Verdict::Leave(LeaveReason::NoNeighbor));
        let forwarded = host.at(Hook::Ingress, &frame);
        assert_eq!(forwarded.verdict, Verdict::Forward);
        let hop = forwarded.sent.unwrap();
        assert_eq!(
            (hop.interface, hop.resolved, hop.gateway.v6),
            (BACK, false, address(cast.backend).is_ipv6())
        );
        let seen = Dissected::of(&forwarded.frame).unwrap();
        assert_translated(&seen, &frame, cast.client, cast.backend);
    }
}

#[test]
fn routes_that_lead_nowhere_drop() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    host.simulator.routes_mut().insert("198.51.100.2/32".parse().unwrap(), Target::Unreachable);
    let frame = syn(V4, |_| {});
    assert_eq!(host.client_sends(&frame).verdict, Verdict::Drop(DropReason::Unreachable));
    let mut front = SimulatedInterface::new(FRONT, FRONT_MAC);
    front.forwarding = false;
    host.simulator.add_interface(front).unwrap();
    assert_eq!(host.client_sends(&frame).verdict, Verdict::Drop(DropReason::ForwardingOff));
}

#[test]
fn frames_for_others_pass() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    for mac in [[2, 0, 0, 0, 9, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let bytes = syn(V4, |_| {}).link(mac, CLIENT_MAC).build();
        let outcome = host.simulator.receive(FRONT, &bytes);
        assert_untouched(&outcome, &bytes, Verdict::Pass(PassReason::NotForHost));
    }
}

#[test]
fn a_transport_header_that_contradicts_itself_is_dropped_where_it_is_ours() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    host.serve(Cast { service: "203.0.113.10:53", ..V4 }, UDP);
    let mut short = towards_front(&syn(V4, |_| {}));
    short[14 + 20 + 12] = 0x40; // a TCP header of 16 bytes
    let mut beyond = towards_front(&syn(V4, |_| {}));
    beyond[14 + 20 + 12] = 0xf0; // one of 60 bytes, where there are 29
    let mut long = towards_front(&udp(V4.client, "203.0.113.10:53"));
    long[14 + 20 + 4] = 0xff; // a datagram longer than its packet
    for mut bytes in [short, beyond, long] {
        let dropped = host.simulator.receive(FRONT, &bytes);
        assert_eq!(dropped.verdict, Verdict::Drop(DropReason::Malformed));
        bytes[33] = 99; // somebody else's address
        let outcome = host.simulator.receive(FRONT, &bytes);
        assert_untouched(&outcome, &bytes, Verdict::Pass(PassReason::NoService));
    }
    assert_eq!(host.entries(), 0);
}

#[test]
fn a_frame_cut_anywhere_is_never_ours() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        let bytes = towards_front(&syn(cast, |frame| frame.tags = vec![(0x8100, 5)]));
        for length in 0..bytes.len() {
            for hook in [Hook::Xdp, Hook::Ingress] {
                let outcome = host.simulator.run(hook, FRONT, &bytes[..length]);
                assert_untouched(&outcome, &bytes[..length], Verdict::Pass(PassReason::Malformed));
            }
        }
    }
}

#[test]
fn a_source_that_no_router_forwards_passes_untouched() {
    let sources = ["0.0.0.7:9", "127.0.0.1:9", "224.0.0.1:9", "240.0.0.1:9", "255.255.255.255:9"];
    let sources_v6 = ["[::]:9", "[::1]:9", "[ff02::1]:9"];
    for (cast, sources) in [(V4, &sources[..]), (V6, &sources_v6)] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        for source in sources {
            let frame = tcp(source, cast.service, SYN);
            let martian = Verdict::Pass(PassReason::Martian);
            assert_untouched(&host.client_sends(&frame), &towards_front(&frame), martian);
        }
        assert_eq!(host.entries(), 0);
    }
    for (cast, source) in [(V4, "1.0.0.1:9"), (V4, "223.255.255.255:9"), (V6, "[::2]:9")] {
        let mut host = Host::new();
        host.serve(cast, TCP);
        assert_eq!(host.client_sends(&tcp(source, cast.service, SYN)).verdict, Verdict::Forward, "{source}");
    }
}

#[test]
fn a_packet_not_yet_at_its_last_destination_passes() {
    let mut host = Host::new();
    host.serve(V6, TCP);
    let frame = syn(V6, |frame| frame.extensions = vec![Extension::Routing(1)]);
    let under_way = Verdict::Pass(PassReason::Protocol);
    assert_untouched(&host.client_sends(&frame), &towards_front(&frame), under_way);
    assert_eq!(host.entries(), 0);
}

#[test]
fn six_extension_headers_are_stepped_over_and_seven_are_not() {
    let mut host = Host::new();
    host.serve(V6, TCP);
    let six = syn(V6, |frame| frame.extensions = vec![Extension::Destination(0); 6]);
    assert_forwarded(&host.client_sends(&six), &six, V6.client, V6.backend);
    let seven = syn(V6, |frame| frame.extensions = vec![Extension::Destination(0); 7]);
    let too_many = Verdict::Pass(PassReason::Protocol);
    assert_untouched(&host.client_sends(&seven), &towards_front(&seven), too_many);
}

#[test]
fn xdp_sends_out_of_another_interface_or_back_as_each_allows() {
    let leave = Verdict::Leave(LeaveReason::Interface);
    for (xdp_redirect, xdp_tx) in [(true, false), (false, true)] {
        // Once out of the other interface, once back.
        for (out, mac, allowed) in [(BACK, BACK_MAC, xdp_redirect), (FRONT, FRONT_MAC, xdp_tx)] {
            let mut host = Host::new();
            host.serve(V4, TCP);
            let mut interface = SimulatedInterface::new(out, mac);
            (interface.xdp_redirect, interface.xdp_tx) = (xdp_redirect, xdp_tx);
            host.simulator.add_interface(interface).unwrap();
            let routes = host.simulator.routes_mut();
            routes.insert("198.51.100.2/32".parse().unwrap(), Target::Link(out));
            routes.insert_neighbor(out, address(V4.backend), BACKEND_MAC);
            let expected = if allowed { Verdict::Forward } else { leave };
            assert_eq!(
                host.at(Hook::Xdp, &syn(V4, |_| {})).verdict,
                expected,
                "{out} {xdp_redirect} {xdp_tx}"
            );
        }
    }
}

#[test]
fn what_xdp_passes_comes_to_ingress() {
    let host = Host::new();
    let frame = syn(V4, |_| {});
    let pass = Verdict::Pass(PassReason::NoService);
    assert_untouched(&host.client_sends(&frame), &towards_front(&frame), pass);
    let counters = host.simulator.tables().counters();
    for hook in [Hook::Xdp, Hook::Ingress] {
        assert_eq!(counters.verdict(hook, pass).unwrap(), 1, "{hook:?}");
    }
}

/// As the kernel's FIB lookup, which leaves them alone.
#[test]
fn addresses_that_no_router_forwards_are_the_stacks() {
    for backend in ["[fe80::2]:8080", "[::1]:8080", "[ff02::1]:8080"] {
        let mut host = Host::new();
        host.simulator.routes_mut().insert("::/0".parse().unwrap(), Target::Link(BACK));
        host.serve(Cast { backend, ..V6 }, TCP);
        let frame = syn(V6, |_| {});
        assert_eq!(host.at(Hook::Xdp, &frame).verdict, Verdict::Leave(LeaveReason::Local), "{backend}");
        let delivered = host.at(Hook::Ingress, &frame);
        assert_eq!((delivered.verdict, delivered.sent), (Verdict::Deliver, None), "{backend}");
        assert_translated(&Dissected::of(&delivered.frame).unwrap(), &frame, V6.client, backend);
    }
    let mut host = Host::new();
    host.serve(V6, TCP);
    let frame = tcp("[fe80::7]:40000", V6.service, SYN);
    assert_eq!(host.client_sends(&frame).verdict, Verdict::Deliver);
}
