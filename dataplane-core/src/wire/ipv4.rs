//! IPv4: RFC 791.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Be16, Ipv4Address};

/// TCP in a protocol or next-header field.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP in a protocol or next-header field.
pub const PROTOCOL_UDP: u8 = 17;

const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the offset: all that a whole packet has as zero.
const FRAGMENT_FIELDS: u16 = 0x3fff;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of the header; options may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version in the upper four bits, header length in 32-bit words in the lower.
    pub version_and_length: u8,
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// Length of header and payload in bytes.
    pub total_length: Be16,
    /// Identifies the fragments of a packet.
    pub identification: Be16,
    /// Flags in the upper three bits, fragment offset in 8 bytes in the lower.
    pub fragment: Be16,
    /// Hops that are left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Checksum over the header.
    pub checksum: Be16,
    /// From whom.
    pub source: Ipv4Address,
    /// To whom.
    pub destination: Ipv4Address,
}

impl Ipv4Header {
    /// Length of the fixed part in bytes.
    pub const LENGTH: u32 = 20;

    /// The length of the header with its options, in bytes: 20 to 60. `None` where the version is not 4 or the header
    /// is said to be shorter than its fixed part.
    #[inline(always)]
    pub const fn header_length(&self) -> Option<u32> {
        let length = ((self.version_and_length & 15) as u32) << 2;
        if self.version_and_length >> 4 != 4 || length < Self::LENGTH {
            return None;
        }
        Some(length)
    }

    /// Whether this is a part of a packet: it has an offset, or more follow.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment.get() & FRAGMENT_FIELDS != 0
    }

    /// Whether this is a part of a packet, and not its first: it has no transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment.get() & FRAGMENT_OFFSET != 0
    }

    /// Where in its packet a part stands, in bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u32 {
        ((self.fragment.get() & FRAGMENT_OFFSET) as u32) << 3
    }

    /// Whether routers must not split the packet.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.fragment.get() & DONT_FRAGMENT != 0
    }
}

const _: () = assert!(size_of::<Ipv4Header>() == 20);

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_and_length: u8) -> Ipv4Header {
        Ipv4Header { version_and_length, ..Ipv4Header::default() }
    }

    #[test]
    fn a_header_has_a_version_and_a_length() {
        assert_eq!(header(0x45).header_length(), Some(20));
        assert_eq!(header(0x4f).header_length(), Some(60));
        assert_eq!(header(0x44).header_length(), None);
        assert_eq!(header(0x65).header_length(), None);
    }

    #[test]
    fn a_fragment_has_an_offset_or_a_successor() {
        let with = |fragment| Ipv4Header { fragment: Be16::new(fragment), ..Ipv4Header::default() };
        assert!(!with(0).is_fragment() && !with(0).dont_fragment());
        assert!(!with(0x4000).is_fragment() && with(0x4000).dont_fragment());
        assert!(with(0x2000).is_fragment() && with(0x0001).is_fragment());
        assert!(!with(0x6000).is_later_fragment() && with(0x2001).is_later_fragment());
    }
}
