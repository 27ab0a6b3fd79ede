//! Frames through the pipeline, without a kernel.

#[cfg(test)]
mod rivals;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use super::{MemoryPacket, MemoryTables, RouteTable, environment::MemoryEnvironment, routes::LinkFacts};
use crate::{
    abi::{INTERFACE_PLACES, INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, InterfaceEntry, MasqueradeEntry},
    pipeline::{Budget, Hook, NextHop, Route, Verdict, Workspaces, process},
    tables::{Cause, Operation, Store, TableError},
    wire::{Ipv4Address, Ipv6Address, MacAddress},
};

/// An interface of the simulated host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimulatedInterface {
    /// Its index, not 0.
    pub index: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The longest IP packet that it sends, in bytes.
    pub mtu: u32,
    /// Whether packets that arrive here are forwarded.
    pub forwarding: bool,
    /// The conntrack zone.
    pub zone: u16,
    /// Whether XDP can send what arrived at another interface out of it.
    pub xdp_redirect: bool,
    /// Whether XDP can send what arrived here back out of it.
    pub xdp_tx: bool,
    /// The IPv4 address that flows get as their source which leave through it.
    pub masquerade_v4: Option<Ipv4Addr>,
    /// The IPv6 address that flows get as their source which leave through it.
    pub masquerade_v6: Option<Ipv6Addr>,
}

impl SimulatedInterface {
    /// An interface that forwards, of MTU 1500, in zone 0, which takes frames from XDP, and has no address of its own.
    pub fn new(index: u32, mac: [u8; 6]) -> Self {
        Self {
            index,
            mac,
            mtu: 1500,
            forwarding: true,
            zone: 0,
            xdp_redirect: true,
            xdp_tx: true,
            masquerade_v4: None,
            masquerade_v6: None,
        }
    }
}

/// What became of a frame.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// What the pipeline said.
    pub verdict: Verdict,
    /// The frame as it is now.
    pub frame: BytesMut,
    /// Where it was sent.
    pub sent: Option<NextHop>,
}

/// A host without a kernel: interfaces, routes, a clock, randomness, and the tables.
///
/// Frames run through `&self`, on any number of threads. The clock stands still until it is set.
#[derive(Debug)]
pub struct Simulator {
    tables: Arc<MemoryTables>,
    world: World,
    random: AtomicU64,
    fixed_random: Option<u32>,
    choice: Option<u32>,
}

/// What a packet meets beside the tables.
#[derive(Debug, Default)]
pub(super) struct World {
    interfaces: HashMap<u32, SimulatedInterface>,
    routes: RouteTable,
    sockets: HashSet<Socket>,
    pub(super) answers: Mutex<Budget>,
}

/// Address, port and protocol of a socket of the host.
pub(super) type Socket = (IpAddr, u16, u8);

impl World {
    pub(super) fn is_bound(&self, socket: &Socket) -> bool {
        self.sockets.contains(socket)
    }

    pub(super) fn route(
        &self,
        arrived: u32,
        source: IpAddr,
        destination: IpAddr,
        length: u32,
        hop: &mut NextHop,
    ) -> Route {
        if stays_on_link(source) || stays_on_link(destination) {
            return Route::Stack;
        }
        if !self.interfaces.get(&arrived).is_some_and(|interface| interface.forwarding) {
            return Route::ForwardingOff;
        }
        let facts = |index| {
            let interface = self.interfaces.get(&index)?;
            Some(LinkFacts { mac: MacAddress::new(interface.mac), mtu: interface.mtu })
        };
        self.routes.lookup(destination, length, facts, hop)
    }
}

/// Whether no router forwards this address: the kernel does not look for a route of such a one (`rt6_need_strict` in
/// net/ipv6/route.c). IPv4 has no such rule there.
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

impl Simulator {
    /// A host with these tables, and nothing else yet.
    pub fn new(tables: Arc<MemoryTables>) -> Self {
        Self { tables, world: World::default(), random: AtomicU64::new(0), fixed_random: None, choice: None }
    }

