//! Connections from their first packet to their last.

use std::time::Duration;

use dataplane_core::{
    abi::ServiceCounters,
    pipeline::{DropReason, Hook, LeaveReason, PassReason, Verdict},
};
use dataplane_testkit::frames::{Dissected, flags::*};

use crate::host::*;

const NO_SERVICE: Verdict = Verdict::Pass(PassReason::NoService);

#[test]
fn a_tcp_connection_from_syn_to_fin() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        let Cast { client, service: vip, backend, .. } = cast;
        let mut bytes = [0, 0];
        for (client_sends, flags) in [
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
            (true, ACK | PSH),
            (false, ACK | PSH),
            (true, FIN | ACK),
            (false, FIN | ACK),
            (true, ACK),
        ] {
            host.pass(Duration::from_millis(20));
            let frame = if client_sends { tcp(client, vip, flags) } else { tcp(backend, client, flags) };
            bytes[usize::from(client_sends)] += frame.build().len() as u64 - 14;
            if client_sends {
                assert_forwarded(&host.client_sends(&frame), &frame, client, backend);
            } else {
                assert_forwarded(&host.backend_sends(&frame), &frame, vip, client);
            }
        }
        assert_eq!(host.entries(), 2);
        let expected = ServiceCounters {
            packets: 5,
            bytes: bytes[1],
            reply_packets: 3,
            reply_bytes: bytes[0],
            flows: 1,
            drops: 0,
        };
        assert_eq!(host.counters(service), expected);
    }
}

#[test]
fn udp_both_ways_with_and_without_a_checksum() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        for checksum in [true, false] {
            let mut question = udp(cast.client, cast.service);
            question.transport = dataplane_testkit::frames::Transport::Udp { checksum };
            assert_forwarded(&host.client_sends(&question), &question, cast.client, cast.backend);
            let mut answer = udp(cast.backend, cast.client);
            answer.transport = question.transport;
            assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
        }
    }
}

#[test]
fn another_protocol_or_port_of_a_virtual_address_is_not_ours() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    for frame in [udp(V4.client, V4.service), tcp(V4.client, "203.0.113.10:81", SYN)] {
        assert_untouched(&host.client_sends(&frame), &towards_front(&frame), NO_SERVICE);
    }
    assert_eq!(host.entries(), 0);
}

#[test]
fn an_unanswered_datagram_is_forgotten_after_a_minute() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, UDP);
        let question = udp(cast.client, cast.service);
        host.client_sends(&question);
        host.pass(Duration::from_secs(59));
        // It lives on, and a minute begins anew.
        host.client_sends(&question);
        assert_eq!(host.counters(service).flows, 1);
        host.pass(Duration::from_secs(61));
        let answer = udp(cast.backend, cast.client);
        assert_eq!(host.backend_sends(&answer).verdict, NO_SERVICE, "too late");
        assert_forwarded(&host.client_sends(&question), &question, cast.client, cast.backend);
        assert_eq!((host.counters(service).flows, host.entries()), (2, 2));
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
    }
}

#[test]
fn an_established_connection_lives_for_hours_and_a_closed_one_for_seconds() {
    let mut host = Host::new();
    let service = host.serve(V4, TCP);
    let client_sends = |host: &Host, flags| host.client_sends(&tcp(V4.client, V4.service, flags));
    let backend_sends = |host: &Host, flags| host.backend_sends(&tcp(V4.backend, V4.client, flags));
    client_sends(&host, SYN);
    backend_sends(&host, SYN | ACK);
    client_sends(&host, ACK);
    host.pass(Duration::from_secs(6 * 3600 - 5));
    assert_eq!(backend_sends(&host, ACK).verdict, Verdict::Forward);
    host.pass(Duration::from_secs(6 * 3600 - 5));
    assert_eq!(client_sends(&host, ACK).verdict, Verdict::Forward);
    assert_eq!(host.counters(service).flows, 1, "either side kept both halves alive");

    assert_eq!(backend_sends(&host, RST).verdict, Verdict::Forward);
    host.pass(Duration::from_secs(9));
    assert_eq!(backend_sends(&host, RST).verdict, Verdict::Forward);
    host.pass(Duration::from_secs(11));
    assert_eq!(backend_sends(&host, RST).verdict, NO_SERVICE);
}

