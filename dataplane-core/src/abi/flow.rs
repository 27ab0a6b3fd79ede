//! Conntrack: one entry for each direction of a connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{mix, service::word_of_two};
use crate::wire::{Be16, Ipv4Address, Ipv6Address};

/// Flag of a flow: this entry is that of the replies.
pub const FLOW_REPLY: u16 = 1;
/// Flag of a flow: its backend is on this host.
pub const FLOW_LOCAL: u16 = 2;

word_of_two! {
    /// A flow's life, changed by compare-and-swap. It carries the key's tag, so that a swap can't hit an entry that
    /// was recycled for another flow.
    StateWord,
    seen: "What was seen of the connection: bits of [`Seen`](crate::pipeline::Seen).",
    tag: "The key's tag."
}

macro_rules! flow_types {
    ($family:literal, $address:ty, $tuple:ident, $flow:ident) => {
        #[doc = concat!("Key of the ", $family, " conntrack table: a tuple as this hook sees it.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $tuple {
            /// Source address.
            pub source: $address,
            /// Destination address.
            pub destination: $address,
            /// Source port.
            pub source_port: Be16,
            /// Destination port.
            pub destination_port: Be16,
            /// 0: the host's uplinks; else an endpoint.
            pub scope: u32,
            /// The zone of the interface.
            pub zone: u16,
            /// The protocol's number.
            pub protocol: u8,
            /// 0.
            pub reserved: u8,
        }

        #[doc = concat!("Value of the ", $family, " conntrack table: what to do with the packets of one direction.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $flow {
            /// The life of the flow.
            pub state: StateWord,
            /// The backend, for both directions.
            pub backend: super::BackendRef,
            /// Source address after translation.
            pub source: $address,
            /// Destination address after translation.
            pub destination: $address,
            /// Source port after translation.
            pub source_port: Be16,
            /// Destination port after translation.
            pub destination_port: Be16,
            /// What the change of the addresses adds to a checksum ([`Delta`](crate::wire::Delta)).
            pub address_delta: u16,
            /// What the change of the ports adds to a checksum.
            pub port_delta: u16,
            /// Index of the frontend, for its counters.
            pub frontend: u32,
            /// When a packet was last seen, in [`Tick`](crate::pipeline::Tick)s.
            pub last_seen: u32,
            /// The endpoint's policy revision that the verdict was made under; 0 while there is no policy.
            pub revision: u32,
            /// [`FLOW_REPLY`] and [`FLOW_LOCAL`].
            pub flags: u16,
            /// 0.
            pub reserved: u16,
            /// The key's tag once more. A reader that copied the value checks both: the kernel fills a recycled
            /// element in one direction or the other, so one of them changes before what lies between.
            pub tail_tag: u32,
            /// 0.
            pub reserved_too: u32,
        }
    };
}

flow_types!("IPv4", Ipv4Address, TupleV4, FlowV4);
flow_types!("IPv6", Ipv6Address, TupleV6, FlowV6);

const _: () = assert!(size_of::<TupleV4>() == 20 && size_of::<TupleV6>() == 44);
const _: () = assert!(size_of::<FlowV4>() == 56 && size_of::<FlowV6>() == 80);

macro_rules! ports_and_scope {
    ($tuple:expr) => {
        (
            ($tuple.source_port.0 as u64) << 48
                | ($tuple.destination_port.0 as u64) << 32
                | $tuple.scope as u64,
            ($tuple.zone as u64) << 8 | $tuple.protocol as u64,
        )
    };
}

impl TupleV4 {
    /// What the flow's entry carries to show that it is this tuple's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (ports, zone) = ports_and_scope!(self);
        let addresses = (self.source.0 as u64) << 32 | self.destination.0 as u64;
        mix(addresses, ports).wrapping_add(mix(zone, 0))
    }
}

impl TupleV6 {
    /// What the flow's entry carries to show that it is this tuple's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (ports, zone) = ports_and_scope!(self);
        let (source_high, source_low) = self.source.halves();
        let (destination_high, destination_low) = self.destination.halves();
        mix(source_high, source_low)
            .wrapping_add(mix(destination_low, destination_high).rotate_left(11))
            .wrapping_add(mix(ports, zone))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bit_of_a_tuple_changes_its_tag(bytes in any::<[u8; 44]>(), bit in 0usize..344) {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            let six = |b: &[u8]| TupleV6::read_from_bytes(b).unwrap();
            prop_assert_ne!(six(&bytes).tag(), six(&other).tag());
            let four = |b: &[u8]| TupleV4::read_from_bytes(&b[..20]).unwrap();
            if bit < 152 {
                prop_assert_ne!(four(&bytes).tag(), four(&other).tag());
            }
        }
    }
}
