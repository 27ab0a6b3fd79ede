//! What the programs know of an interface.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::{Ipv4Address, Ipv6Address};

/// How many places there are for interfaces. A power of two, so that the place is found without a division.
pub const INTERFACE_PLACES: u32 = 4096;

/// Flag of an interface: XDP may send frames out of it that arrived at another one (`XDP_REDIRECT`).
pub const INTERFACE_XDP_REDIRECT: u16 = 1;
/// Flag of an interface: XDP may send frames out of it that arrived there (`XDP_TX`). A veth takes those only where the
/// program at its other end runs in the driver, too.
pub const INTERFACE_XDP_TX: u16 = 2;

/// One interface. It stands at its index modulo [`INTERFACE_PLACES`]; where two would share a place, the second is
/// refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct InterfaceEntry {
    /// The interface's index; 0: the place is free.
    pub index: u32,
    /// The conntrack zone of packets that pass this interface.
    pub zone: u16,
    /// [`INTERFACE_XDP_REDIRECT`] and [`INTERFACE_XDP_TX`].
    pub flags: u16,
    /// Its link-layer address; XDP leaves frames to others to the stack.
    pub mac: [u8; 6],
    /// 0.
    pub reserved: u16,
}

/// The addresses that flows get as their source which leave through an interface. It stands at the interface's index
/// modulo [`INTERFACE_PLACES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct MasqueradeEntry {
    /// The interface's index; 0: the place is free.
    pub index: u32,
    /// The IPv4 address; 0.0.0.0: none.
    pub v4: Ipv4Address,
    /// The IPv6 address; `::`: none.
    pub v6: Ipv6Address,
}

const _: () = assert!(size_of::<InterfaceEntry>() == 16 && size_of::<MasqueradeEntry>() == 24);
