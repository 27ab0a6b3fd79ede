//! Backends, by index.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::service::word_of_two;
use crate::wire::{Be16, Ipv4Address, Ipv6Address};

word_of_two! {
    /// Names a backend in slots and flows: its place in the array, and who must be there.
    BackendRef,
    index: "Index in the array of the family.",
    generation: "The backend's generation; where the array's differs, this backend is gone. Never 0."
}

/// Flag of a backend: its packets go to the host's own stack.
pub const BACKEND_LOCAL: u8 = 1;
/// Flag of a backend: no list sends it new flows. It may come and go while the backend stands, and shares a word with
/// the generation, so that both are read at once.
pub const BACKEND_DRAINING: u8 = 2;

/// A backend of IPv4 services.
///
/// The first word tells whose entry this is. An index is given to another backend only one grace period after its
/// generation was cleared, so a reader that saw the right generation may read the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct BackendV4 {
    /// Who stands here; 0: nobody.
    pub generation: u32,
    /// The port.
    pub port: Be16,
    /// [`BACKEND_LOCAL`] and [`BACKEND_DRAINING`].
    pub flags: u8,
    /// 0.
    pub reserved: u8,
    /// The address.
    pub address: Ipv4Address,
    /// The generation of who stands here, or stood here last: flows may hold it yet. For control only.
    pub last_generation: u32,
}

/// A backend of IPv6 services. See [`BackendV4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct BackendV6 {
    /// Who stands here; 0: nobody.
    pub generation: u32,
    /// The port.
    pub port: Be16,
    /// [`BACKEND_LOCAL`] and [`BACKEND_DRAINING`].
    pub flags: u8,
    /// 0.
    pub reserved: u8,
    /// The address.
    pub address: Ipv6Address,
    /// As in [`BackendV4`].
    pub last_generation: u32,
    /// 0.
    pub reserved_too: u32,
}

const _: () = assert!(size_of::<BackendV4>() == 16 && size_of::<BackendV6>() == 32);
