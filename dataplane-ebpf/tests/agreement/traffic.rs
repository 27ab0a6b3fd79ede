//! Frames to agree on: connections to services, their replies, and everything that may be wrong with a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_core::{
    memory::Outcome,
    pipeline::{Hook, Verdict},
};
use dataplane_testkit::frames::{Dissected, Extension, Frame, Rng, Transport, flags, split};

use crate::world::{FRONTENDS, Port, TCP, UDP, World};

/// Ethernet and IPv6 header.
const SHORTEST_SKB: usize = 54;

/// Test runs take so many bytes, less what the kernel needs around them in a page.
const LONGEST: usize = 3300;

/// So many translated packets are remembered, to be answered.
const REMEMBERED: usize = 4096;

/// Clients to whom no route leads back.
const UNREACHABLE: [&str; 2] = ["198.51.100.131", "2001:db8:21::1"];

/// A packet that was translated: its new source and destination, its protocol, and the interface where it arrived.
type Translated = (SocketAddr, SocketAddr, u8, u32);

pub struct Traffic {
    /// Where translated packets went; a ring, once it is full.
    forwarded: Vec<Translated>,
    oldest: usize,
    ports: [Port; 4],
    /// Parts of packets of which some are under way: the hook and the interface where they arrive.
    parts: Vec<(Hook, u32, Vec<u8>)>,
}

impl Traffic {
    pub fn new(world: &World) -> Self {
        Self {
            forwarded: Vec::new(),
            oldest: 0,
            parts: Vec::new(),
            ports: [world.front, world.back, world.slow, world.stop],
        }
    }

