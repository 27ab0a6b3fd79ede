//! Events: what the programs tell user space of drops and flows, one record each, through a ring.
//!
//! A record has a fixed length for its kind and family, and no byte of it is left unwritten. Addresses and ports are in the
//! network's byte order, everything else in the host's: a record never leaves the machine that made it. Its head says which
//! [`ABI_VERSION`](super::ABI_VERSION) it is of. [`event::Event`](crate::event::Event) is what one means.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ABI_VERSION, BackendRef};
use crate::{
    pipeline::Budget,
    wire::{Be16, Ipv4Address, Ipv6Address},
};

/// A packet of ours was dropped, or answered in place of being sent on.
pub const EVENT_DROPPED: u8 = 1;
/// A flow was opened.
pub const EVENT_OPENED: u8 = 2;
/// A flow was closed.
pub const EVENT_CLOSED: u8 = 3;

/// In the place of a hook's number, of a closed flow.
pub const EVENT_NO_HOOK: u8 = 0xff;

/// Flag of a flow's record: its source is translated.
pub const EVENT_MASQUERADED: u8 = 1;
/// Flag of a flow's record: its backend is on this host.
pub const EVENT_LOCAL: u8 = 2;
/// Flag of a closed flow's record: the backend had answered.
pub const EVENT_ANSWERED: u8 = 4;

/// How many drops each CPU tells of in a second where nothing else is said.
pub const DEFAULT_DROP_EVENTS_A_SECOND: u32 = 1_000;

/// What every record begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventHead {
    /// When, in nanoseconds of the kernel's monotonic clock.
    pub time: u64,
    /// [`ABI_VERSION`](super::ABI_VERSION).
    pub version: u16,
    /// [`EVENT_DROPPED`], [`EVENT_OPENED`] or [`EVENT_CLOSED`].
    pub kind: u8,
    /// 4 or 6.
    pub family: u8,
    /// The number of the [`Hook`](crate::pipeline::Hook), or [`EVENT_NO_HOOK`].
    pub hook: u8,
    /// Of a drop the number of the [`Verdict`](crate::pipeline::Verdict), of a closed flow that of the
    /// [`CloseReason`](crate::pipeline::CloseReason), else 0.
    pub reason: u8,
    /// The transport protocol's number.
    pub protocol: u8,
    /// [`EVENT_MASQUERADED`], [`EVENT_LOCAL`], [`EVENT_ANSWERED`].
    pub flags: u8,
}

impl EventHead {
    /// The head of a record of this version.
    #[inline(always)]
    pub const fn new(time: u64, kind: u8, hook: u8, reason: u8, protocol: u8) -> Self {
        Self { time, version: ABI_VERSION as u16, kind, family: 0, hook, reason, protocol, flags: 0 }
    }
}

macro_rules! records {
    ($family:literal, $address:ty, $drop:ident, $flow:ident) => {
        #[doc = concat!("An ", $family, " packet was dropped.")]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $drop {
            /// What, when and why.
            pub head: EventHead,
            /// Source address as it arrived; of an ICMP error, that of the flow that it is about.
            pub source: $address,
            /// Destination address.
            pub destination: $address,
            /// Source port.
            pub source_port: Be16,
            /// Destination port.
            pub destination_port: Be16,
            /// The interface where it arrived, or by which it was to leave at egress.
            pub interface: u32,
            /// The zone of the interface.
            pub zone: u16,
            /// 0.
            pub reserved: [u8; 6],
        }

        #[doc = concat!("An ", $family, " flow was opened or closed.")]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $flow {
            /// What, when and why.
            pub head: EventHead,
            /// The backend.
            pub backend_ref: BackendRef,
            /// The client's address.
            pub client: $address,
            /// The virtual address.
            pub frontend: $address,
            /// The backend's address.
            pub backend: $address,
            /// What the backend sees as the client: an address of this host where the source is translated.
            pub source: $address,
            /// The client's port.
            pub client_port: Be16,
            /// The virtual address's port.
            pub frontend_port: Be16,
            /// The backend's port.
            pub backend_port: Be16,
            /// The port that the backend sees as the client's.
            pub source_port: Be16,
            /// Index of the frontend.
            pub frontend_index: u32,
            /// The interface where the packet arrived that opened it; 0 of a closed flow.
            pub interface: u32,
            /// How long before it closed its last packet was noted, in [`Tick`](crate::pipeline::Tick)s; 0 of an opened
            /// flow. Packets are noted once a second.
            pub idle: u32,
            /// The zone of the interface.
            pub zone: u16,
            /// 0.
            pub reserved: u16,
        }
    };
}

records!("IPv4", Ipv4Address, DropRecordV4, FlowRecordV4);
records!("IPv6", Ipv6Address, DropRecordV6, FlowRecordV6);

const _: () = assert!(size_of::<EventHead>() == 16 && ABI_VERSION <= u16::MAX as u64);
const _: () = assert!(size_of::<DropRecordV4>() == 40 && size_of::<DropRecordV6>() == 64);
const _: () = assert!(size_of::<FlowRecordV4>() == 64 && size_of::<FlowRecordV6>() == 112);

/// What one CPU did not tell, and what is left of the drops that it may tell of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventAccount {
    /// Records for which the ring had no room.
    pub lost: u64,
    /// Drops beyond those that it may tell of in a second.
    pub withheld: u64,
    /// How many drops may be told of.
    pub budget: Budget,
}

const _: () = assert!(size_of::<EventAccount>() == 24);
