//! TCP: RFC 9293.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Be16, Be32};

/// No more data from the sender.
pub const TCP_FIN: u8 = 0x01;
/// Synchronise sequence numbers: the first packet of each side.
pub const TCP_SYN: u8 = 0x02;
/// Reset the connection.
pub const TCP_RST: u8 = 0x04;
/// The acknowledgement field counts.
pub const TCP_ACK: u8 = 0x10;

/// The fixed part of the header; options may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpHeader {
    /// From which port.
    pub source_port: Be16,
    /// To which port.
    pub destination_port: Be16,
    /// Number of the first byte.
    pub sequence: Be32,
    /// Number of the next byte expected.
    pub acknowledgement: Be32,
    /// Header length in 32-bit words in the upper four bits.
    pub data_offset: u8,
    /// [`TCP_FIN`], [`TCP_SYN`], [`TCP_RST`], [`TCP_ACK`] and others.
    pub flags: u8,
    /// How much the receiver takes.
    pub window: Be16,
    /// Checksum over pseudo header, header and data.
    pub checksum: Be16,
    /// End of urgent data.
    pub urgent: Be16,
}

impl TcpHeader {
    /// Length of the fixed part in bytes.
    pub const LENGTH: u32 = 20;
    /// Where the checksum stands, from the header's start.
    pub const CHECKSUM_OFFSET: u32 = 16;

    /// The length of the header with its options, in bytes: 0 to 60; under 20 is malformed.
    #[inline(always)]
    pub const fn header_length(&self) -> u32 {
        ((self.data_offset >> 4) as u32) << 2
    }
}

const _: () = assert!(size_of::<TcpHeader>() == 20);
