//! IPv6 and its extension headers: RFC 8200.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Be16, Be32, Ipv6Address};

/// Hop-by-hop options follow.
pub const NEXT_HEADER_HOP_BY_HOP: u8 = 0;
/// A routing header follows.
pub const NEXT_HEADER_ROUTING: u8 = 43;
/// A fragment header follows.
pub const NEXT_HEADER_FRAGMENT: u8 = 44;
/// An authentication header follows (RFC 4302).
pub const NEXT_HEADER_AUTHENTICATION: u8 = 51;
/// Destination options follow.
pub const NEXT_HEADER_DESTINATION: u8 = 60;

/// The fixed header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version, traffic class and flow label.
    pub version_class_flow: Be32,
    /// Length of what follows this header, in bytes.
    pub payload_length: Be16,
    /// What follows.
    pub next_header: u8,
    /// Hops that are left.
    pub hop_limit: u8,
    /// From whom.
    pub source: Ipv6Address,
    /// To whom.
    pub destination: Ipv6Address,
}

impl Ipv6Header {
    /// Its length in bytes.
    pub const LENGTH: u32 = 40;

    /// Whether the version is 6.
    #[inline(always)]
    pub const fn has_version(&self) -> bool {
        self.version_class_flow.get() >> 28 == 6
    }
}

/// The first bytes that hop-by-hop options, destination options, routing and authentication headers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtensionHeader {
    /// What follows.
    pub next_header: u8,
    /// Its length; in which unit depends on the header.
    pub length: u8,
}

impl ExtensionHeader {
    /// Length in bytes of this header of kind `kind`: 8 to 2048.
    #[inline(always)]
    pub const fn bytes(self, kind: u8) -> u32 {
        if kind == NEXT_HEADER_AUTHENTICATION {
            // RFC 4302, 2.2: in 32-bit words, less 2.
            ((self.length as u32) << 2).wrapping_add(8)
        } else {
            // RFC 8200, 4.3 to 4.6: in 8 bytes, not counting the first 8.
            ((self.length as u32) << 3).wrapping_add(8)
        }
    }
}

/// The fixed part of a routing header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RoutingHeader {
    /// What follows, and the length.
    pub extension: ExtensionHeader,
    /// The kind of routing.
    pub kind: u8,
    /// Hops on the list that are still to be visited; until it is 0 the destination address is not the last.
    pub segments_left: u8,
}

/// The fragment header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentHeader {
    /// What follows.
    pub next_header: u8,
    /// 0.
    pub reserved: u8,
    /// Offset in 8 bytes in the upper 13 bits, "more fragments" in the lowest.
    pub offset_and_more: Be16,
    /// Identifies the fragments of a packet.
    pub identification: Be32,
}

impl FragmentHeader {
    /// Its length in bytes.
    pub const LENGTH: u32 = 8;

    /// Whether this is a part of a packet. A fragment header may also stand in a whole one (RFC 6946).
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.offset_and_more.get() & 0xfff9 != 0
    }

    /// Where in its packet a part stands, in bytes.
    #[inline(always)]
    pub const fn offset(&self) -> u32 {
        // The offset is in units of 8 bytes, and stands 3 bits from the right.
        (self.offset_and_more.get() & 0xfff8) as u32
    }
}

const _: () = assert!(size_of::<Ipv6Header>() == 40 && size_of::<FragmentHeader>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_headers_count_in_units_of_their_own() {
        let header = ExtensionHeader { next_header: 6, length: 4 };
        assert_eq!(header.bytes(NEXT_HEADER_HOP_BY_HOP), 40);
        assert_eq!(header.bytes(NEXT_HEADER_AUTHENTICATION), 24);
    }

    #[test]
    fn an_atomic_fragment_is_whole() {
        let with = |bits| FragmentHeader { offset_and_more: Be16::new(bits), ..FragmentHeader::default() };
        assert!(!with(0).is_fragment());
        assert!(!with(0b110).is_fragment(), "reserved bits say nothing");
        assert!(with(1).is_fragment() && with(8).is_fragment());
    }
}
