//! One interface that forwards, in a network namespace of its own, and the dataplane that it is an uplink of.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData};
use dataplane_core::{
    abi::{INTERFACE_PLACES, INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, InterfaceEntry},
    event::EventOptions,
    pipeline::{AddressSettings, Hook, Verdict},
    tables::{Capacity, Store},
    wire::{Ipv4Address, Ipv6Address, PROTOCOL_TCP, TCP_ACK},
};
use dataplane_ebpf::EbpfDataplane;
use dataplane_testkit::{
    fill::Filler,
    frames::Frame,
    net::{Namespace, Offload, Route, veth},
};

use super::{
    config::{Config, PACKET_V4, PACKET_V6},
    programs::{ALL, Family},
};

const CONFIG_WORDS: usize = size_of::<Config>() / 4;
/// The far end of the wire: a neighbour, the backend, and the way to the clients.
const NEIGHBOR: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A virtual address of ours.
    Service,
    /// An address that is nobody's.
    Nobody,
    /// The backend.
    Backend,
}

impl Peer {
    fn address(self, family: Family) -> SocketAddr {
        let address = match (family, self) {
            (Family::V4, Self::Service) => "203.0.113.10:80",
            (Family::V4, Self::Nobody) => "203.0.113.99:80",
            (Family::V4, Self::Backend) => "192.0.2.2:8080",
            (Family::V6, Self::Service) => "[2001:db8:cafe::10]:80",
            (Family::V6, Self::Nobody) => "[2001:db8:cafe::99]:80",
            (Family::V6, Self::Backend) => "[2001:db8:1::2]:8080",
        };
        // All of them are literals of this form.
        address.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

/// The network namespaces and the interface in them.
#[derive(Debug)]
pub struct Network {
    /// The balancer's.
    pub host: Namespace,
    _far: Namespace,
    index: u32,
    mac: [u8; 6],
}

impl Network {
    /// Makes them.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new() -> Result<Self> {
        let (host, far) = (Namespace::new("bench host")?, Namespace::new("bench far")?);
        host.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        let (near, _) = veth(&host, "bench0", &far, "bench1")?;
        // Only then has it the receive queues that a test run of XDP asks for.
        near.set_offload(Offload::Gro, true)?;
        for prefix in ["192.0.2.1/24", "2001:db8:1::1/64"] {
            near.add_address(prefix.parse()?)?;
        }
        for (clients, gateway) in [("10.0.0.0/8", "192.0.2.2"), ("2001:db8:a::/48", "2001:db8:1::2")] {
            let gateway = gateway.parse()?;
            near.add_permanent_neighbour(gateway, NEIGHBOR)?;
            host.add_route(&Route::to(clients.parse()?).via(gateway))?;
        }
        let (index, mac) = (near.index(), near.mac()?);
        Ok(Self { host, _far: far, index, mac })
    }
}

/// The dataplane with the bench programs, and what they are told.
pub struct World {
    /// The dataplane.
    pub plane: EbpfDataplane,
    config: Array<MapData, [u32; CONFIG_WORDS]>,
    settings: Config,
    interface: u32,
    mac: [u8; 6],
}

impl World {
    /// Loads an object that `cargo xtask build-programs --features bench` made. To be called in the network's namespace.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open(
        network: &Network,
        object: Vec<u8>,
        entries: u32,
        events: Option<EventOptions>,
    ) -> Result<Self> {
        let builder = EbpfDataplane::builder().unpinned();
        let plane = events
            .into_iter()
            .fold(builder, |builder, options| builder.events(options))
            .capacity(Capacity { conntrack: entries, opening: entries, ..Capacity::default() })
            .object(object)
            .further_programs(ALL)
            .further_map("bench_lru16", entries)
            .further_map("bench_lru40", entries)
            .open()?;
        let fd = plane.further_map_fd("bench_config").context("the object has no map bench_config")?;
        let config = Map::from_map_data(MapData::from_fd(fd.try_clone_to_owned()?)?)?.try_into()?;
        let mut world =
            Self { plane, config, settings: Config::default(), interface: network.index, mac: network.mac };
        world.fill()?;
        let mut link = [0; 12];
        link[..6].copy_from_slice(&network.mac);
        link[6..].copy_from_slice(&NEIGHBOR);
        world.settings.link = zerocopy::transmute!(link);
        world.settings.interface = network.index;
        Ok(world)
    }

