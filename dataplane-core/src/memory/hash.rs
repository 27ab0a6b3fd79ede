//! A hash table that refuses entries when it is full.

use std::hash::Hash;

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::tables::{Cause, Entries, HashTable, Operation, TableError};

/// As the kernel's `BPF_MAP_TYPE_HASH`.
#[derive(Debug)]
pub(super) struct Hashed<K, V> {
    name: &'static str,
    capacity: u32,
    entries: RwLock<HashMap<K, V>>,
}

impl<K, V> Hashed<K, V> {
    pub(super) fn new(name: &'static str, capacity: u32) -> Self {
        Self { name, capacity, entries: RwLock::new(HashMap::new()) }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Hashed<K, V> {
    pub(super) fn find(&self, key: &K) -> Option<V> {
        self.entries.read().get(key).copied()
    }
}

impl<K: Copy + Eq + Hash + Send + Sync, V: Copy + Send + Sync> HashTable<K, V> for Hashed<K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn fill(&self) -> Result<u32, TableError> {
        Ok(u32::try_from(self.entries.read().len()).unwrap_or(u32::MAX))
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        Ok(self.find(key))
    }

    fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        let mut entries = self.entries.write();
        let full = entries.len() >= self.capacity as usize;
        if full && !entries.contains_key(key) {
            let cause = Cause::Full { capacity: self.capacity };
            return Err(TableError::new(self.name, Operation::Insert, cause));
        }
        entries.insert(*key, *value);
        Ok(())
    }

    fn remove(&self, key: &K) -> Result<bool, TableError> {
        Ok(self.entries.write().remove(key).is_some())
    }

    fn entries(&self) -> Entries<'_, K, V> {
        let entries: Vec<_> = self.entries.read().iter().map(|(key, value)| Ok((*key, *value))).collect();
        Box::new(entries.into_iter())
    }
}
