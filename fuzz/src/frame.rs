//! One host, one frame of arbitrary bytes, every hook.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    abi::{LIST_AFFINITY, LIST_MASQUERADE, LIST_MASQUERADE_LOCAL, TupleV4, TupleV6},
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    model::NatPorts,
    pipeline::{AddressSettings, DropReason, Hook, Verdict},
    tables::{Capacity, HashTable, Store, Tuple},
    wire::Be16,
};
use dataplane_testkit::{
    fill::Filler,
    frames::{Dissected, Frame, flags},
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
const NO_ROUTE: usize = 6;

/// Virtual addresses and ports, for both protocols, of services that treat their flows differently: see [`FLAGS`]. To the last
/// virtual address there is no route.
pub const FRONTENDS: [[&str; 9]; 2] = [
    [
        "203.0.113.10:80",
        "203.0.113.10:53",
        "203.0.113.12:443",
        "203.0.113.14:80",
        "203.0.113.14:53",
        "203.0.113.18:80",
        "203.0.113.18:53",
        "203.0.113.42:80",
        "203.0.113.42:53",
    ],
    [
        "[2001:db8:cafe::10]:80",
        "[2001:db8:cafe::10]:53",
        "[2001:db8:cafe::12]:443",
        "[2001:db8:cafe::14]:80",
        "[2001:db8:cafe::14]:53",
        "[2001:db8:cafe::18]:80",
        "[2001:db8:cafe::18]:53",
        "[2001:db8:ca7e::10]:80",
        "[2001:db8:ca7e::10]:53",
    ],
];
/// The one without a backend.
const EMPTY: usize = 2;
/// Those at which the client's connections are masqueraded: at the first with TCP, at the second with UDP.
pub const MASQUERADED: [usize; 2] = [3, 4];
/// Those that the client came to lately, likewise.
const VISITED: [usize; 2] = [5, 6];
/// Those with Maglev tables. Only the first one's decides alone: the other remembers clients.
const MAGLEV: [usize; 2] = [7, 8];

/// How each treats its flows.
const FLAGS: [u16; 9] = [
    0,
    0,
    0,
    LIST_MASQUERADE,
    LIST_MASQUERADE | LIST_MASQUERADE_LOCAL,
    LIST_AFFINITY,
    LIST_AFFINITY | LIST_MASQUERADE,
    0,
    LIST_MASQUERADE | LIST_AFFINITY,
];

/// The backend that the client comes to again, and for how many ticks: some 10 s.
const REMEMBERED: usize = 3;
const MEMORY: u32 = 75;

/// Backends of a Maglev table, by place, and what it is made with. It is none that Maglev would make.
const PLACES: [u16; 11] = [0, 3, 0, 1, 2, 4, 0, 3, 5, 6, 1];
const SEED: u64 = 7;

/// This host's addresses towards the backends that are reached by [`BACK`] and by [`SLOW`], and its ports.
pub const OWN: [[&str; 2]; 2] = [["198.51.100.1", "2001:db8:2::1"], ["192.0.2.129", "2001:db8:3::1"]];
/// The first port, which each of the client's connections has that are masqueraded.
pub const PORT: u16 = 50_000;
const LAST_PORT: u16 = PORT + 15;

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
    kept: Vec<Kept>,
}

