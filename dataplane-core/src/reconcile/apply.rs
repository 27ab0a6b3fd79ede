//! Carrying out the plans of several services at once, step by step.

use std::{collections::BTreeMap, net::IpAddr, vec::IntoIter};

use hashbrown::HashSet;

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

    /// How many of its frontends each address has here.
    fn addresses(&self) -> BTreeMap<IpAddr, u32> {
        let mut addresses = BTreeMap::new();
        // Two jobs may take out the same one.
        let owners = self.v4.owners.iter().chain(&self.v6.owners);
        for frontend in owners.map(|(_, frontend)| *frontend).collect::<HashSet<Frontend>>() {
            *addresses.entry(frontend.address()).or_default() += 1;
        }
        addresses
    }

    /// Nobody knows how what is about to be written stands, until it is: also not where an address goes wrong before it.
    fn is_unsure(&self, ledger: &mut Ledger) {
        for (_, frontend) in self.v4.owners.iter().chain(&self.v6.owners) {
            ledger.listing_is(frontend, Presence::Unsure);
        }
    }

    fn insert(mut self, jobs: &mut [Job], ledger: &mut Ledger, store: &dyn Store) {
        self.is_unsure(ledger);
        let mut missing = self.addresses();
        missing.retain(|&address, _| ledger.addresses.listed(address) != Presence::Present);
        let write = AddressBatch::of(missing.into_keys());
        let failed = write.carry_out(ledger, Presence::Present, store);
        self.give_up(&failed, jobs);
        self.v4.insert(jobs, ledger, store.services_v4());
        self.v6.insert(jobs, ledger, store.services_v6());
    }

    fn remove(mut self, jobs: &mut [Job], ledger: &mut Ledger, store: &dyn Store) {
        self.is_unsure(ledger);
        let mut surplus = self.addresses();
        surplus.retain(|&address, &mut frontends| ledger.addresses.goes_with(address, frontends));
        let write = AddressBatch::of(surplus.into_keys());
        let failed = write.carry_out(ledger, Presence::Absent, store);
        self.give_up(&failed, jobs);
        self.v4.remove(jobs, ledger, store.services_v4());
        self.v6.remove(jobs, ledger, store.services_v6());
    }
}

impl Batch {
    /// Frontends whose address could not be written wait until their jobs are tried again.
    fn give_up(&mut self, failed: &BTreeMap<IpAddr, TableError>, jobs: &mut [Job]) {
        if failed.is_empty() {
            return;
        }
        self.v4.give_up(failed, jobs);
        self.v6.give_up(failed, jobs);
    }
}

/// Addresses to be written to the tables of frontends, or taken out.
struct AddressBatch {
    v4: Vec<(IpAddr, ServiceKeyV4)>,
    v6: Vec<(IpAddr, ServiceKeyV6)>,
}

impl AddressBatch {
    fn of(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match ServiceKey::of_address(address) {
                ServiceKey::V4(key) => v4.push((address, key)),
                ServiceKey::V6(key) => v6.push((address, key)),
            }
        }
        Self { v4, v6 }
    }

    /// Writes them, or takes them out; returns those with which that failed.
    fn carry_out(
        self,
        ledger: &mut Ledger,
        then: Presence,
        store: &dyn Store,
    ) -> BTreeMap<IpAddr, TableError> {
        let mut failed = BTreeMap::new();
        let of_v4 = |key: &ServiceKeyV4| ServiceRef::of_address(key.tag());
        let of_v6 = |key: &ServiceKeyV6| ServiceRef::of_address(key.tag());
        write_addresses(&self.v4, store.services_v4(), of_v4, ledger, then, &mut failed);
        write_addresses(&self.v6, store.services_v6(), of_v6, ledger, then, &mut failed);
        failed
    }
}

fn write_addresses<K: Copy>(
    addresses: &[(IpAddr, K)],
    table: &dyn HashTable<K, ServiceRef>,
    reference: impl Fn(&K) -> ServiceRef,
    ledger: &mut Ledger,
    then: Presence,
    failed: &mut BTreeMap<IpAddr, TableError>,
) {
    let keys: Vec<K> = addresses.iter().map(|&(_, key)| key).collect();
    let entries: Vec<(K, ServiceRef)> = keys.iter().map(|key| (*key, reference(key))).collect();
    for &(address, _) in addresses {
        ledger.addresses.listing_is(address, Presence::Unsure);
    }
    let mut from = 0;
    while from < addresses.len() {
        let written = match then {
            Presence::Present => table.insert_batch(&entries[from..]),
            _ => table.remove_batch(&keys[from..]),
        };
        let done = written.map_or_else(|failed| failed.done, |()| addresses.len() - from);
        for &(address, _) in &addresses[from..][..done] {
            ledger.addresses.listing_is(address, then);
        }
        from += done;
        if let (Err(error), Some(&(address, _))) = (written, addresses.get(from)) {
            failed.insert(address, error.error);
            from += 1;
        }
    }
}

impl<K: Copy> Entries<K> {
    fn give_up(&mut self, failed: &BTreeMap<IpAddr, TableError>, jobs: &mut [Job]) {
        let entries = std::mem::take(&mut self.entries).into_iter().zip(std::mem::take(&mut self.owners));
        for (entry, (job, frontend)) in entries {
            match failed.get(&frontend.address()) {
                Some(error) => jobs[job].error = Some(*error),
                None => {
                    self.entries.push(entry);
                    self.owners.push((job, frontend));
                }
            }
        }
    }

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
