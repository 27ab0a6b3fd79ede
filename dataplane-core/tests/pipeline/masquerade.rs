//! Source NAT: ports of this host, lent to flows and taken back.

use std::time::Duration;

use dataplane_core::{
    abi::{FLOW_REPLY, LIST_MASQUERADE, LIST_MASQUERADE_LOCAL},
    memory::{SimulatedInterface, Target},
    model::NatPorts,
    pipeline::{AnswerReason, DropReason, Hook, LeaveReason, PassReason, Verdict},
    tables::Store,
};
use dataplane_testkit::frames::{Dissected, Frame, flags::*};

use crate::host::*;

const NO_SERVICE: Verdict = Verdict::Pass(PassReason::NoService);

pub const FIRST: u16 = 50_000;

/// This host's address towards the backends.
fn own(cast: Cast) -> &'static str {
    if address(cast.client).is_ipv4() { "198.51.100.1" } else { "2001:db8:2::1" }
}

pub fn own_port(cast: Cast, port: u16) -> String {
    std::net::SocketAddr::new(own(cast).parse().unwrap(), port).to_string()
}

/// A host that has an address towards its backends and so many ports for flows.
pub fn host_with_ports(count: u16) -> Host {
    let mut host = Host::new();
    let mut back = SimulatedInterface::new(BACK, BACK_MAC);
    back.masquerade_v4 = Some(own(V4).parse().unwrap());
    back.masquerade_v6 = Some(own(V6).parse().unwrap());
    host.simulator.add_interface(back).unwrap();
    host.simulator.tables().set_nat_ports(NatPorts::new(FIRST..=FIRST + count - 1).unwrap());
    host.list_flags(LIST_MASQUERADE);
    host
}

fn reservations(host: &Host) -> u32 {
    let tables = host.simulator.tables();
    tables.nat_v4().fill().unwrap() + tables.nat_v6().fill().unwrap()
}

/// What a client's packet comes out as: its source towards the backend.
#[track_caller]
fn source_of(host: &Host, frame: &Frame) -> String {
    let outcome = host.client_sends(frame);
    assert_eq!(outcome.verdict, Verdict::Forward);
    Dissected::of(&outcome.frame).unwrap().source.to_string()
}

fn client(port: u16) -> String {
    format!("192.0.2.7:{port}")
}

#[test]
fn a_connection_from_syn_to_fin_has_one_port_of_this_host() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(16);
        let service = host.serve(cast, TCP);
        let Cast { client, service: vip, backend, .. } = cast;
        let nat = own_port(cast, FIRST);
        for (client_sends, flags) in [
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
            (true, ACK | PSH),
            (false, ACK | PSH),
            (false, FIN | ACK),
        ] {
            host.pass(Duration::from_millis(700));
            if client_sends {
                let frame = tcp(client, vip, flags);
                assert_forwarded(&host.client_sends(&frame), &frame, &nat, backend);
            } else {
                let frame = tcp(backend, &nat, flags);
                assert_forwarded(&host.backend_sends(&frame), &frame, vip, client);
            }
        }
        assert_eq!((host.entries(), reservations(&host), host.counters(service).flows), (1, 1, 1));
        assert_eq!(host.counters(service).reply_packets, 3);
        // Nobody else gets through: another backend, another port of this host.
        for (from, to) in [(cast.other_backend, nat.clone()), (backend, own_port(cast, FIRST + 1))] {
            assert_eq!(host.backend_sends(&tcp(from, &to, ACK)).verdict, NO_SERVICE, "{from} {to}");
        }
    }
}

#[test]
fn datagrams_keep_or_lack_their_checksum() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(16);
        host.serve(cast, UDP);
        for checksum in [true, false] {
            let mut question = udp(cast.client, cast.service);
            question.transport = dataplane_testkit::frames::Transport::Udp { checksum };
            let nat = own_port(cast, FIRST);
            assert_forwarded(&host.client_sends(&question), &question, &nat, cast.backend);
            let mut answer = udp(cast.backend, &nat);
            answer.transport = question.transport;
            assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
        }
    }
}

