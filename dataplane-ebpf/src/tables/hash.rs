//! Hash tables in the kernel.

use std::{io, marker::PhantomData};

use aya_obj::generated::bpf_map_type;
use dataplane_core::tables::{BatchError, Cause, Entries, HashTable, Operation, TableError};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sys::bpf::{BatchCursor, BatchStop, Map};

/// How many entries one system call handles. The kernel copies keys and values of a batch of writes as they come, so
/// more than this saves nothing.
const BATCH: usize = 4096;

/// A hash table of the kernel, plain or LRU.
#[derive(Debug)]
pub(crate) struct KernelHash<K, V> {
    name: &'static str,
    map: Map,
    batch: bool,
    entry: PhantomData<fn(K) -> V>,
}

/// What keys and values must be: integers without padding, any bytes valid.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

impl<K: Plain, V: Plain> KernelHash<K, V> {
    /// `batch`: whether the kernel has batch commands.
    pub(crate) fn new(name: &'static str, map: Map, batch: bool) -> Self {
        Self { name, map, batch, entry: PhantomData }
    }

    /// The map.
    pub(super) fn map(&self) -> &Map {
        &self.map
    }

    /// Whether the kernel has batch commands.
    pub(super) fn has_batches(&self) -> bool {
        self.batch
    }

    /// Appends the entries of the next buckets, `most` or so, and tells where to go on.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    pub(super) fn scan(
        &self,
        from: Option<BatchCursor>,
        most: usize,
        into: &mut Vec<(K, V)>,
    ) -> Result<Option<BatchCursor>, TableError> {
        let mut listing = BatchListing::new(self, most);
        listing.cursor = from;
        listing.fetch()?;
        let entries = listing.keys.iter().copied().zip(listing.values.iter().copied());
        into.extend(entries.take(listing.filled));
        Ok(listing.cursor)
    }

    pub(super) fn error(&self, operation: Operation, error: &io::Error) -> TableError {
        let lru = self.map.kind() == bpf_map_type::BPF_MAP_TYPE_LRU_HASH as u32;
        let cause = match error.raw_os_error() {
            Some(libc::E2BIG) => Cause::Full { capacity: self.map.capacity() },
            // An LRU table says this where it finds nothing that it could evict.
            Some(libc::ENOMEM) if lru => Cause::Full { capacity: self.map.capacity() },
            errno => Cause::System { errno: errno.unwrap_or(0) },
        };
        TableError::new(self.name, operation, cause)
    }
}

impl<K: Plain, V: Plain> HashTable<K, V> for KernelHash<K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = V::new_zeroed();
        match self.map.get(key.as_bytes(), value.as_mut_bytes()) {
            Ok(true) => Ok(Some(value)),
            Ok(false) => Ok(None),
            Err(error) => Err(self.error(Operation::Get, &error)),
        }
    }

    fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.map.put(key.as_bytes(), value.as_bytes()).map_err(|error| self.error(Operation::Insert, &error))
    }

    fn remove(&self, key: &K) -> Result<bool, TableError> {
        self.map.delete(key.as_bytes()).map_err(|error| self.error(Operation::Remove, &error))
    }

    fn insert_batch(&self, entries: &[(K, V)]) -> Result<(), BatchError> {
        if !self.batch {
            for (done, (key, value)) in entries.iter().enumerate() {
                self.insert(key, value).map_err(|error| BatchError::new(done, error))?;
            }
            return Ok(());
        }
        let mut done = 0usize;
        for part in entries.chunks(BATCH) {
            let keys: Vec<K> = part.iter().map(|(key, _)| *key).collect();
            let values: Vec<V> = part.iter().map(|(_, value)| *value).collect();
            self.map.put_batch(keys.as_bytes(), values.as_bytes()).map_err(|stop| {
                let error = self.error(Operation::InsertBatch, &stop.error);
                BatchError::new(done.saturating_add(stop.done), error)
            })?;
            done = done.saturating_add(part.len());
        }
        Ok(())
    }

    fn remove_batch(&self, keys: &[K]) -> Result<(), BatchError> {
        if !self.batch {
            for (done, key) in keys.iter().enumerate() {
                self.remove(key).map_err(|error| BatchError::new(done, error))?;
            }
            return Ok(());
        }
        let mut rest = keys;
        while !rest.is_empty() {
            let part = rest.get(..BATCH).unwrap_or(rest);
            let handled = match self.map.delete_batch(part.as_bytes()) {
                Ok(()) => part.len(),
                // The kernel stops at a key that is missing. Pass over that one.
                Err(BatchStop { done, error }) if error.raw_os_error() == Some(libc::ENOENT) => {
                    done.saturating_add(1)
                }
                Err(BatchStop { done, error }) => {
                    let before = keys.len().saturating_sub(rest.len());
                    let error = self.error(Operation::RemoveBatch, &error);
                    return Err(BatchError::new(before.saturating_add(done), error));
                }
            };
            rest = rest.get(handled..).unwrap_or_default();
        }
        Ok(())
    }

    fn entries(&self) -> Entries<'_, K, V> {
        if self.batch { Box::new(BatchListing::new(self, BATCH)) } else { Box::new(KeyListing::new(self)) }
    }
}

