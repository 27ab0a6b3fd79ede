//! Affinity: a client comes to the same backend again, connection after connection, until that backend takes no new ones.

use std::{thread, time::Duration};

use dataplane_core::{
    model::{Affinity, AffinityTimeout, Masquerade},
    tables::Store,
};
use dataplane_testkit::{net::wait_for, require_kernel};

use crate::world::{Front, Hooks, PATIENCE, World};

fn remembers(world: &mut World, seconds: u32) {
    world.affinity = Affinity::ClientIp { timeout: AffinityTimeout::new(seconds).unwrap() };
}

/// How many clients the balancer remembers.
fn remembered(world: &World) -> u32 {
    let tables = world.plane.tables();
    tables.affinity_v4().fill().unwrap() + tables.affinity_v6().fill().unwrap()
}

/// Removes all flows: a client may use a port again, and would go by the flow that it had from there.
fn forget_flows(world: &World) {
    let tables = world.plane.tables();
    for table in [tables.conntrack_v4(), tables.opening_v4()] {
        let keys: Vec<_> = table.entries().map(|entry| entry.unwrap().0).collect();
        table.remove_batch(&keys).unwrap();
    }
    for table in [tables.conntrack_v6(), tables.opening_v6()] {
        let keys: Vec<_> = table.entries().map(|entry| entry.unwrap().0).collect();
        table.remove_batch(&keys).unwrap();
    }
}

/// The one backend that answers so many questions, each on a new flow.
#[track_caller]
fn one_answers(world: &World, front: Front, count: usize) -> String {
    forget_flows(world);
    let mut who = world.ask(front, count);
    who.dedup();
    let [who] = &who[..] else { panic!("{}: {who:?}", front.name()) };
    who.clone()
}

/// A backend that drains in this service and serves another one on, that left it, and that is back.
fn check(hooks: Hooks, masquerade: Masquerade) {
    let mut world = World::new(hooks);
    world.masquerade = masquerade;
    // Each backend serves somebody else, too: none of them ever goes.
    for front in Front::ALL {
        let (name, mut elsewhere) = (format!("{}-too", front.name()), front.virtual_address());
        elsewhere.set_port(elsewhere.port() + 1);
        world.balance_at(&name, elsewhere, front.protocol, (0..3).map(|n| world.backend(front, n)));
    }
    remembers(&mut world, 600);
    world.balance_all();
    for front in Front::ALL {
        let number = |who: &str| (0..3).find(|n| who == format!("backend{n}")).unwrap();
        let first = number(&one_answers(&world, front, 30));
        let without = || (0..3).filter(|&n| n != first).map(|n| world.backend(front, n));
        world.balance(front, without().chain([world.backend(front, first).draining()]));
        let second = number(&one_answers(&world, front, 30));
        assert_ne!(first, second, "{}", front.name());
        world.balance(front, (0..3).map(|n| world.backend(front, n)));
        assert_eq!(number(&one_answers(&world, front, 30)), second, "{}", front.name());
        world.balance(front, (0..3).filter(|&n| n != second).map(|n| world.backend(front, n)));
        let third = number(&one_answers(&world, front, 30));
        assert_ne!(second, third, "{}", front.name());
        assert_eq!(world.counters(front).drops, 0, "{}", front.name());
    }
    assert_eq!(remembered(&world), 4, "one client at four frontends");
}

#[test]
fn tcx_brings_a_client_to_its_backend() {
    require_kernel!();
    check(Hooks::Tcx, Masquerade::Never);
}

#[test]
fn xdp_brings_a_client_to_its_backend() {
    require_kernel!();
    check(Hooks::Xdp, Masquerade::Never);
}

#[test]
fn xdp_brings_a_masqueraded_client_to_its_backend() {
    require_kernel!();
    check(Hooks::Xdp, Masquerade::Auto);
}

/// Connections at once on all CPUs: nobody is lost, and all of them come to one backend.
#[test]
fn connections_at_once_come_to_one_backend() {
    require_kernel!();
    let mut world = World::new(Hooks::Tcx);
    remembers(&mut world, 600);
    world.balance_all();
    for front in Front::ALL {
        let who: Vec<Vec<String>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| world.ask(front, 10))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let mut who = who.concat();
        who.sort();
        who.dedup();
        assert_eq!(who.len(), 1, "{}: {who:?}", front.name());
    }
}

/// Without a second question the client is forgotten: sooner or later it comes to another backend.
#[test]
fn a_client_is_forgotten_after_the_time_out() {
    require_kernel!();
    let mut world = World::new(Hooks::Tcx);
    for front in [Front::TCP_V4, Front::UDP_V6] {
        // However slowly they are asked.
        remembers(&mut world, 600);
        world.balance_all();
        let first = one_answers(&world, front, 20);
        remembers(&mut world, 1);
        world.balance_all();
        let another = || {
            // Longer than a second and a tick, in which nobody comes.
            thread::sleep(Duration::from_millis(1_300));
            world.ask(front, 1) != [first.clone()]
        };
        wait_for(PATIENCE, "another backend", another).unwrap();
    }
}