#[test]
fn each_flow_to_one_backend_has_a_port_of_its_own_and_flows_to_another_may_share_it() {
    let mut host = host_with_ports(4);
    let backends = [host.backend(V4.backend), host.backend(V4.other_backend)];
    let service = host.service(V4.service, UDP, &backends[..1]);
    let ports: Vec<String> = (1..=4).map(|n| source_of(&host, &udp(&client(n), V4.service))).collect();
    // The search begins at the same place each time.
    assert_eq!(ports, [0, 1, 2, 3].map(|n| own_port(V4, FIRST + n)));
    host.point(service, &backends[1..]);
    assert_eq!(source_of(&host, &udp(&client(5), V4.service)), own_port(V4, FIRST));
    // And one of another protocol.
    host.service(V4.service, TCP, &backends[..1]);
    assert_eq!(source_of(&host, &tcp(&client(1), V4.service, SYN)), own_port(V4, FIRST));
}

/// From a random place on, in strides of a random length where there are more ports than looks, and around the range.
#[test]
fn the_search_goes_round_the_range_and_no_further() {
    // In a range of 4 it begins at the last port; in one of 64 in the middle, and goes on by 17.
    for (count, random, places) in [(4, 0xc000_0000, [3, 0, 1, 2]), (64, 0x8000_4000, [32, 49, 2, 19])] {
        for cast in [V4, V6] {
            let mut host = host_with_ports(count);
            host.simulator.set_random(Some(random));
            host.serve(cast, UDP);
            let mut client: std::net::SocketAddr = cast.client.parse().unwrap();
            for place in places {
                client.set_port(client.port() + 1);
                let source = source_of(&host, &udp(&client.to_string(), cast.service));
                assert_eq!(source, own_port(cast, FIRST + place));
            }
        }
    }
}

/// The stride and the range may have a factor in common, and may be the same: no port is looked at twice all the same.
#[test]
fn a_search_looks_at_as_many_ports_as_it_may() {
    // Of 33 ports the stride is 33, 11 and 3; of 45 it is 15.
    for (count, random) in [(33, 0x0000_ffff), (33, 0x0000_4fff), (33, 0x0000_0fff), (45, 0x0000_5000)] {
        for cast in [V4, V6] {
            let mut host = host_with_ports(count);
            host.simulator.set_random(Some(random));
            host.serve(cast, UDP);
            let mut client: std::net::SocketAddr = cast.client.parse().unwrap();
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..32 {
                client.set_port(client.port() + 1);
                ports.insert(source_of(&host, &udp(&client.to_string(), cast.service)));
            }
            // Each found a free one, and none had to take another's.
            assert_eq!((ports.len(), reservations(&host)), (32, 32), "{count} {random:x}");
        }
    }
}

#[test]
fn a_port_of_a_socket_is_not_lent() {
    let mut host = host_with_ports(2);
    host.simulator.bind(own(V4).parse().unwrap(), FIRST, UDP);
    host.serve(V4, UDP);
    host.serve(V4, TCP);
    assert_eq!(source_of(&host, &udp(V4.client, V4.service)), own_port(V4, FIRST + 1));
    assert_eq!(source_of(&host, &tcp(V4.client, V4.service, SYN)), own_port(V4, FIRST), "another protocol");
    host.backend_sends(&udp(V4.backend, &own_port(V4, FIRST + 1)));
    host.client_sends(&udp(V4.client, V4.service));
    let exhausted = Verdict::Drop(DropReason::NatExhausted);
    assert_eq!(host.client_sends(&udp(&client(2), V4.service)).verdict, exhausted);
}

