//! A hash table of entries that are changed in place. When it is full, it evicts what was not used lately, or refuses.

use std::{
    hash::{BuildHasher, Hash},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, RwLock};

use crate::tables::{Cause, Entries, HashTable, InsertError, Operation, TableError};

/// As the kernel's `BPF_MAP_TYPE_LRU_HASH`: an insert into a full table evicts. Which entry goes is decided by the
/// clock algorithm: a hand goes round, spares once what was used since it last came by, and takes the first other.
///
/// The table is split into shards, each with its share of the capacity, as the kernel splits its free lists by CPU.
pub(super) struct ClockTable<K, V> {
    name: &'static str,
    capacity: u32,
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard<K, V>>]>,
}

/// An entry that stays readable while somebody holds it, also after its eviction.
pub(super) struct Entry<V> {
    used: AtomicBool,
    pub(super) value: Mutex<V>,
}

struct Shard<K, V> {
    places: HashMap<K, usize>,
    ring: Vec<Option<(K, Arc<Entry<V>>)>>,
    free: Vec<usize>,
    hand: usize,
    capacity: usize,
    evicts: bool,
}

/// Tables smaller than this stay whole.
const SMALLEST_SHARD: u32 = 1024;
const MOST_SHARDS: u32 = 64;

/// A shard, and a place in its ring.
type Place = (usize, usize);

impl<K: Copy + Eq + Hash, V: Copy> ClockTable<K, V> {
    pub(super) fn new(name: &'static str, capacity: u32) -> Self {
        Self::of_shards(name, capacity, (capacity / SMALLEST_SHARD).clamp(1, MOST_SHARDS), true)
    }

    /// As the kernel's `BPF_MAP_TYPE_HASH`: a full table refuses, and it is full when `capacity` entries are in.
    pub(super) fn without_eviction(name: &'static str, capacity: u32) -> Self {
        Self::of_shards(name, capacity, 1, false)
    }

    fn of_shards(name: &'static str, capacity: u32, count: u32, evicts: bool) -> Self {
        let shards = (0..count)
            .map(|i| {
                // The first ones take one more each where it does not come out even.
                let capacity = (capacity / count + u32::from(i < capacity % count)) as usize;
                RwLock::new(Shard {
                    places: HashMap::new(),
                    ring: Vec::new(),
                    free: Vec::new(),
                    hand: 0,
                    capacity,
                    evicts,
                })
            })
            .collect();
        Self { name, capacity, hasher: DefaultHashBuilder::default(), shards }
    }

    fn shard(&self, key: &K) -> &RwLock<Shard<K, V>> {
        let count = self.shards.len() as u64;
        let place = self.hasher.hash_one(key) >> 32;
        // There is at least one shard, and the product's upper half is smaller than their number.
        #[allow(clippy::indexing_slicing)]
        &self.shards[((place * count) >> 32) as usize]
    }

