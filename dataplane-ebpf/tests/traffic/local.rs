//! Backends on the balancer itself: the stack delivers to them, and their answers leave under the virtual address.

use dataplane_core::{
    model::{Backend, Locality, Protocol},
    pipeline::{Hook, LeaveReason, Verdict},
};
use dataplane_testkit::{
    net::{HttpServer, UdpEchoServer, http, wait_for},
    require_kernel,
};

use crate::world::{Count, Front, Hooks, PATIENCE, Sent, World, assert_checksums, backend_port};

fn check(hooks: Hooks, locality: Locality) -> World {
    let world = World::new(hooks);
    let (balancer, here) = (&world.net.balancer, world.net.backends[0].gateways);
    let _web = HttpServer::start(balancer, "balancer", &here.with_port(backend_port(Protocol::Tcp))).unwrap();
    let _echo =
        UdpEchoServer::start(balancer, "balancer", &here.with_port(backend_port(Protocol::Udp))).unwrap();
    for front in Front::ALL {
        let address = here.both()[usize::from(front.v6)];
        let backend = Backend::new(address, backend_port(front.protocol)).unwrap();
        world.balance(front, [backend.with_locality(locality)]);
    }
    // At egress it is always tc that counts.
    let sent = || {
        let [client, balancer] = [&world.net.client, balancer].map(|host| host.statistics().unwrap());
        [Count::of(&client, hooks), Count::of(&balancer, Hooks::Tcx)]
    };
    let before = sent();
    for front in Front::ALL {
        assert_eq!(world.ask(front, 20), vec!["balancer"; 20], "{}", front.name());
    }
    for front in Front::TCP {
        world.net.client.run(|| {
            http::download(front.virtual_address(), 1 << 20, PATIENCE).unwrap();
            http::upload(front.virtual_address(), 1 << 20, PATIENCE).unwrap();
        });
    }
    let mut seen = String::new();
    let outcome = wait_for(PATIENCE, "counters that account for every packet", || {
        let (counted, now) = ([false, true].map(|v6| world.family_counters(v6)), sent());
        seen = format!("{counted:?}, sent {now:?} from {before:?} on");
        now[0].since(before[0]).is(counted.map(|family| family.packets))
            && now[1].since(before[1]).is(counted.map(|family| family.reply_packets))
    });
    outcome.unwrap_or_else(|error| panic!("{error}: {seen}"));
    let [asked, answered] = [Hook::Ingress, Hook::Egress].map(|hook| world.count(hook, Verdict::Deliver));
    let counted = [false, true].map(|v6| world.family_counters(v6));
    assert_eq!(asked, counted.iter().map(|family| family.packets).sum::<u64>());
    assert_eq!(answered, counted.iter().map(|family| family.reply_packets).sum::<u64>());
    assert_checksums(balancer);
    assert_checksums(&world.net.client);
    world
}

#[test]
fn backends_declared_local_are_answered_for() {
    require_kernel!();
    check(Hooks::Tcx, Locality::Local);
}

#[test]
fn backends_that_turn_out_to_be_local_are_answered_for() {
    require_kernel!();
    check(Hooks::Tcx, Locality::Remote);
}

#[test]
fn clsact_answers_for_local_backends() {
    require_kernel!();
    check(Hooks::Clsact, Locality::Local);
}

#[test]
fn xdp_leaves_local_backends_to_tcx() {
    require_kernel!();
    for locality in [Locality::Local, Locality::Remote] {
        let world = check(Hooks::Xdp, locality);
        assert!(world.count(Hook::Xdp, Verdict::Leave(LeaveReason::Local)) > 0);
        assert_eq!(world.count(Hook::Xdp, Verdict::Forward), 0);
    }
}

/// Backends on links that are no uplinks: their answers come to the stack, which forwards them to an uplink.
fn check_behind(hooks: Hooks, locality: Locality) {
    let world = World::at(hooks, World::topology(hooks, 2), &["to-client".to_owned()], |builder| builder);
    for front in Front::ALL {
        world.balance(front, (0..2).map(|number| world.backend(front, number).with_locality(locality)));
    }
    let before = Sent::by(&world.net);
    for front in Front::ALL {
        let mut who = world.ask(front, 30);
        who.sort();
        who.dedup();
        assert_eq!(who, ["backend0", "backend1"], "{}", front.name());
    }
    for front in Front::TCP {
        world.net.client.run(|| {
            http::download(front.virtual_address(), 1 << 20, PATIENCE).unwrap();
            http::upload(front.virtual_address(), 1 << 20, PATIENCE).unwrap();
        });
    }
    world.account(&before);
    let counted = [false, true].map(|v6| world.family_counters(v6));
    let answered: u64 = counted.iter().map(|family| family.reply_packets).sum();
    assert_eq!(world.count(Hook::Egress, Verdict::Deliver), answered);
    assert_checksums(&world.net.client);
}

#[test]
fn backends_behind_the_balancer_are_answered_for() {
    require_kernel!();
    check_behind(Hooks::Tcx, Locality::Local);
    check_behind(Hooks::Tcx, Locality::Remote);
}
