//! Counters, one set for each CPU.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::pipeline::{Hook, VerdictNumber};

/// How many counters there are: 64 for each of 4 hooks.
pub const COUNTERS: u32 = 256;

/// Where the packets are counted that had this verdict at this hook.
#[inline(always)]
pub const fn counter_index(hook: Hook, verdict: VerdictNumber) -> u32 {
    ((hook as u32) << 6) | (verdict.get() as u32 & 63)
}

/// What went through one frontend, on one CPU. A packet that XDP leaves to tcx is counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceCounters {
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes: u64,
    /// Packets to clients.
    pub reply_packets: u64,
    /// Bytes to clients, from the IP header on.
    pub reply_bytes: u64,
    /// Flows opened.
    pub flows: u64,
    /// Packets dropped after the frontend was found.
    pub drops: u64,
}

const _: () = assert!(size_of::<ServiceCounters>() == 48);
