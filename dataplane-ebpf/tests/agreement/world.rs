//! One host, twice: a network namespace with real interfaces, routes and neighbours, and the simulator's mirror of it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    abi::{
        BackendRef, INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, InterfaceEntry, LIST_AFFINITY, LIST_MASQUERADE,
        LIST_MASQUERADE_LOCAL, MasqueradeEntry,
    },
    event::EventOptions,
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    model::NatPorts,
    pipeline::AddressSettings,
    tables::{Capacity, Store},
};
use dataplane_ebpf::{EbpfDataplane, testing::TestDataplane};
use dataplane_testkit::{
    fill::{FilledService, Filler},
    frames::Rng,
    net::{Interface, Namespace, Offload, Route, veth, wait_for},
};

/// Where a backend is, which decides what becomes of its packets.
pub const BACKENDS: [&[&str]; 2] = [
    &[
        "198.51.100.2:8080",   // a neighbour that is known
        "198.51.100.3:8080",   // one that is not
        "198.51.100.200:8080", // behind a gateway
        "192.0.2.130:8080",    // through an interface that XDP cannot use, with a small MTU
        "198.51.100.131:8080", // unreachable
        "198.51.100.160:8080", // no route
        "192.0.2.1:8080",      // this host, by its address
        "198.51.100.9:8080",   // this host, by what control says
        "198.51.100.2:80",     // the first one again, on the service's port
    ],
    &[
        "[2001:db8:2::2]:8080",
        "[2001:db8:2::3]:8080",
        "[2001:db8:20::9]:8080",
        "[2001:db8:3::2]:8080",
        "[2001:db8:21::1]:8080",
        "[2001:db8:99::1]:8080",
        "[2001:db8:1::1]:8080",
        "[2001:db8:2::9]:8080",
        "[2001:db8:2::2]:80",
    ],
];
const SAID_TO_BE_LOCAL: usize = 7;

/// Virtual addresses and ports. The last one never has a backend.
pub const FRONTENDS: [&[&str]; 2] = [
    &["203.0.113.10:80", "203.0.113.11:80", "203.0.113.10:53", "203.0.113.12:443"],
    &[
        "[2001:db8:cafe::10]:80",
        "[2001:db8:cafe::11]:80",
        "[2001:db8:cafe::10]:53",
        "[2001:db8:cafe::12]:443",
    ],
];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// The ports of source NAT: so few that they run out.
const NAT_PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_003;

/// What services with random choice hash with: any number will do, as long as both have the same.
const CHOICE_SEED: u64 = 0x1020_3040_5060_7080;

/// One of them that a socket of the host has: not the first and not the last, so that both ends of the range are lent.
const BOUND: u16 = 50_001;

/// What flows towards most backends get as their source.
const MASQUERADE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1));

/// An interface of the host.
#[derive(Clone, Copy)]
pub struct Port {
    pub index: u32,
    pub mac: [u8; 6],
}

pub struct World {
    pub host: Namespace,
    _far: Namespace,
    pub kernel: TestDataplane,
    pub simulator: Simulator,
    /// Clients, backends, backends at a small MTU, and one that does not forward.
    pub front: Port,
    pub back: Port,
    pub slow: Port,
    pub stop: Port,
    fillers: [Filler; 2],
    backends: [Vec<(usize, BackendRef)>; 2],
    services: Vec<(usize, FilledService)>,
    _sockets: (TcpListener, UdpSocket),
}