/// A connection that stands goes on where one that nobody answered loses its port.
#[test]
fn when_ports_run_out_half_open_flows_lose_theirs_first() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(2);
        let service = host.serve(cast, TCP);
        let other = |n: u16| {
            let mut client: std::net::SocketAddr = cast.client.parse().unwrap();
            client.set_port(n);
            client.to_string()
        };
        let (first, second) = (own_port(cast, FIRST), own_port(cast, FIRST + 1));
        assert_eq!(source_of(&host, &tcp(cast.client, cast.service, SYN)), first);
        host.backend_sends(&tcp(cast.backend, &first, SYN | ACK));
        host.client_sends(&tcp(cast.client, cast.service, ACK));
        assert_eq!(source_of(&host, &tcp(&other(2), cast.service, SYN)), second);

        // However young it is: a flood is as young.
        assert_eq!(source_of(&host, &tcp(&other(3), cast.service, SYN)), second);
        // Who lost the port has no entry that would go on using it.
        assert_eq!((host.entries(), reservations(&host)), (2, 2));
        // The answer is that of the one who has it now.
        let answer = tcp(cast.backend, &second, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, &other(3));
        assert_eq!(source_of(&host, &tcp(&other(3), cast.service, ACK)), second);
        // Now both stand.
        let refused = host.client_sends(&tcp(&other(2), cast.service, SYN));
        assert_eq!(refused.verdict, Verdict::Drop(DropReason::NatExhausted));
        assert_eq!((host.counters(service).drops, host.entries()), (1, 2), "nothing is left of it");
        let data = tcp(cast.client, cast.service, ACK);
        assert_forwarded(&host.client_sends(&data), &data, &first, cast.backend);
    }
}

/// Of those that nobody confirmed the oldest goes, wherever the search begins; one that was closed goes before it.
#[test]
fn of_half_open_flows_the_oldest_loses_its_port() {
    for (oldest, closed, loses) in
        [(0, None, 0), (1, None, 1), (3, None, 3), (0, Some(2), 2), (3, Some(1), 1)]
    {
        let mut host = host_with_ports(4);
        host.serve(V4, TCP);
        // Each takes the first port that is free, so that those before the oldest are opened again behind it.
        for n in 0..4 {
            assert_eq!(source_of(&host, &tcp(&client(n + 1), V4.service, SYN)), own_port(V4, FIRST + n));
        }
        host.pass(Duration::from_millis(1_500));
        for n in (0..4).filter(|n| *n != oldest) {
            // A SYN that is sent again makes its flow younger.
            source_of(&host, &tcp(&client(n + 1), V4.service, SYN));
        }
        if let Some(n) = closed {
            host.backend_sends(&tcp(V4.backend, &own_port(V4, FIRST + n), RST | ACK));
        }
        assert_eq!(source_of(&host, &tcp(&client(9), V4.service, SYN)), own_port(V4, FIRST + loses));
    }
}

/// An answer must not come to another client while it may be under way.
#[test]
fn a_flow_of_datagrams_keeps_its_port_for_two_seconds() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(1);
        host.serve(cast, UDP);
        let nat = own_port(cast, FIRST);
        assert_eq!(source_of(&host, &udp(cast.client, cast.service)), nat);
        let other = std::net::SocketAddr::new(address(cast.client), 9).to_string();
        let late = udp(&other, cast.service);
        host.pass(Duration::from_millis(2000));
        assert_eq!(host.client_sends(&late).verdict, Verdict::Drop(DropReason::NatExhausted));
        host.pass(Duration::from_millis(300));
        assert_eq!(source_of(&host, &late), nat);
    }
}

/// A port outlives the flow that has it: while a client's packet finds its flow, nobody else has its port.
#[test]
fn a_reservation_outlives_its_flow() {
    let mut host = host_with_ports(1);
    host.serve(V4, UDP);
    let question = udp(V4.client, V4.service);
    let (mine, other) = (own_port(V4, FIRST), udp(&client(9), V4.service));
    source_of(&host, &question);
    host.backend_sends(&udp(V4.backend, &mine));
    source_of(&host, &question);
    // 180 s for datagrams both ways.
    host.pass(Duration::from_millis(181_500));
    assert_eq!(host.client_sends(&other).verdict, Verdict::Drop(DropReason::NatExhausted));
    host.pass(Duration::from_secs(2));
    assert_eq!(source_of(&host, &other), mine);
    assert_eq!(reservations(&host), 1);
    host.backend_sends(&udp(V4.backend, &mine));
    source_of(&host, &other);
    assert_eq!(host.client_sends(&question).verdict, Verdict::Drop(DropReason::NatExhausted));
}

