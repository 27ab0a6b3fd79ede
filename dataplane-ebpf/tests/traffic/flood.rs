//! Two million SYNs, and as many datagrams, from sources that nobody has, in the tables of live programs, while real sockets talk.
//!
//! The flood meets the program at ingress by `BPF_PROG_TEST_RUN`: it opens connections as any packet does, and what it would
//! send is thrown away. So no host is busy with it but the balancer.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use dataplane_core::{
    model::{Backend, Masquerade, NatPorts, Protocol},
    pipeline::{DropReason, Hook, Verdict},
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    frames::{Frame, Rng, flags},
    require_kernel,
};

use crate::{
    masquerade::cut_off,
    peers::{DatagramClient, LineClient, LineServer},
    world::{Front, Hooks, PATIENCE, World, backend_port},
};

/// Packets of a flood, a quarter of each kind of traffic: two million SYNs and as many datagrams. Those that look for a port take
/// longer, and are fewer.
const FRAMES: u32 = 4_000_000;
const MASQUERADED_FRAMES: u32 = 1_000_000;
/// So few that they run out.
const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_511;
/// Connections of each kind of traffic that stand before it begins: 200 of TCP, and 200 of UDP.
const CONNECTIONS: u16 = 100;
const FIRST_PORT: u16 = 20_000;
const LINES: u16 = 7000;
/// For so long a flow of datagrams that nobody confirmed keeps its port, and a little.
const SPARED: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(100);

/// A socket of the client's, and who answers it.
struct Peer {
    socket: Socket,
    who: String,
    said: u32,
}

enum Socket {
    Stream(LineClient),
    Datagrams(DatagramClient),
}

impl Peer {
    /// Opens it and speaks twice, after which it is no half-open connection any more.
    fn new(world: &World, front: Front, port: u16) -> Result<Self, String> {
        let from = SocketAddr::new(world.net.client_addresses.both()[usize::from(front.v6)], port);
        let to = front.virtual_address();
        let socket = world.net.client.run(|| match front.protocol {
            Protocol::Tcp => LineClient::connect(from, to, PATIENCE).map(Socket::Stream),
            _ => DatagramClient::connect(from, to, PATIENCE).map(Socket::Datagrams),
        });
        let socket = socket.map_err(|error| format!("{} {port}: connect: {error}", front.name()))?;
        let mut peer = Self { socket, who: String::new(), said: 0 };
        peer.who = peer.ask()?;
        peer.speak()?;
        Ok(peer)
    }

    fn ask(&mut self) -> Result<String, String> {
        self.said += 1;
        let what = format!("question {}", self.said);
        let answer = match &mut self.socket {
            Socket::Stream(client) => client.ask(&what),
            Socket::Datagrams(client) => client.ask(&what),
        };
        answer.map_err(|error| format!("{what}: {error}"))
    }

    /// Says something, and hears whom it heard before.
    fn speak(&mut self) -> Result<(), String> {
        let who = self.ask()?;
        if who == self.who { Ok(()) } else { Err(format!("{who} answered, before it was {}", self.who)) }
    }
}

struct Siege {
    world: World,
    peers: Vec<Peer>,
    _servers: Vec<LineServer>,
}

impl Siege {
    fn new(masquerade: Masquerade) -> Self {
        let capacity = Capacity { conntrack: 1 << 12, opening: 1 << 16, nat: 1 << 13, ..World::capacity() };
        let net = World::topology(Hooks::Tcx, 3);
        let mut world = World::with(Hooks::Tcx, net, |builder| {
            builder.capacity(capacity).nat_ports(NatPorts::new(PORTS).unwrap())
        });
        world.masquerade = masquerade;
        if masquerade != Masquerade::Never {
            cut_off(&world.net);
        }
        let servers = world.net.backends.iter().map(|backend| {
            LineServer::start(&backend.namespace, &backend.name, &backend.addresses.with_port(LINES))
        });
        let servers = servers.collect();
        for front in Front::ALL {
            let port = if front.protocol == Protocol::Tcp { LINES } else { backend_port(front.protocol) };
            let addresses =
                world.net.backends.iter().map(|host| host.addresses.both()[usize::from(front.v6)]);
            world.balance(front, addresses.map(|address| Backend::new(address, port).unwrap()));
        }
        let mut peers = Vec::new();
        for front in Front::ALL {
            peers.extend((0..CONNECTIONS).map(|n| Peer::new(&world, front, FIRST_PORT + n).unwrap()));
        }
        Self { world, peers, _servers: servers }
    }

    /// All say something.
    fn speak(&mut self, when: &str) {
        for peer in &mut self.peers {
            peer.speak().unwrap_or_else(|error| panic!("{when}: {error}"));
        }
    }

    /// Entries that are confirmed, and those that are not, of both families.
    fn places(&self) -> [u32; 2] {
        let tables = self.world.plane.tables();
        let conntrack = tables.conntrack_v4().fill().unwrap() + tables.conntrack_v6().fill().unwrap();
        [conntrack, tables.opening_v4().fill().unwrap() + tables.opening_v6().fill().unwrap()]
    }

    fn refused(&self) -> u64 {
        let reasons = [DropReason::NatExhausted, DropReason::NatFull];
        reasons.map(|reason| self.world.count(Hook::Ingress, Verdict::Drop(reason))).iter().sum()
    }
}

