//! Source NAT: backends that know no way to clients answer all the same, and no two flows are mixed up.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use dataplane_core::{
    control::ControllerBuilder,
    model::{Masquerade, NatPorts, Protocol},
    pipeline::{DropReason, Hook, Timeouts, Verdict},
    tables::Store,
};
use dataplane_ebpf::Warning;
use dataplane_testkit::{
    child,
    net::{AddressPlan, BackendLinks, Interface, LoadBalancerTopology, Route, wait_for},
    require_kernel,
};

use crate::world::{Front, Hooks, PATIENCE, Sent, World, ask, assert_checksums, backend_port};

/// Takes every way to the client from the backends: what they answer must be sent to the balancer.
pub fn cut_off(net: &LoadBalancerTopology) {
    for backend in &net.backends {
        for gateway in backend.gateways.both() {
            backend.namespace.delete_route(&Route::default_via(gateway)).unwrap();
        }
    }
}

fn reservations(world: &World) -> u32 {
    let tables = world.plane.tables();
    tables.nat_v4().fill().unwrap() + tables.nat_v6().fill().unwrap()
}

fn check(hooks: Hooks) -> World {
    let mut world = World::new(hooks);
    world.masquerade = Masquerade::Auto;
    cut_off(&world.net);
    world.balance_all();
    let before = Sent::by(&world.net);
    for front in Front::ALL {
        let mut who = world.ask(front, 30);
        who.sort();
        who.dedup();
        assert_eq!(who, ["backend0", "backend1", "backend2"], "{}", front.name());
        assert_eq!(world.counters(front).drops, 0, "{}", front.name());
    }
    world.account(&before);
    assert!(reservations(&world) >= 100, "{} reservations", reservations(&world));
    assert_checksums(&world.net.client);
    for backend in &world.net.backends {
        assert_checksums(&backend.namespace);
    }
    world
}

#[test]
fn tcx_brings_answers_back_that_know_no_way() {
    require_kernel!();
    let world = check(Hooks::Tcx);
    let stack = world.net.balancer.statistics().unwrap();
    assert_eq!((stack.ip.forwarded, stack.ip6.forwarded, stack.icmp.out_messages), (0, 0, 0));
}

#[test]
fn clsact_brings_answers_back_that_know_no_way() {
    require_kernel!();
    check(Hooks::Clsact);
}

#[test]
fn xdp_brings_answers_back_that_know_no_way() {
    require_kernel!();
    let world = check(Hooks::Xdp);
    if world.hooks.xdp_redirects() {
        assert!(world.count(Hook::Xdp, Verdict::Forward) > 100);
    }
}

/// One arm: a backend is its own client, and its own neighbours' client, and nobody has a way round.
fn check_hairpin(hooks: Hooks) {
    let builder = LoadBalancerTopology::builder(2).links(BackendLinks::Shared);
    let net = if hooks == Hooks::Xdp { builder.for_xdp() } else { builder }.build().unwrap();
    let mut world = World::with(hooks, net, |builder| builder);
    world.masquerade = Masquerade::Auto;
    for front in Front::ALL {
        world.balance(front, (0..2).map(|number| world.backend(front, number)));
        let client = &world.net.backends[0].namespace;
        let mut who: Vec<String> = client.run(|| (0..30).map(|_| front.ask().unwrap()).collect());
        who.sort();
        who.dedup();
        assert_eq!(who, ["backend0", "backend1"], "{}", front.name());
    }
}

#[test]
fn a_backend_is_its_own_client_at_tcx() {
    require_kernel!();
    check_hairpin(Hooks::Tcx);
}

#[test]
fn a_backend_is_its_own_client_at_xdp() {
    require_kernel!();
    check_hairpin(Hooks::Xdp);
}

/// A backend that control takes for local, behind an uplink: only `always` brings its answers back.
#[test]
fn always_is_always() {
    require_kernel!();
    let mut world = World::new(Hooks::Tcx);
    world.masquerade = Masquerade::Always;
    cut_off(&world.net);
    for front in Front::ALL {
        world.balance(front, [world.backend(front, 1).local()]);
        assert_eq!(world.ask(front, 3), ["backend1"; 3], "{}", front.name());
    }
    assert!(reservations(&world) > 0);
}

/// One port of the client's, two services, one backend: without source NAT the backend could not tell them apart.
#[test]
fn one_port_of_a_client_serves_two_services_with_one_backend() {
    require_kernel!();
    let mut world = World::new(Hooks::Tcx);
    let in_use = |world: &World| world.count(Hook::Ingress, Verdict::Drop(DropReason::TupleInUse));
    for (masquerade, answered) in [(Masquerade::Never, [true, false]), (Masquerade::Auto, [true, true])] {
        world.masquerade = masquerade;
        let port = if masquerade == Masquerade::Never { 40_001 } else { 40_002 };
        let fronts = [0, 1].map(|vip| AddressPlan::vip(vip).with_port(53)[0]);
        for (front, name) in fronts.into_iter().zip(["one", "two"]) {
            world.balance_at(name, front, Protocol::Udp, [world.backend(Front::UDP_V4, 0)]);
        }
        let socket = world.net.client.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        socket.set_nonblocking(true).unwrap();
        for (front, answered) in fronts.into_iter().zip(answered) {
            let before = in_use(&world);
            socket.send_to(b"who?", front).unwrap();
            let mut from = None;
            let outcome = wait_for(PATIENCE, "an answer or a refusal", || {
                from = socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from);
                from.is_some() || in_use(&world) > before
            });
            outcome.unwrap();
            assert_eq!(from, answered.then_some(front), "{masquerade:?}");
        }
    }
    assert_eq!(in_use(&world), 1);
}