    /// The tables.
    pub fn tables(&self) -> &Arc<MemoryTables> {
        &self.tables
    }

    /// Adds an interface, or changes the one of the same index.
    ///
    /// # Errors
    /// [`TableError`] where another interface has its place in the table.
    pub fn add_interface(&mut self, interface: SimulatedInterface) -> Result<(), TableError> {
        let table = self.tables.interfaces();
        let place = interface.index % INTERFACE_PLACES;
        let taken = table.load(place, 0).unwrap_or(0) as u32;
        if taken != 0 && taken != interface.index {
            let cause = Cause::OutOfRange { index: interface.index, capacity: table.capacity() };
            return Err(TableError::new(table.name(), Operation::Store, cause));
        }
        let entry = InterfaceEntry {
            index: interface.index,
            zone: interface.zone,
            flags: if interface.xdp_redirect { INTERFACE_XDP_REDIRECT } else { 0 }
                | if interface.xdp_tx { INTERFACE_XDP_TX } else { 0 },
            mac: interface.mac,
            reserved: 0,
        };
        let words: [u64; 2] = zerocopy::transmute!(entry);
        table.store(place, &words)?;
        let entry = MasqueradeEntry {
            index: interface.index,
            v4: interface.masquerade_v4.map(Ipv4Address::from).unwrap_or_default(),
            v6: interface.masquerade_v6.map(Ipv6Address::from).unwrap_or_default(),
        };
        let words: [u64; 3] = zerocopy::transmute!(entry);
        self.tables.masquerade().store(place, &words)?;
        self.world.interfaces.insert(interface.index, interface);
        Ok(())
    }

    /// The routes and neighbours.
    pub fn routes_mut(&mut self) -> &mut RouteTable {
        &mut self.world.routes
    }

    /// Opens a socket of the host: source NAT leaves its port alone.
    pub fn bind(&mut self, address: IpAddr, port: u16, protocol: u8) {
        self.world.sockets.insert((address, port, protocol));
    }

    /// Sets the clock: the time since an arbitrary start.
    pub fn set_time(&mut self, time: Duration) {
        self.tables.set_time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Makes every packet draw this number; `None` gives each a new one, the same ones in each run.
    pub fn set_random(&mut self, random: Option<u32>) {
        self.fixed_random = random;
    }

    /// Makes every flow hash to this number where a service with random choice picks a backend: 0 picks the first entry of its
    /// list, and [`u32::MAX`] the last. `None` has each tuple hash to its own, as in the kernel.
    pub fn set_choice(&mut self, choice: Option<u32>) {
        self.choice = choice;
    }

    /// Runs a frame through the program of one hook of an interface.
    pub fn run(&self, hook: Hook, interface: u32, frame: &[u8]) -> Outcome {
        let own = self.world.interfaces.get(&interface).map_or([0; 6], |interface| interface.mac);
        let mut packet = MemoryPacket::new(frame, hook, interface, MacAddress::new(own));
        let _guard = self.tables.enter();
        let random = self.fixed_random.unwrap_or_else(|| self.next_random());
        let choice = self.choice;
        let environment = MemoryEnvironment { tables: &self.tables, world: &self.world, random, choice };
        let verdict = process(&mut packet, &environment, &mut Workspaces::default());
        Outcome { verdict, frame: packet.bytes, sent: packet.sent }
    }

    /// Runs a frame through an interface's hooks as a host does that has XDP and tcx there: what XDP leaves or passes,
    /// tcx sees.
    pub fn receive(&self, interface: u32, frame: &[u8]) -> Outcome {
        let outcome = self.run(Hook::Xdp, interface, frame);
        match outcome.verdict {
            Verdict::Pass(_) | Verdict::Leave(_) => self.run(Hook::Ingress, interface, frame),
            _ => outcome,
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): well spread, and the same in each run.
    fn next_random(&self) -> u32 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.random.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }
}
