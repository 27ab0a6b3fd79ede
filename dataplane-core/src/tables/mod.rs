//! The seam between packets, control and the kernel: what a packet needs of tables ([`Lookup`]) and what control
//! needs of them ([`Store`]).
//!
//! There are three implementations: [`memory`](crate::memory), the kernel's maps in `dataplane-ebpf`, and one in
//! `dataplane-testkit` that fails on purpose. One conformance suite runs over all of them.

mod capacity;
#[cfg(feature = "std")]
mod claim;
mod family;
mod lookup;
#[cfg(feature = "std")]
mod store;

pub use capacity::Capacity;
#[cfg(feature = "std")]
pub use claim::Claim;
#[cfg(feature = "std")]
pub(crate) use claim::Claimed;
pub use family::{Family, Flow, Place, Tuple, V4, V6};
pub use lookup::{AffinityCell, FlowEntry, InsertError, Lookup};
#[cfg(feature = "std")]
pub use store::{
    BatchError, Cause, Counters, Entries, FlowTable, HashTable, Moment, Operation, ScanPosition, Store,
    Suspect, TableError, Tables, WordArray,
};
