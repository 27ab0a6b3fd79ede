//! Tables that are read after each write, by readers that may be at any point of their way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use dataplane_core::{
    abi::{
        BACKEND_DRAINING, BackendRef, BackendV4, BackendV6, LIST_AFFINITY, SLOT_AFFINITY_WORD,
        SLOT_HEADER_WORDS, SLOT_LINE_WORDS, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader,
    },
    compile::ServiceKey,
    model::Frontend,
    pipeline::Tick,
    tables::{Entries, HashTable, Store, TableError, Tables, WordArray},
};
use zerocopy::IntoBytes;

/// Any tables. After each single write every frontend must resolve as a packet would resolve it, and so must every
/// reader that began before the write and after the last grace period:
///
/// - who holds what the hash said finds a word of the same tag with a whole list behind it, or a word of another tag;
/// - who holds a word finds the list as it was; with a Maglev table each place names an entry, and each entry has a place;
/// - who holds an entry of a list finds the backend that it named;
/// - who found a backend's generation, in a list or in a flow, finds the rest of it unchanged.
///
/// The first write that breaks this panics and says what it broke.
pub struct Witness {
    inner: Arc<dyn Store>,
    readers: Arc<Mutex<Readers>>,
    services_v4: WatchedHash<ServiceKeyV4>,
    services_v6: WatchedHash<ServiceKeyV6>,
    service_words: WatchedWords,
    slots: WatchedWords,
    backends_v4: WatchedWords,
    backends_v6: WatchedWords,
}

/// Where a backend's flags stand in its first word, in both families.
const FLAGS: usize = std::mem::offset_of!(BackendV4, flags);
const _: () = assert!(FLAGS == std::mem::offset_of!(BackendV6, flags) && FLAGS < 8);

/// Which array of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Array {
    V4,
    V6,
}

/// What readers hold that may still be on their way.
#[derive(Debug, Default)]
struct Readers {
    references: BTreeSet<(Array, u64)>,
    lists: BTreeMap<(Array, u32), Vec<u64>>,
    backends: BTreeMap<(Array, u32), Vec<u64>>,
    /// Backends whose generation was found by somebody who copies the rest, as holders of flows do.
    copied: BTreeMap<(Array, u32), Vec<u64>>,
    /// What a frontend may lead to; nothing is asked of frontends that are not here.
    allowed: HashMap<ServiceKey, HashSet<Vec<SocketAddr>>>,
    checks: u64,
}

