//! What control needs of the tables: typed, listable, countable, batchable, through `&self`.

use super::Claim;
use crate::{
    abi::{
        AffinityEntry, AffinityKeyV4, AffinityKeyV6, CONFIG_WORDS, FlowV4, FlowV6, FragmentKeyV4,
        FragmentKeyV6, FragmentRecord, ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, Setting,
        TupleV4, TupleV6,
    },
    pipeline::{Fate, Hook, Revoked, Tick, Verdict},
};

/// Every table of a dataplane. Object-safe, so that a controller does not care
/// whether they are in the kernel.
///
/// Who implements it says which tables there are, all at once, and how to wait for a grace period; the accessors of
/// single tables follow from that. Tables that stand in front of others name those that they change and take the rest
/// over:
///
/// ```
/// use dataplane_core::tables::{Store, TableError, Tables, WordArray};
///
/// struct OtherSlots<S, W> {
///     inner: S,
///     slots: W,
/// }
///
/// impl<S: Store, W: WordArray + 'static> Store for OtherSlots<S, W> {
///     fn tables(&self) -> Tables<'_> {
///         Tables { slots: &self.slots, ..self.inner.tables() }
///     }
///
///     fn synchronize(&self) -> Result<(), TableError> {
///         self.inner.synchronize()
///     }
///
///     fn now(&self) -> dataplane_core::pipeline::Tick {
///         self.inner.now()
///     }
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// All tables. Cost: a few nanoseconds; who goes through many entries asks once.
    fn tables(&self) -> Tables<'_>;

    /// Waits for a grace period: returns once every packet has left the programs that was in them at the call.
    ///
    /// What was unlinked before the call can be written anew after it. Cost in the kernel: some 10 ms, whatever the
    /// size of the tables; therefore once for many changes, never once for each.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; then nothing may be reused.
    fn synchronize(&self) -> Result<(), TableError>;

    /// The time on the clock that packets read.
    fn now(&self) -> Tick;

    /// Frontends of IPv4 services.
    fn services_v4(&self) -> &dyn HashTable<ServiceKeyV4, ServiceRef> {
        self.tables().services_v4
    }

    /// Frontends of IPv6 services.
    fn services_v6(&self) -> &dyn HashTable<ServiceKeyV6, ServiceRef> {
        self.tables().services_v6
    }

    /// A [`ServiceWord`](crate::abi::ServiceWord) for each frontend; one word wide.
    fn service_words(&self) -> &dyn WordArray {
        self.tables().service_words
    }

    /// Lists of backends; one word wide.
    fn slots(&self) -> &dyn WordArray {
        self.tables().slots
    }

    /// [`BackendV4`](crate::abi::BackendV4)s; two words wide.
    fn backends_v4(&self) -> &dyn WordArray {
        self.tables().backends_v4
    }

    /// [`BackendV6`](crate::abi::BackendV6)s; four words wide.
    fn backends_v6(&self) -> &dyn WordArray {
        self.tables().backends_v6
    }

    /// [`Setting`](crate::abi::Setting)s; one word wide.
    fn config(&self) -> &dyn WordArray {
        self.tables().config
    }

    /// [`InterfaceEntry`](crate::abi::InterfaceEntry)s; two words wide.
    fn interfaces(&self) -> &dyn WordArray {
        self.tables().interfaces
    }

    /// IPv4 connections that are confirmed.
    fn conntrack_v4(&self) -> &dyn HashTable<TupleV4, FlowV4> {
        self.tables().conntrack_v4
    }

    /// IPv6 connections that are confirmed.
    fn conntrack_v6(&self) -> &dyn HashTable<TupleV6, FlowV6> {
        self.tables().conntrack_v6
    }

    /// IPv4 connections, as the collector sees them.
    fn flows_v4(&self) -> &dyn FlowTable<TupleV4, FlowV4> {
        self.tables().flows_v4
    }

    /// IPv6 connections, as the collector sees them.
    fn flows_v6(&self) -> &dyn FlowTable<TupleV6, FlowV6> {
        self.tables().flows_v6
    }

    /// IPv4 connections that are not confirmed yet.
    fn opening_v4(&self) -> &dyn HashTable<TupleV4, FlowV4> {
        self.tables().opening_v4
    }

    /// IPv6 connections that are not confirmed yet.
    fn opening_v6(&self) -> &dyn HashTable<TupleV6, FlowV6> {
        self.tables().opening_v6
    }

    /// IPv4 connections that are not confirmed yet, as the collector sees them.
    fn half_open_v4(&self) -> &dyn FlowTable<TupleV4, FlowV4> {
        self.tables().half_open_v4
    }

    /// IPv6 connections that are not confirmed yet, as the collector sees them.
    fn half_open_v6(&self) -> &dyn FlowTable<TupleV6, FlowV6> {
        self.tables().half_open_v6
    }

    /// Replies of IPv4 connections whose source is translated.
    fn nat_v4(&self) -> &dyn HashTable<TupleV4, FlowV4> {
        self.tables().nat_v4
    }

    /// Replies of IPv6 connections whose source is translated.
    fn nat_v6(&self) -> &dyn HashTable<TupleV6, FlowV6> {
        self.tables().nat_v6
    }

    /// Reserved ports of IPv4 connections, as the collector sees them.
    fn reservations_v4(&self) -> &dyn FlowTable<TupleV4, FlowV4> {
        self.tables().reservations_v4
    }

    /// Reserved ports of IPv6 connections, as the collector sees them.
    fn reservations_v6(&self) -> &dyn FlowTable<TupleV6, FlowV6> {
        self.tables().reservations_v6
    }

    /// Clients of IPv4 services with affinity. Those whose time is over are among them until others need their room.
    fn affinity_v4(&self) -> &dyn HashTable<AffinityKeyV4, AffinityEntry> {
        self.tables().affinity_v4
    }

    /// Clients of IPv6 services with affinity. See [`Self::affinity_v4`].
    fn affinity_v6(&self) -> &dyn HashTable<AffinityKeyV6, AffinityEntry> {
        self.tables().affinity_v6
    }

    /// IPv4 datagrams that are under way in parts.
    fn fragments_v4(&self) -> &dyn HashTable<FragmentKeyV4, FragmentRecord> {
        self.tables().fragments_v4
    }

    /// IPv6 datagrams that are under way in parts.
    fn fragments_v6(&self) -> &dyn HashTable<FragmentKeyV6, FragmentRecord> {
        self.tables().fragments_v6
    }

    /// [`MasqueradeEntry`](crate::abi::MasqueradeEntry)s; three words wide.
    fn masquerade(&self) -> &dyn WordArray {
        self.tables().masquerade
    }

    /// Counters of packets.
    fn counters(&self) -> &dyn Counters {
        self.tables().counters
    }
}