    /// One uplink, and one service of each family with one backend.
    fn fill(&self) -> Result<()> {
        let tables = self.plane.tables();
        let entry = InterfaceEntry {
            index: self.interface,
            flags: INTERFACE_XDP_TX | INTERFACE_XDP_REDIRECT,
            mac: self.mac,
            ..InterfaceEntry::default()
        };
        let words: [u64; 2] = zerocopy::transmute!(entry);
        tables.interfaces().store(self.interface % INTERFACE_PLACES, &words)?;
        let mut filler = Filler::default();
        for family in Family::ALL {
            let backend = filler.backend(&*tables, Peer::Backend.address(family), false)?;
            filler.service(&*tables, Peer::Service.address(family), PROTOCOL_TCP, &[backend])?;
        }
        Ok(())
    }

    /// Has the next packets come from so many flows, from the first one on. Scattered, they come in an order in which
    /// neighbours in memory are not neighbours in time, as traffic does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_flows(&mut self, flows: u32, scattered: bool) -> Result<()> {
        debug_assert!(flows.is_power_of_two());
        let bits = flows.trailing_zeros();
        self.settings.flow_mask = flows - 1;
        (self.settings.factor, self.settings.shift) =
            if scattered && bits > 0 { (0x9e37_79b1, bits.div_ceil(2)) } else { (1, 31) };
        self.write()
    }

    /// Has the next packets go to this peer, with these flags.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_peer(&mut self, family: Family, peer: Peer, tcp_flags: u8) -> Result<()> {
        self.settings.reply = 0;
        self.peer(family, peer, tcp_flags)
    }

    /// Has the next packets come from the backend, to the clients.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_replies(&mut self, family: Family, tcp_flags: u8) -> Result<()> {
        self.settings.reply = 1;
        self.peer(family, Peer::Backend, tcp_flags)
    }

    fn peer(&mut self, family: Family, peer: Peer, tcp_flags: u8) -> Result<()> {
        let address = peer.address(family);
        self.settings.peer = match address {
            SocketAddr::V4(v4) => [Ipv4Address::from(*v4.ip()).0, 0, 0, 0],
            SocketAddr::V6(v6) => Ipv6Address::from(*v6.ip()).0,
        };
        self.settings.peer_port = address.port().to_be();
        self.settings.tcp_flags = tcp_flags;
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.settings.counter = 0;
        let words: [u32; CONFIG_WORDS] = zerocopy::transmute!(self.settings);
        Ok(self.config.set(0, words, 0)?)
    }

    /// Runs a program on so many packets: nanoseconds for each, whole ones, as the kernel tells.
    ///
    /// # Errors
    /// The kernel's; and where the last packet's verdict is not this one.
    pub fn run(&self, family: Family, program: &str, verdict: u32, packets: u32) -> Result<f64> {
        let peers = [Peer::Nobody, Peer::Service].map(|peer| peer.address(family));
        let length = if family == Family::V4 { PACKET_V4 } else { PACKET_V6 } as usize;
        let mut frame = Frame::tcp(peers[0], peers[1], TCP_ACK).link(self.mac, NEIGHBOR).build();
        frame.resize(length, 0);
        let outcome = self.plane.run_named(program, &frame, self.interface, packets)?;
        if outcome.returned != verdict {
            bail!("{program} returned {}, not {verdict}: it did not do its work", outcome.returned as i32);
        }
        Ok(outcome.duration.as_nanos() as f64)
    }

    /// Has packets to virtual addresses dropped at ports without a service, or not.
    ///
    /// # Errors
    /// The table's.
    pub fn drop_unserved_ports(&self, drop_unserved_ports: bool) -> Result<()> {
        let settings = AddressSettings { drop_unserved_ports, ..AddressSettings::default() };
        Ok(self.plane.tables().set_addresses(settings)?)
    }

    /// How many packets had this verdict at this hook since the dataplane was opened.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self, hook: Hook, verdict: Verdict) -> Result<u64> {
        Ok(self.plane.tables().counters().verdict(hook, verdict)?)
    }
}
