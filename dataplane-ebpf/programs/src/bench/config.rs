//! What user space tells the measured programs. The crate `benches` compiles this very file.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length of each packet that the prelude writes: 98 and 118 bytes hold a payload of 64 behind IPv4 and IPv6 with TCP.
pub const PACKET_V4: u32 = 98;
/// As above, IPv6.
pub const PACKET_V6: u32 = 118;

/// Which packets the prelude writes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// The number of flows, a power of two, less one.
    pub flow_mask: u32,
    /// Odd: with the shift, the order in which flows are visited. 1 visits them one after the other.
    pub factor: u32,
    /// At least half of the mask's bits; 31 where they are visited one after the other.
    pub shift: u32,
    /// Packets written so far.
    pub counter: u32,
    /// Link-layer destination and source.
    pub link: [u32; 3],
    /// Index of the interface, for the route floor.
    pub interface: u32,
    /// The end of the flows that is not the client; an IPv4 address is the first word.
    pub peer: [u32; 4],
    /// Its port, in network byte order.
    pub peer_port: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// 0: the client sends; 1: its peer does.
    pub reply: u8,
}