/// One reference to each table of a [`Store`].
///
/// Not `non_exhaustive`: who implements [`Store`] is to be told by the compiler of a table that is new.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Frontends of IPv4 services.
    pub services_v4: &'a dyn HashTable<ServiceKeyV4, ServiceRef>,
    /// Frontends of IPv6 services.
    pub services_v6: &'a dyn HashTable<ServiceKeyV6, ServiceRef>,
    /// A [`ServiceWord`](crate::abi::ServiceWord) for each frontend; one word wide.
    pub service_words: &'a dyn WordArray,
    /// Lists of backends; one word wide.
    pub slots: &'a dyn WordArray,
    /// [`BackendV4`](crate::abi::BackendV4)s; two words wide.
    pub backends_v4: &'a dyn WordArray,
    /// [`BackendV6`](crate::abi::BackendV6)s; four words wide.
    pub backends_v6: &'a dyn WordArray,
    /// [`Setting`](crate::abi::Setting)s; one word wide.
    pub config: &'a dyn WordArray,
    /// [`InterfaceEntry`](crate::abi::InterfaceEntry)s; two words wide.
    pub interfaces: &'a dyn WordArray,
    /// IPv4 connections that are confirmed.
    pub conntrack_v4: &'a dyn HashTable<TupleV4, FlowV4>,
    /// IPv6 connections that are confirmed.
    pub conntrack_v6: &'a dyn HashTable<TupleV6, FlowV6>,
    /// IPv4 connections, as the collector sees them.
    pub flows_v4: &'a dyn FlowTable<TupleV4, FlowV4>,
    /// IPv6 connections, as the collector sees them.
    pub flows_v6: &'a dyn FlowTable<TupleV6, FlowV6>,
    /// IPv4 connections that are not confirmed yet.
    pub opening_v4: &'a dyn HashTable<TupleV4, FlowV4>,
    /// IPv6 connections that are not confirmed yet.
    pub opening_v6: &'a dyn HashTable<TupleV6, FlowV6>,
    /// IPv4 connections that are not confirmed yet, as the collector sees them.
    pub half_open_v4: &'a dyn FlowTable<TupleV4, FlowV4>,
    /// IPv6 connections that are not confirmed yet, as the collector sees them.
    pub half_open_v6: &'a dyn FlowTable<TupleV6, FlowV6>,
    /// Replies of IPv4 connections whose source is translated.
    pub nat_v4: &'a dyn HashTable<TupleV4, FlowV4>,
    /// Replies of IPv6 connections whose source is translated.
    pub nat_v6: &'a dyn HashTable<TupleV6, FlowV6>,
    /// Reserved ports of IPv4 connections, as the collector sees them.
    pub reservations_v4: &'a dyn FlowTable<TupleV4, FlowV4>,
    /// Reserved ports of IPv6 connections, as the collector sees them.
    pub reservations_v6: &'a dyn FlowTable<TupleV6, FlowV6>,
    /// Clients of IPv4 services with affinity.
    pub affinity_v4: &'a dyn HashTable<AffinityKeyV4, AffinityEntry>,
    /// Clients of IPv6 services with affinity.
    pub affinity_v6: &'a dyn HashTable<AffinityKeyV6, AffinityEntry>,
    /// IPv4 datagrams that are under way in parts.
    pub fragments_v4: &'a dyn HashTable<FragmentKeyV4, FragmentRecord>,
    /// IPv6 datagrams that are under way in parts.
    pub fragments_v6: &'a dyn HashTable<FragmentKeyV6, FragmentRecord>,
    /// [`MasqueradeEntry`](crate::abi::MasqueradeEntry)s; three words wide.
    pub masquerade: &'a dyn WordArray,
    /// Counters of packets.
    pub counters: &'a dyn Counters,
    /// Who may write to them.
    pub claim: &'a Claim,
}

