//! Floods: what forged sources open stands apart, and pushes out nobody who came through a handshake.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dataplane_core::{
    abi::LIST_MASQUERADE,
    memory::{MemoryTables, SimulatedInterface},
    model::NatPorts,
    pipeline::{DropReason, PassReason, Verdict},
    tables::{Capacity, Store},
};
use dataplane_testkit::frames::{Dissected, Frame, Rng, flags::*};

use crate::host::*;

/// Packets of a flood, of each kind: with both families and both protocols two million.
const PACKETS: u32 = 500_000;
const CONNECTIONS: u16 = 200;
const BACKENDS: u16 = 8;

/// A client's packet of a connection, or a backend's.
fn packet(protocol: u8, from: SocketAddr, to: SocketAddr, flags: u8) -> Frame {
    if protocol == TCP { Frame::tcp(from, to, flags) } else { Frame::udp(from, to) }
}

/// A source that nobody has. The networks of this test's clients and backends are left out.
fn forged(rng: &mut Rng, v6: bool) -> SocketAddr {
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
struct Story {
    host: Host,
    cast: Cast,
    protocol: u8,
}

impl Story {
    fn new(cast: Cast, protocol: u8, flags: u16) -> Self {
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

    fn service(&self) -> SocketAddr {
        self.cast.service.parse().unwrap()
    }

    fn client(&self, number: u16) -> SocketAddr {
        SocketAddr::new(address(self.cast.client), 20_000 + number)
    }

    /// What a client sends, and what it becomes.
    #[track_caller]
    fn sends(&self, client: SocketAddr, flags: u8) -> (SocketAddr, SocketAddr) {
        let out = self.host.client_sends(&packet(self.protocol, client, self.service(), flags));
        assert_eq!(out.verdict, Verdict::Forward);
        let seen = Dissected::of(&out.frame).unwrap();
        (seen.source, seen.destination)
    }

    /// A backend's answer to a packet that it got like this; who gets it.
    #[track_caller]
    fn answers(&self, (source, destination): (SocketAddr, SocketAddr), flags: u8) -> SocketAddr {
        let out = self.host.backend_sends(&packet(self.protocol, destination, source, flags));
        assert_eq!(out.verdict, Verdict::Forward);
        let seen = Dissected::of(&out.frame).unwrap();
        assert_eq!(seen.source, self.service());
        seen.destination
    }

    /// A connection as far as its third packet; what its packets become.
    #[track_caller]
    fn connects(&self, client: SocketAddr) -> (SocketAddr, SocketAddr) {
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

fn backend_of(cast: Cast, number: u16) -> SocketAddr {
    let backend: SocketAddr = cast.backend.parse().unwrap();
    let text = backend.ip().to_string();
    let network = text.trim_end_matches('2');
    SocketAddr::new(format!("{network}{}", 20 + number).parse().unwrap(), backend.port())
}

/// 200 connections stand in tables with room for 512, while half a million packets come.
fn connections_outlive_a_flood(cast: Cast, protocol: u8, seed: u64) {
    let story = Story::new(cast, protocol, 0);
    let mut rng = Rng::new(seed);
    let ways: Vec<_> = (0..CONNECTIONS).map(|number| story.connects(story.client(number))).collect();
    assert_eq!(story.host.places(), [2 * u32::from(CONNECTIONS), 0]);

    story.flood(&mut rng, PACKETS / 2);
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
    story.flood(&mut rng, PACKETS / 2 - 10_000);

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

#[test]
fn tcp_over_ipv4_outlives_a_flood() {
    connections_outlive_a_flood(V4, TCP, 1);
}

#[test]
fn tcp_over_ipv6_outlives_a_flood() {
    connections_outlive_a_flood(V6, TCP, 2);
}

#[test]
fn udp_over_ipv4_outlives_a_flood() {
    connections_outlive_a_flood(V4, UDP, 3);
}

#[test]
fn udp_over_ipv6_outlives_a_flood() {
    connections_outlive_a_flood(V6, UDP, 4);
}

/// The same ports, and more, for masqueraded connections: what nobody confirmed gives way after two seconds, and
/// what stands never does.
#[test]
fn masqueraded_connections_outlive_a_flood() {
    for (cast, seed) in [(V4, 1), (V6, 2)] {
        let mut story = Story::new(cast, TCP, LIST_MASQUERADE);
        masquerade(&mut story.host);
        let mut rng = Rng::new(seed);
        let ways: Vec<_> = (0..CONNECTIONS).map(|number| story.connects(story.client(number))).collect();
        assert_eq!(story.host.places(), [u32::from(CONNECTIONS), 0]);
        let v6 = address(cast.client).is_ipv6();
        let mut told = [0; 2];
        for number in 0..PACKETS / 5 {
            if number % 2_000 == 0 {
                story.host.pass(Duration::from_millis(100));
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
        assert!(told[1] > 0, "the flood found no room: {told:?}");
        // As many as are there give way every two seconds.
        assert!(told[0] > 2 * 4_096, "{told:?}");
        for (number, way) in (0..).zip(&ways) {
            assert_eq!(story.sends(story.client(number), ACK), *way);
            assert_eq!(story.answers(*way, ACK), story.client(number));
        }
        // It is over, and what it left is two seconds old.
        story.host.pass(Duration::from_secs(3));
        for number in CONNECTIONS..2 * CONNECTIONS {
            story.connects(story.client(number));
        }
        assert_eq!(story.host.places()[0], 2 * u32::from(CONNECTIONS));
        assert_eq!(reservations(&story.host), reserved);
    }
}

/// Which table an entry stands in shows whether its client came through.
#[test]
fn a_connection_is_moved_when_it_is_confirmed() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        let mut places = Vec::new();
        let way = story.sends(client, SYN);
        places.push(story.host.places());
        story.answers(way, SYN | ACK);
        places.push(story.host.places());
        story.sends(client, SYN);
        places.push(story.host.places());
        story.sends(client, ACK);
        places.push(story.host.places());
        story.answers(way, ACK);
        story.sends(client, ACK | PSH);
        places.push(story.host.places());
        assert_eq!(places, [[0, 2], [0, 2], [0, 2], [2, 0], [2, 0]]);
    }
}

/// Who is sent a SYN with an ACK that he did not ask for resets: forged sources that exist confirm nothing.
#[test]
fn a_reset_confirms_no_connection() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        let way = story.sends(client, SYN);
        story.answers(way, SYN | ACK);
        assert_eq!(story.sends(client, RST), way);
        assert_eq!(story.host.places(), [0, 2]);
    }
}

#[test]
fn what_can_open_no_connection_is_dropped_by_name() {
    for cast in [V4, V6] {
        let story = Story::new(cast, TCP, 0);
        let client = story.client(0);
        for (flags, opens) in [
            (RST, false),
            (RST | ACK, false),
            (SYN | RST, false),
            (SYN | ACK, false),
            (SYN | ACK | PSH, false),
            (0, true),
            (ACK, true),
            (FIN | ACK, true),
            (PSH, true),
        ] {
            let out = story.host.client_sends(&packet(TCP, client, story.service(), flags));
            let expected = if opens { Verdict::Forward } else { Verdict::Drop(DropReason::NoFlow) };
            assert_eq!(out.verdict, expected, "flags {flags}");
            if !opens {
                assert_eq!(story.host.places(), [0, 0], "flags {flags}");
            }
        }
        let elsewhere = SocketAddr::new(story.service().ip(), 9);
        let reset = packet(TCP, client, elsewhere, RST);
        assert_eq!(story.host.client_sends(&reset).verdict, Verdict::Pass(PassReason::NoService));
        // The same flags of a flow that is known are its own affair.
        let way = story.sends(client, SYN);
        story.answers(way, SYN | ACK);
        assert_eq!((story.sends(client, SYN | ACK), story.sends(client, RST)), (way, way));
    }
}

/// One whose connection stands in conntrack holds the tuple of its answers against one that is not confirmed, and the
/// other way round.
#[test]
fn the_tuple_of_the_answers_is_one_connections_in_either_table() {
    for cast in [V4, V6] {
        for confirmed in [false, true] {
            let mut host = Host::new();
            let backend = host.backend(cast.backend);
            host.service(cast.service, TCP, &[backend]);
            let other_service = cast.service.replace(":80", ":81");
            host.service(&other_service, TCP, &[backend]);
            host.client_sends(&tcp(cast.client, cast.service, SYN));
            host.backend_sends(&tcp(cast.backend, cast.client, SYN | ACK));
            if confirmed {
                host.client_sends(&tcp(cast.client, cast.service, ACK));
            }
            let before = host.places();
            let second = tcp(cast.client, &other_service, SYN);
            assert_eq!(host.client_sends(&second).verdict, Verdict::Drop(DropReason::TupleInUse));
            assert_eq!(host.places(), before);
            // Closed, it is nobody's.
            host.backend_sends(&tcp(cast.backend, cast.client, RST));
            assert_forwarded(&host.client_sends(&second), &second, cast.client, cast.backend);
            let answer = tcp(cast.backend, cast.client, SYN | ACK);
            assert_forwarded(&host.backend_sends(&answer), &answer, &other_service, cast.client);
        }
    }
}

/// Chi-square over eight backends of one weight: 7 degrees of freedom, and a value above 29 comes once in 7,000 times. The
/// seed is always the same, and so is the value.
#[test]
fn the_hash_spreads_connections_as_evenly_as_dice() {
    for (cast, protocol) in [(V4, TCP), (V6, TCP), (V4, UDP), (V6, UDP)] {
        let story = Story::new(cast, protocol, 0);
        let v6 = address(cast.client).is_ipv6();
        let mut rng = Rng::new(7);
        // What differs is little, or a lot: neighbours' ports, neighbours' addresses, everybody.
        let kinds: [&mut dyn FnMut(u32) -> SocketAddr; 3] = [
            &mut |number| SocketAddr::new(address(cast.client), 1_024 + number as u16),
            &mut |number| neighbour(cast, number),
            &mut |_| forged(&mut rng, v6),
        ];
        for (kind, client) in (0..).zip(kinds) {
            const FLOWS: u32 = 16_000;
            let mut hits = [0u32; BACKENDS as usize];
            for number in 0..FLOWS {
                let (_, backend) = story.sends(client(number), SYN);
                let place = (0..BACKENDS).position(|place| backend_of(cast, place) == backend).unwrap();
                hits[place] += 1;
            }
            let even = f64::from(FLOWS) / f64::from(BACKENDS);
            let chi: f64 = hits.iter().map(|&hits| (f64::from(hits) - even).powi(2) / even).sum();
            assert!(chi < 29.0, "kind {kind}: {hits:?} is {chi:.1}");
        }
    }
}

/// One of 16,000 clients that use the same port.
fn neighbour(cast: Cast, number: u32) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    if address(cast.client).is_ipv6() {
        ([0x2001, 0xdb8, 5, 0, 0, 0, 0, number as u16], 5_000).into()
    } else {
        ([11, 0, high, low], 5_000).into()
    }
}

/// Another secret is another spread.
#[test]
fn the_seed_says_where_connections_go() {
    let place = |seed| {
        let story = Story::new(V4, TCP, 0);
        story.host.simulator.tables().set_choice_seed(seed);
        (0..200).map(|number| story.sends(story.client(number), SYN).1).collect::<Vec<_>>()
    };
    let [first, again, other] = [1, 1, 2].map(place);
    assert_eq!(first, again);
    let differ = first.iter().zip(&other).filter(|(one, other)| one != other).count();
    // Seven eighths of 200: 175, and five standard deviations of 4.7 to either side.
    assert!((151..=199).contains(&differ), "{differ}");
}

/// Where there is no room for what is to be moved, the connection goes on where it stands.
#[test]
fn a_connection_stays_where_it_is_where_there_is_no_room() {
    let tables = Arc::new(MemoryTables::new(Capacity { conntrack: 0, ..Capacity::small() }));
    let mut host = Host::with(Arc::into_inner(tables).unwrap());
    host.serve(V4, TCP);
    for flags in [SYN, ACK, ACK] {
        let frame = tcp(V4.client, V4.service, flags);
        assert_forwarded(&host.client_sends(&frame), &frame, V4.client, V4.backend);
        let answer = tcp(V4.backend, V4.client, ACK);
        assert_forwarded(&host.backend_sends(&answer), &answer, V4.service, V4.client);
        assert_eq!(host.places(), [0, 2]);
    }
}
