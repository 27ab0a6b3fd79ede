//! Where a packet leaves: the question and the answers.

use crate::{
    tables::Family,
    wire::{Ipv4Address, Ipv6Address, MacAddress},
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
    /// The protocol's number.
    pub protocol: u8,
    /// Differentiated services.
    pub traffic_class: u8,
    /// Length in bytes of the largest IP packet that leaves as part of it.
    pub length: u32,
}

/// Routes and neighbours: `bpf_fib_lookup` in the kernel, a small table in memory.
pub trait Routes<F: Family> {
    /// Asks for a route.
    fn route(&self, query: &RouteQuery<F>) -> Route;
}

/// The answer. The kernel tells a local address and the absence of a route apart no better than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is sent to a neighbour.
    Forward(NextHop),
    /// The destination is this host, a broadcast, or there is no route: the stack knows.
    Stack,
    /// The route says unreachable, prohibited or blackhole.
    Unreachable,
    /// There is a route, and the packet is too large for it.
    TooBig,
    /// The interface where it arrived does not forward.
    ForwardingOff,
    /// The kernel could not tell.
    Failed,
}

/// The next hop of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface that it leaves through.
    pub interface: u32,
    /// The neighbour: a gateway or the destination itself.
    pub gateway: Gateway,
    /// The link-layer addresses of the frame, where the neighbour's is known.
    pub link: Option<LinkAddresses>,
}

/// A neighbour's address. It may be of another family than the packet (RFC 5549).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// Reached by IPv4.
    V4(Ipv4Address),
    /// Reached by IPv6.
    V6(Ipv6Address),
}

/// Source and destination of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddresses {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
}