#[test]
fn a_closed_connection_gives_its_port_only_when_no_other_is_free() {
    let mut host = host_with_ports(2);
    host.serve(V4, TCP);
    let first = own_port(V4, FIRST);
    for (from, to, flags) in [
        (V4.client, V4.service, SYN),
        (V4.backend, first.as_str(), SYN | ACK),
        (V4.client, V4.service, ACK),
        (V4.backend, first.as_str(), FIN | ACK),
        (V4.client, V4.service, FIN | ACK),
    ] {
        let frame = tcp(from, to, flags);
        let outcome = if to == V4.service { host.client_sends(&frame) } else { host.backend_sends(&frame) };
        assert_eq!(outcome.verdict, Verdict::Forward);
    }
    assert_eq!(source_of(&host, &tcp(&client(2), V4.service, SYN)), own_port(V4, FIRST + 1));
    assert_eq!(source_of(&host, &tcp(&client(3), V4.service, SYN)), first);
}

/// Either half may be evicted or collected before the other.
#[test]
fn the_half_that_is_missing_is_made_again() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(16);
        let service = host.serve(cast, TCP);
        let nat = own_port(cast, FIRST);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.evict(false);
        assert_eq!((host.entries(), reservations(&host)), (0, 1));
        let answer = tcp(cast.backend, &nat, SYN | ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
        assert_eq!((host.entries(), reservations(&host)), (1, 1));
        let data = tcp(cast.client, cast.service, ACK);
        assert_forwarded(&host.client_sends(&data), &data, &nat, cast.backend);

        forget_reservations(&host);
        host.pass(Duration::from_secs(2));
        assert_forwarded(&host.client_sends(&data), &data, &nat, cast.backend);
        assert_eq!((host.entries(), reservations(&host)), (1, 1));
        assert_forwarded(&host.backend_sends(&answer), &answer, cast.service, cast.client);
        assert_eq!(host.counters(service).flows, 1);
    }
}

fn forget_reservations(host: &Host) {
    let tables = host.simulator.tables();
    for entry in tables.nat_v4().entries() {
        let (tuple, flow) = entry.unwrap();
        assert_ne!(flow.flags & FLOW_REPLY, 0);
        assert!(tables.nat_v4().remove(&tuple).unwrap());
    }
    for entry in tables.nat_v6().entries() {
        assert!(tables.nat_v6().remove(&entry.unwrap().0).unwrap());
    }
}

/// A SYN on a closed connection, or on one whose backend is gone, opens another one: what the old one had goes.
#[test]
fn a_connection_that_is_replaced_gives_its_port_back() {
    let mut host = host_with_ports(1);
    let backends = [host.backend(V4.backend), host.backend(V4.other_backend)];
    let service = host.service(V4.service, TCP, &backends[..1]);
    let nat = own_port(V4, FIRST);
    assert_eq!(source_of(&host, &tcp(V4.client, V4.service, SYN)), nat);
    host.backend_sends(&tcp(V4.backend, &nat, RST | ACK));
    assert_eq!(source_of(&host, &tcp(V4.client, V4.service, SYN)), nat);
    assert_eq!((host.entries(), reservations(&host)), (1, 1));
    host.point(service, &backends[1..]);
    host.remove(backends[0], V4);
    let frame = tcp(V4.client, V4.service, SYN);
    assert_forwarded(&host.client_sends(&frame), &frame, &nat, V4.other_backend);
    assert_eq!((host.entries(), reservations(&host)), (1, 1));
    assert_eq!(host.backend_sends(&tcp(V4.backend, &nat, ACK)).verdict, NO_SERVICE);
}

#[test]
fn without_an_address_towards_the_backend_the_packet_is_dropped_by_name() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        host.list_flags(LIST_MASQUERADE);
        let service = host.serve(cast, TCP);
        for hook in [Hook::Xdp, Hook::Ingress] {
            let outcome = host.at(hook, &tcp(cast.client, cast.service, SYN));
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoMasqueradeAddress));
        }
        assert_eq!((host.entries(), host.counters(service).drops, host.counters(service).flows), (0, 2, 0));
    }
}

