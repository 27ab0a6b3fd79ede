//! A service in the midst of a flood: who is connected, who connects, and packets of sources that nobody has.

use std::{net::SocketAddr, time::Duration};

use dataplane_core::{
    abi::LIST_MASQUERADE,
    memory::{MemoryTables, SimulatedInterface},
    model::NatPorts,
    pipeline::{DropReason, Verdict},
    tables::{Capacity, Store},
};
use dataplane_testkit::frames::{Dissected, Frame, Rng, flags::*};

use crate::host::*;

pub const CONNECTIONS: u16 = 200;
pub const BACKENDS: u16 = 8;

/// A client's packet of a connection, or a backend's.
pub fn packet(protocol: u8, from: SocketAddr, to: SocketAddr, flags: u8) -> Frame {
    if protocol == TCP { Frame::tcp(from, to, flags) } else { Frame::udp(from, to) }
}

/// A source that nobody has. The networks of this test's clients and backends are left out.
pub fn forged(rng: &mut Rng, v6: bool) -> SocketAddr {
    let port = 1 + rng.below(65_535) as u16;
    if v6 {
        let mut segments = [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0];
        segments[4..].fill_with(|| rng.draw() as u16);
        (segments, port).into()
    } else {
        let [a, b, c, d] = (rng.draw() as u32).to_be_bytes();
        ([11 + a % 100, b, c, d], port).into()
    }
}

/// A service of many backends, to which both ways lead.
pub struct Story {
    pub host: Host,
    cast: Cast,
    protocol: u8,
}

impl Story {
    pub fn new(cast: Cast, protocol: u8, flags: u16) -> Self {
        let mut host = Host::with(MemoryTables::new(Capacity { nat: 4_096, ..Capacity::small() }));
        let v6 = address(cast.client).is_ipv6();
        host.list_flags(flags);
        let list: Vec<_> = (0..BACKENDS)
            .map(|number| {
                let backend = backend_of(cast, number);
                host.simulator.routes_mut().insert_neighbor(BACK, backend.ip(), BACKEND_MAC);
                host.backend(&backend.to_string())
            })
            .collect();
        host.service(cast.service, protocol, &list);
        let everybody = if v6 { "::/0" } else { "0.0.0.0/0" };
        let target = dataplane_core::memory::Target::Link(FRONT);
        host.simulator.routes_mut().insert(everybody.parse().unwrap(), target);
        host.simulator.set_choice(None);
        host.simulator.set_random(None);
        Self { host, cast, protocol }
    }

    pub fn service(&self) -> SocketAddr {
        self.cast.service.parse().unwrap()
    }

    pub fn client(&self, number: u16) -> SocketAddr {
        SocketAddr::new(address(self.cast.client), 20_000 + number)
    }

    /// What a client sends, and what it becomes.
    #[track_caller]
    pub fn sends(&self, client: SocketAddr, flags: u8) -> (SocketAddr, SocketAddr) {
        let out = self.host.client_sends(&packet(self.protocol, client, self.service(), flags));
        assert_eq!(out.verdict, Verdict::Forward);
        let seen = Dissected::of(&out.frame).unwrap();
        (seen.source, seen.destination)
    }

    /// A backend's answer to a packet that it got like this; who gets it.
    #[track_caller]
    pub fn answers(&self, (source, destination): (SocketAddr, SocketAddr), flags: u8) -> SocketAddr {
        let out = self.host.backend_sends(&packet(self.protocol, destination, source, flags));
        assert_eq!(out.verdict, Verdict::Forward);
        let seen = Dissected::of(&out.frame).unwrap();
        assert_eq!(seen.source, self.service());
        seen.destination
    }

    /// A connection as far as its third packet; what its packets become.
    #[track_caller]
    pub fn connects(&self, client: SocketAddr) -> (SocketAddr, SocketAddr) {
        let way = self.sends(client, SYN);
        assert_eq!(self.answers(way, SYN | ACK), client);
        assert_eq!(self.sends(client, ACK), way);
        way
    }

    fn flood(&self, rng: &mut Rng, packets: u32) {
        let v6 = address(self.cast.client).is_ipv6();
        for _ in 0..packets {
            let frame = packet(self.protocol, forged(rng, v6), self.service(), SYN);
            let verdict = self.host.client_sends(&frame).verdict;
            assert_eq!(verdict, Verdict::Forward);
        }
    }
}

/// Gives the host an address towards its backends, and so few ports that half of them are lent when the table is full.
fn masquerade(host: &mut Host) {
    let mut back = SimulatedInterface::new(BACK, BACK_MAC);
    back.masquerade_v4 = Some("198.51.100.1".parse().unwrap());
    back.masquerade_v6 = Some("2001:db8:2::1".parse().unwrap());
    host.simulator.add_interface(back).unwrap();
    host.simulator.tables().set_nat_ports(NatPorts::new(50_000..=51_023).unwrap());
}

fn reservations(host: &Host) -> u32 {
    let tables = host.simulator.tables();
    tables.nat_v4().fill().unwrap() + tables.nat_v6().fill().unwrap()
}

