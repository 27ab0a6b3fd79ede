//! The two address families, as types: the pipeline is compiled once for each.

use core::{fmt::Debug, hash::Hash};

use crate::{
    abi::{
        AffinityKeyV4, AffinityKeyV6, BackendRef, DropRecordV4, DropRecordV6, FLOW_LOCAL, FLOW_MASQUERADED,
        FLOW_REPLY, FlowRecordV4, FlowRecordV6, FlowV4, FlowV6, FragmentKeyV4, FragmentKeyV6, ServiceKeyV4,
        ServiceKeyV6, StateWord, TupleV4, TupleV6,
    },
    pipeline::{Backend, Direction, DropRecord, FlowRecord, Seen, Tick},
    wire::{Be16, Delta, Header, Ipv4Address, Ipv6Address},
};

/// IPv4, as a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V4;

/// IPv6, as a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V6;

/// An address family: its address, and the keys and values of its tables.
pub trait Family: Copy + Debug + Default + PartialEq + Eq + Send + Sync + Sized + 'static {
    /// An address.
    type Address: Header + Debug + PartialEq + Eq + Hash + Send + Sync;
    /// Key of the table of frontends.
    type ServiceKey: Copy + Debug + PartialEq + Eq + Hash + Send + Sync;
    /// Key of the affinity table.
    type AffinityKey: Copy + Debug + PartialEq + Eq + Hash + Send + Sync;
    /// Key of the conntrack table.
    type Tuple: Tuple<Self> + Copy + Debug + Default + PartialEq + Eq + Hash + Send + Sync;
    /// Value of the conntrack table.
    type Flow: Flow<Self> + Copy + Debug + Default + PartialEq + Send + Sync;
    /// What is told of a packet that was dropped.
    type DropRecord: DropRecord<Self>;
    /// What is told of a flow.
    type FlowRecord: FlowRecord<Self>;

    /// Key of the table of fragments.
    type FragmentKey: Copy + Debug + Default + PartialEq + Eq + Hash + Send + Sync;

    /// The key of a frontend.
    fn service_key(address: Self::Address, port: Be16, protocol: u8) -> Self::ServiceKey;

    /// The tag of a frontend's key.
    fn service_tag(key: &Self::ServiceKey) -> u32;

    /// The key of a client of the frontend with this index.
    fn affinity_key(client: Self::Address, frontend: u32) -> Self::AffinityKey;

    /// The tag of a client's key.
    fn affinity_tag(key: &Self::AffinityKey) -> u32;

    /// The tag of a datagram's key.
    fn fragment_tag(key: &Self::FragmentKey) -> u32;
}

/// From whom to whom: one direction of a connection, as one hook sees it. The key of its conntrack entry.
pub trait Tuple<F: Family>: Sized {
    /// Puts a tuple together, in zone 0 and the scope of the uplinks.
    fn new(
        source: F::Address,
        destination: F::Address,
        source_port: Be16,
        destination_port: Be16,
        protocol: u8,
    ) -> Self;
    /// The same tuple in another zone.
    #[must_use]
    fn in_zone(self, zone: u16) -> Self;
    /// The tuple of the packets that answer those which `flow` has translated.
    #[must_use]
    fn answering(&self, flow: &F::Flow) -> Self;
    /// Changes the destination port.
    fn set_destination_port(&mut self, port: Be16);
    /// What the entry of this tuple carries.
    fn tag(&self) -> u32;
    /// Where the flow belongs in a Maglev table, evenly spread over all 32 bits.
    fn hash(&self, seed: u64) -> u32;
    /// Source address.
    fn source(&self) -> F::Address;
    /// Destination address.
    fn destination(&self) -> F::Address;
    /// Source port.
    fn source_port(&self) -> Be16;
    /// Destination port.
    fn destination_port(&self) -> Be16;
    /// The protocol's number.
    fn protocol(&self) -> u8;
    /// The zone of the interface.
    fn zone(&self) -> u16;
}

/// In which table the entry of a tuple stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Place {
    /// Conntrack: clients' packets, and replies of flows that keep their source, of connections that are confirmed. The
    /// oldest ones go when it is full.
    Conntrack = 0,
    /// The reservations: replies of flows whose source is translated. Nothing goes before its time.
    Nat = 1,
    /// As [`Conntrack`](Self::Conntrack), of connections that are not confirmed: whoever sent their first packet may have forged
    /// its source.
    Opening = 2,
}

impl Place {
    /// The place of this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Nat,
            2 => Self::Opening,
            _ => Self::Conntrack,
        }
    }
}