    pub(super) fn find(&self, key: &K) -> Option<Arc<Entry<V>>> {
        let entry = self.look_at(key)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry)
    }

    pub(super) fn insert_new(&self, key: &K, value: V) -> Result<(), InsertError> {
        self.shard(key).write().insert(key, value, false)
    }

    pub(super) fn take(&self, key: &K) -> bool {
        self.shard(key).write().remove(key)
    }

    /// An entry, which does not count as used for that.
    pub(super) fn look_at(&self, key: &K) -> Option<Arc<Entry<V>>> {
        let shard = self.shard(key).read();
        let (_, entry) = shard.ring.get(*shard.places.get(key)?)?.as_ref()?;
        Some(Arc::clone(entry))
    }

    /// Takes an entry out, if it still is this one.
    pub(super) fn take_this(&self, key: &K, entry: &Arc<Entry<V>>) {
        let mut shard = self.shard(key).write();
        let place = shard.places.get(key).copied();
        let found = place.and_then(|place| shard.ring.get(place)?.as_ref());
        if found.is_some_and(|(_, found)| Arc::ptr_eq(found, entry)) {
            shard.remove(key);
        }
    }

    /// The entries at `most` places from `from` on, and the place behind them. `None` at the end.
    pub(super) fn part(&self, from: Place, most: usize) -> Option<(Vec<(K, V)>, Place)> {
        let shard = self.shards.get(from.0)?.read();
        let places = shard.ring.get(from.1..).unwrap_or_default();
        let behind = if places.len() > most { (from.0, from.1 + most) } else { (from.0 + 1, 0) };
        let entries = places.iter().take(most).flatten().map(|(key, entry)| (*key, *entry.value.lock()));
        Some((entries.collect(), behind))
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Shard<K, V> {
    fn insert(&mut self, key: &K, value: V, replace: bool) -> Result<(), InsertError> {
        if self.capacity == 0 {
            return Err(InsertError::Full);
        }
        if self.places.contains_key(key) {
            if !replace {
                return Err(InsertError::Exists);
            }
            self.remove(key);
        }
        if self.places.len() >= self.capacity {
            if !self.evicts {
                return Err(InsertError::Full);
            }
            self.evict();
        }
        let entry = Some((*key, Arc::new(Entry { used: AtomicBool::new(false), value: Mutex::new(value) })));
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.ring.get_mut(place) {
                    *slot = entry;
                }
                place
            }
            None => {
                self.ring.push(entry);
                self.ring.len() - 1
            }
        };
        self.places.insert(*key, place);
        Ok(())
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some(place) = self.places.remove(key) else {
            return false;
        };
        if let Some(slot) = self.ring.get_mut(place) {
            *slot = None;
        }
        self.free.push(place);
        true
    }

    fn evict(&mut self) {
        // Within two rounds the hand meets an entry whose mark it took away in the first.
        for _ in 0..2 * self.ring.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.ring.len();
            let Some(Some((key, entry))) = self.ring.get(place) else {
                continue;
            };
            if !entry.used.swap(false, Ordering::Relaxed) {
                let key = *key;
                self.remove(&key);
                return;
            }
        }
    }
}

impl<K: Copy + Eq + Hash + Send + Sync, V: Copy + Send + Sync> HashTable<K, V> for ClockTable<K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn fill(&self) -> Result<u32, TableError> {
        let entries: usize = self.shards.iter().map(|shard| shard.read().places.len()).sum();
        Ok(u32::try_from(entries).unwrap_or(u32::MAX))
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        Ok(self.look_at(key).map(|entry| *entry.value.lock()))
    }

    fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        let mut shard = self.shard(key).write();
        match shard.insert(key, *value, true) {
            // Without any capacity nothing is kept, which is what a table that evicts is for.
            Err(_) if !shard.evicts => {
                let cause = Cause::Full { capacity: self.capacity };
                Err(TableError::new(self.name, Operation::Insert, cause))
            }
            _ => Ok(()),
        }
    }

    fn remove(&self, key: &K) -> Result<bool, TableError> {
        Ok(self.take(key))
    }

    fn entries(&self) -> Entries<'_, K, V> {
        let parts = (0..self.shards.len()).filter_map(|number| self.part((number, 0), usize::MAX));
        Box::new(parts.flat_map(|(entries, _)| entries).map(Ok))
    }
}

impl<K, V> std::fmt::Debug for ClockTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClockTable").field("name", &self.name).field("capacity", &self.capacity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_evicts_what_was_not_used() {
        let table = ClockTable::new("test", 4);
        for key in 0..4u32 {
            table.insert_new(&key, key).unwrap();
        }
        for key in [0, 1, 3] {
            assert!(table.find(&key).is_some());
        }
        table.insert_new(&9, 9).unwrap();
        let mut left: Vec<_> = table.entries().map(|entry| entry.unwrap().0).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 3, 9]);
        assert_eq!(table.fill().unwrap(), 4);
    }

    #[test]
    fn an_entry_is_not_inserted_twice() {
        let table = ClockTable::new("test", 4);
        table.insert_new(&1u32, 1).unwrap();
        assert_eq!(table.insert_new(&1, 2), Err(InsertError::Exists));
        assert_eq!(table.get(&1).unwrap(), Some(1));
        table.insert(&1, &3).unwrap();
        assert_eq!(table.get(&1).unwrap(), Some(3));
        assert!(table.take(&1) && !table.take(&1));
    }

    #[test]
    fn many_entries_stay_within_the_capacity() {
        let table = ClockTable::new("test", 5000);
        for key in 0..50_000u32 {
            table.insert_new(&key, key).unwrap();
        }
        let fill = table.fill().unwrap();
        assert!(fill <= 5000 && fill > 4900, "{fill}");
    }
}
