//! The frame, as an argument.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What can be read from a frame as a whole: any bytes of its size are a valid value.
pub trait Header: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Header for T {}

/// No header is read that begins further from the start of a frame than this many bytes: the verifier wants a bound, and
/// whoever piles up extension headers beyond it is passed on to the stack.
pub const LAST_HEADER_OFFSET: u32 = 511;

/// A frame in a network card's ring, in a socket buffer or in memory: bytes that can be read and written within
/// bounds.
///
/// What is seen begins with the Ethernet header. The kernel may hold the end of a frame elsewhere (fragments of an
/// skb or of an XDP buffer): then reading there is `None`, and [`length`](Frame::length) still counts it.
pub trait Frame {
    /// The frame's length in bytes, from the Ethernet header on.
    fn length(&self) -> u32;

    /// The bytes at `offset` as a header; `None` where they are not all there, or beyond [`LAST_HEADER_OFFSET`].
    fn read<T: Header>(&self, offset: u32) -> Option<T>;

    /// Writes a header at `offset`; `None`, and nothing written, where there is no room, or beyond
    /// [`LAST_HEADER_OFFSET`].
    fn write<T: Header>(&mut self, offset: u32, header: T) -> Option<()>;

    /// How many bytes of IP packet the largest packet has that leaves as part of this frame: a frame that the
    /// kernel will split into segments (GSO) stands for several. `l3_length` is what its IP header says, `headers` is
    /// the length of IP and transport header.
    fn segment_length(&self, l3_length: u32, headers: u32) -> u32 {
        let _ = headers;
        l3_length
    }

    /// Whether the kernel will split this frame into segments (GSO). Then its IP header may say that it has length 0:
    /// it is longer than 65,535 bytes ("BIG TCP", Linux 5.19 for IPv6 and 6.3 for IPv4).
    fn is_segmented(&self) -> bool {
        false
    }
}

/// Plain bytes in memory.
impl Frame for [u8] {
    fn length(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn read<T: Header>(&self, offset: u32) -> Option<T> {
        let bytes = self.get(start(offset)?..)?;
        T::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    fn write<T: Header>(&mut self, offset: u32, header: T) -> Option<()> {
        let bytes = self.get_mut(start(offset)?..)?;
        header.write_to_prefix(bytes).ok()
    }
}

fn start(offset: u32) -> Option<usize> {
    if offset > LAST_HEADER_OFFSET { None } else { usize::try_from(offset).ok() }
}
