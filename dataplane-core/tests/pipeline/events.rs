//! What is told of drops and flows.

use std::time::Duration;

use dataplane_core::{
    event::{Closed, Event, EventLosses, EventOptions, Opened},
    memory::Target,
    pipeline::{AnswerReason, CloseReason, DropReason, Hook, Revoked, Verdict},
    tables::{Moment, Store, Suspect},
};
use dataplane_testkit::frames::{Frame, flags::*};

use crate::{
    addresses::ping,
    host::*,
    masquerade::{FIRST, host_with_ports, own_port},
};

fn wants(host: &Host, options: EventOptions) {
    host.simulator.tables().events().switch(Some(options));
}

/// All that was told since the last time, read from its records.
fn told(host: &Host) -> Vec<Event> {
    let events = host.simulator.tables().events();
    std::iter::from_fn(|| events.take()).map(|record| Event::parse(&record).unwrap()).collect()
}

fn texts(host: &Host) -> Vec<String> {
    told(host).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn opened(host: &Host) -> Opened {
    match told(host)[..] {
        [Event::Opened(opened)] => opened,
        ref other => panic!("{other:?}"),
    }
}

#[track_caller]
fn closed(host: &Host) -> Closed {
    match told(host)[..] {
        [Event::Closed(closed)] => closed,
        ref other => panic!("{other:?}"),
    }
}

/// Has the collector look twice at everything.
fn collect(host: &Host) {
    let tables = host.simulator.tables();
    let at = Moment::of(&**tables);
    macro_rules! look {
        ($entries:ident, $flows:ident) => {
            let suspects: Vec<_> = tables
                .$entries()
                .entries()
                .map(|entry| Suspect { tuple: entry.unwrap().0, revoked: Default::default() })
                .collect();
            for _ in 0..2 {
                tables.$flows().collect(&suspects, &at, &mut Vec::new()).unwrap();
            }
        };
    }
    look!(conntrack_v4, flows_v4);
    look!(conntrack_v6, flows_v6);
    look!(opening_v4, half_open_v4);
    look!(opening_v6, half_open_v6);
    look!(nat_v4, reservations_v4);
    look!(nat_v6, reservations_v6);
}

fn exchange(host: &Host, cast: Cast, as_client: &str, packets: &[(bool, u8)]) {
    for &(client_sends, flags) in packets {
        if client_sends {
            host.client_sends(&tcp(cast.client, cast.service, flags));
        } else {
            host.backend_sends(&tcp(cast.backend, as_client, flags));
        }
    }
}

const HANDSHAKE: [(bool, u8); 3] = [(true, SYN), (false, SYN | ACK), (true, ACK)];

#[test]
fn nothing_is_told_unless_it_is_wanted() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    host.client_sends(&tcp(V4.client, V4.service, SYN));
    assert_eq!(told(&host), []);
    wants(&host, EventOptions::default());
    host.client_sends(&tcp(V4.client, V4.service, SYN));
    assert_eq!(told(&host), [], "it is open already");
    host.simulator.tables().events().switch(None);
    host.client_sends(&tcp("192.0.2.7:40001", V4.service, SYN));
    assert_eq!((told(&host), host.simulator.tables().events().losses()), (vec![], EventLosses::default()));
}

#[test]
fn a_flow_is_told_of_when_it_opens_and_when_it_has_ended() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        wants(&host, EventOptions::default());
        exchange(&host, cast, cast.client, &HANDSHAKE);
        let Opened { time, hook, interface, flow, .. } = opened(&host);
        assert_eq!((time, hook, interface), (Duration::from_secs(1000), Hook::Xdp, FRONT));
        assert_eq!(flow.to_string(), format!("tcp {} > {} to {}", cast.client, cast.service, cast.backend));
        assert_eq!((flow.masquerade, flow.local, flow.zone), (None, false, 0));
        assert_eq!((flow.frontend_index, flow.backend_ref.index()), (service.index, 0));
        assert_ne!(flow.backend_ref.generation(), 0);

        host.pass(Duration::from_secs(7));
        exchange(&host, cast, cast.client, &[(true, FIN | ACK), (false, FIN | ACK), (true, ACK)]);
        host.pass(Duration::from_secs(9));
        collect(&host);
        assert_eq!(told(&host), [], "its time is not over");
        host.pass(Duration::from_secs(4));
        collect(&host);
        let end = closed(&host);
        assert_eq!((end.flow, end.reason, end.answered), (flow, CloseReason::Finished, true));
        assert_eq!(end.time, Duration::from_secs(1020));
        let idle = end.idle.as_secs_f64();
        assert!((12.8..=13.2).contains(&idle), "13 s, to a tick: {idle}");
        let text = Event::Closed(end).to_string();
        assert!(text.starts_with("closed tcp ") && text.contains(": finished, idle for 1"), "{text}");
    }
}

