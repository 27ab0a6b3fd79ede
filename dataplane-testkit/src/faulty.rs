//! Tables that fail on purpose.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use dataplane_core::{
    abi::{FlowV4, FlowV6, ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, TupleV4, TupleV6, map},
    pipeline::{self, Hook, Tick, Verdict},
    tables::{
        BatchError, Cause, Counters, Entries, FlowTable, HashTable, Moment, Operation, ScanPosition, Store,
        Suspect, TableError, Tables, WordArray,
    },
};

/// Any tables, but one write in so many fails: half of those without having happened, half of them after they
/// happened, since a system call that reports an error may have done its work.
///
/// Which ones is decided by a seed, which is printed; the same seed and the same writes fail alike. Reads never fail.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
    services_v4: FaultyHash<ServiceKeyV4, ServiceRef>,
    services_v6: FaultyHash<ServiceKeyV6, ServiceRef>,
    conntrack_v4: FaultyHash<TupleV4, FlowV4>,
    conntrack_v6: FaultyHash<TupleV6, FlowV6>,
    flows_v4: FaultyFlows<TupleV4, FlowV4>,
    flows_v6: FaultyFlows<TupleV6, FlowV6>,
    half_open_v4: FaultyFlows<TupleV4, FlowV4>,
    reservations_v4: FaultyFlows<TupleV4, FlowV4>,
    half_open_v6: FaultyFlows<TupleV6, FlowV6>,
    reservations_v6: FaultyFlows<TupleV6, FlowV6>,
    service_words: FaultyWords,
    slots: FaultyWords,
    backends_v4: FaultyWords,
    backends_v6: FaultyWords,
    config: FaultyWords,
    interfaces: FaultyWords,
    counters: FaultyCounters,
}

/// The error number of every failure: ENOMEM.
pub const FAULT: i32 = libc::ENOMEM;

impl FaultyStore {
    /// One write in `one_in` fails; 0 for none. The seed is printed, for a run that is to be repeated.
    pub fn new(inner: Arc<dyn Store>, one_in: u32, seed: u64) -> Self {
        eprintln!("faulty tables: one write in {one_in} fails, seed {seed}");
        let faults = Arc::new(Faults {
            one_in: AtomicU32::new(one_in),
            state: AtomicU64::new(seed),
            life: Mutex::new(Life::Immortal),
            writes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let words = |select: fn(&dyn Store) -> &dyn WordArray| FaultyWords {
            inner: inner.clone(),
            select,
            faults: faults.clone(),
        };
        Self {
            services_v4: FaultyHash::new(&inner, |store| store.services_v4(), &faults),
            services_v6: FaultyHash::new(&inner, |store| store.services_v6(), &faults),
            conntrack_v4: FaultyHash::new(&inner, |store| store.conntrack_v4(), &faults),
            conntrack_v6: FaultyHash::new(&inner, |store| store.conntrack_v6(), &faults),
            flows_v4: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.flows_v4(),
                name: map::CONNTRACK_V4,
                faults: faults.clone(),
            },
            flows_v6: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.flows_v6(),
                name: map::CONNTRACK_V6,
                faults: faults.clone(),
            },
            half_open_v4: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.half_open_v4(),
                name: map::OPENING_V4,
                faults: faults.clone(),
            },
            reservations_v4: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.reservations_v4(),
                name: map::NAT_V4,
                faults: faults.clone(),
            },
            half_open_v6: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.half_open_v6(),
                name: map::OPENING_V6,
                faults: faults.clone(),
            },
            reservations_v6: FaultyFlows {
                inner: inner.clone(),
                select: |store| store.reservations_v6(),
                name: map::NAT_V6,
                faults: faults.clone(),
            },
            service_words: words(|store| store.service_words()),
            slots: words(|store| store.slots()),
            backends_v4: words(|store| store.backends_v4()),
            backends_v6: words(|store| store.backends_v6()),
            config: words(|store| store.config()),
            interfaces: words(|store| store.interfaces()),
            counters: FaultyCounters { inner: inner.clone(), faults: faults.clone() },
            inner,
            faults,
        }
    }

    /// From now on one write in `one_in` fails.
    pub fn fail_one_in(&self, one_in: u32) {
        self.faults.one_in.store(one_in, Ordering::Relaxed);
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.fail_one_in(0);
    }

    /// After so many more writes whoever writes is dead, as if killed: no write happens any more, and of the one at which it
    /// dies only the last words.
    pub fn die_after(&self, writes: u64) {
        *self.faults.life() = Life::Left(writes);
    }

    /// Whether whoever writes is dead.
    pub fn is_dead(&self) -> bool {
        *self.faults.life() == Life::Dead
    }

    /// Writes happen again.
    pub fn revive(&self) {
        *self.faults.life() = Life::Immortal;
    }

    /// How many writes were tried: each entry of a batch counts, and each grace period.
    pub fn writes(&self) -> u64 {
        self.faults.writes.load(Ordering::Relaxed)
    }

    /// How many of them failed.
    pub fn failures(&self) -> u64 {
        self.faults.failures.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// How long whoever writes is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Immortal,
    Left(u64),
    Dead,
}

