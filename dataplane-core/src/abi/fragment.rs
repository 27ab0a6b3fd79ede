//! Datagrams that arrive in parts: what the first one says and the others lack.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mix;
use crate::wire::{Be16, Be32, Ipv4Address, Ipv6Address};

macro_rules! fragment_key {
    ($family:literal, $address:ty, $key:ident) => {
        #[doc = concat!("Key of the ", $family, " table of fragments: which datagram a part is of.")]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $key {
            /// Source address.
            pub source: $address,
            /// Destination address.
            pub destination: $address,
            /// What its sender told it by; that of IPv4 in the lower 16 bits.
            pub identification: Be32,
            /// The zone of the interface.
            pub zone: u16,
            /// The protocol's number for IPv4 (RFC 791), 0 for IPv6, where it does not count (RFC 8200, 4.5).
            pub protocol: u8,
            /// 0.
            pub reserved: u8,
        }
    };
}

fragment_key!("IPv4", Ipv4Address, FragmentKeyV4);
fragment_key!("IPv6", Ipv6Address, FragmentKeyV6);

/// Value of the tables of fragments: what the first part of a datagram said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct FragmentRecord {
    /// The key's tag.
    pub tag: u32,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// When the first part came, in [`Tick`](crate::pipeline::Tick)s.
    pub seen: u32,
    /// The transport protocol's number.
    pub protocol: u8,
    /// 0.
    pub reserved: [u8; 7],
    /// The key's tag once more, at the other end: see a flow's.
    pub tail_tag: u32,
}

const _: () = assert!(size_of::<FragmentKeyV4>() == 16 && size_of::<FragmentKeyV6>() == 40);
const _: () = assert!(size_of::<FragmentRecord>() == 24);

macro_rules! identity {
    ($key:expr) => {
        mix(
            ($key.identification.0 as u64) << 32 | ($key.zone as u64) << 16 | $key.protocol as u64,
            0x5a82_7999,
        )
    };
}

impl FragmentKeyV4 {
    /// What the record carries to show that it is this datagram's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let addresses = (self.source.0 as u64) << 32 | self.destination.0 as u64;
        mix(addresses, 0).wrapping_add(identity!(self).rotate_left(11))
    }
}

impl FragmentKeyV6 {
    /// What the record carries to show that it is this datagram's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (source_high, source_low) = self.source.halves();
        let (destination_high, destination_low) = self.destination.halves();
        mix(source_high, source_low)
            .wrapping_add(mix(destination_low, destination_high).rotate_left(11))
            .wrapping_add(identity!(self).rotate_left(22))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bit_of_a_key_changes_its_tag(bytes in any::<[u8; 40]>(), bit in 0usize..312) {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            let six = |b: &[u8]| FragmentKeyV6::read_from_bytes(b).unwrap();
            prop_assert_ne!(six(&bytes).tag(), six(&other).tag());
            let four = |b: &[u8]| FragmentKeyV4::read_from_bytes(&b[..16]).unwrap();
            if bit < 120 {
                prop_assert_ne!(four(&bytes).tag(), four(&other).tag());
            }
        }
    }
}