impl Witness {
    /// Watches these tables. They must be empty of services.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let readers = Arc::new(Mutex::new(Readers::default()));
        let words = |select: fn(&dyn Store) -> &dyn WordArray| WatchedWords {
            inner: inner.clone(),
            select,
            readers: readers.clone(),
        };
        Self {
            services_v4: WatchedHash {
                inner: inner.clone(),
                select: |s| s.services_v4(),
                readers: readers.clone(),
            },
            services_v6: WatchedHash {
                inner: inner.clone(),
                select: |s| s.services_v6(),
                readers: readers.clone(),
            },
            service_words: words(|store| store.service_words()),
            slots: words(|store| store.slots()),
            backends_v4: words(|store| store.backends_v4()),
            backends_v6: words(|store| store.backends_v6()),
            readers,
            inner,
        }
    }

    /// How many writes were checked.
    pub fn checks(&self) -> u64 {
        lock(&self.readers).checks
    }

    /// From now on a frontend may lead to these backends, beside those that were allowed before: to all of them and to
    /// no others, each as often as it stands in the list, or with a Maglev table as often as it has a place there.
    pub fn allow(&self, frontend: &Frontend, mut backends: Vec<SocketAddr>) {
        backends.sort_unstable();
        lock(&self.readers).allowed.entry(frontend.into()).or_default().insert(backends);
    }

    /// What a client of a frontend may be sent to, sorted, each as often as it stands in the list, or with a Maglev table as
    /// often as it has a place there.
    ///
    /// # Panics
    /// Where the frontend is in the hash and does not resolve.
    pub fn resolve(&self, frontend: &Frontend) -> Option<Vec<SocketAddr>> {
        resolve(&*self.inner, frontend)
    }

    /// For how many ticks a frontend's list has clients remembered: 0 for not at all.
    ///
    /// # Panics
    /// Where the frontend is in the hash and does not resolve, and where the list says one thing in two ways.
    pub fn affinity(&self, frontend: &Frontend) -> Option<u64> {
        let (_, list) = list_of(&*self.inner, frontend)?;
        let flag = SlotHeader(list[0]).flags() & LIST_AFFINITY != 0;
        assert_eq!(flag, list[SLOT_AFFINITY_WORD as usize] != 0, "{frontend}: {list:x?}");
        Some(list[SLOT_AFFINITY_WORD as usize])
    }

    /// Checks the marks of draining: a backend has it exactly where no list of a frontend in the hash names it. Once all
    /// is applied and every grace period over, this holds.
    ///
    /// # Panics
    /// Where a backend has the mark or lacks it wrongly.
    pub fn marks_match_lists(&self) {
        let store = &*self.inner;
        let named: BTreeSet<(Array, u32)> = references(store)
            .into_iter()
            .flat_map(|(array, found, key)| {
                let (_, list) = follow(store, array, found, key.tag());
                let entries = entries(&list).to_vec();
                entries.into_iter().map(move |entry| (array, BackendRef(entry).index()))
            })
            .collect();
        for (array, table) in [(Array::V4, store.backends_v4()), (Array::V6, store.backends_v6())] {
            for index in 0..table.capacity() {
                let living = table.load(index, 0).expect("an index within the backends") as u32 != 0;
                let marked = is_marked(store, array, index);
                assert!(
                    !living || marked != named.contains(&(array, index)),
                    "backend {index} of {array:?}: marked {marked}"
                );
            }
        }
    }

    /// Checks that each address of a frontend stands in the hash, and no other. Once all is applied, this holds.
    ///
    /// # Panics
    /// Where one is missing, stands there for nobody, or as something else.
    pub fn addresses_match_frontends(&self) {
        let all = entries_of_frontends(&*self.inner);
        let mut standing = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        for (_, found, key) in all {
            match key {
                ServiceKey::V4(k) if key.address().is_none() => {
                    wanted.insert(std::net::IpAddr::V4(k.address.into()));
                }
                ServiceKey::V6(k) if key.address().is_none() => {
                    wanted.insert(std::net::IpAddr::V6(k.address.into()));
                }
                _ => {
                    assert_eq!(found, ServiceRef::of_address(key.tag()), "{key:?}");
                    standing.extend(key.address());
                }
            }
        }
        assert_eq!(standing, wanted, "addresses in the hash, and those of frontends");
    }

    /// What is in the tables: frontends, words that point somewhere, and backends with a generation.
    ///
    /// # Panics
    /// Where a table cannot be read.
    pub fn contents(&self) -> (u32, u32, u32) {
        let frontends = references(&*self.inner).len() as u32;
        let pointing = count(self.inner.service_words(), |word| word != 0);
        let living = |array| count(array, |word| word as u32 != 0);
        (frontends, pointing, living(self.inner.backends_v4()) + living(self.inner.backends_v6()))
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").field("checks", &self.checks()).finish_non_exhaustive()
    }
}

fn lock(readers: &Mutex<Readers>) -> MutexGuard<'_, Readers> {
    // A check that failed is reported by its own panic.
    readers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn count(array: &dyn WordArray, is: impl Fn(u64) -> bool) -> u32 {
    let set = (0..array.capacity()).filter(|&index| array.load(index, 0).is_some_and(&is));
    set.count() as u32
}