/// Sends the flood, in the balancer's namespace; how many packets would have been forwarded.
fn flood(world: &World, packets: u32) -> u32 {
    const REDIRECTED: u32 = 7;
    let (mac, interface) = (world.net.client_side.mac().unwrap(), world.net.client_side.index());
    let mut frames = Front::ALL.map(|front| {
        let any = SocketAddr::new(world.net.client_addresses.both()[usize::from(front.v6)], 1);
        let to = front.virtual_address();
        let frame = match front.protocol {
            Protocol::Tcp => Frame::tcp(any, to, flags::SYN),
            _ => Frame::udp(any, to).payload(b"who?"),
        };
        frame.link(mac, [2, 0, 0, 0, 0, 9]).build()
    });
    let mut rng = Rng::new(1);
    let mut forwarded = 0;
    for number in 0..packets {
        let frame = &mut frames[number as usize % Front::ALL.len()];
        let [draw, more] = [rng.draw(), rng.draw()].map(u64::to_be_bytes);
        // The checksums are wrong now, which nobody on the way looks at.
        if frame[12] == 0x08 {
            frame[26..30].copy_from_slice(&[11 + draw[0] % 100, draw[1], draw[2], draw[3]]);
            frame[34..36].copy_from_slice(&[draw[4] | 1, draw[5]]);
        } else {
            frame[22..30].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0x0f, draw[1], draw[2], draw[3]]);
            frame[30..38].copy_from_slice(&more);
            frame[54..56].copy_from_slice(&[draw[4] | 1, draw[5]]);
        }
        let out = world.plane.run(Hook::Ingress, frame, interface, 1).unwrap();
        forwarded += u32::from(out.returned == REDIRECTED);
    }
    forwarded
}

#[test]
fn connections_outlive_a_flood_and_others_come_in_its_midst() {
    require_kernel!();
    let mut siege = Siege::new(Masquerade::Never);
    siege.speak("before");
    let standing = 2 * 4 * u32::from(CONNECTIONS);
    assert_eq!(siege.places()[0], standing);

    let (begin, done) = (Instant::now(), AtomicBool::new(false));
    let mut late = Vec::new();
    let Siege { world, peers, .. } = &mut siege;
    let world = &*world;
    let (forwarded, took) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let forwarded = world.net.balancer.run(|| flood(world, FRAMES));
            done.store(true, Ordering::Relaxed);
            (forwarded, begin.elapsed())
        });
        for port in FIRST_PORT + CONNECTIONS.. {
            for front in Front::ALL {
                late.push(Peer::new(world, front, port).unwrap());
            }
            for peer in peers.iter_mut().chain(&mut late) {
                peer.speak().unwrap();
            }
            if done.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(PAUSE);
        }
        flood.join().unwrap()
    });
    eprintln!("{FRAMES} packets in {took:.1?}; {} connections came meanwhile", late.len());
    assert_eq!(forwarded, FRAMES);
    assert!(late.len() >= 2 * Front::ALL.len());
    siege.peers.append(&mut late);
    siege.speak("after");
    let [conntrack, opening] = siege.places();
    // Whoever came first without its entries, because they were pushed out, has them again by now.
    assert_eq!(conntrack, 2 * siege.peers.len() as u32);
    assert!(opening > 1 << 16, "{opening}: the flood filled its tables");
}

/// What nobody confirmed gives its port away when none is free, and what stands never does.
#[test]
fn masqueraded_connections_outlive_a_flood() {
    require_kernel!();
    let mut siege = Siege::new(Masquerade::Always);
    siege.speak("before");
    let standing = 4 * u32::from(CONNECTIONS);
    assert_eq!(siege.places()[0], standing);

    let (begin, done) = (Instant::now(), AtomicBool::new(false));
    let Siege { world, peers, .. } = &mut siege;
    let world = &*world;
    let (forwarded, took) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let forwarded = world.net.balancer.run(|| flood(world, MASQUERADED_FRAMES));
            done.store(true, Ordering::Relaxed);
            (forwarded, begin.elapsed())
        });
        while !done.load(Ordering::Relaxed) {
            peers.iter_mut().for_each(|peer| peer.speak().unwrap());
            thread::sleep(PAUSE);
        }
        flood.join().unwrap()
    });
    let refused = siege.refused();
    eprintln!("{MASQUERADED_FRAMES} packets in {took:.1?}; {forwarded} found a port, {refused} found none");
    // Half of them are datagrams, of which many come within the time for which ports of those are spared.
    assert!(refused <= u64::from(MASQUERADED_FRAMES) / 2, "TCP always finds a port");
    assert_eq!(u64::from(forwarded) + refused, MASQUERADED_FRAMES.into());
    siege.speak("after");
    assert_eq!(siege.places()[0], standing);

    // Who comes now finds ports that the flood had.
    thread::sleep(SPARED);
    let from = FIRST_PORT + CONNECTIONS;
    let connect = |port| Front::ALL.map(|front| Peer::new(&siege.world, front, port));
    let late: Vec<_> = (from..from + 25).flat_map(connect).map(Result::unwrap).collect();
    siege.peers.extend(late);
    siege.speak("with those who came later");
}