#[derive(Debug)]
struct Faults {
    one_in: AtomicU32,
    life: Mutex<Life>,
    /// Of SplitMix64: each number adds a constant to it.
    state: AtomicU64,
    writes: AtomicU64,
    failures: AtomicU64,
}

/// What is to become of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeeds,
    FailsBefore,
    FailsAfter,
    /// It happens in part.
    Tears,
}

impl Faults {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Fate {
        self.writes.fetch_add(1, Ordering::Relaxed);
        {
            let mut life = self.life();
            match *life {
                Life::Immortal => {}
                Life::Dead => return Fate::FailsBefore,
                Life::Left(0) => {
                    *life = Life::Dead;
                    return Fate::Tears;
                }
                Life::Left(left) => *life = Life::Left(left - 1),
            }
        }
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == 0 {
            return Fate::Succeeds;
        }
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = self.state.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
        random = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        random ^= random >> 31;
        if !random.is_multiple_of(u64::from(one_in)) {
            return Fate::Succeeds;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        if random >> 63 == 0 { Fate::FailsBefore } else { Fate::FailsAfter }
    }

    fn write<T>(
        &self,
        table: &'static str,
        operation: Operation,
        write: impl FnOnce() -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let fate = self.next();
        if matches!(fate, Fate::FailsBefore | Fate::Tears) {
            return Err(fault(table, operation));
        }
        let written = write()?;
        if fate == Fate::FailsAfter {
            return Err(fault(table, operation));
        }
        Ok(written)
    }

    /// Runs a batch up to its first failure. `write` writes so many entries from the first on.
    fn batch(
        &self,
        table: &'static str,
        operation: Operation,
        length: usize,
        write: impl Fn(std::ops::Range<usize>) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        for done in 0..length {
            let fate = self.next();
            if fate != Fate::Succeeds {
                write(0..done)?;
                if fate == Fate::FailsAfter {
                    write(done..done + 1).map_err(|failed| BatchError::new(done, failed.error))?;
                }
                return Err(BatchError::new(done, fault(table, operation)));
            }
        }
        write(0..length)
    }
}

fn fault(table: &'static str, operation: Operation) -> TableError {
    TableError::new(table, operation, Cause::System { errno: FAULT })
}

struct FaultyHash<K: 'static, V: 'static> {
    inner: Arc<dyn Store>,
    select: fn(&dyn Store) -> &dyn HashTable<K, V>,
    faults: Arc<Faults>,
}

impl<K, V> FaultyHash<K, V> {
    fn new(
        inner: &Arc<dyn Store>,
        select: fn(&dyn Store) -> &dyn HashTable<K, V>,
        faults: &Arc<Faults>,
    ) -> Self {
        Self { inner: inner.clone(), select, faults: faults.clone() }
    }

    fn table(&self) -> &dyn HashTable<K, V> {
        (self.select)(&*self.inner)
    }
}

impl<K, V> HashTable<K, V> for FaultyHash<K, V> {
    fn name(&self) -> &'static str {
        self.table().name()
    }

    fn capacity(&self) -> u32 {
        self.table().capacity()
    }

    fn fill(&self) -> Result<u32, TableError> {
        self.table().fill()
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        self.table().get(key)
    }

    fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.faults.write(self.name(), Operation::Insert, || self.table().insert(key, value))
    }

    fn remove(&self, key: &K) -> Result<bool, TableError> {
        self.faults.write(self.name(), Operation::Remove, || self.table().remove(key))
    }

    fn insert_batch(&self, entries: &[(K, V)]) -> Result<(), BatchError> {
        let write = |range| self.table().insert_batch(&entries[range]);
        self.faults.batch(self.name(), Operation::InsertBatch, entries.len(), write)
    }

    fn remove_batch(&self, keys: &[K]) -> Result<(), BatchError> {
        let write = |range| self.table().remove_batch(&keys[range]);
        self.faults.batch(self.name(), Operation::RemoveBatch, keys.len(), write)
    }

    fn entries(&self) -> Entries<'_, K, V> {
        self.table().entries()
    }
}