/// What a client of a frontend may be sent to, sorted, each as often as it stands in the list, or with a Maglev table as
/// often as it has a place there.
///
/// # Panics
/// Where the frontend is in the hash and does not resolve.
pub fn resolve(store: &dyn Store, frontend: &Frontend) -> Option<Vec<SocketAddr>> {
    let (array, list) = list_of(store, frontend)?;
    Some(addresses(store, array, &list))
}

/// The list of a frontend.
fn list_of(store: &dyn Store, frontend: &Frontend) -> Option<(Array, Vec<u64>)> {
    let key = ServiceKey::from(frontend);
    let (array, found) = match &key {
        ServiceKey::V4(key) => (Array::V4, store.services_v4().get(key)),
        ServiceKey::V6(key) => (Array::V6, store.services_v6().get(key)),
    };
    let (_, list) = follow(store, array, found.expect("readable tables")?, key.tag());
    Some((array, list))
}

/// The frontends that the hash has at this moment.
fn references(store: &dyn Store) -> Vec<(Array, ServiceRef, ServiceKey)> {
    let mut frontends = entries_of_frontends(store);
    frontends.retain(|(_, _, key)| key.address().is_none());
    frontends
}

/// What the hash has at this moment: frontends, and their addresses.
fn entries_of_frontends(store: &dyn Store) -> Vec<(Array, ServiceRef, ServiceKey)> {
    let mut keys: Vec<(Array, ServiceRef, ServiceKey)> = Vec::new();
    for entry in store.services_v4().entries() {
        let (key, found) = entry.expect("readable tables");
        keys.push((Array::V4, found, ServiceKey::V4(key)));
    }
    for entry in store.services_v6().entries() {
        let (key, found) = entry.expect("readable tables");
        keys.push((Array::V6, found, ServiceKey::V6(key)));
    }
    keys
}

/// Follows a reference that the hash has at this moment: all of it must be there.
fn follow(store: &dyn Store, array: Array, found: ServiceRef, tag: u32) -> (u32, Vec<u64>) {
    assert_eq!(found.tag(), tag, "{found:?}: the hash names a tag that is not its key's");
    let word = ServiceWord(store.service_words().load(found.index(), 0).expect("an index within the words"));
    assert_eq!(word.tag(), tag, "the word of a frontend in the hash is another's: {found:?}, {word:?}");
    (word.base(), read_list(store, array, word.base()))
}

/// Reads a list, whose entries must all live.
fn read_list(store: &dyn Store, array: Array, base: u32) -> Vec<u64> {
    assert_ne!(base, 0, "a word points to line 0");
    let start = base * SLOT_LINE_WORDS;
    let header = SlotHeader(store.slots().load(start, 0).expect("a list within the slots"));
    let length = SLOT_HEADER_WORDS + header.entries() + header.table().div_ceil(4);
    let words =
        (start..start + length).map(|slot| store.slots().load(slot, 0).expect("a list within the slots"));
    let words: Vec<u64> = words.collect();
    if header.table() > 0 {
        let named: BTreeSet<u16> = places(&words).into_iter().collect();
        let wrong = named.iter().find(|&&place| u32::from(place) >= header.entries());
        assert_eq!(wrong, None, "list {base} has a place for an entry that it does not have");
        assert_eq!(named.len() as u32, header.entries(), "list {base} has an entry without a place");
    }
    let rises = entries(&words).is_sorted_by_key(|&entry| BackendRef(entry).index());
    assert!(rises, "a search by halves finds not all of list {base}: {words:x?}");
    for &entry in entries(&words) {
        let entry = BackendRef(entry);
        let backend = read_backend(store, array, entry.index());
        assert_ne!(entry.generation(), 0, "list {base} names nobody");
        assert_eq!(backend[0] as u32, entry.generation(), "list {base} names {entry:?}, who is gone");
        assert!(!is_marked(store, array, entry.index()), "list {base} names {entry:?}, who drains");
    }
    words
}

/// The entries of a list.
fn entries(list: &[u64]) -> &[u64] {
    let count = SlotHeader(list[0]).entries() as usize;
    &list[SLOT_HEADER_WORDS as usize..][..count]
}