/// A listing by batches: each system call copies whole buckets, and an entry that stays is seen once.
struct BatchListing<'a, K, V> {
    table: &'a KernelHash<K, V>,
    keys: Vec<K>,
    values: Vec<V>,
    filled: usize,
    next: usize,
    cursor: Option<BatchCursor>,
    end: bool,
}

impl<'a, K: Plain, V: Plain> BatchListing<'a, K, V> {
    /// Reads some `most` entries at once.
    fn new(table: &'a KernelHash<K, V>, most: usize) -> Self {
        let mut listing =
            Self { table, keys: vec![], values: vec![], filled: 0, next: 0, cursor: None, end: false };
        listing.resize(most.min(table.map.capacity() as usize).max(1));
        listing
    }

    fn resize(&mut self, length: usize) {
        self.keys.resize_with(length, K::new_zeroed);
        self.values.resize_with(length, V::new_zeroed);
    }

    /// Reads the next buckets.
    fn fetch(&mut self) -> Result<(), TableError> {
        loop {
            let (keys, values) =
                (self.keys.as_mut_slice().as_mut_bytes(), self.values.as_mut_slice().as_mut_bytes());
            match self.table.map.get_batch(self.cursor.as_ref(), keys, values) {
                Ok((filled, cursor)) => {
                    self.filled = filled;
                    self.next = 0;
                    self.end = cursor.is_none();
                    self.cursor = cursor;
                    return Ok(());
                }
                // One bucket holds more than there is room for.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && self.keys.len() < self.table.map.capacity() as usize =>
                {
                    self.resize(self.keys.len().saturating_mul(2));
                }
                Err(error) => return Err(self.table.error(Operation::List, &error)),
            }
        }
    }
}

impl<K: Plain, V: Plain> Iterator for BatchListing<'_, K, V> {
    type Item = Result<(K, V), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next >= self.filled {
            if self.end {
                return None;
            }
            if let Err(error) = self.fetch() {
                self.end = true;
                self.filled = 0;
                return Some(Err(error));
            }
        }
        let entry = (*self.keys.get(self.next)?, *self.values.get(self.next)?);
        self.next = self.next.saturating_add(1);
        Some(Ok(entry))
    }
}

/// A listing key by key. Where the last key has gone meanwhile the kernel begins anew, so the steps are bounded.
struct KeyListing<'a, K, V> {
    table: &'a KernelHash<K, V>,
    last: Option<K>,
    steps: u64,
}

impl<'a, K: Plain, V: Plain> KeyListing<'a, K, V> {
    fn new(table: &'a KernelHash<K, V>) -> Self {
        Self { table, last: None, steps: u64::from(table.map.capacity()).saturating_mul(2) }
    }
}

impl<K: Plain, V: Plain> Iterator for KeyListing<'_, K, V> {
    type Item = Result<(K, V), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.steps > 0 {
            self.steps = self.steps.saturating_sub(1);
            let mut key = K::new_zeroed();
            let last = self.last.as_ref().map(IntoBytes::as_bytes);
            match self.table.map.next_key(last, key.as_mut_bytes()) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.steps = 0;
                    return Some(Err(self.table.error(Operation::List, &error)));
                }
            }
            self.last = Some(key);
            match self.table.get(&key) {
                Ok(Some(value)) => return Some(Ok((key, value))),
                // It has gone since.
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        self.steps = 0;
        None
    }
}
