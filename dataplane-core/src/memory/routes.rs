//! A small table of routes and neighbours, which answers as the kernel's FIB does.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::{
    pipeline::{LinkAddresses, NextHop, Route},
    wire::{Ipv4Address, Ipv6Address, MacAddress},
};

/// What a route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The destination is a neighbour on this interface.
    Link(u32),
    /// The next hop is a gateway on this interface.
    Gateway(u32, IpAddr),
    /// The destination is this host or a broadcast.
    Local,
    /// Unreachable, prohibit or blackhole.
    Unreachable,
}

/// Routes by prefix, neighbours by interface and address. For tens of routes: a lookup walks them all.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<(IpNet, Target)>,
    neighbors: HashMap<(u32, IpAddr), MacAddress>,
}

/// What the route table needs to know of an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkFacts {
    pub(super) mac: MacAddress,
    pub(super) mtu: u32,
}

impl RouteTable {
    /// Adds a route, or replaces the one of the same prefix.
    pub fn insert(&mut self, prefix: IpNet, target: Target) {
        let prefix = prefix.trunc();
        self.remove(prefix);
        self.routes.push((prefix, target));
    }

    /// Removes a route.
    pub fn remove(&mut self, prefix: IpNet) {
        self.routes.retain(|(other, _)| *other != prefix.trunc());
    }

    /// Makes the link-layer address of a neighbour known.
    pub fn insert_neighbor(&mut self, interface: u32, address: IpAddr, mac: [u8; 6]) {
        self.neighbors.insert((interface, address), MacAddress::new(mac));
    }

    /// Forgets the link-layer address of a neighbour.
    pub fn remove_neighbor(&mut self, interface: u32, address: IpAddr) {
        self.neighbors.remove(&(interface, address));
    }

    /// The answer for a destination: the longest prefix decides.
    pub(super) fn lookup(
        &self,
        destination: IpAddr,
        length: u32,
        facts: impl Fn(u32) -> Option<LinkFacts>,
        hop: &mut NextHop,
    ) -> Route {
        let matching = self.routes.iter().filter(|(prefix, _)| prefix.contains(&destination));
        let Some((_, target)) = matching.max_by_key(|(prefix, _)| prefix.prefix_len()) else {
            return Route::Stack;
        };
        let (interface, gateway) = match *target {
            Target::Link(interface) => (interface, destination),
            Target::Gateway(interface, gateway) => (interface, gateway),
            Target::Local => return Route::Stack,
            Target::Unreachable => return Route::Unreachable,
        };
        let Some(facts) = facts(interface) else {
            return Route::Stack;
        };
        let fits = length <= facts.mtu;
        if !fits {
            hop.mtu = facts.mtu;
        }
        let neighbor = self.neighbors.get(&(interface, gateway));
        *hop = NextHop {
            interface,
            gateway: match gateway {
                IpAddr::V4(address) => Ipv4Address::from(address).into(),
                IpAddr::V6(address) => Ipv6Address::from(address).into(),
            },
            resolved: neighbor.is_some(),
            link: neighbor.map_or(LinkAddresses::default(), |&destination| LinkAddresses {
                destination,
                source: facts.mac,
            }),
            mtu: hop.mtu,
        };
        if fits { Route::Forward } else { Route::TooBig }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn facts(interface: u32) -> Option<LinkFacts> {
        (interface < 9)
            .then_some(LinkFacts { mac: MacAddress::new([2, 0, 0, 0, 0, interface as u8]), mtu: 1500 })
    }

    #[test]
    fn the_longest_prefix_decides() {
        let mut routes = RouteTable::default();
        routes.insert(net("0.0.0.0/0"), Target::Gateway(1, address("192.0.2.1")));
        routes.insert(net("198.51.100.0/24"), Target::Link(2));
        routes.insert(net("198.51.100.7/32"), Target::Unreachable);
        routes.insert_neighbor(2, address("198.51.100.9"), [2, 0, 0, 0, 0, 99]);
        let lookup = |to: &str, length| {
            let mut hop = NextHop::default();
            (routes.lookup(address(to), length, facts, &mut hop), hop)
        };
        let (route, hop) = lookup("203.0.113.1", 100);
        assert_eq!((route, hop.interface, hop.resolved), (Route::Forward, 1, false));
        assert_eq!(hop.gateway, Ipv4Address::from(std::net::Ipv4Addr::new(192, 0, 2, 1)).into());
        let (route, hop) = lookup("198.51.100.9", 1500);
        assert_eq!((route, hop.interface, hop.link.destination.bytes()[5]), (Route::Forward, 2, 99));
        assert_eq!(lookup("198.51.100.7", 100).0, Route::Unreachable);
        assert_eq!(lookup("2001:db8::1", 100).0, Route::Stack);
        assert_eq!(lookup("198.51.100.9", 1501).0, Route::TooBig);
    }
}