/// The indexes in a list's Maglev table, byte by byte as `docs/tables.md` has it; empty where there is none.
fn places(list: &[u64]) -> Vec<u16> {
    let header = SlotHeader(list[0]);
    let bytes: Vec<u8> = list[(SLOT_HEADER_WORDS + header.entries()) as usize..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let indexes = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    indexes.take(header.table() as usize).collect()
}

fn backends(store: &dyn Store, array: Array) -> &dyn WordArray {
    match array {
        Array::V4 => store.backends_v4(),
        Array::V6 => store.backends_v6(),
    }
}

/// Whether a backend has the mark of draining.
fn is_marked(store: &dyn Store, array: Array, index: u32) -> bool {
    let first = backends(store, array).load(index, 0).expect("an index within the backends");
    first.to_ne_bytes()[FLAGS] & BACKEND_DRAINING != 0
}

fn read_backend(store: &dyn Store, array: Array, index: u32) -> Vec<u64> {
    let table = backends(store, array);
    let mut words: Vec<u64> = (0..table.width())
        .map(|word| table.load(index, word).expect("an index within the backends"))
        .collect();
    // The mark comes and goes under readers: either way they find who they looked for.
    let mut first = words[0].to_ne_bytes();
    first[FLAGS] &= !BACKEND_DRAINING;
    words[0] = u64::from_ne_bytes(first);
    words
}

fn addresses(store: &dyn Store, array: Array, list: &[u64]) -> Vec<SocketAddr> {
    let address = |&entry: &u64| {
        let words = read_backend(store, array, BackendRef(entry).index());
        let bytes = words.as_bytes();
        match array {
            Array::V4 => {
                let row: BackendV4 = zerocopy::FromBytes::read_from_bytes(bytes).expect("two words");
                SocketAddr::new(row.address.into(), row.port.get())
            }
            Array::V6 => {
                let row: BackendV6 = zerocopy::FromBytes::read_from_bytes(bytes).expect("four words");
                SocketAddr::new(row.address.into(), row.port.get())
            }
        }
    };
    let mut addresses: Vec<SocketAddr> = entries(list).iter().map(address).collect();
    if SlotHeader(list[0]).table() > 0 {
        addresses = places(list).into_iter().map(|place| addresses[usize::from(place)]).collect();
    }
    addresses.sort_unstable();
    addresses
}

impl Readers {
    /// Sends a reader on its way through everything, and looks after those that are under way.
    fn check(&mut self, store: &dyn Store) {
        self.checks += 1;
        for (array, found, key) in references(store) {
            let (base, list) = follow(store, array, found, key.tag());
            if let Some(allowed) = self.allowed.get(&key) {
                let addresses = addresses(store, array, &list);
                assert!(allowed.contains(&addresses), "{key:?} leads to {addresses:?}, which nobody wanted");
            }
            self.references.insert((array, found.0));
            self.see_list(store, array, base, list);
        }
        self.check_those_under_way(store);
    }

    fn see_list(&mut self, store: &dyn Store, array: Array, base: u32, list: Vec<u64>) {
        for &entry in entries(&list) {
            let index = BackendRef(entry).index();
            self.backends.entry((array, index)).or_insert_with(|| read_backend(store, array, index));
        }
        self.lists.entry((array, base)).or_insert(list);
    }

    fn check_those_under_way(&mut self, store: &dyn Store) {
        let mut seen = Vec::new();
        for &(array, found) in &self.references {
            let found = ServiceRef(found);
            let word =
                ServiceWord(store.service_words().load(found.index(), 0).expect("an index in the words"));
            if word.tag() == found.tag() && word.0 != 0 {
                seen.push((array, word.base(), read_list(store, array, word.base())));
            }
        }
        for (array, base, list) in seen {
            self.see_list(store, array, base, list);
        }
        for (&(array, base), list) in &self.lists {
            let now = read_list(store, array, base);
            assert_eq!(&now, list, "list {base} of {array:?} changed under its readers");
        }
        for (&(array, index), backend) in &self.backends {
            let now = read_backend(store, array, index);
            assert_eq!(&now, backend, "backend {index} of {array:?} changed under its readers");
        }
        for (array, table) in [(Array::V4, store.backends_v4()), (Array::V6, store.backends_v6())] {
            for index in 0..table.capacity() {
                let now = read_backend(store, array, index);
                let living = now[0] as u32 != 0;
                match self.copied.get(&(array, index)) {
                    Some(copied) => {
                        assert_eq!(now[1..], copied[1..], "backend {index} changed under who copies it");
                        assert!(!living || now == *copied, "backend {index} was given to another at once");
                    }
                    None if living => {
                        self.copied.insert((array, index), now);
                    }
                    None => {}
                }
            }
        }
    }

    /// All readers have left.
    fn leave(&mut self) {
        self.references.clear();
        self.lists.clear();
        self.backends.clear();
        self.copied.clear();
    }
}

struct WatchedHash<K: 'static> {
    inner: Arc<dyn Store>,
    select: fn(&dyn Store) -> &dyn HashTable<K, ServiceRef>,
    readers: Arc<Mutex<Readers>>,
}

