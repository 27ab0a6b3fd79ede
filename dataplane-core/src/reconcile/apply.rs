//! Carrying out the plans of several services at once, step by step.

use std::vec::IntoIter;

use super::{Op, Presence, ledger::Ledger};
use crate::{
    abi::{SLOT_LINE_WORDS, ServiceKeyV4, ServiceKeyV6, ServiceRef},
    compile::{FrontendRow, ListRow, ServiceKey, list_words},
    model::{Frontend, IpFamily},
    state::ServiceId,
    tables::{BatchError, HashTable, Store, TableError, WordArray},
};

/// The plan of one service, and how it went.
#[derive(Debug)]
pub(super) struct Job {
    pub id: ServiceId,
    ops: std::iter::Peekable<IntoIter<Op>>,
    pub error: Option<TableError>,
}

impl Job {
    pub fn new(id: ServiceId, ops: Vec<Op>) -> Self {
        Self { id, ops: ops.into_iter().peekable(), error: None }
    }

    /// The next operation, if it belongs to this step and none has failed.
    fn next_of(&mut self, step: usize) -> Option<Op> {
        if self.error.is_some() {
            return None;
        }
        self.ops.next_if(|op| op.step() == step)
    }
}

/// Carries out all jobs, the steps in order. A job whose operation fails ends there; the others go on.
pub(super) fn apply(jobs: &mut [Job], ledger: &mut Ledger, store: &dyn Store) {
    let mut words = Vec::new();
    for step in 0..Op::STEPS {
        let mut inserts = Batch::default();
        let mut removals = Batch::default();
        for (place, job) in jobs.iter_mut().enumerate() {
            while let Some(op) = job.next_of(step) {
                let done = match op {
                    Op::WriteBackend(row) => write_backend(row.family, row.index, ledger, store),
                    Op::WriteList(row) => write_list(job.id, &row, &mut words, ledger, store),
                    Op::SetWord { frontend, base } => set_word(job.id, &frontend, base, ledger, store),
                    Op::ClearWord(frontend) => clear_word(&frontend, ledger, store),
                    Op::InsertFrontend(frontend) => {
                        inserts.add(place, &frontend);
                        Ok(())
                    }
                    Op::RemoveFrontend(frontend) => {
                        removals.add(place, &frontend);
                        Ok(())
                    }
                };
                job.error = done.err();
            }
        }
        inserts.insert(jobs, ledger, store);
        removals.remove(jobs, ledger, store);
    }
}

/// Writes the row of a backend where it does not stand as it is to be.
pub(super) fn write_backend(
    family: IpFamily,
    index: u32,
    ledger: &mut Ledger,
    store: &dyn Store,
) -> Result<(), TableError> {
    // Another service that shares it may have been first, or may have found it draining no more since the plan was made.
    if let Some(row) = ledger.write_backend(family, index) {
        let (words, width) = row.words();
        backends(family, store).store(index, &words[..width])?;
        ledger.backend_was_written(&row);
    }
    Ok(())
}

/// The array of a family's backends.
pub(super) fn backends(family: IpFamily, store: &dyn Store) -> &dyn WordArray {
    match family {
        IpFamily::V4 => store.backends_v4(),
        IpFamily::V6 => store.backends_v6(),
    }
}

fn write_list(
    id: ServiceId,
    row: &ListRow,
    words: &mut Vec<u64>,
    ledger: &mut Ledger,
    store: &dyn Store,
) -> Result<(), TableError> {
    list_words(row, words);
    store.slots().store(row.base * SLOT_LINE_WORDS, words)?;
    ledger.list_was_written(id);
    Ok(())
}

fn set_word(
    id: ServiceId,
    row: &FrontendRow,
    base: u32,
    ledger: &mut Ledger,
    store: &dyn Store,
) -> Result<(), TableError> {
    ledger.word_may_be_set(&row.frontend, id);
    store.service_words().store(row.index, &[row.word(base).0])?;
    ledger.word_was_set(&row.frontend, id);
    Ok(())
}

fn clear_word(row: &FrontendRow, ledger: &mut Ledger, store: &dyn Store) -> Result<(), TableError> {
    ledger.word_may_be_cleared(&row.frontend);
    store.service_words().store(row.index, &[0])?;
    ledger.word_was_cleared(&row.frontend);
    Ok(())
}

/// Writes to the hash tables, of several services.
#[derive(Default)]
struct Batch {
    v4: Entries<ServiceKeyV4>,
    v6: Entries<ServiceKeyV6>,
}

struct Entries<K> {
    entries: Vec<(K, ServiceRef)>,
    /// Which job each is of.
    owners: Vec<(usize, Frontend)>,
}

impl<K> Default for Entries<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), owners: Vec::new() }
    }
}

impl Batch {
    fn add(&mut self, job: usize, row: &FrontendRow) {
        match row.key() {
            ServiceKey::V4(key) => self.v4.add(job, row, key),
            ServiceKey::V6(key) => self.v6.add(job, row, key),
        }
    }

    fn insert(self, jobs: &mut [Job], ledger: &mut Ledger, store: &dyn Store) {
        self.v4.insert(jobs, ledger, store.services_v4());
        self.v6.insert(jobs, ledger, store.services_v6());
    }

    fn remove(self, jobs: &mut [Job], ledger: &mut Ledger, store: &dyn Store) {
        self.v4.remove(jobs, ledger, store.services_v4());
        self.v6.remove(jobs, ledger, store.services_v6());
    }
}

impl<K: Copy> Entries<K> {
    fn add(&mut self, job: usize, row: &FrontendRow, key: K) {
        self.entries.push((key, row.reference()));
        self.owners.push((job, row.frontend));
    }

    fn insert(self, jobs: &mut [Job], ledger: &mut Ledger, table: &dyn HashTable<K, ServiceRef>) {
        let Self { entries, owners } = self;
        in_batches(jobs, ledger, &owners, Presence::Present, |from| table.insert_batch(&entries[from..]));
    }

    fn remove(self, jobs: &mut [Job], ledger: &mut Ledger, table: &dyn HashTable<K, ServiceRef>) {
        let keys: Vec<K> = self.entries.iter().map(|&(key, _)| key).collect();
        in_batches(jobs, ledger, &self.owners, Presence::Absent, |from| table.remove_batch(&keys[from..]));
    }
}

/// Writes all entries, beginning anew behind each that fails.
fn in_batches(
    jobs: &mut [Job],
    ledger: &mut Ledger,
    owners: &[(usize, Frontend)],
    then: Presence,
    mut write: impl FnMut(usize) -> Result<(), BatchError>,
) {
    for (_, frontend) in owners {
        ledger.listing_is(frontend, Presence::Unsure);
    }
    let mut from = 0;
    while from < owners.len() {
        let written = write(from);
        let done = written.map_or_else(|failed| failed.done, |()| owners.len() - from);
        for (_, frontend) in &owners[from..][..done] {
            ledger.listing_is(frontend, then);
        }
        from += done;
        if let (Err(failed), Some(&(job, _))) = (written, owners.get(from)) {
            jobs[job].error = Some(failed.error);
            from += 1;
        }
    }
}