/// A look of the collector is a write.
struct FaultyFlows<K: 'static, V: 'static> {
    inner: Arc<dyn Store>,
    select: fn(&dyn Store) -> &dyn FlowTable<K, V>,
    name: &'static str,
    faults: Arc<Faults>,
}

impl<K, V> FlowTable<K, V> for FaultyFlows<K, V> {
    fn scan(&self, from: ScanPosition, into: &mut Vec<(K, V)>) -> Result<Option<ScanPosition>, TableError> {
        (self.select)(&*self.inner).scan(from, into)
    }

    fn collect(
        &self,
        suspects: &[Suspect<K>],
        at: &Moment,
        fates: &mut Vec<pipeline::Fate>,
    ) -> Result<(), TableError> {
        let look = || (self.select)(&*self.inner).collect(suspects, at, fates);
        self.faults.write(self.name, Operation::Collect, look)
    }
}

struct FaultyWords {
    inner: Arc<dyn Store>,
    select: fn(&dyn Store) -> &dyn WordArray,
    faults: Arc<Faults>,
}

impl FaultyWords {
    fn table(&self) -> &dyn WordArray {
        (self.select)(&*self.inner)
    }
}

impl WordArray for FaultyWords {
    fn name(&self) -> &'static str {
        self.table().name()
    }

    fn capacity(&self) -> u32 {
        self.table().capacity()
    }

    fn width(&self) -> u32 {
        self.table().width()
    }

    fn load(&self, index: u32, word: u32) -> Option<u64> {
        self.table().load(index, word)
    }

    fn store(&self, index: u32, words: &[u64]) -> Result<(), TableError> {
        let table = self.table();
        let store = || table.store(index, words);
        match self.faults.next() {
            Fate::Succeeds => store(),
            Fate::FailsBefore => Err(fault(self.name(), Operation::Store)),
            Fate::FailsAfter => store().and(Err(fault(self.name(), Operation::Store))),
            Fate::Tears => {
                // Stores go from the last word to the first.
                let mut torn = words.to_vec();
                let width = table.width() as usize;
                for (place, word) in torn.iter_mut().enumerate().take(words.len().div_ceil(2)) {
                    let element = index.saturating_add((place / width) as u32);
                    *word = table.load(element, (place % width) as u32).unwrap_or(*word);
                }
                table.store(index, &torn).and(Err(fault(self.name(), Operation::Store)))
            }
        }
    }
}

struct FaultyCounters {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl Counters for FaultyCounters {
    fn verdict(&self, hook: Hook, verdict: Verdict) -> Result<u64, TableError> {
        self.inner.counters().verdict(hook, verdict)
    }

    fn service(&self, index: u32) -> Result<ServiceCounters, TableError> {
        self.inner.counters().service(index)
    }

    fn clear_service(&self, index: u32) -> Result<(), TableError> {
        let table = dataplane_core::abi::map::SERVICE_COUNTERS;
        self.faults.write(table, Operation::Store, || self.inner.counters().clear_service(index))
    }
}

impl Store for FaultyStore {
    fn tables(&self) -> Tables<'_> {
        Tables {
            services_v4: &self.services_v4,
            services_v6: &self.services_v6,
            service_words: &self.service_words,
            slots: &self.slots,
            backends_v4: &self.backends_v4,
            backends_v6: &self.backends_v6,
            config: &self.config,
            interfaces: &self.interfaces,
            conntrack_v4: &self.conntrack_v4,
            conntrack_v6: &self.conntrack_v6,
            flows_v4: &self.flows_v4,
            flows_v6: &self.flows_v6,
            half_open_v4: &self.half_open_v4,
            reservations_v4: &self.reservations_v4,
            half_open_v6: &self.half_open_v6,
            reservations_v6: &self.reservations_v6,
            counters: &self.counters,
            ..self.inner.tables()
        }
    }

    fn now(&self) -> Tick {
        self.inner.now()
    }

    fn synchronize(&self) -> Result<(), TableError> {
        self.faults.write("grace", Operation::Synchronize, || self.inner.synchronize())
    }
}