/// One direction of a connection: what to do with its packets. The value of its conntrack entry.
pub trait Flow<F: Family>: Sized {
    /// The flow of a client's packets to a backend.
    fn to_backend(tuple: &F::Tuple, backend: &Backend<F>, backend_ref: BackendRef, frontend: u32) -> Self;
    /// Says whether it is to have an address of this host as its source.
    fn set_masqueraded(&mut self, masqueraded: bool);
    /// Gives the packets of `tuple` another source address, once.
    fn set_source(&mut self, tuple: &F::Tuple, address: F::Address);
    /// Gives the packets of `tuple` another source port.
    fn set_source_port(&mut self, tuple: &F::Tuple, port: Be16);
    /// The flow of the packets that answer: it translates back to what `tuple` was.
    #[must_use]
    fn answering(&self, tuple: &F::Tuple) -> Self;
    /// Begins now, in this state, as the entry of the replies of `flow`, from whose port alone it differs yet.
    fn open_answers(&mut self, flow: &F::Flow, state: StateWord, now: Tick);
    /// The same flow, beginning now, in this state.
    #[must_use]
    fn starting(self, state: StateWord, now: Tick) -> Self;
    /// Whether both tags are this one, and both incarnations the same.
    fn has_tag(&self, tag: u32) -> bool;
    /// Its life.
    fn state(&self) -> StateWord;
    /// When a packet was last seen.
    fn last_seen(&self) -> Tick;
    /// Source address after translation.
    fn source(&self) -> F::Address;
    /// Destination address after translation.
    fn destination(&self) -> F::Address;
    /// Source port after translation.
    fn source_port(&self) -> Be16;
    /// Destination port after translation.
    fn destination_port(&self) -> Be16;
    /// What the change of addresses adds to a checksum.
    fn address_delta(&self) -> Delta;
    /// What the change of ports adds to a checksum.
    fn port_delta(&self) -> Delta;
    /// The backend, for both directions.
    fn backend(&self) -> BackendRef;
    /// Index of the frontend.
    fn frontend(&self) -> u32;
    /// Which of the two directions this is.
    fn direction(&self) -> Direction;
    /// Whether the backend is on this host.
    fn is_local(&self) -> bool;
    /// Whether the source of the client's packets is translated.
    fn is_masqueraded(&self) -> bool;
    /// Whether its entry reserves a port: it is that of the replies of a flow whose source is translated.
    #[inline(always)]
    fn is_reservation(&self) -> bool {
        self.is_masqueraded() && matches!(self.direction(), Direction::Reply)
    }
    /// Where an entry in this state stands that is no reservation. Entries change places when they are confirmed, and never
    /// back: none in [`Place::Opening`] says that it is confirmed, and all in [`Place::Conntrack`] do.
    #[inline(always)]
    fn place_by_state(&self) -> Place {
        if Seen::from(self.state()).is_confirmed() { Place::Conntrack } else { Place::Opening }
    }
    /// Where the entry itself stands.
    #[inline(always)]
    fn place(&self) -> Place {
        if self.is_reservation() { Place::Nat } else { self.place_by_state() }
    }
    /// Where the entry of the other direction stands.
    #[inline(always)]
    fn place_of_pair(&self) -> Place {
        if self.is_masqueraded() && matches!(self.direction(), Direction::Original) {
            Place::Nat
        } else {
            self.place_by_state()
        }
    }
}