pub fn backend_of(cast: Cast, number: u16) -> SocketAddr {
    let backend: SocketAddr = cast.backend.parse().unwrap();
    let text = backend.ip().to_string();
    let network = text.trim_end_matches('2');
    SocketAddr::new(format!("{network}{}", 20 + number).parse().unwrap(), backend.port())
}

/// 200 connections stand in tables with room for 512, while so many packets come.
pub fn connections_outlive_a_flood(cast: Cast, protocol: u8, seed: u64, packets: u32) {
    let story = Story::new(cast, protocol, 0);
    let mut rng = Rng::new(seed);
    let ways: Vec<_> = (0..CONNECTIONS).map(|number| story.connects(story.client(number))).collect();
    assert_eq!(story.host.places(), [2 * u32::from(CONNECTIONS), 0]);

    story.flood(&mut rng, packets / 2);
    // One who connects in the midst, whose entries are pushed out after each of its packets.
    let late = story.client(CONNECTIONS);
    let way = story.sends(late, SYN);
    story.flood(&mut rng, 5_000);
    assert_eq!(story.host.simulator.tables().counters().service(0).unwrap().drops, 0);
    assert_eq!(story.sends(late, SYN), way, "seed {seed}: by the hash of the tuple alone");
    assert_eq!(story.answers(way, SYN | ACK), late);
    story.flood(&mut rng, 5_000);
    assert_eq!(story.sends(late, ACK), way);
    assert_eq!(story.answers(way, ACK), late);
    assert_eq!(story.sends(late, ACK | PSH), way);
    story.flood(&mut rng, packets / 2 - 10_000);

    let confirmed = 2 * (u32::from(CONNECTIONS) + 1);
    let opening = Capacity::small().opening;
    let [conntrack, half_open] = story.host.places();
    assert_eq!(conntrack, confirmed);
    assert!(half_open > opening - 10 && half_open <= opening, "{half_open}");
    assert_eq!(story.sends(late, ACK), way);
    for (number, way) in (0..).zip(&ways) {
        assert_eq!(story.sends(story.client(number), ACK), *way);
        assert_eq!(story.answers(*way, ACK), story.client(number));
    }
    assert_eq!(story.host.places()[0], confirmed);
    let mut backends: Vec<_> = ways.iter().map(|(_, backend)| *backend).collect();
    backends.sort();
    backends.dedup();
    assert_eq!(backends.len(), usize::from(BACKENDS));
}

/// The same ports, and more, for masqueraded connections: the oldest of what nobody confirmed gives way, and
/// what stands never does. Who connects in the midst of it does.
pub fn masqueraded_connections_outlive_a_flood(cast: Cast, seed: u64, packets: u32) {
    let mut story = Story::new(cast, TCP, LIST_MASQUERADE);
    masquerade(&mut story.host);
    let mut rng = Rng::new(seed);
    let ways: Vec<_> = (0..CONNECTIONS).map(|number| story.connects(story.client(number))).collect();
    assert_eq!(story.host.places(), [u32::from(CONNECTIONS), 0]);
    let v6 = address(cast.client).is_ipv6();
    let mut told = [0; 2];
    let (mut late, mut opening) = (Vec::new(), None);
    for number in 0..packets {
        if number % 400 == 0 {
            story.host.pass(Duration::from_millis(100));
            // A round trip takes a tenth of a second, in which the flood goes on.
            if let Some((client, way)) = opening {
                assert_eq!(story.answers(way, SYN | ACK), client, "seed {seed}, packet {number}");
                assert_eq!(story.sends(client, ACK), way, "seed {seed}, packet {number}");
                late.push((client, way));
            }
            let client = story.client(CONNECTIONS + late.len() as u16);
            opening = (late.len() < 50).then(|| (client, story.sends(client, SYN)));
        }
        let frame = packet(TCP, forged(&mut rng, v6), story.service(), SYN);
        match story.host.client_sends(&frame).verdict {
            Verdict::Forward => told[0] += 1,
            Verdict::Drop(DropReason::NatFull | DropReason::NatExhausted) => told[1] += 1,
            other => panic!("{other}"),
        }
    }
    let reserved = reservations(&story.host);
    assert!(reserved >= 4_090, "{reserved}: the table is full");
    assert!(told[1] < packets / 100, "somebody always gives way: {told:?}");
    for (client, way) in &late {
        assert_eq!(story.sends(*client, ACK), *way);
    }
    for (number, way) in (0..).zip(&ways) {
        assert_eq!(story.sends(story.client(number), ACK), *way);
        assert_eq!(story.answers(*way, ACK), story.client(number));
    }
    // It is over, and gives way to whoever comes.
    for number in 2 * CONNECTIONS..3 * CONNECTIONS {
        story.connects(story.client(number));
    }
    assert_eq!(story.host.places()[0], 2 * u32::from(CONNECTIONS) + late.len() as u32);
    assert_eq!(reservations(&story.host), reserved);
}