#[test]
fn a_backend_on_this_host_is_reached_by_the_stack_and_answers_at_egress() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.local_backend(cast.backend);
        host.service(cast.service, TCP, &[backend]);
        let syn = tcp(cast.client, cast.service, SYN);

        let left = host.at(Hook::Xdp, &syn);
        assert_untouched(&left, &towards_front(&syn), Verdict::Leave(LeaveReason::Local));
        let delivered = host.at(Hook::Ingress, &syn);
        assert_eq!((delivered.verdict, delivered.sent), (Verdict::Deliver, None));
        let seen = Dissected::of(&delivered.frame).unwrap();
        assert_eq!((seen.hop_limit, seen.link.0), (64, FRONT_MAC), "it is not forwarded");
        assert_translated(&seen, &syn, cast.client, cast.backend);

        let answer = tcp(cast.backend, cast.client, SYN | ACK).link(CLIENT_MAC, FRONT_MAC);
        let out = host.simulator.run(Hook::Egress, FRONT, &answer.build());
        assert_eq!((out.verdict, out.sent), (Verdict::Deliver, None));
        let seen = Dissected::of(&out.frame).unwrap();
        assert_eq!((seen.hop_limit, seen.link), (64, (CLIENT_MAC, FRONT_MAC)));
        assert_translated(&seen, &answer, cast.service, cast.client);
    }
}

#[test]
fn a_clients_packet_on_its_way_out_is_not_translated_again() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    host.client_sends(&tcp(V4.client, V4.service, SYN));
    for frame in [tcp(V4.client, V4.service, ACK), tcp("192.0.2.9:1", V4.service, SYN)] {
        let bytes = frame.build();
        assert_untouched(&host.simulator.run(Hook::Egress, BACK, &bytes), &bytes, NO_SERVICE);
    }
}

#[test]
fn a_half_that_was_evicted_is_made_again() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        let syn = tcp(cast.client, cast.service, SYN);
        let ack = tcp(cast.client, cast.service, ACK);
        let answer = tcp(cast.backend, cast.client, SYN | ACK);
        host.client_sends(&syn);

        host.evict(true);
        assert_eq!(host.backend_sends(&answer).verdict, NO_SERVICE);
        host.pass(Duration::from_secs(2));
        host.client_sends(&syn);
        assert_eq!(host.entries(), 2, "the client's next packet brings it back");
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);

        host.evict(false);
        host.pass(Duration::from_secs(2));
        host.backend_sends(&answer);
        assert_eq!(host.entries(), 2, "and so does the backend's");
        // No new connection could be opened: there is no backend to choose.
        host.point(service, &[]);
        assert_forwarded(&host.client_sends(&ack), &ack, cast.client, cast.backend);
        assert_eq!(host.counters(service).flows, 1);
    }
}

#[test]
fn one_source_port_towards_one_backend_by_two_services_is_refused() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.backend(cast.backend);
        host.service(cast.service, TCP, &[backend]);
        let other_vip = cast.service.replace("10]", "11]").replace(".10:", ".11:");
        let second = host.service(&other_vip, TCP, &[backend]);
        host.client_sends(&tcp(cast.client, cast.service, SYN));

        let syn = tcp(cast.client, &other_vip, SYN);
        let refused = host.client_sends(&syn);
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::TupleInUse));
        assert_eq!((host.counters(second).drops, host.entries()), (1, 2));
        let answer = tcp(cast.backend, cast.client, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);

        // Once the first connection is over its tuple is free.
        host.backend_sends(&tcp(cast.backend, cast.client, RST));
        assert_forwarded(&host.client_sends(&syn), &syn, cast.client, cast.backend);
        assert_forwarded(&host.backend_sends(&answer), &answer, &other_vip, cast.client);

        // A straggler of the first one does not mark the second one's replies as over.
        host.client_sends(&tcp(cast.client, cast.service, RST));
        host.pass(Duration::from_secs(11));
        assert_forwarded(&host.backend_sends(&answer), &answer, &other_vip, cast.client);
    }
}

#[test]
fn the_replies_of_the_next_connection_survive_a_straggler_of_an_expired_one() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let backend = host.backend(cast.backend);
        host.service(cast.service, TCP, &[backend]);
        let other_vip = cast.service.replace(":80", ":81");
        host.service(&other_vip, TCP, &[backend]);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.pass(Duration::from_secs(61));

        // An expired entry is in nobody's way.
        let syn = tcp(cast.client, &other_vip, SYN);
        assert_forwarded(&host.client_sends(&syn), &syn, cast.client, cast.backend);
        let straggler = host.client_sends(&tcp(cast.client, cast.service, ACK));
        assert_eq!(straggler.verdict, Verdict::Drop(DropReason::TupleInUse));
        let answer = tcp(cast.backend, cast.client, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, &other_vip, cast.client);
    }
}
