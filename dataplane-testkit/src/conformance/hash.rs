//! Hash tables: exact keys, a fixed capacity, batches.

use std::{collections::HashMap, fmt::Debug, hash::Hash, net::Ipv4Addr, sync::Arc};

use dataplane_core::{
    abi::{
        AffinityEntry, AffinityHead, AffinityKeyV4, AffinityKeyV6, BackendRef, FlowV4, FlowV6, ServiceKeyV4,
        ServiceKeyV6, ServiceRef, TupleV4, TupleV6, map,
    },
    tables::{Cause, HashTable, Store},
    wire::{Be16, Ipv4Address, Ipv6Address},
};

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case { name: "an entry is inserted, found, replaced and removed", run: |store| each(&store, one_entry) },
    Case { name: "removing what is not there is no error", run: |store| each(&store, missing) },
    Case { name: "listing, counting and finding agree", run: |store| each(&store, listing) },
    Case { name: "a full table refuses new keys and takes old ones", run: |store| services(&store, full) },
    Case {
        name: "a batch stops where the table is full, and says where",
        run: |store| services(&store, full_batch),
    },
    Case { name: "batches of no entry and of many", run: |store| each(&store, batches) },
    Case { name: "tables are called what their maps are called", run: names },
];

/// Keys and values by number.
struct Subject<'a, K, V> {
    table: &'a dyn HashTable<K, V>,
    key: fn(u32) -> K,
    value: fn(u32) -> V,
}

/// A table of any key and value, spoken of by numbers.
trait Rows {
    fn capacity(&self) -> u32;
    fn insert(&self, key: u32, value: u32) -> Result<(), Cause>;
    fn insert_batch(&self, entries: &[(u32, u32)]) -> Result<(), (usize, Cause)>;
    fn remove(&self, key: u32) -> bool;
    fn remove_batch(&self, keys: &[u32]);
    fn has(&self, key: u32, value: u32) -> bool;
    fn lacks(&self, key: u32) -> bool;
    /// Whether the table holds these entries and no others, by its list and by its count.
    fn holds_exactly(&self, entries: &[(u32, u32)]);
}

impl<K: Copy + Eq + Hash + Debug, V: Copy + PartialEq + Debug> Rows for Subject<'_, K, V> {
    fn capacity(&self) -> u32 {
        self.table.capacity()
    }

    fn insert(&self, key: u32, value: u32) -> Result<(), Cause> {
        self.table.insert(&(self.key)(key), &(self.value)(value)).map_err(|error| {
            assert_eq!(error.table, self.table.name());
            error.cause
        })
    }

    fn insert_batch(&self, entries: &[(u32, u32)]) -> Result<(), (usize, Cause)> {
        let entries: Vec<(K, V)> =
            entries.iter().map(|&(key, value)| ((self.key)(key), (self.value)(value))).collect();
        self.table.insert_batch(&entries).map_err(|failed| (failed.done, failed.error.cause))
    }

    fn remove(&self, key: u32) -> bool {
        self.table.remove(&(self.key)(key)).expect("a removal")
    }

    fn remove_batch(&self, keys: &[u32]) {
        let keys: Vec<K> = keys.iter().map(|&key| (self.key)(key)).collect();
        self.table.remove_batch(&keys).expect("a batch of removals");
    }

    fn has(&self, key: u32, value: u32) -> bool {
        self.table.get(&(self.key)(key)).expect("a look-up") == Some((self.value)(value))
    }

    fn lacks(&self, key: u32) -> bool {
        self.table.get(&(self.key)(key)).expect("a look-up").is_none()
    }

    fn holds_exactly(&self, entries: &[(u32, u32)]) {
        let expected: HashMap<K, V> =
            entries.iter().map(|&(key, value)| ((self.key)(key), (self.value)(value))).collect();
        assert_eq!(expected.len(), entries.len(), "the check itself names a key twice");
        let listed: Vec<(K, V)> = self.table.entries().map(|entry| entry.expect("an entry")).collect();
        assert_eq!(listed.len(), expected.len(), "an entry is listed twice, or not at all");
        for (key, value) in &listed {
            assert_eq!(expected.get(key), Some(value), "{key:?}");
        }
        assert_eq!(self.table.fill().expect("a count") as usize, expected.len());
    }
}

/// Both tables of frontends.
fn services(store: &Arc<dyn Store>, check: fn(&dyn Rows)) {
    let value = |n: u32| ServiceRef::new(n, n ^ 0xaaaa);
    let v4 = |n: u32| ServiceKeyV4 {
        address: Ipv4Address::from(Ipv4Addr::from(0xcb00_7100 + n / 100)),
        port: Be16::new((n % 100) as u16 + 1),
        protocol: 6,
        scope: 0,
    };
    let v6 = |n: u32| ServiceKeyV6 {
        address: Ipv6Address([1, 2, 3, n]),
        port: Be16::new(443),
        protocol: 17,
        scope: 0,
    };
    check(&Subject { table: store.services_v4(), key: v4, value });
    check(&Subject { table: store.services_v6(), key: v6, value });
}

