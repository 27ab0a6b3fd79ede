//! Flows are spread over all backends, answered by the virtual address, and counted to the packet.

use std::collections::BTreeSet;

use dataplane_core::pipeline::{Hook, LeaveReason, Verdict};
use dataplane_testkit::require_kernel;

use crate::world::{Front, Hooks, Sent, World, assert_checksums};

/// So many flows of a kind that one of three backends gets none of them once in ten million runs.
const FLOWS: usize = 42;

fn check(hooks: Hooks, fronts: &[Front]) -> World {
    let world = World::new(hooks);
    world.balance_all();
    let before = Sent::by(&world.net);
    for front in fronts {
        let who: BTreeSet<String> = world.ask(*front, FLOWS).into_iter().collect();
        assert_eq!(who.len(), 3, "{}: {who:?}", front.name());
        let counted = world.counters(*front);
        assert_eq!(counted.flows, FLOWS as u64, "{}: {counted:?}", front.name());
        assert_eq!(counted.drops, 0, "{}", front.name());
    }
    world.account(&before);
    assert_checksums(&world.net.client);
    for backend in &world.net.backends {
        assert_checksums(&backend.namespace);
    }
    world
}

#[test]
fn tcx_balances_with_every_offload_on() {
    require_kernel!();
    let world = check(Hooks::Tcx, &Front::ALL);
    assert!(world.count(Hook::Ingress, Verdict::Forward) > 0);
    assert_eq!(world.count(Hook::Xdp, Verdict::Forward), 0);
    // Nothing went through the stack: neither the packets, nor anything about them.
    let stack = world.net.balancer.statistics().unwrap();
    assert_eq!((stack.ip.forwarded, stack.ip6.forwarded, stack.icmp.out_messages), (0, 0, 0));
}

#[test]
fn clsact_balances_with_every_offload_on() {
    require_kernel!();
    let world = check(Hooks::Clsact, &Front::ALL);
    assert!(world.count(Hook::Ingress, Verdict::Forward) > 0);
}

fn check_xdp(hooks: Hooks) {
    let world = check(hooks, &Front::ALL);
    let (by_xdp, by_tcx) =
        (world.count(Hook::Xdp, Verdict::Forward), world.count(Hook::Ingress, Verdict::Forward));
    let through = [false, true].map(|v6| world.family_counters(v6));
    let all: u64 = through.iter().map(|counted| counted.packets + counted.reply_packets).sum();
    assert_eq!(by_xdp + by_tcx, all);
    if !hooks.xdp_redirects() {
        let left = world.count(Hook::Xdp, Verdict::Leave(LeaveReason::Interface));
        assert!(by_xdp == 0 && left > 100 && left <= by_tcx, "{by_xdp} by XDP, {left} left, {by_tcx} by tc");
        return;
    }
    // Until a neighbour is known, tcx has it resolved: three backends and a client, in two families.
    let most = if hooks == Hooks::Xdp { 24 } else { 0 };
    assert!(by_tcx <= most && by_xdp > 100, "{by_xdp} by XDP, {by_tcx} by tcx");
    for front in Front::ALL {
        world.ask(front, 4);
    }
    assert_eq!(world.count(Hook::Ingress, Verdict::Forward), by_tcx, "once all neighbours are known");
}

#[test]
fn xdp_balances_and_leaves_nothing_to_tcx() {
    require_kernel!();
    check_xdp(Hooks::Xdp);
}

#[test]
fn xdp_in_the_stack_balances_and_leaves_nothing_to_tcx() {
    require_kernel!();
    check_xdp(Hooks::XdpGeneric);
}
