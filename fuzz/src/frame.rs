//! One host, one frame of arbitrary bytes, every hook.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    abi::{FlowV4, FlowV6, TupleV4, TupleV6},
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    pipeline::{Hook, Verdict},
    tables::{Capacity, HashTable, Store},
};
use dataplane_testkit::{
    fill::Filler,
    frames::{Frame, flags},
};

use crate::check::{self, Translated};

/// Towards clients, towards backends, a slow one that XDP cannot use, and one that does not forward.
pub const INTERFACES: [u32; 4] = [2, 3, 4, 5];
const FRONT: u32 = 2;
const BACK: u32 = 3;
const SLOW: u32 = 4;
const STOP: u32 = 5;

/// All interfaces have one address, so that one byte turns a frame for one into a frame for another.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A neighbour, this host, behind a gateway, over the slow interface, one whose link-layer address is not known,
/// unreachable, no route.
pub const BACKENDS: [[&str; 7]; 2] = [
    [
        "198.51.100.2:8080",
        "198.51.100.9:8080",
        "198.51.100.200:8080",
        "192.0.2.130:8080",
        "198.51.100.3:8080",
        "198.51.100.131:8080",
        "10.0.0.1:8080",
    ],
    [
        "[2001:db8:2::2]:8080",
        "[2001:db8:2::9]:8080",
        "[2001:db8:20::9]:8080",
        "[2001:db8:3::2]:8080",
        "[2001:db8:2::3]:8080",
        "[2001:db8:21::1]:8080",
        "[2001:db8:99::1]:8080",
    ],
];
const LOCAL: usize = 1;

/// Virtual addresses and ports, for both protocols. The last one has no backend.
pub const FRONTENDS: [[&str; 3]; 2] = [
    ["203.0.113.10:80", "203.0.113.10:53", "203.0.113.12:443"],
    ["[2001:db8:cafe::10]:80", "[2001:db8:cafe::10]:53", "[2001:db8:cafe::12]:443"],
];

/// Who has connections already: to each backend one from a port of its own, from 40000 on.
pub const CLIENTS: [&str; 2] = ["192.0.2.7", "2001:db8:1::7"];
const FIRST_PORT: u16 = 40_000;

const START: Duration = Duration::from_secs(1000);
/// Until the frame comes: nothing, a refresh later, after closed and after opening connections ran out.
const WAITS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(11), Duration::from_secs(61)];

/// A host with services, routes and established connections, which looks the same to each frame.
pub struct Host {
    simulator: RefCell<Simulator>,
    flows_v4: Vec<(TupleV4, FlowV4)>,
    flows_v6: Vec<(TupleV6, FlowV6)>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Sets everything up.
    ///
    /// # Panics
    /// If that fails.
    pub fn new() -> Self {
        let capacity = Capacity {
            frontends: 32,
            slots: 1 << 10,
            backends: 32,
            conntrack: 128,
            opening: 128,
            nat: 64,
            affinity: 64,
            fragments: 64,
        };
        let tables = Arc::new(MemoryTables::new(capacity));
        let mut simulator = Simulator::new(Arc::clone(&tables));
        for index in INTERFACES {
            let mut interface = SimulatedInterface::new(index, MAC);
            if index == SLOW {
                (interface.mtu, interface.xdp_redirect, interface.xdp_tx) = (1280, false, false);
            }
            if index == STOP {
                (interface.forwarding, interface.zone) = (false, 7);
            }
            simulator.add_interface(interface).expect("interfaces have places");
        }
        let routes = simulator.routes_mut();
        let gateway = |at: &str| Target::Gateway(BACK, at.parse().expect("an address"));
        for (prefix, target) in [
            ("192.0.2.0/25", Target::Link(FRONT)),
            ("192.0.2.128/25", Target::Link(SLOW)),
            ("198.51.100.0/24", Target::Link(BACK)),
            ("198.51.100.131/32", Target::Unreachable),
            ("198.51.100.192/26", gateway("198.51.100.2")),
            ("2001:db8:1::/64", Target::Link(FRONT)),
            ("2001:db8:3::/64", Target::Link(SLOW)),
            ("2001:db8:2::/64", Target::Link(BACK)),
            ("2001:db8:21::/64", Target::Unreachable),
            ("2001:db8:20::/64", gateway("2001:db8:2::2")),
        ] {
            routes.insert(prefix.parse().expect("a prefix"), target);
        }
        for (interface, neighbor) in [
            (FRONT, CLIENTS[0]),
            (FRONT, CLIENTS[1]),
            (BACK, "198.51.100.2"),
            (BACK, "2001:db8:2::2"),
            (SLOW, "192.0.2.130"),
            (SLOW, "2001:db8:3::2"),
        ] {
            routes.insert_neighbor(interface, neighbor.parse().expect("an address"), [2, 0, 0, 0, 0, 9]);
        }
        let mut filler = Filler::default();
        for family in 0..2 {
            let list: Vec<_> = BACKENDS[family]
                .iter()
                .enumerate()
                .map(|(i, address)| {
                    filler.backend(&*tables, socket(address), i == LOCAL).expect("room for backends")
                })
                .collect();
            for (i, frontend) in FRONTENDS[family].iter().enumerate() {
                for protocol in [6, 17] {
                    let list = if i + 1 == FRONTENDS[family].len() { &[][..] } else { &list[..] };
                    filler.service(&*tables, socket(frontend), protocol, list).expect("room for services");
                }
            }
        }
        simulator.set_time(START);
        for frame in established(&mut simulator) {
            simulator.run(Hook::Ingress, BACK, &frame);
        }
        let flows_v4 = tables.opening_v4().entries().map(|entry| entry.expect("memory")).collect();
        let flows_v6 = tables.opening_v6().entries().map(|entry| entry.expect("memory")).collect();
        let host = Self { simulator: RefCell::new(simulator), flows_v4, flows_v6 };
        check::tables(&tables);
        check::halves(&tables);
        host
    }

