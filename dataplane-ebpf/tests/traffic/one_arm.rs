//! A client among the backends: frames leave by the interface that they came in by.

use dataplane_core::pipeline::{Hook, Verdict};
use dataplane_testkit::{
    net::{BackendLinks, LoadBalancerTopology, Route},
    require_kernel,
};

use crate::world::{Front, Hooks, World};

fn check(hooks: Hooks) -> World {
    let builder = LoadBalancerTopology::builder(3).links(BackendLinks::Shared);
    let net = if hooks == Hooks::Xdp { builder.for_xdp() } else { builder }.build().unwrap();
    let world = World::with(hooks, net, |builder| builder);
    let [one, two, client] = world.net.backends.as_slice() else { unreachable!() };
    // Answers must come back by the balancer, though the client is a neighbour.
    for backend in [one, two] {
        for (address, gateway) in client.addresses.both().into_iter().zip(client.gateways.both()) {
            backend.namespace.add_route(&Route::to(address.into()).via(gateway)).unwrap();
        }
    }
    for front in Front::ALL {
        world.balance(front, (0..2).map(|number| world.backend(front, number)));
        let mut who: Vec<String> = client.namespace.run(|| (0..30).map(|_| front.ask().unwrap()).collect());
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
