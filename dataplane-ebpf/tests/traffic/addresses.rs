//! What comes to a virtual address and is of no service: pings, and connections to ports that nobody serves.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use dataplane_core::pipeline::{AddressSettings, AnswerReason, DropReason, Hook, PassReason, Verdict};
use dataplane_testkit::{
    frames::Frame,
    net::{Namespace, Route, wait_for},
    require_kernel,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};

use crate::world::{Front, Hooks, PATIENCE, World};

const FRONTS: [Front; 2] = [Front::TCP_V4, Front::TCP_V6];
/// Longer than what the kernel keeps in one piece of an skb.
const LENGTHS: [usize; 4] = [0, 1, 56, 1400];
/// Nobody serves it.
const PORT: u16 = 81;
const ANSWERED: Verdict = Verdict::Answer(AnswerReason::Echo);

/// An ICMP message with its checksum, without an IP header.
fn message(source: IpAddr, destination: IpAddr, kind: u8, length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
    let frame = Frame::icmp(source, destination, kind, 0, 0x4321_0001).payload(&payload);
    frame.packet().split_off(if source.is_ipv4() { 20 } else { 40 })
}

/// Sends an echo request through the stack of the namespace that it is called in; returns the socket that hears the reply.
fn send_ping(from: IpAddr, to: IpAddr, length: usize) -> OwnedFd {
    let v4 = to.is_ipv4();
    let (family, protocol) =
        if v4 { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let socket = socket(family, SocketType::RAW, Some(protocol)).unwrap();
    let request = message(from, to, if v4 { 8 } else { 128 }, length);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    socket
}

/// Sends an echo request from the client, through its own stack; its reply is the one that it must be.
fn ping(client: &Namespace, from: IpAddr, to: IpAddr, length: usize) {
    let v4 = to.is_ipv4();
    let reply = if v4 { 0 } else { 129 };
    let expected = message(to, from, reply, length);
    client.run(|| {
        let socket = send_ping(from, to, length);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4096];
        // Such a socket hears of all that comes.
        loop {
            let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty()).unwrap();
            let heard = &buffer[if v4 { 20 } else { 0 }..length];
            if heard[0] == reply {
                assert_eq!(heard, expected);
                break;
            }
        }
    });
}

/// With a route to each virtual address, that says that it is nowhere.
fn world(hooks: Hooks) -> World {
    let world = World::new(hooks);
    world.balance_all();
    for front in FRONTS {
        let address = front.virtual_address().ip();
        world.net.balancer.add_route(&Route::to(address.into()).unreachable()).unwrap();
    }
    world
}

fn client_address(world: &World, front: Front) -> IpAddr {
    world.net.client_addresses.both()[usize::from(front.v6)]
}

fn count_all(world: &World, verdict: Verdict) -> u64 {
    [Hook::Xdp, Hook::Ingress].map(|hook| world.count(hook, verdict)).iter().sum()
}

fn set(world: &World, answer_ping: bool, drop_unserved_ports: bool) {
    let settings = AddressSettings { answer_ping, drop_unserved_ports };
    world.plane.tables().set_addresses(settings).unwrap();
}

/// What becomes of a connection to a port that nobody serves.
fn connect(world: &World, front: Front, patience: Duration) -> ErrorKind {
    let mut address = front.virtual_address();
    address.set_port(PORT);
    world.net.client.run(|| TcpStream::connect_timeout(&address, patience)).unwrap_err().kind()
}

#[test]
fn a_virtual_address_answers_pings() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Clsact, Hooks::Xdp] {
        let world = world(hooks);
        for front in FRONTS {
            for length in LENGTHS {
                let address = front.virtual_address().ip();
                ping(&world.net.client, client_address(&world, front), address, length);
            }
        }
        let answered = world.count(Hook::Ingress, ANSWERED);
        assert_eq!(answered, (FRONTS.len() * LENGTHS.len()) as u64, "{hooks:?}");
        let seen = world.net.client.statistics().unwrap();
        for name in ["Icmp.InCsumErrors", "Icmp6InCsumErrors"] {
            assert_eq!(seen.get(name), Some(0), "{name}");
        }
        let replies = LENGTHS.len() as u64;
        assert_eq!(
            (seen.get("Icmp.InEchoReps"), seen.get("Icmp6InEchoReplies")),
            (Some(replies), Some(replies))
        );
    }
}

/// What the stack says of a ping whose address it has not is that of the route to it.
#[test]
fn a_ping_is_the_stacks_where_none_is_to_be_answered() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Clsact, Hooks::Xdp] {
        let world = world(hooks);
        set(&world, false, false);
        for front in FRONTS {
            let (from, to) = (client_address(&world, front), front.virtual_address().ip());
            world.net.client.run(|| drop(send_ping(from, to, 56)));
        }
        let passed = || world.count(Hook::Ingress, Verdict::Pass(PassReason::Protocol));
        wait_for(PATIENCE, "both pings at the balancer", || passed() >= FRONTS.len() as u64).unwrap();
        assert_eq!(world.count(Hook::Ingress, ANSWERED), 0, "{hooks:?}");
        let seen = world.net.client.statistics().unwrap();
        assert_eq!((seen.get("Icmp.InEchoReps"), seen.get("Icmp6InEchoReplies")), (Some(0), Some(0)));
    }
}

#[test]
fn a_port_that_nobody_serves_is_silent_where_that_is_asked_for() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Clsact, Hooks::Xdp] {
        let world = world(hooks);
        let no_port = Verdict::Drop(DropReason::NoPort);
        for front in FRONTS {
            // The stack says what its route says.
            set(&world, true, false);
            assert_ne!(connect(&world, front, PATIENCE), ErrorKind::TimedOut);
            let before = count_all(&world, no_port);
            set(&world, true, true);
            assert_eq!(connect(&world, front, Duration::from_millis(300)), ErrorKind::TimedOut);
            assert!(count_all(&world, no_port) > before, "{hooks:?}");
            assert!(world.ask(front, 3).iter().all(|name| !name.is_empty()), "and who serves still does");
        }
    }
}

/// The balancer's stack has the virtual address, too: its ssh, its pings.
#[test]
fn an_address_of_the_balancers_own_is_left_to_its_stack() {
    require_kernel!();
    for hooks in [Hooks::Tcx, Hooks::Xdp] {
        let world = world(hooks);
        set(&world, true, true);
        let lo = world.net.balancer.interface("lo").unwrap();
        lo.set_up().unwrap();
        for front in FRONTS {
            let address = front.virtual_address().ip();
            lo.add_address(address.into()).unwrap();
            // Its route is there a moment later, for IPv6.
            let mut listener = None;
            let dial = || TcpStream::connect_timeout(&(address, 22).into(), PATIENCE);
            wait_for(PATIENCE, "an address of the balancer's own", || {
                world.net.balancer.run(|| {
                    listener = listener.take().or_else(|| TcpListener::bind((address, 22)).ok());
                    listener.is_some() && dial().is_ok()
                })
            })
            .unwrap();
            ping(&world.net.client, client_address(&world, front), address, 56);
            assert_eq!(connect(&world, front, PATIENCE), ErrorKind::ConnectionRefused, "{hooks:?}");
            world.net.client.run(dial).unwrap();
        }
        assert_eq!(world.count(Hook::Ingress, ANSWERED), 0);
        assert_eq!(count_all(&world, Verdict::Drop(DropReason::NoPort)), 0);
        let own = || count_all(&world, Verdict::Pass(PassReason::OwnAddress));
        wait_for(PATIENCE, "packets left to the stack", || own() >= 6).unwrap();
    }
}