/// Source, port and interface of one that is masqueraded, and the end of one that nobody answered.
#[test]
fn what_backends_see_is_told() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(16);
        host.serve(cast, UDP);
        wants(&host, EventOptions::default());
        host.client_sends(&udp(cast.client, cast.service));
        let nat = own_port(cast, FIRST);
        let flow = opened(&host).flow;
        assert_eq!(flow.masquerade, Some(nat.parse().unwrap()));
        let Cast { client, service, backend, .. } = cast;
        assert_eq!(flow.to_string(), format!("udp {client} > {service} to {backend} as {nat}"));
        host.pass(Duration::from_secs(70));
        collect(&host);
        let end = closed(&host);
        assert_eq!((end.flow, end.reason, end.answered), (flow, CloseReason::TimedOut, false));
        assert!(Event::Closed(end).to_string().ends_with(": timed-out, never answered, idle for 70.1 s"));
    }
}

#[test]
fn a_local_backend_is_told_of_as_such() {
    let mut host = Host::new();
    let backend = host.local_backend(V4.backend);
    host.service(V4.service, TCP, &[backend]);
    wants(&host, EventOptions::default());
    host.client_sends(&tcp(V4.client, V4.service, SYN));
    let opened = opened(&host);
    assert!(opened.flow.local && opened.hook == Hook::Xdp && opened.interface == FRONT, "{opened:?}");
    assert!(opened.to_string().ends_with(" on this host at xdp of interface 2"), "{opened}");
}

/// Each way in which a packet ends the flow that stands in its way.
#[test]
fn a_flow_that_another_takes_the_place_of_is_closed_for_its_own_reason() {
    type End =
        fn(&mut Host, Cast, [dataplane_core::abi::BackendRef; 2], dataplane_testkit::fill::FilledService);
    type Story = (CloseReason, &'static [(bool, u8)], End);
    let ends: [Story; 6] = [
        (CloseReason::Finished, &[(true, FIN | ACK), (false, FIN | ACK)], |_, _, _, _| {}),
        (CloseReason::Reset, &[(false, RST)], |_, _, _, _| {}),
        (CloseReason::TimedOut, &[], |host, _, _, _| host.pass(Duration::from_secs(6 * 3600 + 2))),
        (CloseReason::BackendGone, &[], |host, cast, backends, service| {
            host.point(service, &backends[1..]);
            host.remove(backends[0], cast);
        }),
        // It comes back with another index.
        (CloseReason::FrontendGone, &[], |host, cast, backends, service| {
            host.simulator.tables().service_words().store(service.index, &[0]).unwrap();
            host.service(cast.service, TCP, &backends);
        }),
        (CloseReason::BackendDraining, &[], |host, cast, backends, service| {
            host.point(service, &backends[1..]);
            host.drain(backends[0], cast);
        }),
    ];
    for cast in [V4, V6] {
        for (reason, packets, end) in ends {
            let mut host = Host::new();
            let backends = [host.backend(cast.backend), host.backend(cast.other_backend)];
            let service = host.service(cast.service, TCP, &backends[..1]);
            // Only who is still connecting leaves a backend that drains.
            let begins = if reason == CloseReason::BackendDraining { 1 } else { 3 };
            exchange(&host, cast, cast.client, &HANDSHAKE[..begins]);
            exchange(&host, cast, cast.client, packets);
            end(&mut host, cast, backends, service);
            wants(&host, EventOptions::default());
            host.client_sends(&tcp(cast.client, cast.service, SYN));
            match told(&host)[..] {
                [Event::Closed(closed), Event::Opened(opened)] => {
                    assert_eq!((closed.reason, closed.answered), (reason, begins == 3));
                    assert_eq!(closed.flow.client, opened.flow.client);
                    assert_eq!(closed.flow.backend, cast.backend.parse().unwrap());
                }
                ref other => panic!("{reason:?}: {other:?}"),
            }
        }
    }
}

/// By the collector, before its time is over: its backend left its service.
#[test]
fn a_flow_that_is_revoked_is_closed_for_its_backend() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        exchange(&host, cast, cast.client, &HANDSHAKE);
        wants(&host, EventOptions::default());
        let tables = host.simulator.tables();
        let at = Moment::of(&**tables);
        let (v4, v6) = (tables.conntrack_v4().entries(), tables.conntrack_v6().entries());
        let backend = v4.map(|entry| entry.unwrap().1.backend);
        let backend = backend.chain(v6.map(|entry| entry.unwrap().1.backend)).next().unwrap();
        let revoked = Revoked { frontend: service.index, backend };
        let v4: Vec<_> = tables.conntrack_v4().entries().map(|entry| entry.unwrap().0).collect();
        let v6: Vec<_> = tables.conntrack_v6().entries().map(|entry| entry.unwrap().0).collect();
        let v4: Vec<_> = v4.into_iter().map(|tuple| Suspect { tuple, revoked }).collect();
        let v6: Vec<_> = v6.into_iter().map(|tuple| Suspect { tuple, revoked }).collect();
        tables.flows_v4().collect(&v4, &at, &mut Vec::new()).unwrap();
        tables.flows_v6().collect(&v6, &at, &mut Vec::new()).unwrap();
        assert_eq!((closed(&host).reason, host.entries()), (CloseReason::BackendGone, 0));
    }
}