#[test]
fn a_table_without_room_is_named() {
    use dataplane_core::{
        memory::{MemoryTables, Simulator},
        tables::Capacity,
    };
    use dataplane_testkit::fill::Filler;

    let tables = std::sync::Arc::new(MemoryTables::new(Capacity { nat: 0, ..Capacity::small() }));
    let mut filler = Filler::default();
    filler.list_flags = LIST_MASQUERADE;
    let backend = filler.backend(&*tables, V4.backend.parse().unwrap(), false).unwrap();
    filler.service(&*tables, V4.service.parse().unwrap(), TCP, &[backend]).unwrap();
    let mut simulator = Simulator::new(tables.clone());
    let mut interface = SimulatedInterface::new(FRONT, FRONT_MAC);
    interface.masquerade_v4 = Some(own(V4).parse().unwrap());
    simulator.add_interface(interface).unwrap();
    simulator.routes_mut().insert("198.51.100.0/24".parse().unwrap(), Target::Link(FRONT));
    let outcome = simulator.run(Hook::Ingress, FRONT, &towards_front(&tcp(V4.client, V4.service, SYN)));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NatFull));
    assert_eq!(tables.conntrack_v4().fill().unwrap(), 0);
}

/// What the stack delivers keeps its source: it would take it for forged.
#[test]
fn a_backend_on_this_host_sees_the_client() {
    for (flags, said) in
        [(LIST_MASQUERADE, true), (LIST_MASQUERADE, false), (LIST_MASQUERADE | LIST_MASQUERADE_LOCAL, false)]
    {
        for cast in [V4, V6] {
            let mut host = host_with_ports(16);
            host.list_flags(flags);
            let backend = if said { host.local_backend(cast.backend) } else { host.backend(cast.backend) };
            host.service(cast.service, TCP, &[backend]);
            if !said {
                host.simulator.routes_mut().insert(address(cast.backend).into(), Target::Local);
            }
            let syn = tcp(cast.client, cast.service, SYN);
            assert_eq!(host.at(Hook::Xdp, &syn).verdict, Verdict::Leave(LeaveReason::Local));
            let delivered = host.at(Hook::Ingress, &syn);
            assert_eq!(delivered.verdict, Verdict::Deliver);
            assert_translated(&Dissected::of(&delivered.frame).unwrap(), &syn, cast.client, cast.backend);
            assert_eq!((host.entries(), reservations(&host)), (2, 0));
        }
    }
}

/// Said to be local, and behind an interface: what `always` is for.
#[test]
fn always_masquerades_what_is_said_to_be_local() {
    let mut host = host_with_ports(16);
    for (flags, source) in
        [(LIST_MASQUERADE, None), (LIST_MASQUERADE | LIST_MASQUERADE_LOCAL, Some(own_port(V4, FIRST)))]
    {
        host.list_flags(flags);
        let backend = host.local_backend(V4.backend);
        host.service(if source.is_some() { "203.0.113.11:80" } else { V4.service }, TCP, &[backend]);
        let frame = tcp(V4.client, if source.is_some() { "203.0.113.11:80" } else { V4.service }, SYN);
        let outcome = host.at(Hook::Ingress, &frame);
        let seen = Dissected::of(&outcome.frame).unwrap();
        assert_eq!(seen.source.to_string(), source.unwrap_or(V4.client.to_owned()));
    }
}

