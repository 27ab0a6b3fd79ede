//! Integers in network byte order, and addresses.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit integer as the network has it: the first byte is the most significant.
///
/// The number inside is the two bytes loaded in the host's order, so comparing and copying cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Be16(pub u16);

impl Be16 {
    /// From a number in the host's order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// As a number in the host's order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A 32-bit integer as the network has it. See [`Be16`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Be32(pub u32);

impl Be32 {
    /// From a number in the host's order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be())
    }

    /// As a number in the host's order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// An IPv4 address, its bytes in the network's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Ipv4Address(pub u32);

/// An IPv6 address, its bytes in the network's order, as four words: the BPF target has no 128-bit arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Ipv6Address(pub [u32; 4]);

impl Ipv6Address {
    /// The first and the last eight bytes.
    #[inline(always)]
    pub(crate) const fn halves(&self) -> (u64, u64) {
        let [a, b, c, d] = self.0;
        ((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64)
    }

    /// The same as numbers, which do not depend on the host's byte order.
    #[inline(always)]
    pub(crate) const fn numbers(&self) -> (u64, u64) {
        let [a, b, c, d] = self.0;
        (
            (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64,
            (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64,
        )
    }
}

impl Ipv4Address {
    /// Whether no router may forward a packet from this address: "this network", loopback, groups and what is reserved
    /// (RFC 1812, 5.3.7; RFC 6890).
    #[inline(always)]
    pub const fn is_martian_source(&self) -> bool {
        let first = self.0.to_ne_bytes()[0];
        first == 0 || first == 127 || first >= 224
    }
}

impl Ipv6Address {
    /// Whether no router may forward a packet from this address: unspecified, loopback and groups (RFC 4291, 2.5 and 2.7).
    /// Link-local ones may come to a backend on this host.
    #[inline(always)]
    pub const fn is_martian_source(&self) -> bool {
        let [a, b, c, d] = self.0;
        a.to_ne_bytes()[0] == 0xff || a | b | c | (d & !1u32.to_be()) == 0
    }
}

impl From<Ipv4Addr> for Ipv4Address {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv4Address> for Ipv4Addr {
    fn from(address: Ipv4Address) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for Ipv6Address {
    fn from(address: Ipv6Addr) -> Self {
        zerocopy::transmute!(address.octets())
    }
}

impl From<Ipv6Address> for Ipv6Addr {
    fn from(address: Ipv6Address) -> Self {
        let octets: [u8; 16] = zerocopy::transmute!(address.0);
        Self::from(octets)
    }
}

impl From<Ipv4Address> for IpAddr {
    fn from(address: Ipv4Address) -> Self {
        Self::V4(address.into())
    }
}

impl From<Ipv6Address> for IpAddr {
    fn from(address: Ipv6Address) -> Self {
        Self::V6(address.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_in_the_networks_order() {
        assert_eq!(Be16::new(0x1234).as_bytes(), [0x12, 0x34]);
        assert_eq!(Be32::new(0x1234_5678).as_bytes(), [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(Ipv4Address::from(Ipv4Addr::new(192, 0, 2, 1)).as_bytes(), [192, 0, 2, 1]);
        let address: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        assert_eq!(Ipv6Address::from(address).as_bytes(), address.octets());
        assert_eq!(Ipv6Addr::from(Ipv6Address::from(address)), address);
    }
}