macro_rules! family {
    ($family:ty, $address:ty, $service:ident, $affinity:ident, $tuple:ident, $flow:ident, $fragment:ident,
     $drop_record:ident, $flow_record:ident, $replace:ident) => {
        impl Family for $family {
            type Address = $address;
            type ServiceKey = $service;
            type AffinityKey = $affinity;
            type Tuple = $tuple;
            type Flow = $flow;
            type DropRecord = $drop_record;
            type FlowRecord = $flow_record;
            type FragmentKey = $fragment;

            #[inline(always)]
            fn service_key(address: $address, port: Be16, protocol: u8) -> $service {
                $service { address, port, protocol, scope: 0 }
            }

            #[inline(always)]
            fn service_tag(key: &$service) -> u32 {
                key.tag()
            }

            #[inline(always)]
            fn affinity_key(client: $address, frontend: u32) -> $affinity {
                $affinity { client, frontend }
            }

            #[inline(always)]
            fn affinity_tag(key: &$affinity) -> u32 {
                key.tag()
            }

            #[inline(always)]
            fn fragment_tag(key: &$fragment) -> u32 {
                key.tag()
            }
        }

        impl Tuple<$family> for $tuple {
            #[inline(always)]
            fn new(
                source: $address,
                destination: $address,
                source_port: Be16,
                destination_port: Be16,
                protocol: u8,
            ) -> Self {
                Self {
                    source,
                    destination,
                    source_port,
                    destination_port,
                    scope: 0,
                    zone: 0,
                    protocol,
                    reserved: 0,
                }
            }

            #[inline(always)]
            fn in_zone(self, zone: u16) -> Self {
                Self { zone, ..self }
            }

            #[inline(always)]
            fn answering(&self, flow: &$flow) -> Self {
                Self {
                    source: flow.destination,
                    destination: flow.source,
                    source_port: flow.destination_port,
                    destination_port: flow.source_port,
                    ..*self
                }
            }

            #[inline(always)]
            fn set_destination_port(&mut self, port: Be16) {
                self.destination_port = port;
            }

            #[inline(always)]
            fn tag(&self) -> u32 {
                $tuple::tag(self)
            }

            #[inline(always)]
            fn hash(&self, seed: u64) -> u32 {
                $tuple::hash(self, seed)
            }

            #[inline(always)]
            fn source(&self) -> $address {
                self.source
            }

            #[inline(always)]
            fn destination(&self) -> $address {
                self.destination
            }

            #[inline(always)]
            fn source_port(&self) -> Be16 {
                self.source_port
            }

            #[inline(always)]
            fn destination_port(&self) -> Be16 {
                self.destination_port
            }

            #[inline(always)]
            fn protocol(&self) -> u8 {
                self.protocol
            }

            #[inline(always)]
            fn zone(&self) -> u16 {
                self.zone
            }
        }

        impl Flow<$family> for $flow {
            #[inline(always)]
            fn to_backend(
                tuple: &$tuple,
                backend: &Backend<$family>,
                backend_ref: BackendRef,
                frontend: u32,
            ) -> Self {
                Self {
                    backend: backend_ref,
                    source: tuple.source,
                    destination: backend.address,
                    source_port: tuple.source_port,
                    destination_port: backend.port,
                    address_delta: Delta::ZERO.$replace(tuple.destination, backend.address).0,
                    port_delta: Delta::ZERO.replace16(tuple.destination_port, backend.port).0,
                    frontend,
                    flags: if backend.local { FLOW_LOCAL } else { 0 },
                    ..Self::default()
                }
            }

            #[inline(always)]
            fn set_masqueraded(&mut self, masqueraded: bool) {
                self.flags &= !FLOW_MASQUERADED;
                self.flags |= if masqueraded { FLOW_MASQUERADED } else { 0 };
            }

            #[inline(always)]
            fn set_source(&mut self, tuple: &$tuple, address: $address) {
                self.address_delta = Delta(self.address_delta).$replace(tuple.source, address).0;
                self.source = address;
            }

            #[inline(always)]
            fn set_source_port(&mut self, tuple: &$tuple, port: Be16) {
                let destination = Delta::ZERO.replace16(tuple.destination_port, self.destination_port);
                self.port_delta = destination.replace16(tuple.source_port, port).0;
                self.source_port = port;
            }

            #[inline(always)]
            fn answering(&self, tuple: &$tuple) -> Self {
                Self {
                    source: tuple.destination,
                    destination: tuple.source,
                    source_port: tuple.destination_port,
                    destination_port: tuple.source_port,
                    // The way back changes what the way there did, with the sign turned.
                    address_delta: !self.address_delta,
                    port_delta: !self.port_delta,
                    flags: self.flags ^ FLOW_REPLY,
                    ..*self
                }
            }

            #[inline(always)]
            fn open_answers(&mut self, flow: &$flow, state: StateWord, now: Tick) {
                self.port_delta = !flow.port_delta;
                (self.state, self.tail_tag) = (state, state.tag());
                (self.incarnation, self.last_seen) = (Seen::from(state).incarnation(), now.0);
            }

            #[inline(always)]
            fn starting(self, state: StateWord, now: Tick) -> Self {
                let incarnation = Seen::from(state).incarnation();
                Self { state, tail_tag: state.tag(), incarnation, last_seen: now.0, ..self }
            }

            #[inline(always)]
            fn has_tag(&self, tag: u32) -> bool {
                self.state.tag() == tag
                    && self.tail_tag == tag
                    && Seen::from(self.state).incarnation() == self.incarnation
            }

            #[inline(always)]
            fn state(&self) -> StateWord {
                self.state
            }

            #[inline(always)]
            fn last_seen(&self) -> Tick {
                Tick(self.last_seen)
            }

            #[inline(always)]
            fn source(&self) -> $address {
                self.source
            }

            #[inline(always)]
            fn destination(&self) -> $address {
                self.destination
            }

            #[inline(always)]
            fn source_port(&self) -> Be16 {
                self.source_port
            }

            #[inline(always)]
            fn destination_port(&self) -> Be16 {
                self.destination_port
            }

            #[inline(always)]
            fn address_delta(&self) -> Delta {
                Delta(self.address_delta)
            }

            #[inline(always)]
            fn port_delta(&self) -> Delta {
                Delta(self.port_delta)
            }

            #[inline(always)]
            fn backend(&self) -> BackendRef {
                self.backend
            }

            #[inline(always)]
            fn frontend(&self) -> u32 {
                self.frontend
            }

            #[inline(always)]
            fn direction(&self) -> Direction {
                if self.flags & FLOW_REPLY != 0 { Direction::Reply } else { Direction::Original }
            }

            #[inline(always)]
            fn is_local(&self) -> bool {
                self.flags & FLOW_LOCAL != 0
            }

            #[inline(always)]
            fn is_masqueraded(&self) -> bool {
                self.flags & FLOW_MASQUERADED != 0
            }
        }
    };
}

family!(
    V4,
    Ipv4Address,
    ServiceKeyV4,
    AffinityKeyV4,
    TupleV4,
    FlowV4,
    FragmentKeyV4,
    DropRecordV4,
    FlowRecordV4,
    replace_v4
);
family!(
    V6,
    Ipv6Address,
    ServiceKeyV6,
    AffinityKeyV6,
    TupleV6,
    FlowV6,
    FragmentKeyV6,
    DropRecordV6,
    FlowRecordV6,
    replace_v6
);