impl std::fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

/// The entries of a hash table, in no order. While others write, an entry may be missed or seen twice.
pub type Entries<'a, K, V> = Box<dyn Iterator<Item = Result<(K, V), TableError>> + 'a>;

/// A hash table: exact keys, a fixed capacity.
pub trait HashTable<K, V>: Send + Sync {
    /// The map's name, as in [`abi::map`](crate::abi::map).
    fn name(&self) -> &'static str;

    /// How many entries there is room for.
    fn capacity(&self) -> u32;

    /// How many entries there are. Cost: linear in them for the kernel's tables.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    fn fill(&self) -> Result<u32, TableError> {
        self.entries().try_fold(0u32, |count, entry| entry.map(|_| count.saturating_add(1)))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; a missing key is `None`.
    fn get(&self, key: &K) -> Result<Option<V>, TableError>;

    /// Puts an entry in, or replaces the value of a key that is there.
    ///
    /// # Errors
    /// [`Cause::Full`] where there is no room; the table is unchanged.
    fn insert(&self, key: &K, value: &V) -> Result<(), TableError>;

    /// Takes an entry out, and tells whether there was one.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; a missing key is no error.
    fn remove(&self, key: &K) -> Result<bool, TableError>;

    /// Puts entries in, in order, by as few system calls as there can be.
    ///
    /// # Errors
    /// [`BatchError`] tells how many are in; the one after those failed, and the rest was not tried.
    fn insert_batch(&self, entries: &[(K, V)]) -> Result<(), BatchError> {
        for (done, (key, value)) in entries.iter().enumerate() {
            self.insert(key, value).map_err(|error| BatchError { done, error })?;
        }
        Ok(())
    }

    /// Takes entries out, in order; keys that are missing are passed over.
    ///
    /// # Errors
    /// [`BatchError`] tells how many were handled; the one after those failed, and the rest was not tried.
    fn remove_batch(&self, keys: &[K]) -> Result<(), BatchError> {
        for (done, key) in keys.iter().enumerate() {
            self.remove(key).map_err(|error| BatchError { done, error })?;
        }
        Ok(())
    }

    /// All entries.
    fn entries(&self) -> Entries<'_, K, V>;
}

/// A conntrack table as the collector sees it.
pub trait FlowTable<K, V>: Send + Sync {
    /// Appends the next entries from `from` on, some hundreds of them, and tells where to go on; `None` at the end. An
    /// entry that stays is seen once in a round, whatever comes and goes beside it.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    fn scan(&self, from: ScanPosition, into: &mut Vec<(K, V)>) -> Result<Option<ScanPosition>, TableError>;

    /// Looks at entries as [`pipeline::collect`](crate::pipeline::collect) does, safe against packets, and appends what
    /// became of each to `fates`.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; `fates` tells how many were looked at.
    fn collect(&self, suspects: &[Suspect<K>], at: &Moment, fates: &mut Vec<Fate>) -> Result<(), TableError>;
}

