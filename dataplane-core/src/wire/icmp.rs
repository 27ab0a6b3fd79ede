//! ICMP and ICMPv6: RFC 792, RFC 4443.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Be16;

/// ICMP in an IPv4 header's protocol field.
pub const PROTOCOL_ICMP: u8 = 1;
/// ICMPv6 in an IPv6 header's next-header field.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Types of ICMP messages (RFC 792).
pub mod icmp_type {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable, "fragmentation needed" among them.
    pub const DESTINATION_UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of ICMPv6 messages (RFC 4443).
pub mod icmpv6_type {
    /// Destination unreachable.
    pub const DESTINATION_UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
}

/// The header. Behind an error's stands the beginning of the packet that it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IcmpHeader {
    /// What it is.
    pub kind: u8,
    /// Of which sort.
    pub code: u8,
    /// Checksum over header and data; for ICMPv6 over a pseudo header, too.
    pub checksum: Be16,
    /// What else there is to say: an MTU, or an identifier and a sequence number.
    pub rest: [Be16; 2],
}

impl IcmpHeader {
    /// Its length in bytes.
    pub const LENGTH: u32 = 8;
    /// Where the checksum stands, from the header's start.
    pub const CHECKSUM_OFFSET: u32 = 2;
}

const _: () = assert!(size_of::<IcmpHeader>() == 8);
