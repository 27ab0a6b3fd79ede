//! Where a packet's particulars are while it is worked on.

use super::{Headers, Link, NextHop, Part, Quote, VerdictNumber};
use crate::tables::{Family, V4, V6};

/// Room for one packet's particulars. In the kernel it stands in a map, one for each CPU and hook: a program's stack has
/// 512 bytes, of which keys and values of IPv6 would take most. It carries nothing from one packet to the next, but all
/// from one [`Stage`](super::Stage) of a packet to the next.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Workspaces {
    pub(super) v4: Workspace<V4>,
    pub(super) v6: Workspace<V6>,
    // In front of the others it made IPv4 at tcx a tenth slower, by nothing but where they lie.
    pub(super) arrival: Arrival,
    pub(super) part_v4: Part<V4>,
    pub(super) part_v6: Part<V6>,
}

/// What is known of a packet before its IP header.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Arrival {
    /// The link layer.
    pub link: Link,
    /// The interface's conntrack zone.
    pub zone: u16,
}

/// Room for one packet of one family.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Workspace<F: Family> {
    /// What the packet's headers say.
    pub headers: Headers<F>,
    /// What an ICMP error is about.
    pub quote: Quote,
    /// The packet's flow: as it was found, or as it is to be opened.
    pub flow: F::Flow,
    /// The tuple of the other direction.
    pub pair_tuple: F::Tuple,
    /// The flow of the other direction.
    pub pair: F::Flow,
    /// An entry that was found where `flow` or `pair` belongs.
    pub found: F::Flow,
    /// Where the packet goes, if it is forwarded.
    pub hop: NextHop,
    /// What becomes of the packet, if nothing fails: delivered, forwarded or left.
    pub way: VerdictNumber,
    /// Number of the [`CloseReason`](super::CloseReason) of an entry that is in the way of the flow which is to be opened, and
    /// of which `found` is a copy; 0: none is.
    pub stale: u8,
    /// Number of the reason why it is dropped and answered.
    pub answer: u8,
}
