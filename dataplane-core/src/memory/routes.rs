//! A small table of routes and neighbours, which answers as the kernel's FIB does.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::{
    pipeline::{Gateway, LinkAddresses, NextHop, Route},
    wire::MacAddress,
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
            return Route::Failed;
        };
        if length > facts.mtu {
            return Route::TooBig;
        }
        let neighbor = self.neighbors.get(&(interface, gateway));
        Route::Forward(NextHop {
            interface,
            gateway: match gateway {
                IpAddr::V4(address) => Gateway::V4(address.into()),
                IpAddr::V6(address) => Gateway::V6(address.into()),
            },
            link: neighbor.map(|&destination| LinkAddresses { destination, source: facts.mac }),
        })
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
        let hop = |to: &str| match routes.lookup(address(to), 100, facts) {
            Route::Forward(hop) => {
                (hop.interface, hop.gateway, hop.link.map(|link| link.destination.bytes()[5]))
            }
            other => panic!("{to}: {other:?}"),
        };
        let v4 = |text: &str| match address(text) {
            IpAddr::V4(a) => Gateway::V4(a.into()),
            IpAddr::V6(a) => Gateway::V6(a.into()),
        };
        assert_eq!(hop("203.0.113.1"), (1, v4("192.0.2.1"), None));
        assert_eq!(hop("198.51.100.9"), (2, v4("198.51.100.9"), Some(99)));
        assert_eq!(routes.lookup(address("198.51.100.7"), 100, facts), Route::Unreachable);
        assert_eq!(routes.lookup(address("2001:db8::1"), 100, facts), Route::Stack);
        assert_eq!(routes.lookup(address("198.51.100.9"), 1501, facts), Route::TooBig);
    }
}
