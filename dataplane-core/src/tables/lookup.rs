//! What a packet needs of the tables.

use super::{Family, Place};
use crate::{
    abi::{AffinityEntry, AffinityHead, BackendRef, FragmentRecord, ServiceRef, ServiceWord, StateWord},
    pipeline::{Backend, Tick},
};

/// The tables as a packet of one family meets them.
///
/// No result is stable: what is behind a key may be replaced at any time. Therefore words are copied as a whole,
/// wider values are copied and their tags checked by the pipeline, and nothing borrowed leaves a method.
pub trait Lookup<F: Family> {
    /// A conntrack entry that was found.
    type Entry: FlowEntry<F>;
    /// An affinity that was found.
    type Affinity: AffinityCell;

    /// Where the word of a frontend is.
    fn service(&self, key: &F::ServiceKey) -> Option<ServiceRef>;

    /// The word of a frontend.
    fn service_word(&self, index: u32) -> Option<ServiceWord>;

    /// A word of the slot table.
    fn slot(&self, index: u32) -> Option<u64>;

    /// A backend, if it still has this generation.
    fn backend(&self, backend: BackendRef) -> Option<Backend<F>>;

    /// The entry of a tuple.
    fn flow(&self, place: Place, tuple: &F::Tuple) -> Option<Self::Entry>;

    /// Puts an entry in unless there is one.
    ///
    /// # Errors
    /// [`InsertError::Exists`]: read that one and use it. [`InsertError::Full`]: there is no room. [`InsertError::Busy`]: not now.
    fn insert_flow(&self, place: Place, tuple: &F::Tuple, flow: &F::Flow) -> Result<(), InsertError>;

    /// Takes an entry out. The kernel may refuse that; who claims an entry before leaves it dying then, and the collector takes
    /// it out.
    fn remove_flow(&self, place: Place, tuple: &F::Tuple);

    /// The affinity of a client.
    fn affinity(&self, key: &F::AffinityKey) -> Option<Self::Affinity>;

    /// Puts an affinity in unless there is one.
    ///
    /// # Errors
    /// [`InsertError::Exists`]: read that one and use it. [`InsertError::Full`]: there is no room. [`InsertError::Busy`]: not now.
    fn insert_affinity(&self, key: &F::AffinityKey, entry: &AffinityEntry) -> Result<(), InsertError>;

    /// Takes an affinity out.
    fn remove_affinity(&self, key: &F::AffinityKey);

    /// What the first part of a datagram said. The pipeline compares tags.
    fn fragment(&self, key: &F::FragmentKey) -> Option<FragmentRecord>;

    /// Notes what the first part of a datagram says, in the place of what an earlier one did. Where there is no room for it,
    /// the later parts are not found to be ours.
    fn note_fragment(&self, key: &F::FragmentKey, record: &FragmentRecord);

    /// The address that flows get as their source which leave through this interface.
    fn masquerade_address(&self, interface: u32) -> Option<F::Address>;

    /// Whether a socket of this host would get packets of this tuple.
    fn is_bound(&self, tuple: &F::Tuple) -> bool;
}

/// A conntrack entry in its table. It may be recycled for another flow at any time.
pub trait FlowEntry<F: Family> {
    /// Copies the entry, and tells whether the copy is that of the tuple with this tag from its first to its last
    /// byte.
    fn read(&self, tag: u32, into: &mut F::Flow) -> bool;

    /// The state alone, for another try at exchanging it.
    fn state(&self) -> StateWord;

    /// Replaces the state if it is still `current`; tells whether it did.
    fn exchange_state(&self, current: StateWord, new: StateWord) -> bool;

    /// When a packet was last seen.
    fn last_seen(&self) -> Tick;

    /// Notes that a packet was seen. On an entry that was recycled meanwhile this keeps another flow for longer, which
    /// does no harm.
    fn touch(&self, now: Tick);
}

/// An affinity in its table. It may be recycled for another client at any time.
pub trait AffinityCell {
    /// A copy, if it is that of the key with this tag from its first to its last word.
    fn read(&self, tag: u32) -> Option<AffinityEntry>;

    /// Replaces the head if it is still `current`; tells whether it did.
    fn exchange_head(&self, current: AffinityHead, new: AffinityHead) -> bool;

    /// Notes that the client came. On an entry that was recycled meanwhile this keeps another client's for longer, which
    /// does no harm.
    fn touch(&self, now: Tick);
}

/// Why an entry was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is one for this key.
    Exists,
    /// There is no room.
    Full,
    /// The kernel refused it for the moment: the packet interrupted other work on the same bucket. Neither is there an entry that
    /// could be used, nor is the table full; the next packet tries again.
    Busy,
}