    /// Remembers what was translated on its way to a backend, so that it can be answered.
    pub fn note(&mut self, before: &[u8], interface: u32, outcome: &Outcome) {
        if !matches!(outcome.verdict, Verdict::Forward | Verdict::Deliver) || before == &outcome.frame[..] {
            return;
        }
        let Some(seen) = Dissected::of(&outcome.frame) else {
            return;
        };
        let entry = (seen.source, seen.destination, seen.protocol, interface);
        if self.forwarded.len() < REMEMBERED {
            self.forwarded.push(entry);
        } else {
            self.forwarded[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % REMEMBERED;
        }
    }

    /// The next frame, the hook and the interface that it meets.
    pub fn next(&mut self, world: &World, rng: &mut Rng) -> (Hook, u32, Vec<u8>) {
        if !self.parts.is_empty() && rng.chance(60) {
            return self.part(rng);
        }
        let [front, back, slow, stop] = self.ports;
        let reply = !self.forwarded.is_empty() && rng.chance(45);
        let error = reply && rng.chance(30);
        let (mut frame, arrived) = match (reply, error) {
            (true, true) => self.error(rng),
            (true, false) => self.answer(rng),
            (false, _) => (client(world, rng), 0),
        };
        // Of what goes out, only replies are ours.
        let egress = if reply { 24 } else { 6 };
        let hook = match rng.below(100) {
            draw if draw < egress => Hook::Egress,
            draw if draw % 2 == 0 => Hook::Xdp,
            _ => Hook::Ingress,
        };
        let port = match rng.below(100) {
            0..=2 => stop,
            // Connections of the zone of that one stay there.
            0..=60 if arrived == stop.index => stop,
            3 if !reply => stop,
            3..=5 => slow,
            _ if reply && hook != Hook::Egress => back,
            _ => front,
        };
        frame.to = port.mac;
        disturb(&mut frame, rng);
        if frame.tags.is_empty()
            && rng.chance(if port.index == stop.index || is_unreachable(frame.destination) { 40 } else { 8 })
        {
            self.split(&frame, hook, port.index, rng);
            return self.part(rng);
        }
        let mut bytes = frame.build();
        while bytes.len() > LONGEST {
            frame.payload.clear();
            frame.extensions.pop();
            bytes = frame.build();
        }
        if rng.chance(6) {
            damage(&mut bytes, rng);
        } else if rng.chance(if hook == Hook::Egress { 20 } else { 3 }) {
            contradict(&frame, &mut bytes, rng);
        }
        // The kernel's test runs of classifiers refuse what is too short for an IP header, those of XDP what is too short
        // for an Ethernet header.
        let hook = if bytes.len() < SHORTEST_SKB { Hook::Xdp } else { hook };
        bytes.resize(bytes.len().max(14), 0);
        (hook, port.index, bytes)
    }

    /// Has a packet arrive in parts: mostly the first one first, and often with an identification that was used before.
    fn split(&mut self, frame: &Frame, hook: Hook, interface: u32, rng: &mut Rng) {
        let mut frame = frame.clone();
        frame.payload.truncate(2400);
        let mut size = *rng.pick(&[8, 16, 24, 24, 32, 64, 400]);
        match (&mut frame.transport, rng.below(10)) {
            // Parts that are too long for one of the interfaces.
            (_, 0..=2) => (frame.payload, size) = (rng.bytes(2700), 1304),
            // Options that the first part lacks.
            (Transport::Tcp { options, .. }, 3..=5) => (*options, size) = (12, 24),
            _ => {}
        }
        let parts = split(&frame, rng.below(6) as u32, size);
        self.parts.clear();
        // The last one is taken next.
        self.parts.extend(parts.into_iter().take(6).map(|bytes| (hook, interface, bytes)).rev());
        if rng.chance(10) {
            self.parts.pop();
        }
        if rng.chance(10) && self.parts.len() > 1 {
            self.parts.swap(0, 1);
        }
    }

    /// The next part, mostly of the packet in its order, at one hook of its interface or another.
    fn part(&mut self, rng: &mut Rng) -> (Hook, u32, Vec<u8>) {
        let last = self.parts.len().saturating_sub(1);
        let place = if rng.chance(90) { last } else { rng.below(self.parts.len().max(1)) };
        let Some(&(hook, interface, ref bytes)) = self.parts.get(place) else {
            return (Hook::Xdp, self.ports[0].index, vec![0; 14]);
        };
        let mut bytes = bytes.clone();
        // Now and then it comes once more.
        if rng.chance(85) {
            self.parts.remove(place);
        }
        if rng.chance(6) {
            damage(&mut bytes, rng);
        } else if rng.chance(10) {
            // Routes differ by length, and hops run out on the way of one part.
            let at = if bytes.get(12) == Some(&0x08) { 22 } else { 21 };
            bytes[at] = rng.below(3) as u8;
        } else if bytes.get(12) == Some(&0x08) && rng.chance(if bytes.len() > 1300 { 70 } else { 10 }) {
            // Not to be split once more.
            bytes[20] |= 0x40;
        }
        let hook = match hook {
            Hook::Egress => Hook::Egress,
            _ if rng.chance(50) => Hook::Xdp,
            _ => Hook::Ingress,
        };
        let hook = if bytes.len() < SHORTEST_SKB { Hook::Xdp } else { hook };
        bytes.resize(bytes.len().max(14), 0);
        (hook, interface, bytes)
    }

    /// So many of what was translated last, the newest first.
    fn newest(&self, count: usize) -> impl Iterator<Item = &Translated> {
        let length = self.forwarded.len();
        let newest = self.oldest + length - 1;
        (0..length.min(count)).map(move |back| &self.forwarded[(newest - back) % length])
    }

    /// One of so many of what was translated last.
    fn lately(&self, count: usize, rng: &mut Rng) -> &Translated {
        let reach = self.forwarded.len().min(count);
        self.newest(count).nth(rng.below(reach)).unwrap()
    }

    /// What a backend answers, and where its client's packet had arrived.
    fn answer(&self, rng: &mut Rng) -> (Frame, u32) {
        let stop = self.ports[3].index;
        let rare = |entry: &&Translated| entry.3 == stop || is_unreachable(entry.0);
        let lately = self.newest(600);
        // Those are few: clients where nothing is forwarded, and those to whom no route leads.
        let rare = if rng.chance(8) { lately.filter(rare).nth(rng.below(4)) } else { None };
        let &(source, destination, protocol, arrived) = rare.unwrap_or_else(|| rng.pick(&self.forwarded));
        (packet(destination, source, protocol, rng), arrived)
    }

    /// What somebody on the way of a translated packet says about it, and where that had arrived.
    fn error(&self, rng: &mut Rng) -> (Frame, u32) {
        let stop = self.ports[3].index;
        // Of the last few hundred, whose flows live.
        let entry = self.lately(300, rng);
        // Clients' packets where nothing is forwarded are few, and half of those are of the other family.
        let of_the_stop = |entry: &&Translated| entry.3 == stop && !is_virtual(entry.0);
        let rare =
            if rng.chance(15) { self.newest(1000).filter(of_the_stop).nth(rng.below(6)) } else { None };
        let &(source, destination, protocol, interface) = rare.unwrap_or(entry);
        let mut quoted = packet(source, destination, protocol, rng);
        if rng.chance(20) {
            disturb(&mut quoted, rng);
        }
        let mut quote = quoted.packet();
        let length = match rng.below(4) {
            0 | 1 => quote.len(),
            // As much as RFC 792 asks for, and around it.
            2 => (if source.is_ipv4() { 20 } else { 40 }) + rng.below(30),
            _ => rng.below(quote.len() + 1),
        };
        quote.truncate(length);
        let is_v4 = source.is_ipv4();
        let (errors, others) =
            if is_v4 { ([3, 11, 12, 3], [4, 0, 8, 5]) } else { ([1, 2, 3, 4], [128, 129, 135, 100]) };
        let kind = if rng.chance(92) { *rng.pick(&errors) } else { *rng.pick(&others) };
        let router: [IpAddr; 4] = if is_v4 {
            ["192.0.2.77", "198.51.100.77", "10.9.9.9", "127.0.0.1"].map(|router| router.parse().unwrap())
        } else {
            ["2001:db8:1::77", "2001:db8:2::77", "2001:db8:99::9", "::1"]
                .map(|router| router.parse().unwrap())
        };
        let reporter = if rng.chance(50) { destination.ip() } else { *rng.pick(&router) };
        let to = if rng.chance(97) { source.ip() } else { *rng.pick(&router) };
        let frame = Frame::icmp(reporter, to, kind, rng.below(5) as u8, rng.draw() as u32 & 0xffff);
        (frame.payload(&quote), interface)
    }
}

/// Whether this is a virtual address: whoever sends from there answers.
fn is_virtual(address: SocketAddr) -> bool {
    FRONTENDS.iter().flat_map(|of_family| of_family.iter()).any(|frontend| address.to_string() == *frontend)
}

/// Whether this is a client's address to which no route leads back.
fn is_unreachable(client: SocketAddr) -> bool {
    UNREACHABLE.contains(&client.ip().to_string().as_str())
}

/// A packet from a client: mostly to a service.
fn client(world: &World, rng: &mut Rng) -> Frame {
    let family = rng.below(2);
    let host = 2 + rng.below(90) as u16;
    let source: IpAddr = if family == 0 {
        Ipv4Addr::new(192, 0, 2, host as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host).into()
    };
    let mut source = SocketAddr::new(source, 40_000 + rng.below(12) as u16);
    if rng.chance(2) {
        source.set_ip(UNREACHABLE[family].parse().unwrap());
    }
    let mut destination: SocketAddr = rng.pick(FRONTENDS[family]).parse().unwrap();
    match rng.below(100) {
        0..=4 => destination.set_port(81),
        5..=8 => destination = world.backend_address(family, rng),
        _ => {}
    }
    if rng.chance(5) {
        let kind = if family == 0 { 8 } else { 128 };
        let code = u8::from(rng.chance(5));
        let length = if rng.chance(10) { 1200 + rng.below(300) } else { rng.below(64) };
        let frame = Frame::icmp(source.ip(), destination.ip(), kind, code, rng.draw() as u32);
        return frame.payload(&rng.bytes(length));
    }
    let protocol = if rng.chance(60) { TCP } else { UDP };
    packet(source, destination, protocol, rng)
}

fn packet(source: SocketAddr, destination: SocketAddr, protocol: u8, rng: &mut Rng) -> Frame {
    let mut frame = if protocol == TCP {
        let flags = *rng.pick(&[
            flags::SYN,
            flags::SYN,
            flags::SYN | flags::ACK,
            flags::ACK,
            flags::ACK,
            flags::ACK | flags::PSH,
            flags::FIN | flags::ACK,
            flags::RST,
        ]);
        Frame::tcp(source, destination, flags)
    } else {
        Frame::udp(source, destination)
    };
    let length = match rng.below(20) {
        0 => 1200 + rng.below(1800),
        _ => rng.below(64),
    };
    frame.payload = rng.bytes(length);
    frame
}

/// What is rare but right.
fn disturb(frame: &mut Frame, rng: &mut Rng) {
    if rng.chance(6) {
        let tags = [(0x8100, 5), (0x88a8, 7), (0x8100, 0xe001)];
        frame.tags = (0..1 + rng.below(3)).map(|_| *rng.pick(&tags)).collect();
    }
    if rng.chance(10) {
        frame.ip_options = rng.below(11) as u8;
    }
    if rng.chance(12) {
        let kinds = [
            Extension::HopByHop(0),
            Extension::Destination(3),
            Extension::Destination(200),
            Extension::Routing(0),
            Extension::Routing(1),
            Extension::Authentication,
            Extension::Fragment(0),
            Extension::Fragment(1),
            Extension::Fragment(0x0100),
        ];
        frame.extensions = (0..1 + rng.below(8)).map(|_| *rng.pick(&kinds)).collect();
    }
    if rng.chance(10) {
        frame.hop_limit = rng.below(3) as u8;
    }
    // Of what has tags little else is a part.
    if rng.chance(if frame.tags.is_empty() { 8 } else { 25 }) {
        frame.fragment = *rng.pick(&[0, 0x4000, 0x2000, 0x0010, 0x8000]);
    }
    if rng.chance(5) {
        frame.traffic_class = rng.draw() as u8;
    }
    match (&mut frame.transport, rng.below(20)) {
        (Transport::Tcp { options, .. }, 0..=6) => *options = rng.below(11) * 4,
        (Transport::Udp { checksum }, 0..=3) => *checksum = false,
        (transport, 19) => *transport = Transport::Other(*rng.pick(&[1, 2, 58, 132, 50])),
        _ => {}
    }
    match rng.below(60) {
        0 => frame.to = [0xff; 6],
        1 => frame.to = [0x33, 0x33, 0, 0, 0, 1],
        2 => frame.to = [2, 0, 0, 0, 0xaa, 0xaa],
        _ => {}
    }
}

/// A transport header whose own length is too small for it, or too large for the packet.
fn contradict(frame: &Frame, bytes: &mut [u8], rng: &mut Rng) {
    let behind = bytes.len() - frame.payload.len();
    let large = rng.chance(50);
    match frame.transport {
        Transport::Tcp { options, .. } if !large => bytes[behind - options - 20 + 12] = 0x40,
        // 60 bytes.
        Transport::Tcp { options, .. } if options + frame.payload.len() < 40 => {
            bytes[behind - options - 20 + 12] = 0xf0;
        }
        Transport::Udp { .. } => bytes[behind - 4] = if large { 0xff } else { 0 },
        Transport::Tcp { .. } | Transport::Icmp { .. } | Transport::Other(_) => {}
    }
    if matches!(frame.transport, Transport::Udp { .. }) && !large {
        bytes[behind - 3] = rng.below(8) as u8;
    }
}

/// What is wrong.
fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    match rng.below(4) {
        // Within a tag, where there is one.
        0 if matches!(bytes.get(12), Some(0x81 | 0x88)) => bytes.truncate(14 + rng.below(4)),
        0 => bytes.truncate(rng.below(bytes.len() + 1)),
        1 => bytes.extend(rng.bytes(40)),
        2 if bytes.get(12) == Some(&0x08) && rng.chance(30) => {
            let sources = [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]];
            if let Some(source) = bytes.get_mut(26..30) {
                source.copy_from_slice(&sources[rng.below(sources.len())]);
            }
        }
        // A source that no router forwards: link-local, multicast, loopback.
        2 if bytes.get(12) == Some(&0x86) && rng.chance(30) => {
            let sources = [[0xfe, 0x80], [0xff, 0x01], [0, 0]];
            if let Some(source) = bytes.get_mut(22..38) {
                source.fill(0);
                source[..2].copy_from_slice(&sources[rng.below(sources.len())]);
                source[15] = 1;
            }
        }
        // Most fields that lie are in the first headers; other addresses are spared, since any may be routed anywhere:
        // those of IPv6 begin at 22.
        2 => {
            let is_v6 = bytes.get(12) == Some(&0x86);
            let at = 12 + rng.below(if is_v6 { 10 } else { 12 });
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.draw() as u8;
            }
        }
        _ => {
            // Behind the addresses of either family: ports, lengths, offsets, flags.
            let at = 34 + rng.below(20) + if rng.chance(50) { 20 } else { 0 };
            let is_v6 = bytes.get(12) == Some(&0x86);
            if let Some(byte) = bytes.get_mut(if is_v6 { at.max(54) } else { at }) {
                *byte ^= 1 << rng.below(8);
            }
        }
    }
}