/// What a table has before each frame.
struct Kept {
    is_there: Box<dyn Fn(&MemoryTables) -> bool>,
    restore: Box<dyn Fn(&MemoryTables)>,
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
            conntrack: 256,
            opening: 256,
            nat: 128,
            affinity: 64,
            fragments: 64,
        };
        let tables = Arc::new(MemoryTables::new(capacity));
        tables.set_nat_ports(NatPorts::new(PORT..=LAST_PORT).expect("a good range"));
        tables.set_addresses(AddressSettings { answer_ping: true, drop_unserved_ports: true });
        let mut simulator = Simulator::new(Arc::clone(&tables));
        for index in INTERFACES {
            let mut interface = SimulatedInterface::new(index, MAC);
            if index == SLOW {
                (interface.mtu, interface.xdp_redirect, interface.xdp_tx) = (1280, false, false);
            }
            if let Some(own) = [BACK, SLOW].iter().position(|with_address| *with_address == index) {
                interface.masquerade_v4 = Some(OWN[own][0].parse().expect("an address"));
                interface.masquerade_v6 = Some(OWN[own][1].parse().expect("an address"));
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
            ("203.0.113.0/27", Target::Link(FRONT)),
            ("2001:db8:1::/64", Target::Link(FRONT)),
            ("2001:db8:cafe::/64", Target::Link(FRONT)),
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
        filler.affinity = MEMORY;
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
                    let list = if i == EMPTY { &[][..] } else { &list[..] };
                    filler.list_flags = FLAGS[i];
                    let service = filler.service(&*tables, socket(frontend), protocol, list);
                    let service = service.expect("room for services");
                    if MAGLEV.contains(&i) {
                        let pointed = filler.point_by_maglev(&*tables, service, list, &PLACES, SEED);
                        pointed.expect("room for tables");
                    }
                }
            }
        }
        simulator.set_time(START);
        establish(&mut simulator);
        check::tables(&tables);
        check::halves(&tables);
        let mut kept = Vec::new();
        keep(&mut kept, &tables, |tables| tables.conntrack_v4());
        keep(&mut kept, &tables, |tables| tables.conntrack_v6());
        keep(&mut kept, &tables, |tables| tables.opening_v4());
        keep(&mut kept, &tables, |tables| tables.opening_v6());
        keep(&mut kept, &tables, |tables| tables.nat_v4());
        keep(&mut kept, &tables, |tables| tables.nat_v6());
        keep(&mut kept, &tables, |tables| tables.affinity_v4());
        keep(&mut kept, &tables, |tables| tables.affinity_v6());
        keep(&mut kept, &tables, |tables| tables.fragments_v4());
        keep(&mut kept, &tables, |tables| tables.fragments_v6());
        Self { simulator: RefCell::new(simulator), kept }
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
        let interface = INTERFACES[usize::from(choice & 3)];
        let wait = WAITS[usize::from(choice >> 2 & 3)];
        simulator.set_time(START + wait);
        simulator.set_choice(Some(u32::from(choice >> 4) << 28));
        simulator.set_random(Some(u32::from(choice) * 0x0101_0101));
        for hook in Hook::ALL {
            let out = simulator.run(hook, interface, frame);
            if let Some(translated) = check::outcome(frame, Some(hook), &out) {
                assert_known(&translated, wait < WAITS[2]);
            }
            assert!(
                hook != Hook::Egress || !matches!(out.verdict, Verdict::Forward | Verdict::Leave(_)),
                "{}",
                out.verdict
            );
            assert_possible(out.verdict, frame);
        }
        // Most frames change nothing.
        let is_there = |kept: &Kept| (kept.is_there)(&tables);
        if self.kept.iter().all(is_there) {
            return;
        }
        check::tables(&tables);
        // Later, an entry may have lost its other half to another connection that needed it.
        if wait < WAITS[2] {
            check::halves(&tables);
        }
        for kept in self.kept.iter().filter(|kept| !is_there(kept)) {
            (kept.restore)(&tables);
        }
    }
}

/// Opens connections of both protocols to each backend that can be reached, with their sources kept and masqueraded, and to two
/// frontends with affinity. Backends have answered, and where they have an even number the client has gone on.
fn establish(simulator: &mut Simulator) {
    // So each has the first port.
    simulator.set_random(Some(0));
    for family in 0..2 {
        let client: IpAddr = CLIENTS[family].parse().expect("an address");
        for i in 0..BACKENDS[family].len() {
            let client = SocketAddr::new(client, FIRST_PORT + i as u16);
            connect(simulator, client, family, [0, 1], i);
            connect(simulator, client, family, MASQUERADED, i);
        }
        connect(simulator, SocketAddr::new(client, FIRST_PORT), family, VISITED, REMEMBERED);
    }
}

/// A client's connections to a backend: one of TCP to one frontend, one of datagrams to another.
fn connect(
    simulator: &mut Simulator,
    client: SocketAddr,
    family: usize,
    frontends: [usize; 2],
    backend: usize,
) {
    // The middle of the part of all numbers that chooses this one.
    let count = BACKENDS[family].len();
    simulator.set_choice(Some((((2 * backend as u64 + 1) << 31) / count as u64) as u32));
    let from = socket(BACKENDS[family][backend]);
    let [web, names] = frontends.map(|frontend| socket(FRONTENDS[family][frontend]));
    for is_tcp in [true, false] {
        let packet = |source, destination, flags| match is_tcp {
            true => Frame::tcp(source, destination, flags).link(MAC, MAC).build(),
            false => Frame::udp(source, destination).link(MAC, MAC).build(),
        };
        let to = if is_tcp { web } else { names };
        let out = simulator.run(Hook::Ingress, FRONT, &packet(client, to, flags::SYN));
        if out.verdict != Verdict::Forward {
            continue;
        }
        let sent = Dissected::of(&out.frame).expect("a packet");
        assert_eq!(sent.destination, from);
        let answer = packet(from, sent.source, flags::SYN | flags::ACK);
        simulator.run(Hook::Ingress, BACK, &answer);
        if backend.is_multiple_of(2) {
            simulator.run(Hook::Ingress, FRONT, &packet(client, to, flags::ACK));
        }
    }
}