impl<K> WatchedHash<K> {
    fn table(&self) -> &dyn HashTable<K, ServiceRef> {
        (self.select)(&*self.inner)
    }
}

/// Batches are written one by one, so that each entry is checked.
impl<K> HashTable<K, ServiceRef> for WatchedHash<K> {
    fn name(&self) -> &'static str {
        self.table().name()
    }

    fn capacity(&self) -> u32 {
        self.table().capacity()
    }

    fn get(&self, key: &K) -> Result<Option<ServiceRef>, TableError> {
        self.table().get(key)
    }

    fn insert(&self, key: &K, value: &ServiceRef) -> Result<(), TableError> {
        self.table().insert(key, value)?;
        lock(&self.readers).check(&*self.inner);
        Ok(())
    }

    fn remove(&self, key: &K) -> Result<bool, TableError> {
        let removed = self.table().remove(key)?;
        lock(&self.readers).check(&*self.inner);
        Ok(removed)
    }

    fn entries(&self) -> Entries<'_, K, ServiceRef> {
        self.table().entries()
    }
}

struct WatchedWords {
    inner: Arc<dyn Store>,
    select: fn(&dyn Store) -> &dyn WordArray,
    readers: Arc<Mutex<Readers>>,
}

impl WatchedWords {
    fn table(&self) -> &dyn WordArray {
        (self.select)(&*self.inner)
    }
}

impl WordArray for WatchedWords {
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
        // Word by word, the first one last, as a reader may see it.
        let table = self.table();
        let width = table.width() as usize;
        if words.len() <= width {
            for kept in (0..words.len()).rev() {
                let mut partly: Vec<u64> =
                    (0..words.len()).map(|word| table.load(index, word as u32).unwrap_or(0)).collect();
                partly[kept..].copy_from_slice(&words[kept..]);
                table.store(index, &partly)?;
                lock(&self.readers).check(&*self.inner);
            }
            return Ok(());
        }
        table.store(index, words)?;
        lock(&self.readers).check(&*self.inner);
        Ok(())
    }
}

impl Store for Witness {
    fn tables(&self) -> Tables<'_> {
        Tables {
            services_v4: &self.services_v4,
            services_v6: &self.services_v6,
            service_words: &self.service_words,
            slots: &self.slots,
            backends_v4: &self.backends_v4,
            backends_v6: &self.backends_v6,
            ..self.inner.tables()
        }
    }

    fn now(&self) -> Tick {
        self.inner.now()
    }

    fn synchronize(&self) -> Result<(), TableError> {
        self.inner.synchronize()?;
        let mut readers = lock(&self.readers);
        readers.leave();
        readers.check(&*self.inner);
        Ok(())
    }
}
