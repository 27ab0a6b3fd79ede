//! Affinity: a client comes to the backend again that it came to before.
//!
//! What is remembered is a hint, and a frontend's list says whether it holds: it does as long as the list names the backend.
//! So a backend that left the service, drains there, or has weight 0 gets no client by this from the moment on that the
//! list was switched, whoever else it serves, and nothing that was remembered needs to be found or changed for that.

use core::marker::PhantomData;

use super::{Environment, Steps, Tick};
use crate::{
    abi::{AffinityEntry, AffinityHead, BackendRef, SLOT_AFFINITY_WORD, SLOT_HEADER_WORDS},
    tables::{AffinityCell, Family, InsertError, Lookup},
};

/// The list of a frontend with affinity, and who comes to it.
#[derive(Clone, Copy)]
pub(super) struct Visit<F: Family> {
    /// The client at this frontend.
    pub key: F::AffinityKey,
    /// First slot of the list.
    pub list: u32,
    /// How many entries it has.
    pub entries: u32,
}

/// Whatever was remembered of the client, if it holds. Where it does not, it is removed, so that another one can be noted.
#[inline(always)]
pub(super) fn recall<F, E>(visit: &Visit<F>, env: &E, now: Tick) -> Option<BackendRef>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tag = F::affinity_tag(&visit.key);
    let cell = Lookup::<F>::affinity(env, &visit.key)?;
    let entry = cell.read(tag)?;
    if let Some(backend) = holds(visit, &cell, &entry, env, now) {
        return Some(backend);
    }
    // Of several CPUs that find it so, one removes it.
    if !entry.head.is_dying() && cell.exchange_head(entry.head, entry.head.dying()) {
        Lookup::<F>::remove_affinity(env, &visit.key);
    }
    None
}

/// Remembers the backend that was chosen for the client, and says where the client is to go: where another CPU was faster,
/// to its choice.
#[inline(always)]
pub(super) fn remember<F, E>(visit: &Visit<F>, chosen: BackendRef, env: &E, now: Tick) -> BackendRef
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tag = F::affinity_tag(&visit.key);
    let entry = AffinityEntry::new(AffinityHead::beginning(tag, env.random()), chosen, now.0);
    match Lookup::<F>::insert_affinity(env, &visit.key, &entry) {
        // Without room it is not remembered, which is no reason to drop a packet.
        Ok(()) | Err(InsertError::Full | InsertError::Busy) => chosen,
        Err(InsertError::Exists) => {
            if let Some(cell) = Lookup::<F>::affinity(env, &visit.key)
                && let Some(entry) = cell.read(tag)
                && let Some(backend) = holds(visit, &cell, &entry, env, now)
            {
                backend
            } else {
                chosen
            }
        }
    }
}

/// The backend of an entry that is neither over nor being replaced, if the list names it. Notes that the client came.
#[inline(always)]
fn holds<F, E>(
    visit: &Visit<F>,
    cell: &impl AffinityCell,
    entry: &AffinityEntry,
    env: &E,
    now: Tick,
) -> Option<BackendRef>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let timeout = Lookup::<F>::slot(env, visit.list.wrapping_add(SLOT_AFFINITY_WORD))? as u32;
    let age = now.since(Tick(entry.last_seen));
    if entry.head.is_dying() || age > timeout || !names::<F, E>(visit, entry.backend, env) {
        return None;
    }
    if age > 0 {
        cell.touch(now);
    }
    Some(entry.backend)
}

/// Whether the list names this backend. Cost: a load for each doubling of its entries.
#[inline(always)]
fn names<F, E>(visit: &Visit<F>, backend: BackendRef, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let first = visit.list.wrapping_add(SLOT_HEADER_WORDS);
    let mut search =
        Search::<F, E> { env, first, low: 0, high: visit.entries, backend, found: 0, family: PhantomData };
    // With each step less than half of the entries is left.
    env.repeat(u32::BITS.wrapping_sub(visit.entries.leading_zeros()), &mut search);
    search.found != 0
}

/// A search by halves. It holds plain numbers: see [`reserve`](super::reserve).
struct Search<'a, F, E> {
    env: &'a E,
    first: u32,
    /// It is not before this one,
    low: u32,
    /// nor at this one or behind.
    high: u32,
    backend: BackendRef,
    /// 1 once it was found.
    found: u32,
    family: PhantomData<F>,
}

impl<F, E> Steps for Search<'_, F, E>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let middle = self.low.wrapping_add(self.high.wrapping_sub(self.low) >> 1);
        let Some(word) = Lookup::<F>::slot(self.env, self.first.wrapping_add(middle)) else {
            return true;
        };
        let here = BackendRef(word);
        if here == self.backend {
            self.found = 1;
            return true;
        }
        // Of one index there is one generation in a list.
        if here.index() < self.backend.index() {
            self.low = middle.wrapping_add(1);
        } else {
            self.high = middle;
        }
        self.low >= self.high
    }
}