/// Notes what a table has.
fn keep<K, V>(kept: &mut Vec<Kept>, tables: &MemoryTables, table: fn(&MemoryTables) -> &dyn HashTable<K, V>)
where
    K: Copy + PartialEq + 'static,
    V: Copy + PartialEq + 'static,
{
    let entries = table(tables).entries().map(|entry| entry.expect("memory")).collect::<Vec<_>>();
    let noted = entries.clone();
    let is_there = move |tables: &MemoryTables| {
        table(tables).entries().map(|entry| entry.expect("memory")).eq(noted.iter().copied())
    };
    let restore = move |tables: &MemoryTables| {
        let there: Vec<_> = table(tables).entries().map(|entry| entry.expect("memory").0).collect();
        for key in there {
            table(tables).remove(&key).expect("memory");
        }
        // The place that was freed last is taken first: so they stand in their order again.
        for (key, value) in entries.iter().rev() {
            table(tables).insert(key, value).expect("room for what was there");
        }
    };
    kept.push(Kept { is_there: Box::new(is_there), restore: Box::new(restore) });
}

/// A client's packet to a frontend goes to one of its backends, an answer of a backend comes from a frontend of it; the source is
/// that of this host where the service has it so; and backends are those that tables and memory name. `is_remembered`: whether
/// the client is.
fn assert_known(packet: &Translated, is_remembered: bool) {
    let Translated { before, after } = packet;
    let family = usize::from(before.source.is_ipv6());
    let frontend = |address| {
        let place = FRONTENDS[family].iter().position(|frontend| socket(frontend) == address);
        place.filter(|place| *place != EMPTY)
    };
    let backend = |address| BACKENDS[family].iter().position(|backend| socket(backend) == address);
    let is_own = |address: SocketAddr| {
        OWN.iter().any(|own| own[family].parse() == Ok(address.ip()))
            && (PORT..=LAST_PORT).contains(&address.port())
    };
    let (frontend, backend, is_original) = match (frontend(before.destination), backend(after.destination)) {
        (Some(frontend), Some(backend)) => (frontend, backend, true),
        _ => match (frontend(after.source), backend(before.source)) {
            (Some(frontend), Some(backend)) => (frontend, backend, false),
            _ => panic!("{before:?} became {after:?}"),
        },
    };
    let flags = FLAGS[frontend];
    // What the stack delivers keeps its source.
    let is_delivered = backend == NO_ROUTE || (backend == LOCAL && flags & LIST_MASQUERADE_LOCAL == 0);
    let is_masqueraded = flags & LIST_MASQUERADE != 0 && !is_delivered;
    assert_eq!(packet.is_masqueraded(), is_masqueraded, "{before:?} became {after:?}");
    if is_masqueraded {
        let own = if is_original { after.source } else { before.destination };
        assert!(is_own(own), "{own} is not ours: {before:?} became {after:?}");
    }
    if !is_original {
        return;
    }
    let its_client: IpAddr = CLIENTS[family].parse().expect("an address");
    if VISITED.contains(&frontend) && before.source.ip() == its_client && is_remembered {
        // Of each frontend one protocol was visited.
        let visited = if before.protocol == 6 { VISITED[0] } else { VISITED[1] };
        assert!(frontend != visited || backend == REMEMBERED, "{before:?} went to backend {backend}");
    }
    if frontend == MAGLEV[0] {
        let place = (u64::from(hash(before)) * PLACES.len() as u64) >> 32;
        assert_eq!(backend, usize::from(PLACES[place as usize]), "{before:?}: place {place}");
    }
}

/// What a packet hashes to.
fn hash(packet: &Dissected) -> u32 {
    let (source, destination) = (packet.source, packet.destination);
    let (from, to) = (Be16::new(source.port()), Be16::new(destination.port()));
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            TupleV4::new(client.into(), service.into(), from, to, packet.protocol).hash(SEED)
        }
        (IpAddr::V6(client), IpAddr::V6(service)) => {
            TupleV6::new(client.into(), service.into(), from, to, packet.protocol).hash(SEED)
        }
        _ => panic!("a packet of two families"),
    }
}

/// Ports and tables do not run out for a single frame, and nobody else is at work; only what is for a virtual address is answered
/// or dropped for that.
fn assert_possible(verdict: Verdict, frame: &[u8]) {
    let impossible = [
        DropReason::ConntrackFull,
        DropReason::NoMasqueradeAddress,
        DropReason::NatExhausted,
        DropReason::NatFull,
        DropReason::Contended,
        DropReason::StackOnly,
    ];
    if let Verdict::Drop(reason) = verdict {
        assert!(!impossible.contains(&reason), "{verdict}");
    }
    let is_virtual =
        |address: IpAddr| FRONTENDS.iter().flatten().any(|frontend| socket(frontend).ip() == address);
    if verdict == Verdict::Drop(DropReason::NoPort)
        && let Some(packet) = Dissected::of(frame)
    {
        let is_served = FRONTENDS.iter().flatten().any(|frontend| socket(frontend) == packet.destination);
        assert!(is_virtual(packet.destination.ip()) && !is_served, "{packet:?}");
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}
