//! The two address families, as types: the pipeline is compiled once for each.

use core::fmt::Debug;

use crate::{
    abi::{
        BackendRef, FLOW_LOCAL, FLOW_REPLY, FlowV4, FlowV6, ServiceKeyV4, ServiceKeyV6, StateWord, TupleV4,
        TupleV6,
    },
    pipeline::{Direction, Tick},
    wire::{Be16, Delta, Ipv4Address, Ipv6Address},
};

/// IPv4, as a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V4;

/// IPv6, as a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V6;

/// An address family: its address, and the keys and values of its tables.
///
/// The tables hold integers only; the methods convert between them and the types that the pipeline thinks in. They
/// compile to nothing.
pub trait Family: Copy + Debug + PartialEq + Eq + Send + Sync + 'static {
    /// An address.
    type Address: Copy + Debug + PartialEq + Eq + core::hash::Hash + Send + Sync;
    /// Key of the table of frontends.
    type ServiceKey: Copy + Debug + PartialEq + Eq + core::hash::Hash + Send + Sync;
    /// Key of the conntrack table.
    type TupleKey: Copy + Debug + PartialEq + Eq + core::hash::Hash + Send + Sync;
    /// Value of the conntrack table.
    type FlowValue: Copy + Debug + PartialEq + Send + Sync;

    /// The key of a frontend.
    fn service_key(frontend: &ServiceParts<Self>) -> Self::ServiceKey;
    /// The tag of a frontend's key.
    fn service_tag(key: &Self::ServiceKey) -> u32;
    /// The key of a tuple.
    fn tuple_key(tuple: &Tuple<Self>) -> Self::TupleKey;
    /// The tuple of a key.
    fn tuple(key: &Self::TupleKey) -> Tuple<Self>;
    /// The tag of a tuple's key.
    fn tuple_tag(key: &Self::TupleKey) -> u32;
    /// A flow as the table holds it.
    fn flow_value(flow: &Flow<Self>) -> Self::FlowValue;
    /// A flow as the table held it.
    fn flow(value: &Self::FlowValue) -> Flow<Self>;
    /// The two tags of a value: in front and at the end.
    fn flow_tags(value: &Self::FlowValue) -> (u32, u32);
    /// Adds the change of an address.
    fn replace_address(delta: Delta, old: Self::Address, new: Self::Address) -> Delta;
}

/// What a frontend's key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceParts<F: Family> {
    /// The virtual address.
    pub address: F::Address,
    /// The port.
    pub port: Be16,
    /// The protocol's number.
    pub protocol: u8,
}

/// From whom to whom: one direction of a connection, as one hook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<F: Family> {
    /// Source address.
    pub source: F::Address,
    /// Destination address.
    pub destination: F::Address,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// The protocol's number.
    pub protocol: u8,
    /// The zone of the interface.
    pub zone: u16,
    /// 0: the host's uplinks; else an endpoint.
    pub scope: u32,
}

impl<F: Family> Tuple<F> {
    /// The tuple of the packets that answer.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

/// One direction of a connection: what to do with its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<F: Family> {
    /// Its life.
    pub state: StateWord,
    /// Everything else, which never changes while it lives.
    pub parts: FlowParts<F>,
    /// When a packet was last seen.
    pub last_seen: Tick,
}

/// What of a flow never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowParts<F: Family> {
    /// The tuple after translation.
    pub source: F::Address,
    /// The tuple after translation.
    pub destination: F::Address,
    /// The tuple after translation.
    pub source_port: Be16,
    /// The tuple after translation.
    pub destination_port: Be16,
    /// What the change of addresses adds to a checksum.
    pub address_delta: Delta,
    /// What the change of ports adds to a checksum.
    pub port_delta: Delta,
    /// The backend, for both directions.
    pub backend: BackendRef,
    /// Index of the frontend.
    pub frontend: u32,
    /// Which of the two directions this is.
    pub direction: Direction,
    /// Whether the backend is on this host.
    pub local: bool,
}

macro_rules! family {
    ($family:ty, $address:ty, $service:ident, $tuple:ident, $flow:ident, $replace:ident) => {
        impl Family for $family {
            type Address = $address;
            type ServiceKey = $service;
            type TupleKey = $tuple;
            type FlowValue = $flow;

            #[inline(always)]
            fn service_key(frontend: &ServiceParts<Self>) -> $service {
                let ServiceParts { address, port, protocol } = *frontend;
                $service { address, port, protocol, scope: 0 }
            }

            #[inline(always)]
            fn service_tag(key: &$service) -> u32 {
                key.tag()
            }

            #[inline(always)]
            fn tuple_key(tuple: &Tuple<Self>) -> $tuple {
                let Tuple { source, destination, source_port, destination_port, protocol, zone, scope } =
                    *tuple;
                $tuple {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    scope,
                    zone,
                    protocol,
                    reserved: 0,
                }
            }

            #[inline(always)]
            fn tuple(key: &$tuple) -> Tuple<Self> {
                let $tuple {
                    source, destination, source_port, destination_port, scope, zone, protocol, ..
                } = *key;
                Tuple { source, destination, source_port, destination_port, protocol, zone, scope }
            }

            #[inline(always)]
            fn tuple_tag(key: &$tuple) -> u32 {
                key.tag()
            }

            #[inline(always)]
            fn flow_value(flow: &Flow<Self>) -> $flow {
                let parts = &flow.parts;
                let reply = if matches!(parts.direction, Direction::Reply) { FLOW_REPLY } else { 0 };
                let local = if parts.local { FLOW_LOCAL } else { 0 };
                $flow {
                    state: flow.state,
                    backend: parts.backend,
                    source: parts.source,
                    destination: parts.destination,
                    source_port: parts.source_port,
                    destination_port: parts.destination_port,
                    address_delta: parts.address_delta.0,
                    port_delta: parts.port_delta.0,
                    frontend: parts.frontend,
                    last_seen: flow.last_seen.0,
                    revision: 0,
                    flags: reply | local,
                    reserved: 0,
                    tail_tag: flow.state.tag(),
                    reserved_too: 0,
                }
            }

            #[inline(always)]
            fn flow(value: &$flow) -> Flow<Self> {
                Flow {
                    state: value.state,
                    parts: FlowParts {
                        source: value.source,
                        destination: value.destination,
                        source_port: value.source_port,
                        destination_port: value.destination_port,
                        address_delta: Delta(value.address_delta),
                        port_delta: Delta(value.port_delta),
                        backend: value.backend,
                        frontend: value.frontend,
                        direction: if value.flags & FLOW_REPLY != 0 {
                            Direction::Reply
                        } else {
                            Direction::Original
                        },
                        local: value.flags & FLOW_LOCAL != 0,
                    },
                    last_seen: Tick(value.last_seen),
                }
            }

            #[inline(always)]
            fn flow_tags(value: &$flow) -> (u32, u32) {
                (value.state.tag(), value.tail_tag)
            }

            #[inline(always)]
            fn replace_address(delta: Delta, old: $address, new: $address) -> Delta {
                delta.$replace(old, new)
            }
        }
    };
}

family!(V4, Ipv4Address, ServiceKeyV4, TupleV4, FlowV4, replace_v4);
family!(V6, Ipv6Address, ServiceKeyV6, TupleV6, FlowV6, replace_v6);