/// The tables of frontends, those of connections and those of affinities.
fn each(store: &Arc<dyn Store>, check: fn(&dyn Rows)) {
    services(store, check);
    let v4 = |n: u32| TupleV4 {
        source: Ipv4Address(n),
        destination: Ipv4Address(7),
        source_port: Be16::new(9),
        destination_port: Be16::new(80),
        scope: 0,
        zone: 0,
        protocol: 6,
        reserved: 0,
    };
    let v6 = |n: u32| TupleV6 {
        source: Ipv6Address([1, 2, 3, n]),
        destination: Ipv6Address([7; 4]),
        source_port: Be16::new(9),
        destination_port: Be16::new(80),
        scope: 0,
        zone: 0,
        protocol: 6,
        reserved: 0,
    };
    let flow_v4 = |n: u32| FlowV4 { frontend: n, last_seen: 1, ..FlowV4::default() };
    let flow_v6 = |n: u32| FlowV6 { frontend: n, last_seen: 1, ..FlowV6::default() };
    check(&Subject { table: store.conntrack_v4(), key: v4, value: flow_v4 });
    check(&Subject { table: store.conntrack_v6(), key: v6, value: flow_v6 });
    check(&Subject { table: store.opening_v4(), key: v4, value: flow_v4 });
    check(&Subject { table: store.opening_v6(), key: v6, value: flow_v6 });
    let affinity = |n: u32| AffinityEntry::new(AffinityHead::new(n, 7), BackendRef::new(n, 1), 1);
    let v4 = |n: u32| AffinityKeyV4 { client: Ipv4Address(n), frontend: 3 };
    let v6 = |n: u32| AffinityKeyV6 { client: Ipv6Address([1, 2, 3, 4]), frontend: n };
    check(&Subject { table: store.affinity_v4(), key: v4, value: affinity });
    check(&Subject { table: store.affinity_v6(), key: v6, value: affinity });
}

fn one_entry(table: &dyn Rows) {
    assert!(table.lacks(1));
    assert_eq!(table.insert(1, 10), Ok(()));
    assert!(table.has(1, 10) && table.lacks(2));
    assert_eq!(table.insert(1, 11), Ok(()));
    assert!(table.has(1, 11));
    // Once more the same: nothing changes.
    assert_eq!(table.insert(1, 11), Ok(()));
    table.holds_exactly(&[(1, 11)]);
    assert!(table.remove(1));
    assert!(table.lacks(1));
    table.holds_exactly(&[]);
}

fn missing(table: &dyn Rows) {
    assert!(!table.remove(1));
    assert_eq!(table.insert(2, 20), Ok(()));
    table.remove_batch(&[1, 2, 3]);
    table.remove_batch(&[1, 2, 3]);
    table.holds_exactly(&[]);
}

fn listing(table: &dyn Rows) {
    let entries: Vec<(u32, u32)> = (0..40).map(|n| (n, n * 3)).collect();
    for &(key, value) in &entries {
        assert_eq!(table.insert(key, value), Ok(()));
    }
    table.holds_exactly(&entries);
    assert!(entries.iter().all(|&(key, value)| table.has(key, value)));
    let (removed, kept) = entries.split_at(15);
    for &(key, _) in removed {
        assert!(table.remove(key));
    }
    table.holds_exactly(kept);
}

fn full(table: &dyn Rows) {
    let capacity = table.capacity();
    let mut entries: Vec<(u32, u32)> = (0..capacity).map(|n| (n, n)).collect();
    for &(key, value) in &entries {
        assert_eq!(table.insert(key, value), Ok(()));
    }
    assert_eq!(table.insert(capacity, 1), Err(Cause::Full { capacity }));
    table.holds_exactly(&entries);
    assert_eq!(table.insert(3, 33), Ok(()));
    entries[3].1 = 33;
    assert!(table.remove(5));
    assert_eq!(table.insert(capacity, 1), Ok(()));
    entries[5] = (capacity, 1);
    table.holds_exactly(&entries);
}

fn full_batch(table: &dyn Rows) {
    let capacity = table.capacity();
    let half = capacity / 2;
    let entries: Vec<(u32, u32)> = (0..capacity + 10).map(|n| (n, n + 1)).collect();
    assert_eq!(table.insert_batch(&entries[..half as usize]), Ok(()));
    let fits = (capacity - half) as usize;
    let (done, cause) =
        table.insert_batch(&entries[half as usize..]).expect_err("more than there is room for");
    assert_eq!((done, cause), (fits, Cause::Full { capacity }));
    table.holds_exactly(&entries[..capacity as usize]);
}

fn batches(table: &dyn Rows) {
    assert_eq!(table.insert_batch(&[]), Ok(()));
    table.remove_batch(&[]);
    let entries: Vec<(u32, u32)> = (0..50).map(|n| (n, n + 1)).collect();
    assert_eq!(table.insert_batch(&entries), Ok(()));
    table.holds_exactly(&entries);
    // Those that are there are replaced.
    let again: Vec<(u32, u32)> = (0..50).map(|n| (n, n + 100)).collect();
    assert_eq!(table.insert_batch(&again), Ok(()));
    table.holds_exactly(&again);
    let keys: Vec<u32> = (10..60).collect();
    table.remove_batch(&keys);
    table.holds_exactly(&again[..10]);
}

fn names(store: Arc<dyn Store>) {
    let named = [
        (store.services_v4().name(), map::SERVICES_V4),
        (store.services_v6().name(), map::SERVICES_V6),
        (store.conntrack_v4().name(), map::CONNTRACK_V4),
        (store.conntrack_v6().name(), map::CONNTRACK_V6),
        (store.opening_v4().name(), map::OPENING_V4),
        (store.opening_v6().name(), map::OPENING_V6),
        (store.affinity_v4().name(), map::AFFINITY_V4),
        (store.affinity_v6().name(), map::AFFINITY_V6),
        (store.service_words().name(), map::SERVICE_WORDS),
        (store.slots().name(), map::SLOTS),
        (store.backends_v4().name(), map::BACKENDS_V4),
        (store.backends_v6().name(), map::BACKENDS_V6),
        (store.config().name(), map::CONFIG),
        (store.interfaces().name(), map::INTERFACES),
    ];
    for (name, expected) in named {
        assert_eq!(name, expected);
    }
}
