//! Nothing is lost while a neighbour is being resolved.

use dataplane_core::pipeline::{Hook, LeaveReason, Verdict};
use dataplane_testkit::{
    net::{Statistics, wait_for},
    require_kernel,
};

use crate::world::{Front, Hooks, PATIENCE, World};

const CONNECTIONS: usize = 50;

/// Forgets the backends' neighbours before each connection, and asserts that every packet that was sent came.
fn check(hooks: Hooks) -> World {
    let world = World::new(hooks);
    world.balance_all();
    for front in Front::ALL {
        for number in 0..CONNECTIONS {
            let mut known = 0;
            for backend in &world.net.backends {
                let address = backend.addresses.both()[usize::from(front.v6)];
                known += usize::from(backend.balancer_side.flush_neighbour(address).unwrap());
            }
            assert!(number == 0 || known > 0, "the last connection left a neighbour behind");
            world.ask(front, 1);
        }
    }
    let backends = || world.net.backends.iter().map(|backend| backend.namespace.statistics().unwrap());
    // Who is slow to answer is asked twice: that is no loss. So what one side sent, each time, is what the other received.
    let mut last = String::new();
    wait_for(PATIENCE, "all TCP segments have come", || {
        let (client, backends) = (world.net.client.statistics().unwrap(), backends().collect::<Vec<_>>());
        let of = |count: fn(&Statistics) -> u64| backends.iter().map(count).sum::<u64>();
        let (requests, replies) = (client.tcp_segments_sent(), of(Statistics::tcp_segments_sent));
        let received = (of(|backend| backend.tcp.in_segments), client.tcp.in_segments);
        last = format!("sent {requests} and {replies}, received {received:?}");
        (requests, replies) == received
    })
    .unwrap_or_else(|error| panic!("{error}: {last}"));
    // A datagram that is lost is not sent again: the question would not have been answered.
    let client = world.net.client.statistics().unwrap();
    assert_eq!(client.udp.out_datagrams + client.udp6.out_datagrams, 2 * CONNECTIONS as u64);
    world
}

#[test]
fn tcx_waits_for_a_cold_neighbour() {
    require_kernel!();
    check(Hooks::Tcx);
}

#[test]
fn xdp_leaves_a_cold_neighbour_to_tcx() {
    require_kernel!();
    let world = check(Hooks::Xdp);
    let left = world.count(Hook::Xdp, Verdict::Leave(LeaveReason::NoNeighbor));
    let by_tcx = world.count(Hook::Ingress, Verdict::Forward);
    assert!(left >= 4 * CONNECTIONS as u64, "{left} left");
    if world.hooks.xdp_redirects() {
        assert_eq!(left, by_tcx, "nothing else was left to tcx");
        assert!(world.count(Hook::Xdp, Verdict::Forward) > 0);
    }
}