impl World {
    /// `events`: which ones both tell of.
    pub fn new(events: Option<EventOptions>) -> Self {
        let host = Namespace::new("agreement host").unwrap();
        let far = Namespace::new("agreement far").unwrap();
        host.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
        let ports = ["front", "back", "slow", "stop"].map(|name| port(&host, &far, name));
        let capacity = Capacity {
            conntrack: 1 << 18,
            opening: 1 << 18,
            frontends: 64,
            slots: 1 << 16,
            backends: 2048,
            nat: 1 << 16,
            affinity: 1 << 16,
            fragments: 1 << 16,
        };
        let ports_of_nat = NatPorts::new(NAT_PORTS).unwrap();
        let builder = EbpfDataplane::builder().unpinned().capacity(capacity).nat_ports(ports_of_nat);
        let builder = events.into_iter().fold(builder, |builder, options| builder.events(options));
        let kernel = host.run(|| TestDataplane::open(builder)).unwrap();
        let tables = Arc::new(MemoryTables::new(capacity));
        // Each CPU has a budget of its own in the kernel: here nobody ever comes to its end.
        kernel.plane().tables().set_answers_a_second(1 << 24).unwrap();
        tables.set_answers_a_second(1 << 24);
        tables.set_nat_ports(ports_of_nat);
        tables.events().switch(events);
        kernel.plane().tables().set_choice_seed(CHOICE_SEED).unwrap();
        tables.set_choice_seed(CHOICE_SEED);
        let addresses = AddressSettings { answer_ping: true, drop_unserved_ports: true };
        kernel.plane().tables().set_addresses(addresses).unwrap();
        tables.set_addresses(addresses);
        let mut simulator = Simulator::new(tables);
        for protocol in [TCP, UDP] {
            simulator.bind(MASQUERADE.0.into(), BOUND, protocol);
            simulator.bind(MASQUERADE.1.into(), BOUND, protocol);
        }
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, BOUND));
        let sockets = host.run(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        let [front, back, slow, stop] = [&ports[0], &ports[1], &ports[2], &ports[3]].map(|(_, port)| *port);
        let mut world = Self {
            host,
            _far: far,
            kernel,
            simulator,
            front,
            back,
            slow,
            stop,
            fillers: [Filler::default(), Filler::default()],
            backends: [Vec::new(), Vec::new()],
            services: Vec::new(),
            _sockets: sockets,
        };
        let [(front, _), (back, _), (slow, _), (stop, _)] = &ports;
        slow.set_mtu(1300).unwrap();
        world.interfaces();
        world.addresses(front, &["192.0.2.1/25", "2001:db8:1::1/64"]);
        world.addresses(back, &["198.51.100.1/25", "2001:db8:2::1/64"]);
        world.addresses(slow, &["192.0.2.129/25", "2001:db8:3::1/64"]);
        world.addresses(stop, &["198.18.0.1/24", "2001:db8:4::1/64"]);
        world
            .host
            .sysctls(&[("net/ipv4/conf/stop/forwarding", "0"), ("net/ipv6/conf/stop/forwarding", "0")])
            .unwrap();
        world.neighbours(front, (2..60).map(|i| format!("192.0.2.{i}")));
        world.neighbours(front, (2..60).map(|i| format!("2001:db8:1::{i:x}")));
        world.neighbours(
            back,
            ["198.51.100.2", "198.51.100.9", "2001:db8:2::2", "2001:db8:2::9"].map(String::from),
        );
        world.neighbours(slow, ["192.0.2.130", "2001:db8:3::2"].map(String::from));
        world.route("198.51.100.192/26", Some((back, "198.51.100.2")));
        world.route("2001:db8:20::/64", Some((back, "2001:db8:2::2")));
        world.route("198.51.100.131/32", None);
        world.route("2001:db8:21::/64", None);
        // Virtual addresses that lead nowhere, or elsewhere; to the others there is no route, and they are the stack's.
        world.route("203.0.113.10/32", None);
        world.route("2001:db8:cafe::10/128", None);
        world.route("203.0.113.11/32", Some((back, "198.51.100.2")));
        world.route("2001:db8:cafe::11/128", Some((back, "2001:db8:2::2")));
        world.fill();
        world
    }

    /// Index of each frontend.
    pub fn frontends(&self) -> impl Iterator<Item = u32> + '_ {
        self.services.iter().map(|(_, service)| service.index)
    }

    /// The addresses of both families that have been given to backends at any time.
    pub fn backend_address(&self, family: usize, rng: &mut Rng) -> SocketAddr {
        rng.pick(BACKENDS[family]).parse().unwrap()
    }

    /// Takes a backend away and adds one, drains one, or gives a frontend another list: in both.
    pub fn change(&mut self, rng: &mut Rng) {
        let family = rng.below(2);
        match rng.below(4) {
            0 => {
                // It is sent new flows all the same: what is asked is what becomes of those that it has.
                let (_, draining) = *rng.pick(&self.backends[family]);
                let (memory, kernel) = self.stores();
                self.fillers[0].drain_backend(&*memory, draining, family == 1).unwrap();
                self.fillers[1].drain_backend(&*kernel, draining, family == 1).unwrap();
            }
            1 => {
                // Its flows find it gone; lists that named it are replaced in the same breath.
                let place = rng.below(self.backends[family].len());
                let (which, gone) = self.backends[family].remove(place);
                let new = self.backend(family, which);
                self.backends[family].push((which, new));
                let services: Vec<_> = self.services.iter().copied().filter(|(f, _)| *f == family).collect();
                for (_, service) in services {
                    self.point(service, family, rng);
                }
                let (memory, kernel) = self.stores();
                self.fillers[0].remove_backend(&*memory, gone, family == 1).unwrap();
                self.fillers[1].remove_backend(&*kernel, gone, family == 1).unwrap();
            }
            _ => {
                let (family, service) = *rng.pick(&self.services);
                self.point(service, family, rng);
            }
        }
    }

    fn stores(&self) -> (Arc<dyn Store>, Arc<dyn Store>) {
        (self.simulator.tables().clone(), self.kernel.plane().tables())
    }

    fn point(&mut self, service: FilledService, family: usize, rng: &mut Rng) {
        let mut flags =
            *rng.pick(&[0, LIST_MASQUERADE, LIST_MASQUERADE, LIST_MASQUERADE | LIST_MASQUERADE_LOCAL]);
        if rng.chance(50) {
            flags |= LIST_AFFINITY;
        }
        // From a tick to two minutes.
        let affinity = 1 << rng.below(10);
        self.fillers.iter_mut().for_each(|filler| (filler.list_flags, filler.affinity) = (flags, affinity));
        let empty = self.services.iter().filter(|(f, _)| *f == family).map(|(_, s)| s.index).max()
            == Some(service.index);
        let count = if empty || rng.chance(3) { 0 } else { 1 + rng.below(2 * self.backends[family].len()) };
        let mut list: Vec<_> = (0..count).map(|_| rng.pick(&self.backends[family]).1).collect();
        list.sort_unstable_by_key(|backend| backend.index());
        let (memory, kernel) = self.stores();
        if list.is_empty() || rng.chance(40) {
            self.fillers[0].point(&*memory, service, &list).unwrap();
            self.fillers[1].point(&*kernel, service, &list).unwrap();
            return;
        }
        // A Maglev table of any size, and one in twenty that names entries which the list does not have.
        let bound = list.len() + if rng.chance(5) { 4 } else { 0 };
        let table: Vec<u16> = (0..=rng.below(60)).map(|_| rng.below(bound) as u16).collect();
        let seed = rng.draw();
        self.fillers[0].point_by_maglev(&*memory, service, &list, &table, seed).unwrap();
        self.fillers[1].point_by_maglev(&*kernel, service, &list, &table, seed).unwrap();
    }

    fn backend(&mut self, family: usize, which: usize) -> BackendRef {
        let address = BACKENDS[family][which].parse().unwrap();
        let (memory, kernel) = self.stores();
        let references = [
            self.fillers[0].backend(&*memory, address, which == SAID_TO_BE_LOCAL).unwrap(),
            self.fillers[1].backend(&*kernel, address, which == SAID_TO_BE_LOCAL).unwrap(),
        ];
        assert_eq!(references[0], references[1]);
        references[0]
    }

    fn fill(&mut self) {
        for family in 0..2 {
            for which in 0..BACKENDS[family].len() {
                let reference = self.backend(family, which);
                self.backends[family].push((which, reference));
            }
            let all: Vec<_> = self.backends[family].iter().map(|(_, reference)| *reference).collect();
            for (place, frontend) in FRONTENDS[family].iter().enumerate() {
                let list = if place + 1 == FRONTENDS[family].len() { &[][..] } else { &all };
                for protocol in [TCP, UDP] {
                    let (memory, kernel) = self.stores();
                    let address = frontend.parse().unwrap();
                    let service = self.fillers[0].service(&*memory, address, protocol, list).unwrap();
                    self.fillers[1].service(&*kernel, address, protocol, list).unwrap();
                    self.services.push((family, service));
                }
            }
        }
    }

    fn interfaces(&mut self) {
        for (port, zone, mtu) in
            [(self.front, 0, 1500), (self.back, 0, 1500), (self.slow, 0, 1300), (self.stop, 7, 1500)]
        {
            let xdp_redirect = port.index != self.slow.index;
            let xdp_tx = port.index != self.back.index;
            let flags = if xdp_redirect { INTERFACE_XDP_REDIRECT } else { 0 }
                | if xdp_tx { INTERFACE_XDP_TX } else { 0 };
            let entry = InterfaceEntry { index: port.index, zone, flags, mac: port.mac, reserved: 0 };
            self.kernel.set_interface(&entry).unwrap();
            // One has no address.
            let has_address = port.index == self.back.index;
            let (v4, v6) = (has_address.then_some(MASQUERADE.0), has_address.then_some(MASQUERADE.1));
            let masquerade = MasqueradeEntry {
                index: port.index,
                v4: v4.map(Into::into).unwrap_or_default(),
                v6: v6.map(Into::into).unwrap_or_default(),
            };
            self.kernel.set_masquerade(&masquerade).unwrap();
            let mut interface = SimulatedInterface::new(port.index, port.mac);
            (interface.mtu, interface.zone) = (mtu, zone);
            (interface.xdp_redirect, interface.xdp_tx) = (xdp_redirect, xdp_tx);
            interface.forwarding = port.index != self.stop.index;
            (interface.masquerade_v4, interface.masquerade_v6) = (v4, v6);
            self.simulator.add_interface(interface).unwrap();
        }
    }

    /// Whether packets to an address are the host's own, by its routes.
    fn is_own(&self, address: Ipv6Addr) -> bool {
        const RTF_LOCAL: u32 = 1 << 31;
        const RTF_ANYCAST: u32 = 1 << 20;
        let routes = self.host.run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap());
        let destination = format!("{:032x} 80 ", address.to_bits());
        routes.lines().filter(|route| route.starts_with(&destination)).any(|route| {
            let flags = route.split_whitespace().nth(8).unwrap();
            u32::from_str_radix(flags, 16).unwrap() & (RTF_LOCAL | RTF_ANYCAST) != 0
        })
    }

    fn addresses(&mut self, interface: &Interface, prefixes: &[&str]) {
        for prefix in prefixes {
            let prefix: ipnet::IpNet = prefix.parse().unwrap();
            interface.add_address(prefix).unwrap();
            if let ipnet::IpNet::V6(v6) = prefix {
                // The kernel makes them the host's own a little later.
                for own in [v6.addr(), v6.network()] {
                    let made = wait_for(Duration::from_secs(20), format!("{own} is the host's"), || {
                        self.is_own(own)
                    });
                    made.unwrap();
                }
            }
            let routes = self.simulator.routes_mut();
            routes.insert(prefix.trunc(), Target::Link(interface.index()));
            routes.insert(prefix.addr().into(), Target::Local);
            match prefix {
                ipnet::IpNet::V4(v4) => routes.insert(IpAddr::from(v4.broadcast()).into(), Target::Local),
                // The subnet routers' anycast address, RFC 4291, 2.6.1.
                ipnet::IpNet::V6(v6) => routes.insert(IpAddr::from(v6.network()).into(), Target::Local),
            }
        }
    }

    fn neighbours(&mut self, interface: &Interface, addresses: impl IntoIterator<Item = String>) {
        for (i, address) in addresses.into_iter().enumerate() {
            let address: IpAddr = address.parse().unwrap();
            let mac = [2, 0, 0, 0, interface.index() as u8, i as u8 + 100];
            interface.add_permanent_neighbour(address, mac).unwrap();
            self.simulator.routes_mut().insert_neighbor(interface.index(), address, mac);
        }
    }

    fn route(&mut self, prefix: &str, gateway: Option<(&Interface, &str)>) {
        let prefix: ipnet::IpNet = prefix.parse().unwrap();
        let (route, target) = match gateway {
            Some((interface, gateway)) => {
                let gateway: IpAddr = gateway.parse().unwrap();
                (Route::to(prefix).via(gateway), Target::Gateway(interface.index(), gateway))
            }
            None => (Route::to(prefix).unreachable(), Target::Unreachable),
        };
        self.host.add_route(&route).unwrap();
        self.simulator.routes_mut().insert(prefix, target);
    }
}

fn port(host: &Namespace, far: &Namespace, name: &str) -> (Interface, Port) {
    let (near, _) = veth(host, name, far, name).unwrap();
    // Only then does it have the receive queues that a test run of XDP asks for.
    near.set_offload(Offload::Gro, true).unwrap();
    let port = Port { index: near.index(), mac: near.mac().unwrap() };
    (near, port)
}
