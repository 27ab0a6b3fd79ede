//! A client, a load balancer and backends, each a namespace, joined and routed over both families.
//!
//! ```text
//! client eth0 ---- to-client  balancer  to-backend0 ---- eth0 backend0
//!                                       to-backend1 ---- eth0 backend1
//! ```
//!
//! With [`BackendLinks::Shared`] the balancer has one interface `to-backends` on a switch (a bridge in a namespace of
//! its own) that all backends stand on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Interface, Namespace, NetError, Offload, Route, bridge, veth};

/// Who has which address. All are of the ranges kept for documentation.
///
/// | network | IPv4 | IPv6 |
/// | --- | --- | --- |
/// | client | 192.0.2.0/24: balancer .1, client .2 | 2001:db8:1::/64: balancer ::1, client ::2 |
/// | backend *i*, own link | 198.51.100.(4*i*)/30: balancer +1, backend +2 | 2001:db8:b:*i*::/64: balancer ::1, backend ::2 (*i* hexadecimal) |
/// | backends, shared link | 198.51.100.0/24: balancer .1, backend .(10+*i*) | 2001:db8:b::/64: balancer ::1, backend ::(0x10+*i*) |
/// | virtual addresses | 203.0.113.0/24: .10 and on | 2001:db8:cafe::/64: ::10 and on |
///
/// No interface has a virtual address, and the balancer has no route to them: what arrives for one is a dataplane's to
/// handle, or is answered "network unreachable".
#[derive(Debug)]
#[non_exhaustive]
pub struct AddressPlan;

impl AddressPlan {
    /// The client's own network, IPv4.
    pub const CLIENT_V4: Ipv4Net = net4([192, 0, 2, 0], 24);
    /// The client's own network, IPv6.
    pub const CLIENT_V6: Ipv6Net = net6([0x2001, 0xdb8, 1, 0, 0, 0, 0, 0], 64);
    /// All backends' networks, IPv4.
    pub const BACKENDS_V4: Ipv4Net = net4([198, 51, 100, 0], 24);
    /// All backends' networks, IPv6.
    pub const BACKENDS_V6: Ipv6Net = net6([0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0], 48);
    /// The virtual addresses, IPv4.
    pub const VIPS_V4: Ipv4Net = net4([203, 0, 113, 0], 24);
    /// The virtual addresses, IPv6.
    pub const VIPS_V6: Ipv6Net = net6([0x2001, 0xdb8, 0xcafe, 0, 0, 0, 0, 0], 64);
    /// The largest number of backends.
    pub const MOST_BACKENDS: usize = 64;

    /// The virtual address of a number, below 200: `vip(0)` is 203.0.113.10 and 2001:db8:cafe::10.
    pub fn vip(number: u8) -> HostAddresses {
        debug_assert!(number < 200, "the plan has 200 virtual addresses");
        let v4 = Ipv4Addr::from_bits(Self::VIPS_V4.addr().to_bits() + 10 + u32::from(number));
        // Written alike: decimal 10 ends the one, hexadecimal 10 the other.
        let v6 = Ipv6Addr::from_bits(Self::VIPS_V6.addr().to_bits() + 0x10 + u128::from(number));
        HostAddresses { v4, v6 }
    }

    fn client(host: u8) -> (HostAddresses, u8, u8) {
        let v4 = Ipv4Addr::from_bits(Self::CLIENT_V4.addr().to_bits() + u32::from(host));
        let v6 = Ipv6Addr::from_bits(Self::CLIENT_V6.addr().to_bits() + u128::from(host));
        (HostAddresses { v4, v6 }, Self::CLIENT_V4.prefix_len(), Self::CLIENT_V6.prefix_len())
    }

    /// A host on the link of backend `index`.
    fn own_link(index: usize, host: u8) -> (HostAddresses, u8, u8) {
        let v4 = Self::BACKENDS_V4.addr().to_bits() + 4 * index as u32 + u32::from(host);
        let v6 = Self::BACKENDS_V6.addr().to_bits() + ((index as u128) << 64) + u128::from(host);
        (HostAddresses { v4: v4.into(), v6: v6.into() }, 30, 64)
    }

    /// A host on the link that all backends share.
    fn shared_link(v4_host: u32, v6_host: u128) -> (HostAddresses, u8, u8) {
        let v4 = Self::BACKENDS_V4.addr().to_bits() + v4_host;
        let v6 = Self::BACKENDS_V6.addr().to_bits() + v6_host;
        (HostAddresses { v4: v4.into(), v6: v6.into() }, 24, 64)
    }
}

const fn net4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn net6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// A host's address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostAddresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6, global.
    pub v6: Ipv6Addr,
}

