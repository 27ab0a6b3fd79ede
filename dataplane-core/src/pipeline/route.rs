//! Where a packet leaves: the question and the answers.

use crate::{
    tables::Family,
    wire::{Be16, Ipv4Address, Ipv6Address, MacAddress},
};

/// What decides about a packet's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery<F: Family> {
    /// Index of the interface where it arrived.
    pub interface: u32,
    /// Source address, after translation.
    pub source: F::Address,
    /// Destination address, after translation.
    pub destination: F::Address,
    /// Source port, after translation: rules and paths may depend on it.
    pub source_port: Be16,
    /// Destination port, after translation.
    pub destination_port: Be16,
    /// The protocol's number.
    pub protocol: u8,
    /// Differentiated services.
    pub traffic_class: u8,
    /// Length in bytes of the largest IP packet that leaves as part of it.
    pub length: u32,
}

/// Routes and neighbours: `bpf_fib_lookup` in the kernel, a small table in memory.
pub trait Routes<F: Family> {
    /// Asks for a route. The next hop is written only where the answer is [`Route::Forward`] or [`Route::TooBig`], and its MTU
    /// only where that is [`Route::TooBig`].
    fn route(&self, query: &RouteQuery<F>, hop: &mut NextHop) -> Route;
}

/// The answer. The kernel tells a local address and the absence of a route apart no better than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is sent to a neighbour.
    Forward,
    /// The destination is this host, a broadcast, there is no route, or one that only the stack can take: it knows.
    Stack,
    /// The route says unreachable, prohibited or blackhole.
    Unreachable,
    /// There is a route, and the packet is too large for it.
    TooBig,
    /// The interface where it arrived does not forward.
    ForwardingOff,
}

/// The next hop of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface that it leaves through.
    pub interface: u32,
    /// The neighbour: a gateway or the destination itself.
    pub gateway: Gateway,
    /// Whether the neighbour's link-layer address is known, and `link` therefore complete.
    pub resolved: bool,
    /// The link-layer addresses of the frame.
    pub link: LinkAddresses,
    /// How many bytes the route takes, where that was too few.
    pub mtu: u32,
}

/// A neighbour's address. It may be of another family than the packet (RFC 8950).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// Whether it is an IPv6 address.
    pub v6: bool,
    /// The address; that of an IPv4 neighbour is the first word.
    pub address: [u32; 4],
}

impl From<Ipv4Address> for Gateway {
    #[inline(always)]
    fn from(address: Ipv4Address) -> Self {
        Self { v6: false, address: [address.0, 0, 0, 0] }
    }
}

impl From<Ipv6Address> for Gateway {
    #[inline(always)]
    fn from(address: Ipv6Address) -> Self {
        Self { v6: true, address: address.0 }
    }
}

/// Source and destination of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkAddresses {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
}