/// Ports of source NAT: the flow that loses its port is closed, once.
#[test]
fn a_flow_that_loses_its_port_is_closed() {
    for cast in [V4, V6] {
        let mut host = host_with_ports(1);
        host.serve(cast, TCP);
        host.client_sends(&tcp(cast.client, cast.service, SYN));
        host.pass(Duration::from_secs(3));
        wants(&host, EventOptions::default());
        let mut other: std::net::SocketAddr = cast.client.parse().unwrap();
        other.set_port(2);
        host.client_sends(&tcp(&other.to_string(), cast.service, SYN));
        match told(&host)[..] {
            [Event::Closed(closed), Event::Opened(opened)] => {
                assert_eq!((closed.reason, closed.answered), (CloseReason::PortTaken, false));
                let (lost, has) = (closed.flow, opened.flow);
                assert_eq!(lost.client, cast.client.parse().unwrap());
                assert_eq!((lost.frontend, lost.backend), (has.frontend, has.backend));
                assert_eq!((lost.masquerade, lost.backend_ref), (has.masquerade, has.backend_ref));
                assert_eq!(lost.masquerade, Some(own_port(cast, FIRST).parse().unwrap()));
                assert_eq!(has.client, other);
            }
            ref other => panic!("{other:?}"),
        }
        // Its entries are gone: the collector finds the other one's only.
        host.pass(Duration::from_secs(100));
        collect(&host);
        assert_eq!(closed(&host).flow.client, other);
    }
}

#[test]
fn drops_are_told_of_up_to_the_limit() {
    for cast in [V4, V6] {
        let mut host = Host::new();
        let service = host.serve(cast, TCP);
        host.point(service, &[]);
        wants(&host, EventOptions::default().with_drops_a_second(3));
        for _ in 0..5 {
            host.client_sends(&tcp(cast.client, cast.service, SYN));
        }
        let Cast { client, service, .. } = cast;
        let answered =
            format!("dropped tcp {client} > {service} at ingress of interface 2: no-backend, and told so");
        assert_eq!(texts(&host), vec![answered; 3]);
        assert_eq!(host.simulator.tables().events().losses(), EventLosses::new(0, 2));
        // A reset opens nothing, whoever serves; and after a second there may be as many again.
        host.pass(Duration::from_secs(2));
        host.client_sends(&tcp(client, service, RST));
        match told(&host)[..] {
            [Event::Dropped(dropped)] => {
                assert_eq!((dropped.reason, dropped.answered), (DropReason::NoFlow, false));
                assert_eq!((dropped.hook, dropped.zone), (Hook::Xdp, 0));
                assert_eq!(dropped.time, Duration::from_secs(1002));
            }
            ref other => panic!("{other:?}"),
        }
    }
}

/// What no other limit holds for finds the ring full, and that is counted; what is read makes room again.
#[test]
fn a_full_ring_loses_what_comes_and_counts_it() {
    for (cast, room) in [(V4, 56), (V6, 34)] {
        let mut host = Host::new();
        host.serve(cast, UDP);
        wants(&host, EventOptions::default().with_ring_bytes(1));
        let send = |port: u16| {
            let mut client: std::net::SocketAddr = cast.client.parse().unwrap();
            client.set_port(port);
            host.client_sends(&Frame::udp(client, cast.service.parse().unwrap()).payload(b"x"));
        };
        (1..=100).for_each(send);
        // 4,096 bytes, of which each takes 72 or 120, and never all.
        let events = told(&host);
        assert_eq!(events.len(), room);
        assert_eq!(host.simulator.tables().events().losses(), EventLosses::new(100 - room as u64, 0));
        send(101);
        assert_eq!(opened(&host).flow.client.port(), 101);
    }
}

/// A ping that is answered is no drop.
#[test]
fn what_is_not_dropped_is_not_told_of() {
    let mut host = Host::new();
    host.serve(V4, TCP);
    wants(&host, EventOptions::default());
    host.client_sends(&udp(V4.client, V4.service));
    host.client_sends(&tcp(V4.client, V4.backend, SYN));
    host.simulator.routes_mut().insert(address(V4.service).into(), Target::Unreachable);
    let answered = host.client_sends(&ping(V4, 40));
    assert_eq!(answered.verdict, Verdict::Answer(AnswerReason::Echo));
    assert_eq!(told(&host), []);
}