impl HostAddresses {
    /// Both, IPv4 first.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both with a port, IPv4 first.
    pub fn with_port(&self, port: u16) -> [SocketAddr; 2] {
        self.both().map(|address| SocketAddr::new(address, port))
    }
}

/// How the backends are joined to the balancer. A one-armed layout, with the client on the backends' link too, would be
/// a further variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BackendLinks {
    /// Each by a link of its own.
    #[default]
    Own,
    /// All on one switch.
    Shared,
}

/// A running network. Dropping it takes everything down.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoadBalancerTopology {
    /// Where requests come from; its only interface is `eth0`.
    pub client: Namespace,
    /// The client's `eth0`.
    pub client_interface: Interface,
    /// The client's addresses.
    pub client_addresses: HostAddresses,
    /// Where the dataplane runs. Forwarding is on.
    pub balancer: Namespace,
    /// The balancer's `to-client`.
    pub client_side: Interface,
    /// The balancer's interfaces towards the backends: `to-backend0` and on, or `to-backends` alone.
    pub backend_side: Vec<Interface>,
    /// The backends.
    pub backends: Vec<BackendHost>,
    /// The switch of a shared link.
    pub switch: Option<Namespace>,
}

/// A backend's namespace.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackendHost {
    /// `backend0` and on.
    pub name: String,
    /// The namespace; its only interface is `eth0`.
    pub namespace: Namespace,
    /// Its `eth0`.
    pub interface: Interface,
    /// Its addresses.
    pub addresses: HostAddresses,
    /// The balancer's interface that leads to it.
    pub balancer_side: Interface,
    /// The balancer's addresses on its link: its default gateways.
    pub gateways: HostAddresses,
}

impl LoadBalancerTopology {
    /// A topology to be built, with some number of backends.
    pub fn builder(backends: usize) -> LoadBalancerTopologyBuilder {
        LoadBalancerTopologyBuilder { backends, links: BackendLinks::Own, for_xdp: false, mtu: None }
    }

    /// All interfaces of the balancer, the client's side first: those a dataplane attaches to.
    pub fn balancer_interfaces(&self) -> impl Iterator<Item = &Interface> {
        std::iter::once(&self.client_side).chain(&self.backend_side)
    }

    /// The interfaces of the client and of all backends.
    pub fn host_interfaces(&self) -> impl Iterator<Item = &Interface> {
        std::iter::once(&self.client_interface).chain(self.backends.iter().map(|backend| &backend.interface))
    }
}

/// See [`LoadBalancerTopology::builder`].
#[derive(Debug, Clone)]
pub struct LoadBalancerTopologyBuilder {
    backends: usize,
    links: BackendLinks,
    for_xdp: bool,
    mtu: Option<u32>,
}

impl LoadBalancerTopologyBuilder {
    /// How the backends are joined to the balancer.
    pub fn links(mut self, links: BackendLinks) -> Self {
        self.links = links;
        self
    }

    /// Makes ready for XDP at the balancer: the hosts, and the switch, finish their checksums themselves (no TX checksum offload,
    /// hence no segmentation offload), and take redirected frames (GRO on).
    pub fn for_xdp(mut self) -> Self {
        self.for_xdp = true;
        self
    }

    /// The MTU of every link, in bytes; without this, 1500.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Builds it. Costs some ten milliseconds per backend.
    ///
    /// # Errors
    /// [`NetError::BackendCount`], and whatever the kernel refuses.
    pub fn build(self) -> Result<LoadBalancerTopology, NetError> {
        if !(1..=AddressPlan::MOST_BACKENDS).contains(&self.backends) {
            return Err(NetError::BackendCount { count: self.backends, most: AddressPlan::MOST_BACKENDS });
        }
        let balancer = balancer()?;
        let client = Namespace::new("client")?;
        let (client_interface, client_side) = veth(&client, "eth0", &balancer, "to-client")?;
        let gateways = add_addresses(&client_side, AddressPlan::client(1))?;
        let client_addresses = add_addresses(&client_interface, AddressPlan::client(2))?;
        let prefixes: [(IpNet, IpAddr); 4] = [
            (AddressPlan::VIPS_V4.into(), gateways.v4.into()),
            (AddressPlan::VIPS_V6.into(), gateways.v6.into()),
            (AddressPlan::BACKENDS_V4.into(), gateways.v4.into()),
            (AddressPlan::BACKENDS_V6.into(), gateways.v6.into()),
        ];
        for (prefix, gateway) in prefixes {
            client.add_route(&Route::to(prefix).via(gateway))?;
        }
        let mut topology = LoadBalancerTopology {
            client,
            client_interface,
            client_addresses,
            balancer,
            client_side,
            backend_side: Vec::new(),
            backends: Vec::new(),
            switch: None,
        };
        match self.links {
            BackendLinks::Own => self.own_links(&mut topology)?,
            BackendLinks::Shared => self.shared_link(&mut topology)?,
        }
        self.set_up_links(&topology)?;
        Ok(topology)
    }

