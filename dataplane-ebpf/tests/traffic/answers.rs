//! Whoever sent what is dropped is told, by a packet of ours that real stacks believe.

use std::net::UdpSocket;

use dataplane_core::pipeline::{AnswerReason, DropReason, Hook, Verdict};
use dataplane_testkit::{
    net::{Namespace, http, wait_for},
    require_kernel,
};

use crate::{
    errors::{MASQUERADES, world_of},
    world::{Front, Hooks, PATIENCE, World},
};

/// What the narrow link takes; the least that IPv6 allows.
const NARROW: u32 = 1280;
/// Many segments.
const LENGTH: u64 = 1 << 20;

/// The balancer's own link to the clients, then that to the backend, takes less than what is sent.
fn check_narrow_links(hooks: Hooks) {
    let worlds = MASQUERADES.into_iter().flat_map(|masquerade| [(masquerade, true), (masquerade, false)]);
    for (masquerade, towards_clients) in worlds {
        let world = world_of(hooks, masquerade);
        let link =
            if towards_clients { &world.net.client_side } else { &world.net.backends[0].balancer_side };
        link.set_mtu(NARROW).unwrap();
        for front in Front::TCP {
            world.balance(front, [world.backend(front, 0)]);
            let address = front.virtual_address();
            let bytes = world.net.client.run(|| {
                if towards_clients {
                    http::download(address, LENGTH, PATIENCE).unwrap().bytes
                } else {
                    http::upload(address, LENGTH, PATIENCE).unwrap().bytes
                }
            });
            assert_eq!(bytes, LENGTH, "{}", front.name());
        }
        let sender = if towards_clients { &world.net.backends[0].namespace } else { &world.net.client };
        let heard = sender.statistics().unwrap();
        assert!(heard.icmp.in_destination_unreachable > 0, "{heard:?}");
        assert!(heard.icmp6.in_packet_too_big > 0, "{heard:?}");
        assert_no_errors(sender);
        assert!(world.count(Hook::Ingress, Verdict::Answer(AnswerReason::TooBig)) >= 2);
    }
}

/// No message that came was refused for its checksum.
fn assert_no_errors(host: &Namespace) {
    let seen = host.statistics().unwrap();
    for name in ["Icmp.InCsumErrors", "Icmp6InCsumErrors", "Tcp.InCsumErrors"] {
        assert_eq!(seen.get(name), Some(0), "{name}");
    }
}

#[test]
fn tcx_tells_of_narrow_links() {
    require_kernel!();
    check_narrow_links(Hooks::Tcx);
}

#[test]
fn xdp_and_tcx_tell_of_narrow_links() {
    require_kernel!();
    check_narrow_links(Hooks::Xdp);
}

/// As a trace of the path does: one hop only.
#[test]
fn a_used_up_hop_limit_is_told() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Clsact, Hooks::Xdp] {
        let world = World::new(hooks);
        world.balance_all();
        let told = || world.net.client.statistics().unwrap().get("Icmp.InTimeExcds").unwrap();
        world.net.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_ttl(1).unwrap();
            socket.send_to(b"who?", Front::UDP_V4.virtual_address()).unwrap();
        });
        wait_for(PATIENCE, "time exceeded", || told() == 1).unwrap();
        assert_no_errors(&world.net.client);
        assert_eq!(world.count(Hook::Ingress, Verdict::Answer(AnswerReason::HopLimit)), 1);
    }
}

/// Who asks a hundred times is not told a hundred times.
#[test]
fn a_storm_is_answered_a_little() {
    require_kernel!();
    const STORM: u64 = 400;
    let world =
        World::with(Hooks::Tcx, World::topology(Hooks::Tcx, 1), |builder| builder.answers_a_second(5));
    for front in [Front::UDP_V4, Front::UDP_V6] {
        world.balance(front, []);
        let count = |verdict| world.count(Hook::Ingress, verdict);
        let (answer, limit) =
            (Verdict::Answer(AnswerReason::NoBackend), Verdict::Drop(DropReason::AnswerLimit));
        let before = [count(answer), count(limit)];
        world.net.client.run(|| {
            let socket = UdpSocket::bind(if front.v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            for _ in 0..STORM {
                socket.send_to(b"?", front.virtual_address()).unwrap();
            }
        });
        let counts = || [count(answer) - before[0], count(limit) - before[1]];
        wait_for(PATIENCE, "every question", || counts().iter().sum::<u64>() == STORM).unwrap();
        // A few for each CPU, however slow the machine.
        let [answered, limited] = counts();
        assert!(limited > STORM / 2, "{answered} answered, {limited} limited");
    }
}
