//! UDP: RFC 768.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Be16;

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UdpHeader {
    /// From which port.
    pub source_port: Be16,
    /// To which port.
    pub destination_port: Be16,
    /// Length of header and data in bytes.
    pub length: Be16,
    /// Checksum over pseudo header, header and data; 0: none (IPv4 only).
    pub checksum: Be16,
}

impl UdpHeader {
    /// Its length in bytes.
    pub const LENGTH: u32 = 8;
    /// Where the checksum stands, from the header's start.
    pub const CHECKSUM_OFFSET: u32 = 6;
}

const _: () = assert!(size_of::<UdpHeader>() == 8);