/// An uplink without an address refuses by name and is warned of, once somebody misses it; the next refresh sees it.
#[test]
fn an_uplink_without_an_address_is_warned_of_once_it_is_missed() {
    require_kernel!();
    let mut world = World::with(Hooks::Tcx, World::topology(Hooks::Tcx, 1), |builder| builder);
    world.masquerade = Masquerade::Auto;
    cut_off(&world.net);
    world.balance(Front::UDP_V4, [world.backend(Front::UDP_V4, 0)]);
    let gateway = world.net.backends[0].gateways.v4.to_string();
    let has = |one: &&Interface| one.addresses().unwrap().iter().any(|net| net.addr().to_string() == gateway);
    let interface = world.net.balancer_interfaces().find(has).unwrap();
    let address = interface.addresses().unwrap().into_iter().find(|net| net.addr().to_string() == gateway);
    let address = address.unwrap().to_string();
    let change = |operation: &str, scope: &str| {
        let words = ["address", operation, &address, "dev", interface.name(), "scope", scope];
        let mut command = Command::new("ip");
        command.args(words);
        let output = world.net.balancer.run(|| child::output(&mut command, child::LIMIT)).unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let warned = || {
        world.plane.refresh().unwrap();
        let name = interface.name().to_owned();
        let warning = Warning::NoMasqueradeAddress { interface: name, family: "IPv4" };
        world.plane.warnings().contains(&warning)
    };
    // One that is valid on its link only: the backend is reached, and nobody speaks from it to others.
    change("del", "global");
    change("add", "link");
    assert!(!warned(), "nobody has missed it");
    let front = Front::UDP_V4.virtual_address();
    let answer = world.net.client.run(|| ask(Protocol::Udp, front, Duration::from_millis(300)));
    assert!(answer.is_err(), "{answer:?}");
    assert!(world.count(Hook::Ingress, Verdict::Drop(DropReason::NoMasqueradeAddress)) > 0);
    assert!(warned());
    change("del", "link");
    change("add", "global");
    assert!(!warned());
    assert_eq!(world.ask(Front::UDP_V4, 1), ["backend0"]);
}

/// All ports are taken by flows that live: the next one is refused by name, those that stand go on, and once one is over
/// its port is given out again.
#[test]
fn ports_run_out_by_name_and_come_back() {
    require_kernel!();
    const PORTS: usize = 8;
    let timeouts = Timeouts { udp_stream: 4_000, ..Timeouts::default() };
    let settings = |builder: dataplane_ebpf::Builder| {
        builder.nat_ports(NatPorts::new(50_000..=50_007).unwrap()).timeouts(timeouts)
    };
    let control = |builder: ControllerBuilder| builder.collect_interval(Duration::from_millis(500));
    let mut world = World::controlled(Hooks::Tcx, World::topology(Hooks::Tcx, 1), settings, control);
    world.masquerade = Masquerade::Auto;
    cut_off(&world.net);
    // A socket of the balancer has one of them.
    let balancer = SocketAddr::new(world.net.backends[0].gateways.v4.into(), 50_003);
    let _socket = world.net.balancer.run(|| UdpSocket::bind(balancer).unwrap());
    world.balance(Front::UDP_V4, [world.backend(Front::UDP_V4, 0)]);
    let front = Front::UDP_V4.virtual_address();
    let open = || {
        world.net.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(front).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    };
    let exhausted = || world.count(Hook::Ingress, Verdict::Drop(DropReason::NatExhausted));
    // Whether it is answered; else it was refused.
    let exchange = |socket: &UdpSocket| {
        let before = exhausted();
        socket.send(b"who?").unwrap();
        let mut answered = false;
        let outcome = wait_for(PATIENCE, "an answer or a refusal", || {
            answered = socket.recv(&mut [0; 64]).is_ok();
            answered || exhausted() > before
        });
        outcome.unwrap();
        answered
    };
    let sockets: Vec<UdpSocket> = (1..PORTS).map(|_| open()).collect();
    for socket in &sockets {
        assert!(exchange(socket) && exchange(socket), "a flow that goes on after an answer is one");
    }
    assert_eq!((reservations(&world), exhausted()), (7, 0));
    let usage = || world.control.nat_usage().into_iter().map(|one| (one.address, one.in_use, one.high_water));
    let all = [(balancer.ip(), 7, 7)];
    wait_for(PATIENCE, "a round of the collector", || usage().eq(all)).unwrap();

    let late = open();
    assert!(!exchange(&late));
    assert_eq!(exhausted(), 1);
    assert!(sockets.iter().all(exchange), "those that stand go on");

    // Nobody says anything for longer than flows are kept.
    let came_back = wait_for(PATIENCE, "a port", || exchange(&late));
    came_back.unwrap();
    assert!(exhausted() > 1 && reservations(&world) <= 7);
    let fewer = || matches!(usage().collect::<Vec<_>>()[..], [(_, in_use, high_water)] if in_use < 7 && high_water == 7);
    wait_for(PATIENCE, "fewer are in use than at most", fewer).unwrap();
    let backend = backend_port(Protocol::Udp);
    let entries: Vec<_> = world.plane.tables().nat_v4().entries().map(|entry| entry.unwrap().0).collect();
    assert!(entries.iter().all(|tuple| tuple.source_port.get() == backend));
    assert!(entries.iter().all(|tuple| (50_000..=50_007).contains(&tuple.destination_port.get())));
    assert!(entries.iter().all(|tuple| tuple.destination_port.get() != 50_003), "a socket's port");
}
