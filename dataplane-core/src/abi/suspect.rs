//! Conntrack entries that the collector wants to have looked at.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{BackendRef, TupleV4, TupleV6};

/// How many suspects there is room for.
pub const SUSPECTS: u32 = 512;

/// How many words the collector's program keeps.
pub const COLLECTOR_WORDS: u32 = 2;

/// What stands in the collector's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CollectorWord {
    /// Which suspect is looked at next; each run of the program takes one.
    Next = 0,
    /// The time, in [`Tick`](crate::pipeline::Tick)s.
    Now = 1,
}

macro_rules! suspect {
    ($family:literal, $name:ident, $tuple:ty) => {
        #[doc = concat!("An ", $family, " entry to look at, and what became of it.")]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            /// The entry's key.
            pub tuple: $tuple,
            /// Index of the frontend of the flow that is revoked.
            pub frontend: u32,
            /// The backend of the flow that is revoked; 0 where only its time matters.
            pub backend: BackendRef,
            /// Written by whoever looks: a [`Fate`](crate::pipeline::Fate).
            pub fate: u32,
            /// In which table: a [`Place`](crate::tables::Place).
            pub place: u32,
        }
    };
}

suspect!("IPv4", SuspectV4, TupleV4);
suspect!("IPv6", SuspectV6, TupleV6);

const _: () = assert!(size_of::<SuspectV4>() == 40 && size_of::<SuspectV6>() == 64);