    fn own_links(&self, topology: &mut LoadBalancerTopology) -> Result<(), NetError> {
        for index in 0..self.backends {
            let name = format!("backend{index}");
            let namespace = Namespace::new(name.as_str())?;
            let (interface, side) =
                veth(&namespace, "eth0", &topology.balancer, &format!("to-backend{index}"))?;
            let gateways = add_addresses(&side, AddressPlan::own_link(index, 1))?;
            let addresses = add_addresses(&interface, AddressPlan::own_link(index, 2))?;
            topology.backend_side.push(side.clone());
            topology.backends.push(BackendHost {
                name,
                namespace,
                interface,
                addresses,
                balancer_side: side,
                gateways,
            });
        }
        Ok(())
    }

    fn shared_link(&self, topology: &mut LoadBalancerTopology) -> Result<(), NetError> {
        let switch = Namespace::new("switch")?;
        let br0 = bridge(&switch, "br0")?;
        let port = |namespace: &Namespace, interface: &str, port: &str| {
            let (end, port) = veth(namespace, interface, &switch, port)?;
            port.attach_to(&br0)?;
            if let Some(mtu) = self.mtu {
                port.set_mtu(mtu)?;
            }
            // The bridge hands frames on as they are: with XDP behind it, its ports must take redirected frames too. What GRO
            // has put together there has unfinished checksums when it is taken apart again: they are finished then.
            if self.for_xdp {
                port.set_offload(Offload::Gro, true)?;
                port.set_offload(Offload::TxChecksum, false)?;
            }
            Ok::<_, NetError>(end)
        };
        let side = port(&topology.balancer, "to-backends", "balancer")?;
        let gateways = add_addresses(&side, AddressPlan::shared_link(1, 1))?;
        for index in 0..self.backends {
            let name = format!("backend{index}");
            let namespace = Namespace::new(name.as_str())?;
            let interface = port(&namespace, "eth0", &name)?;
            let host = AddressPlan::shared_link(10 + index as u32, 0x10 + index as u128);
            let addresses = add_addresses(&interface, host)?;
            topology.backends.push(BackendHost {
                name,
                namespace,
                interface,
                addresses,
                balancer_side: side.clone(),
                gateways,
            });
        }
        topology.backend_side.push(side);
        topology.switch = Some(switch);
        Ok(())
    }

    fn set_up_links(&self, topology: &LoadBalancerTopology) -> Result<(), NetError> {
        if let Some(mtu) = self.mtu {
            for interface in topology.balancer_interfaces().chain(topology.host_interfaces()) {
                interface.set_mtu(mtu)?;
            }
        }
        for backend in &topology.backends {
            for gateway in backend.gateways.both() {
                backend.namespace.add_route(&Route::default_via(gateway))?;
            }
        }
        if self.for_xdp {
            for interface in topology.host_interfaces() {
                interface.set_offload(Offload::TxChecksum, false)?;
                interface.set_offload(Offload::Gro, true)?;
            }
        }
        Ok(())
    }
}

fn balancer() -> Result<Namespace, NetError> {
    let balancer = Namespace::new("balancer")?;
    balancer.sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // On a shared link it would tell backends of shorter ways past it.
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
    ])?;
    Ok(balancer)
}

fn add_addresses(
    interface: &Interface,
    (host, v4_prefix, v6_prefix): (HostAddresses, u8, u8),
) -> Result<HostAddresses, NetError> {
    interface.add_address(Ipv4Net::new_assert(host.v4, v4_prefix).into())?;
    interface.add_address(Ipv6Net::new_assert(host.v6, v6_prefix).into())?;
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_plan_is_what_the_table_says() {
        let show = |(host, v4, v6): (HostAddresses, u8, u8)| format!("{}/{v4} {}/{v6}", host.v4, host.v6);
        assert_eq!(show(AddressPlan::client(2)), "192.0.2.2/24 2001:db8:1::2/64");
        assert_eq!(show(AddressPlan::own_link(0, 2)), "198.51.100.2/30 2001:db8:b::2/64");
        assert_eq!(show(AddressPlan::own_link(63, 1)), "198.51.100.253/30 2001:db8:b:3f::1/64");
        assert_eq!(show(AddressPlan::shared_link(1, 1)), "198.51.100.1/24 2001:db8:b::1/64");
        let vip = AddressPlan::vip(0);
        assert_eq!(format!("{} {}", vip.v4, vip.v6), "203.0.113.10 2001:db8:cafe::10");
    }
}