/// A point in time, with the configuration's time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub now: Tick,
    settings: [u32; CONFIG_WORDS as usize],
}

impl Moment {
    /// Now, on the clock of these tables.
    pub fn of(store: &dyn Store) -> Self {
        let config = store.config();
        let mut settings = [0; CONFIG_WORDS as usize];
        for (value, index) in settings.iter_mut().zip(0..) {
            *value = config.load(index, 0).unwrap_or(0) as u32;
        }
        Self { now: store.now(), settings }
    }

    /// A time-out, in ticks.
    pub fn setting(&self, setting: Setting) -> u32 {
        // Every setting is within the configuration.
        self.settings[setting as usize]
    }
}

/// A place in a round through a table of flows; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanPosition(pub u32);

/// An entry that the collector wants to have looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect<K> {
    /// Its key.
    pub tuple: K,
    /// The flow that is to go whatever its time.
    pub revoked: Revoked,
}

/// An array of elements of one or more 8-byte words. Each word is stored and loaded as a whole: no reader ever sees
/// half of one.
pub trait WordArray: Send + Sync {
    /// The map's name, as in [`abi::map`](crate::abi::map).
    fn name(&self) -> &'static str;

    /// How many elements there are.
    fn capacity(&self) -> u32;

    /// How many words an element has.
    fn width(&self) -> u32;

    /// Word `word` of an element; `None` beyond the end.
    fn load(&self, index: u32, word: u32) -> Option<u64>;

    /// Stores words from the first of element `index` on, the first of them last: a reader that sees it sees the
    /// others too. The words may go on over several elements.
    ///
    /// # Errors
    /// [`Cause::OutOfRange`] beyond the end; nothing is stored.
    fn store(&self, index: u32, words: &[u64]) -> Result<(), TableError>;
}

/// Counters of packets, summed over CPUs.
pub trait Counters: Send + Sync {
    /// How many packets had this verdict at this hook.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    fn verdict(&self, hook: Hook, verdict: Verdict) -> Result<u64, TableError>;

    /// What went through the frontend of this index.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; [`Cause::OutOfRange`] beyond the end.
    fn service(&self, index: u32) -> Result<ServiceCounters, TableError>;

    /// Sets the counters of an index to 0, before it is given to another frontend.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses; [`Cause::OutOfRange`] beyond the end.
    fn clear_service(&self, index: u32) -> Result<(), TableError>;
}

/// What was being done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Reading one entry.
    Get,
    /// Writing one entry.
    Insert,
    /// Removing one entry.
    Remove,
    /// Writing several entries at once.
    InsertBatch,
    /// Removing several entries at once.
    RemoveBatch,
    /// Listing the entries.
    List,
    /// Storing a word.
    Store,
    /// Looking at entries for the collector.
    Collect,
    /// Waiting for a grace period.
    Synchronize,
}

/// Why it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// There is no room for another entry.
    Full {
        /// How many entries there is room for.
        capacity: u32,
    },
    /// There is no such element.
    OutOfRange {
        /// The element asked for.
        index: u32,
        /// How many there are.
        capacity: u32,
    },
    /// The kernel refused.
    System {
        /// The error number of the system call.
        errno: i32,
    },
}

/// A table refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation:?} on table {table} failed: {}", self.explain())]
#[non_exhaustive]
pub struct TableError {
    /// The table's name.
    pub table: &'static str,
    /// What was being done.
    pub operation: Operation,
    /// Why it failed.
    pub cause: Cause,
}

impl TableError {
    /// Puts an error together.
    pub fn new(table: &'static str, operation: Operation, cause: Cause) -> Self {
        Self { table, operation, cause }
    }

    fn explain(&self) -> String {
        match self.cause {
            Cause::Full { capacity } => {
                format!(
                    "all {capacity} entries are taken: remove some, or open the dataplane with a larger capacity"
                )
            }
            Cause::OutOfRange { index, capacity } => format!("there is no element {index}, only {capacity}"),
            Cause::System { errno } => std::io::Error::from_raw_os_error(errno).to_string(),
        }
    }
}

/// A batch stopped on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {done} entries: {error}")]
#[non_exhaustive]
pub struct BatchError {
    /// How many entries are done.
    pub done: usize,
    /// What befell the next one.
    #[source]
    pub error: TableError,
}

impl BatchError {
    /// Puts an error together.
    pub fn new(done: usize, error: TableError) -> Self {
        Self { done, error }
    }
}
