//! Ethernet II (IEEE 802.3) and 802.1Q tags.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Be16;

/// IPv4 follows.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// IPv6 follows.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// An 802.1Q tag follows.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// An 802.1ad service tag follows.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// A link-layer address, as three words: that is how it is aligned in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MacAddress(pub [u16; 3]);

impl MacAddress {
    /// From its six bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
    }

    /// Its six bytes.
    pub const fn bytes(self) -> [u8; 6] {
        let [x, y, z] = self.0;
        let ([a, b], [c, d], [e, f]) = (x.to_ne_bytes(), y.to_ne_bytes(), z.to_ne_bytes());
        [a, b, c, d, e, f]
    }

    /// Whether it names a group: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        let [first, _, _] = self.0;
        let [byte, _] = first.to_ne_bytes();
        byte & 1 != 0
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EthernetHeader {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
    /// What follows.
    pub ethertype: Be16,
}

impl EthernetHeader {
    /// Its length in bytes.
    pub const LENGTH: u32 = 14;
}

/// An 802.1Q tag: it follows an ethertype that announces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanTag {
    /// Priority, drop eligibility, and the VLAN's number in the lower 12 bits.
    pub control: Be16,
    /// What follows.
    pub ethertype: Be16,
}

impl VlanTag {
    /// Its length in bytes.
    pub const LENGTH: u32 = 4;
}

const _: () = assert!(size_of::<EthernetHeader>() == 14 && size_of::<VlanTag>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_addresses_are_told_by_their_first_bit() {
        assert!(MacAddress::new([0xff; 6]).is_group());
        assert!(MacAddress::new([0x01, 0, 0x5e, 0, 0, 1]).is_group());
        assert!(MacAddress::new([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!MacAddress::new([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]).is_group());
        assert_eq!(MacAddress::new([1, 2, 3, 4, 5, 6]).bytes(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(MacAddress::new([1, 2, 3, 4, 5, 6]).as_bytes(), [1, 2, 3, 4, 5, 6]);
    }
}
