//! Datagrams that are too long for one packet: real stacks split them and put them together.

use dataplane_core::{
    model::{Backend, Locality, Masquerade},
    pipeline::{Hook, Verdict},
    tables::Store,
};
use dataplane_testkit::{
    net::{LoadBalancerTopology, Namespace, Route, UdpClient, UdpEchoServer},
    require_kernel,
};

use crate::world::{Front, Hooks, PATIENCE, World, assert_checksums, backend_port};

/// Three packets of an MTU of 1500, and six.
const LENGTHS: [usize; 3] = [3_000, 4_440, 8_000];
const UDP: [Front; 2] = [Front::UDP_V4, Front::UDP_V6];

/// Long datagrams there and back, on flows of their own and on one that stands. Answers who answered.
fn exchange(client: &Namespace, front: Front) {
    client.run(|| {
        for length in LENGTHS {
            let socket = UdpClient::connect(front.virtual_address()).unwrap();
            for turn in 0..3usize {
                let payload: Vec<u8> = (0..length).map(|at| (at * 7 + turn) as u8).collect();
                // The echo is compared with it, byte by byte.
                let echo = socket.exchange(&payload, PATIENCE);
                echo.unwrap_or_else(|error| panic!("{} {length} {turn}: {error}", front.name()));
            }
        }
    });
}

fn check(hooks: Hooks, masquerade: Masquerade) -> World {
    let mut world = World::new(hooks);
    world.masquerade = masquerade;
    if masquerade == Masquerade::Auto {
        for backend in &world.net.backends {
            for gateway in backend.gateways.both() {
                backend.namespace.delete_route(&Route::default_via(gateway)).unwrap();
            }
        }
    }
    world.balance_all();
    check_parts(&world, &world.net.client);
    assert_checksums(&world.net.client);
    world
}

/// Long datagrams of both families are balanced, part by part, and nothing is dropped.
pub fn check_parts(world: &World, client: &Namespace) {
    for front in UDP {
        exchange(client, front);
        let counted = world.counters(front);
        // 3, 4 and 6 parts, or one more where a header is longer, three times each, either way.
        assert!(counted.packets >= 39 && counted.reply_packets >= 39, "{}: {counted:?}", front.name());
        assert_eq!((counted.flows, counted.drops), (3, 0), "{}", front.name());
    }
    let tables = world.plane.tables();
    for fill in [tables.fragments_v4().fill(), tables.fragments_v6().fill()] {
        assert!(fill.unwrap() >= 18, "nine datagrams, either way");
    }
    for backend in &world.net.backends {
        assert_checksums(&backend.namespace);
    }
}

/// The balancer's own stack forwarded none and put none together.
pub fn assert_past_the_stack(net: &LoadBalancerTopology) {
    let stack = net.balancer.statistics().unwrap();
    assert_eq!((stack.ip.forwarded, stack.ip6.forwarded), (0, 0));
}

#[test]
fn tcx_carries_datagrams_in_parts() {
    require_kernel!();
    assert_past_the_stack(&check(Hooks::Tcx, Masquerade::Never).net);
}

#[test]
fn tcx_carries_masqueraded_datagrams_in_parts() {
    require_kernel!();
    assert_past_the_stack(&check(Hooks::Tcx, Masquerade::Auto).net);
}

#[test]
fn clsact_carries_datagrams_in_parts() {
    require_kernel!();
    check(Hooks::Clsact, Masquerade::Never);
    check(Hooks::Clsact, Masquerade::Auto);
}

#[test]
fn xdp_carries_datagrams_in_parts() {
    require_kernel!();
    let world = check(Hooks::Xdp, Masquerade::Never);
    if world.hooks.xdp_redirects() {
        assert!(world.count(Hook::Xdp, Verdict::Forward) > 100);
    }
}

#[test]
fn xdp_carries_masqueraded_datagrams_in_parts() {
    require_kernel!();
    let world = check(Hooks::Xdp, Masquerade::Auto);
    if world.hooks.xdp_redirects() {
        assert!(world.count(Hook::Xdp, Verdict::Forward) > 100);
    }
}

/// A backend on the balancer itself: its stack puts the parts together, and splits what it answers.
#[test]
fn local_backends_take_and_send_datagrams_in_parts() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Xdp] {
        let world = World::new(hooks);
        let here = world.net.backends[0].gateways;
        let addresses = here.with_port(backend_port(Front::UDP_V4.protocol));
        let _echo = UdpEchoServer::start(&world.net.balancer, "balancer", &addresses).unwrap();
        for front in UDP {
            let address = here.both()[usize::from(front.v6)];
            let backend = Backend::new(address, backend_port(front.protocol)).unwrap();
            world.balance(front, [backend.with_locality(Locality::Local)]);
            exchange(&world.net.client, front);
        }
        assert!(world.count(Hook::Egress, Verdict::Deliver) > 70);
        assert_checksums(&world.net.balancer);
        assert_checksums(&world.net.client);
    }
}
