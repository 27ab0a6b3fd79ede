//! A client among the backends: frames leave by the interface that they came in by.

use dataplane_core::{
    model::Masquerade,
    pipeline::{Hook, Verdict},
};
use dataplane_testkit::{
    net::{BackendHost, BackendLinks, LoadBalancerTopology, Route},
    require_kernel,
};

use crate::{
    errors::{MASQUERADES, check_closed_port, check_narrow_backend, check_narrow_client},
    fragments::{assert_past_the_stack, check_parts},
    world::{Front, Hooks, World},
};

/// Three hosts on one link with the balancer: two backends, over which all is balanced, and a client.
fn one_armed(hooks: Hooks, masquerade: Masquerade) -> World {
    let builder = LoadBalancerTopology::builder(3).links(BackendLinks::Shared);
    let net = if hooks == Hooks::Xdp { builder.for_xdp() } else { builder }.build().unwrap();
    let mut world = World::with(hooks, net, |builder| builder);
    world.masquerade = masquerade;
    let (client, backends) = world.net.backends.split_last().unwrap();
    // Answers must come back by the balancer, though the client is a neighbour.
    for backend in backends.iter().filter(|_| masquerade == Masquerade::Never) {
        for (address, gateway) in client.addresses.both().into_iter().zip(client.gateways.both()) {
            backend.namespace.add_route(&Route::to(address.into()).via(gateway)).unwrap();
        }
    }
    for front in Front::ALL {
        world.balance(front, (0..2).map(|number| world.backend(front, number)));
    }
    world
}

fn client(world: &World) -> &BackendHost {
    &world.net.backends[2]
}

fn check(hooks: Hooks) -> World {
    let world = one_armed(hooks, Masquerade::Never);
    for front in Front::ALL {
        let ask = || (0..30).map(|_| front.ask().unwrap()).collect();
        let mut who: Vec<String> = client(&world).namespace.run(ask);
        who.sort();
        who.dedup();
        assert_eq!(who, ["backend0", "backend1"], "{}", front.name());
    }
    world
}

#[test]
fn tcx_sends_back_where_it_came_from() {
    require_kernel!();
    let world = check(Hooks::Tcx);
    assert!(world.count(Hook::Ingress, Verdict::Forward) > 0);
}

#[test]
fn xdp_sends_back_where_it_came_from() {
    require_kernel!();
    let world = check(Hooks::Xdp);
    let by_tcx = world.count(Hook::Ingress, Verdict::Forward);
    assert!(world.count(Hook::Xdp, Verdict::Forward) > 100 && by_tcx <= 24, "{by_tcx} by tcx");
}

/// Errors of a backend, of a router among the clients, and of one before a backend.
fn check_errors(hooks: Hooks) {
    for masquerade in MASQUERADES {
        let world = one_armed(hooks, masquerade);
        let host = client(&world);
        check_narrow_client(&world, &host.namespace, host.addresses.both());
        check_closed_port(&world, &host.namespace);
        let world = one_armed(hooks, masquerade);
        check_narrow_backend(&world, &client(&world).namespace);
    }
}

#[test]
fn tcx_sends_errors_back_where_they_came_from() {
    require_kernel!();
    check_errors(Hooks::Tcx);
}

#[test]
fn xdp_sends_errors_back_where_they_came_from() {
    require_kernel!();
    check_errors(Hooks::Xdp);
}

#[test]
fn tcx_sends_parts_back_where_they_came_from() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = one_armed(Hooks::Tcx, masquerade);
        check_parts(&world, &client(&world).namespace);
        assert_past_the_stack(&world.net);
    }
}

#[test]
fn xdp_sends_parts_back_where_they_came_from() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = one_armed(Hooks::Xdp, masquerade);
        check_parts(&world, &client(&world).namespace);
        assert!(world.count(Hook::Xdp, Verdict::Forward) > 100);
    }
}