#[test]
fn a_masqueraded_flow_is_not_handed_to_a_stack_that_would_take_it_for_forged() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(16);
        host.serve(cast, TCP);
        source_of(&host, &tcp(cast.client, cast.service, SYN));
        // The stack would split it, and can't.
        let mut long = tcp(cast.client, cast.service, ACK);
        long.fragment = 0;
        let long = long.payload(&[7; 1600]);
        assert_eq!(host.at(Hook::Xdp, &long).verdict, Verdict::Leave(LeaveReason::TooBig));
        assert_eq!(host.at(Hook::Ingress, &long).verdict, Verdict::Answer(AnswerReason::TooBig));
        host.simulator.routes_mut().insert(address(cast.backend).into(), Target::Local);
        let outcome = host.client_sends(&tcp(cast.client, cast.service, ACK));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::StackOnly));
        // What goes to the client carries the virtual address, and is no forgery.
        host.simulator.routes_mut().insert(address(cast.client).into(), Target::Local);
        let answer = tcp(cast.backend, &own_port(cast, FIRST), SYN | ACK);
        let delivered =
            host.simulator.run(Hook::Ingress, BACK, &answer.clone().link(BACK_MAC, BACKEND_MAC).build());
        assert_eq!(delivered.verdict, Verdict::Deliver);
        assert_translated(&Dissected::of(&delivered.frame).unwrap(), &answer, cast.service, cast.client);
    }
}

/// A first packet that is too long for its route still tells XDP and tcx where it would leave.
#[test]
fn what_xdp_leaves_has_its_port_already() {
    let mut host = host_with_ports(16);
    host.serve(V4, UDP);
    host.simulator.routes_mut().remove_neighbor(BACK, address(V4.backend));
    let frame = udp(V4.client, V4.service);
    assert_eq!(host.at(Hook::Xdp, &frame).verdict, Verdict::Leave(LeaveReason::NoNeighbor));
    assert_eq!(reservations(&host), 1);
    let outcome = host.at(Hook::Ingress, &frame);
    assert_eq!(outcome.verdict, Verdict::Forward);
    assert_eq!(Dissected::of(&outcome.frame).unwrap().source.to_string(), own_port(V4, FIRST));
    assert_eq!((reservations(&host), host.entries()), (1, 1));
}

/// A service on a port that is lent, too: its clients' packets are looked up among the reservations first.
#[test]
fn a_service_may_stand_on_a_port_of_the_range() {
    let mut host = host_with_ports(16);
    let backend = host.backend(V4.backend);
    host.service("203.0.113.10:50003", TCP, &[backend]);
    let frame = tcp(V4.client, "203.0.113.10:50003", SYN);
    for _ in 0..2 {
        assert_forwarded(&host.client_sends(&frame), &frame, &own_port(V4, FIRST), V4.backend);
    }
}

/// Errors about what was masqueraded, either way: each side hears of the packet that it sent, from an address that it knows.
#[test]
fn errors_find_their_way_through_the_translation() {
    for (cast, kind, routers) in [
        (V4, (3, 4, 1300), ["192.0.2.99", "198.51.100.99"]),
        (V6, (2, 0, 1300), ["2001:db8:1::99", "2001:db8:2::99"]),
    ] {
        let mut host = host_with_ports(16);
        host.serve(cast, TCP);
        let nat = own_port(cast, FIRST);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.backend_sends(&tcp(cast.backend, &nat, SYN | ACK));
        host.client_sends(&tcp(cast.client, cast.service, ACK));
        let between = |source: &str, destination: &str| tcp(source, destination, ACK).packet();
        let error = |from: &str, to: &str, quoted: &[u8]| {
            let (of, code, rest) = kind;
            Frame::icmp(address_of(from), address_of(to), of, code, rest).payload(quoted)
        };
        for (at_backend, about, expected) in [
            (
                true,
                error(routers[1], &nat, &between(&nat, cast.backend)),
                error(cast.service, cast.client, &between(cast.client, cast.service)),
            ),
            (
                false,
                error(routers[0], cast.service, &between(cast.service, cast.client)),
                error(&nat, cast.backend, &between(cast.backend, &nat)),
            ),
        ] {
            let outcome = if at_backend { host.backend_sends(&about) } else { host.client_sends(&about) };
            assert_eq!(outcome.verdict, Verdict::Forward);
            let mut expected = expected;
            expected.hop_limit -= 1;
            assert_eq!(&outcome.frame[14..], &expected.packet()[..]);
        }
        assert_eq!((host.entries(), reservations(&host)), (1, 1));
    }
}

fn address_of(text: &str) -> std::net::IpAddr {
    text.parse().unwrap_or_else(|_| address(text))
}
