//! Packets that are not served: refused by name, or left to the stack as if we were not there.

use std::{io, net::SocketAddr, net::TcpStream, time::Duration};

use dataplane_core::{
    model::{Protocol, Weight},
    pipeline::{AnswerReason, Hook, Verdict},
};
use dataplane_testkit::{
    net::{AddressPlan, LoadBalancerTopology, UdpClient, wait_for},
    require_kernel,
};

use crate::world::{Front, Hooks, PATIENCE, World, ask, backend_port, packets};

/// Long enough for an answer, were there one.
const SHORT: Duration = Duration::from_millis(300);

fn check_refused(hooks: Hooks) {
    let world = World::new(hooks);
    let (hook, answered) = (Hook::Ingress, Verdict::Answer(AnswerReason::NoBackend));
    for front in Front::ALL {
        let weightless = |number| world.backend(front, number).with_weight(Weight::new(0).unwrap());
        // Nobody, and three whose weights are all 0.
        for backends in [vec![], (0..3).map(weightless).collect()] {
            world.balance(front, backends);
            let before = (
                world.count(hook, answered),
                packets(&world.net.client.statistics().unwrap(), front.v6),
                world.counters(front).drops,
            );
            // At once, and not for want of an answer.
            let errno = world.net.client.run(|| refusal(front.protocol, front.virtual_address()));
            assert_eq!(errno, Some(libc::ECONNREFUSED), "{}", front.name());
            let sent = packets(&world.net.client.statistics().unwrap(), front.v6) - before.1;
            assert_eq!((world.count(hook, answered) - before.0, sent), (1, 1), "{}", front.name());
            let counted = world.counters(front);
            assert_eq!(
                (counted.drops - before.2, counted.packets, counted.flows),
                (sent, 0, 0),
                "{}",
                front.name()
            );
        }

        let drops = world.counters(front).drops;
        // A backend that drains is no better for those who come anew.
        world.balance(front, [world.backend(front, 0).draining()]);
        world.net.client.run(|| ask(front.protocol, front.virtual_address(), SHORT)).unwrap_err();
        assert!(world.counters(front).drops > drops);
        assert_eq!(world.counters(front).packets, 0);
        // And a service that gets its first backend serves at once.
        world.balance(front, [world.backend(front, 0)]);
        assert_eq!(world.ask(front, 3), ["backend0"; 3]);
    }
}

#[test]
fn tcx_refuses_what_no_backend_serves() {
    require_kernel!();
    check_refused(Hooks::Tcx);
}

#[test]
fn xdp_leaves_to_tcx_what_is_to_be_refused() {
    require_kernel!();
    check_refused(Hooks::Xdp);
}

/// With which error number a server that is not there refuses us.
pub fn refusal(protocol: Protocol, address: SocketAddr) -> Option<i32> {
    if protocol == Protocol::Tcp {
        return TcpStream::connect_timeout(&address, PATIENCE).unwrap_err().raw_os_error();
    }
    let error = UdpClient::connect(address).unwrap().exchange(b"?", PATIENCE).unwrap_err();
    let cause = std::error::Error::source(&error).and_then(|error| error.downcast_ref::<io::Error>());
    cause.and_then(io::Error::raw_os_error)
}

/// Asks where nobody serves, and asserts that the kernel of the balancer answers as it does by itself: for an address of
/// its own with a reset or port unreachable, for one that nobody has with network unreachable.
fn assert_refusals(net: &LoadBalancerTopology) {
    for address in net.backends[0].gateways.with_port(9) {
        net.client.run(|| {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                assert_eq!(refusal(protocol, address), Some(libc::ECONNREFUSED), "{protocol} to {address}");
            }
        });
    }
    let told = || {
        let client = net.client.statistics().unwrap();
        client.icmp.in_destination_unreachable + client.icmp6.in_destination_unreachable
    };
    // A virtual address at a port that is not served, and an address beside it at one that is.
    let addresses = [
        (Protocol::Udp, AddressPlan::vip(0).with_port(9)),
        (Protocol::Tcp, AddressPlan::vip(1).with_port(80)),
    ];
    for (protocol, addresses) in addresses {
        for address in addresses {
            let before = told();
            // The kernel says it once a second; to a socket of either kind it is no reason to give up.
            wait_for(PATIENCE, "destination unreachable", || {
                net.client.run(|| ask(protocol, address, SHORT)).unwrap_err();
                told() > before
            })
            .unwrap_or_else(|error| panic!("{error}: {protocol} to {address}"));
        }
    }
}

fn check_untouched(hooks: Hooks) {
    let net = World::topology(hooks, 2);
    // "No route" has a limit of its own, and would never get past both.
    net.balancer.sysctls(&[("net/ipv4/icmp_ratemask", "0"), ("net/ipv6/icmp/ratelimit", "0")]).unwrap();
    assert_refusals(&net);
    let world = World::with(hooks, net, |builder| builder);
    world.balance_all();
    assert_refusals(&world.net);

    // Past us, to a backend that is served too: the stack forwards it.
    for (number, backend) in world.net.backends.iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for address in backend.addresses.with_port(backend_port(protocol)) {
                let who = world.net.client.run(|| ask(protocol, address, PATIENCE)).unwrap();
                assert_eq!(who, format!("backend{number}"));
            }
        }
    }
    let stack = world.net.balancer.statistics().unwrap();
    assert!(stack.ip.forwarded > 20 && stack.ip6.forwarded > 20, "{stack:?}");
    for v6 in [false, true] {
        let counted = world.family_counters(v6);
        assert_eq!((counted.packets, counted.reply_packets, counted.flows, counted.drops), (0, 0, 0, 0));
    }
    for hook in Hook::ALL {
        let touched = Verdict::all().filter(|verdict| !matches!(verdict, Verdict::Pass(_)));
        for verdict in touched {
            assert_eq!(world.count(hook, verdict), 0, "{hook:?} {verdict}");
        }
    }
}

#[test]
fn tcx_leaves_what_is_not_ours_to_the_stack() {
    require_kernel!();
    check_untouched(Hooks::Tcx);
}

#[test]
fn xdp_leaves_what_is_not_ours_to_the_stack() {
    require_kernel!();
    check_untouched(Hooks::Xdp);
}