    /// Runs a frame through each hook and checks what must hold. The first byte says where it arrives (2 bits), when
    /// (2 bits) and what the dice say (4 bits); the rest is the frame.
    ///
    /// # Panics
    /// Where something does not hold.
    pub fn meet(&self, data: &[u8]) {
        let Some((&choice, frame)) = data.split_first() else {
            return;
        };
        let mut simulator = self.simulator.borrow_mut();
        let tables = Arc::clone(simulator.tables());
        reset(tables.conntrack_v4(), &[]);
        reset(tables.conntrack_v6(), &[]);
        reset(tables.opening_v4(), &self.flows_v4);
        reset(tables.opening_v6(), &self.flows_v6);
        reset(tables.fragments_v4(), &[]);
        reset(tables.fragments_v6(), &[]);
        let interface = INTERFACES[usize::from(choice & 3)];
        let wait = WAITS[usize::from(choice >> 2 & 3)];
        simulator.set_time(START + wait);
        simulator.set_choice(Some(u32::from(choice >> 4) << 28));
        for hook in Hook::ALL {
            let out = simulator.run(hook, interface, frame);
            if let Some(translated) = check::outcome(frame, Some(hook), &out) {
                assert_known(&translated);
            }
            assert!(
                hook != Hook::Egress || !matches!(out.verdict, Verdict::Forward | Verdict::Leave(_)),
                "{}",
                out.verdict
            );
        }
        check::tables(&tables);
        // Later, an entry may have lost its other half to another connection that needed it.
        if wait < WAITS[2] {
            check::halves(&tables);
        }
    }
}

/// Opens one connection of each protocol to each backend that can be reached; gives the answers to them.
fn established(simulator: &mut Simulator) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    for family in 0..2 {
        let count = BACKENDS[family].len();
        for (i, backend) in BACKENDS[family].iter().enumerate() {
            // The middle of the part of all numbers that chooses this one.
            simulator.set_choice(Some((((2 * i as u64 + 1) << 31) / count as u64) as u32));
            let client: IpAddr = CLIENTS[family].parse().expect("an address");
            let client = SocketAddr::new(client, FIRST_PORT + i as u16);
            for (open, answer) in [
                (
                    Frame::tcp(client, socket(FRONTENDS[family][0]), flags::SYN),
                    Frame::tcp(socket(backend), client, flags::SYN | flags::ACK),
                ),
                (Frame::udp(client, socket(FRONTENDS[family][1])), Frame::udp(socket(backend), client)),
            ] {
                simulator.run(Hook::Ingress, FRONT, &open.link(MAC, MAC).build());
                answers.push(answer.link(MAC, MAC).build());
            }
        }
    }
    answers
}

/// Puts these entries, and no others, into a table.
fn reset<K: Copy, V: Copy>(table: &dyn HashTable<K, V>, entries: &[(K, V)]) {
    let there: Vec<_> = table.entries().map(|entry| entry.expect("memory").0).collect();
    for key in there {
        table.remove(&key).expect("memory");
    }
    for (key, value) in entries {
        table.insert(key, value).expect("room for the connections");
    }
}

/// A client's packet to a frontend goes to one of its backends, an answer of a backend comes from a frontend of it.
fn assert_known(packet: &Translated) {
    let Translated { before, after } = packet;
    let family = usize::from(before.source.is_ipv6());
    let is_frontend = |address| FRONTENDS[family][..2].iter().any(|frontend| socket(frontend) == address);
    let is_backend = |address| BACKENDS[family].iter().any(|backend| socket(backend) == address);
    let right = if packet.is_original() {
        is_frontend(before.destination) && is_backend(after.destination)
    } else {
        is_backend(before.source) && is_frontend(after.source)
    };
    assert!(right, "{before:?} became {after:?}");
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}
