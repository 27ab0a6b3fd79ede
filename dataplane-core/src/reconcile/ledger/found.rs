//! What stands in the tables when a controller begins: read back, mended, and kept until its owners have spoken.
//!
//! Tables say what is programmed, not who wanted it. So nothing that serves is taken out before every source is synced:
//! a frontend that was found belongs to nobody until a service names it; then it has its index, and where the service's
//! list comes out word by word as the one that was found, that list too. Each backend that lived is held once, for nobody.
//!
//! A program that was killed between two writes leaves more than serves: words without a frontend, lists without a word.
//! What no packet can reach is free one grace period later. What is no table of ours at all is mended on the way: each
//! frontend, word and list is believed only as far as it can be read as a packet would.

use std::{collections::BTreeMap, net::IpAddr};

use hashbrown::{HashMap, HashSet};

use super::{Addresses, Held, Ledger, List, Pointer, Room, Standing};
use crate::{
    abi::{BackendRef, SLOT_HEADER_WORDS, SLOT_LINE_WORDS, ServiceRef, ServiceWord, SlotHeader, map},
    compile::{Backends, FoundBackend, Indexes, Lines, ServiceKey, list_words},
    model::{Affinity, Choice, Frontend, IpFamily, Masquerade, Service},
    reconcile::{Footprint, Presence, apply::backends},
    slab::Slab,
    state::ServiceId,
    tables::{Entries, Store, TableError, WordArray},
};

/// Whose a frontend is that no service has named.
pub(in crate::reconcile) const NOBODY: ServiceId = ServiceId(u32::MAX);

/// What was found and has not been named.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Frontends; those that were named since are among them, too.
    frontends: Vec<Frontend>,
    /// The words of lists, by list.
    lists: HashMap<u32, Box<[u64]>>,
    /// Backends, each held once.
    backends: Vec<(IpFamily, u32)>,
    /// How many backends the lists sent new flows to, each list for itself.
    serving: u64,
}

/// A list that a word points to.
#[derive(Debug)]
struct FoundList {
    family: IpFamily,
    words: Vec<u64>,
    frontends: Vec<Frontend>,
}

impl FoundList {
    fn entries(&self) -> impl Iterator<Item = BackendRef> {
        let count = SlotHeader(self.words[0]).entries() as usize;
        self.words[SLOT_HEADER_WORDS as usize..][..count].iter().map(|&word| BackendRef(word))
    }

    fn lines(&self) -> u32 {
        (self.words.len() as u32).div_ceil(SLOT_LINE_WORDS)
    }
}

impl Ledger {
    /// Reads what stands in the tables. Maglev tables are made with this seed.
    ///
    /// Cost: linear in the tables' capacities, and a grace period.
    ///
    /// # Errors
    /// [`TableError`] where a table can't be read or mended; what serves goes on to.
    pub fn find(store: &dyn Store, seed: u64) -> Result<Self, TableError> {
        let frontends = find_frontends(store)?;
        let lists = find_lists(store, &frontends)?;
        let [rows_v4, rows_v6] =
            [IpFamily::V4, IpFamily::V6].map(|family| find_backends(family, store, &lists));
        let (rows_v4, rows_v6) = (rows_v4?, rows_v6?);
        let is_used = |row: &FoundBackend| row.generation != 0 || row.last_generation != 0;
        // Who was in the programs when the last controller ended may hold what is free now, also where nothing is left of it.
        store.synchronize()?;
        if !frontends.is_empty() || rows_v4.iter().chain(&rows_v6).any(is_used) {
            clear_counters(store, &frontends)?;
        }

        let taken = |family| frontends.keys().filter(|frontend| frontend.family() == family).count() as u32;
        let room = |table, capacity, family| Room { table, taken: taken(family), capacity };
        let mut indexes = vec![false; store.service_words().capacity() as usize];
        for &index in frontends.values() {
            indexes[index as usize] = true;
        }
        let next = indexes.iter().rposition(|&taken| taken).map_or(0, |last| last as u32 + 1);
        let pool = |family, table, rows: &[FoundBackend]| {
            Backends::found(family, table, backends(family, store).capacity(), rows)
        };
        let mut ledger = Self {
            seed,
            backends_v4: pool(IpFamily::V4, map::BACKENDS_V4, &rows_v4),
            backends_v6: pool(IpFamily::V6, map::BACKENDS_V6, &rows_v6),
            lines: Lines::found(
                store.slots().capacity() / SLOT_LINE_WORDS,
                lists.iter().map(|(&base, list)| (base, list.lines())),
            ),
            indexes: Indexes::found(indexes.len() as u32, next, |index| indexes[index as usize]),
            frontends: HashMap::new(),
            addresses: Addresses::default(),
            // The other half is for their addresses.
            listed_v4: room(map::SERVICES_V4, store.services_v4().capacity() / 2, IpFamily::V4),
            listed_v6: room(map::SERVICES_V6, store.services_v6().capacity() / 2, IpFamily::V6),
            lists: Slab::default(),
            services: Vec::new(),
            batch: 0,
            unheld: super::Unheld::default(),
            reserved: HashMap::new(),
            unlinked: Vec::new(),
            held: Vec::new(),
            found: Found::default(),
        };
        for (family, rows) in [(IpFamily::V4, rows_v4), (IpFamily::V6, rows_v6)] {
            let living = (0..).zip(rows).filter(|(_, row)| row.generation != 0);
            ledger.found.backends.extend(living.map(|(index, _)| (family, index)));
        }
        for (frontend, index) in frontends {
            let (listed, word) = (Presence::Present, Pointer::Clear);
            let standing = Standing { index, holder: NOBODY, batch: 0, listed, word };
            ledger.frontends.insert(frontend, standing);
            ledger.addresses.gain(&frontend);
            ledger.addresses.listing_is(frontend.address(), Presence::Present);
            ledger.found.frontends.push(frontend);
        }
        for (base, list) in lists {
            ledger.insert_found(base, list);
        }
        Ok(ledger)
    }

    fn insert_found(&mut self, base: u32, list: FoundList) {
        let (family, lines, users) = (list.family, list.lines(), list.frontends.len() as u32);
        let pool = self.backends_of(family);
        let mut times: BTreeMap<u32, u16> = BTreeMap::new();
        for entry in list.entries().filter(|&entry| pool.stands(entry)) {
            let times = times.entry(entry.index()).or_default();
            *times = times.saturating_add(1);
        }
        let held: Box<[Held]> = times.into_iter().map(|(index, times)| Held { index, times }).collect();
        for held in &held {
            self.backends(family).hold_place(held.index);
        }
        self.found.serving += held.len() as u64;
        // Which of each it is, whoever claims it knows: the words are compared.
        let (choice, masquerade, affinity, written) =
            (Choice::Random, Masquerade::Never, Affinity::None, true);
        let FoundList { words, frontends, .. } = list;
        let list = self.lists.insert(List {
            family,
            choice,
            masquerade,
            affinity,
            base,
            lines,
            users,
            written,
            held,
        });
        for frontend in frontends {
            if let Some(standing) = self.frontends.get_mut(&frontend) {
                standing.word = Pointer::Sure(list);
            }
        }
        self.found.lists.insert(list, words.into());
    }

    /// A list that was found for these frontends and that is, word by word, what this service is to have. It is the
    /// service's from now on.
    pub(super) fn claim_list(
        &mut self,
        id: ServiceId,
        service: &Service,
        held: &[Held],
        frontends: &[Frontend],
    ) -> Option<u32> {
        if self.found.lists.is_empty() {
            return None;
        }
        let list_of = |frontend: &Frontend| match self.frontends.get(frontend)?.word {
            Pointer::Sure(list) => Some(list),
            _ => None,
        };
        let mut candidates: Vec<u32> = frontends.iter().filter_map(list_of).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let list = candidates.into_iter().find(|&list| self.is_list_of(list, service, held))?;
        self.found.lists.remove(&list);
        let found = self.lists.get_mut(list)?;
        (found.choice, found.masquerade) = (service.choice(), service.masquerade());
        found.affinity = service.affinity();
        let old = std::mem::replace(&mut found.held, held.into());
        for old in old {
            // The service holds all of them, a moment longer than this.
            self.backends(service.family()).let_go(old.index, old.is_selected());
        }
        self.set_current(id, Some(list));
        Some(list)
    }

    fn is_list_of(&self, list: u32, service: &Service, held: &[Held]) -> bool {
        let (Some(found), Some(words)) = (self.lists.get(list), self.found.lists.get(&list)) else {
            return false;
        };
        let (family, choice) = (service.family(), service.choice());
        if found.family != family {
            return false;
        }
        let pool = self.backends_of(family);
        let rows: Vec<_> = held.iter().map(|held| pool.row(held.index)).collect();
        let List { base, lines, users, written, .. } = *found;
        let (masquerade, affinity) = (service.masquerade(), service.affinity());
        let wanted =
            List { family, choice, masquerade, affinity, base, lines, users, written, held: held.into() };
        let row = self.list_row(&wanted, &rows);
        // A Maglev table is not made for a list of other entries.
        let entries = row.entries.iter().map(|entry| entry.0);
        if SlotHeader(words[0]).entries() as usize != row.entries.len()
            || !entries.eq(words[SLOT_HEADER_WORDS as usize..].iter().take(row.entries.len()).copied())
        {
            return false;
        }
        let mut wanted = Vec::with_capacity(words.len());
        list_words(&row, &mut wanted);
        wanted[..] == words[..]
    }

    pub(super) fn is_nobodys(standing: &Standing) -> bool {
        standing.holder == NOBODY
    }

    /// How many frontends were found that no service has named yet.
    pub fn unclaimed(&self) -> u32 {
        let frontends = self.found.frontends.iter().filter_map(|frontend| self.frontends.get(frontend));
        frontends.filter(|standing| Self::is_nobodys(standing)).count() as u32
    }

    /// How many backends the lists that were found sent new flows to, and how many of them are lost if all that was not
    /// named goes.
    pub fn found_serving(&self) -> (u64, u64) {
        let mut lost: Vec<u32> = Vec::new();
        for frontend in &self.found.frontends {
            if let Some(standing) = self.frontends.get(frontend).filter(|standing| Self::is_nobodys(standing))
                && let Pointer::Sure(list) = standing.word
            {
                lost.push(list);
            }
        }
        lost.sort_unstable();
        lost.dedup();
        let lost = lost.into_iter().filter_map(|list| Some(self.lists.get(list)?.held.len() as u64)).sum();
        (self.found.serving, lost)
    }

    /// Up to `most` frontends that were found and that nobody has named or claims; what may stand of them. None are left
    /// where there are none.
    pub fn take_unclaimed(&mut self, most: usize, is_claimed: impl Fn(&Frontend) -> bool) -> Vec<Frontend> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(frontend) = self.found.frontends.pop()
        {
            let standing = self.frontends.get(&frontend);
            // One that is claimed by a service for which there is no room serves on as it is.
            if standing.is_some_and(Self::is_nobodys) && !is_claimed(&frontend) {
                taken.push(frontend);
            }
        }
        taken
    }

    /// They could not be taken out.
    pub fn put_back_unclaimed(&mut self, frontends: Vec<Frontend>) {
        self.found.frontends.extend(frontends);
    }

    pub fn footprint_of(&self, frontends: &[Frontend]) -> Footprint {
        self.footprint(None, &[], frontends)
    }

    /// Every source has spoken: what was found is held for nobody any more.
    pub fn let_found_go(&mut self) {
        for (family, index) in std::mem::take(&mut self.found.backends) {
            self.let_go(family, index, false);
        }
    }

    pub(super) fn forget_found_list(&mut self, list: u32) {
        self.found.lists.remove(&list);
    }
}

/// The frontends in the hashes, with their indexes. Their addresses stand there as well, and no others. What can't be one of ours is taken out: no packet finds anything by it.
fn find_frontends(store: &dyn Store) -> Result<HashMap<Frontend, u32>, TableError> {
    let words = store.service_words();
    let mut by_index: HashMap<u32, (ServiceKey, Frontend)> = HashMap::new();
    let mut wrong = Vec::new();
    let mut addresses = HashSet::new();
    let mut found = keys(store.services_v4().entries(), ServiceKey::V4)?;
    found.extend(keys(store.services_v6().entries(), ServiceKey::V6)?);
    for (key, reference) in found {
        let (tag, index) = (key.tag(), reference.index());
        if let Some(address) = key.address()
            && reference == ServiceRef::of_address(tag)
        {
            addresses.insert(address);
            continue;
        }
        let frontend = key.frontend().filter(|_| reference.tag() == tag && index < words.capacity());
        let Some(frontend) = frontend else {
            wrong.push(key);
            continue;
        };
        let word_tag = words.load(index, 0).map(|word| ServiceWord(word).tag());
        match by_index.get(&index) {
            // Of two that share a word, it is that one's whose tag it has.
            Some((other, _)) if *other != key && (Some(other.tag()) == word_tag || word_tag != Some(tag)) => {
                wrong.push(key);
            }
            _ => wrong.extend(
                by_index.insert(index, (key, frontend)).map(|(other, _)| other).filter(|other| *other != key),
            ),
        }
    }
    let wanted: HashSet<IpAddr> = by_index.values().map(|(_, frontend)| frontend.address()).collect();
    wrong.extend(addresses.difference(&wanted).map(|&address| ServiceKey::of_address(address)));
    for key in wrong {
        match key {
            ServiceKey::V4(key) => store.services_v4().remove(&key)?,
            ServiceKey::V6(key) => store.services_v6().remove(&key)?,
        };
    }
    for address in wanted.difference(&addresses) {
        let key = ServiceKey::of_address(*address);
        let reference = ServiceRef::of_address(key.tag());
        match key {
            ServiceKey::V4(key) => store.services_v4().insert(&key, &reference)?,
            ServiceKey::V6(key) => store.services_v6().insert(&key, &reference)?,
        }
    }
    Ok(by_index.into_iter().map(|(index, (_, frontend))| (frontend, index)).collect())
}

fn keys<K>(
    entries: Entries<'_, K, ServiceRef>,
    key: impl Fn(K) -> ServiceKey,
) -> Result<Vec<(ServiceKey, ServiceRef)>, TableError> {
    entries.map(|entry| entry.map(|(found, reference)| (key(found), reference))).collect()
}

/// The lists that words of frontends point to, by first line. All other words are cleared: of frontends that are not in the
/// hash, of others, and to what is no list.
fn find_lists(
    store: &dyn Store,
    frontends: &HashMap<Frontend, u32>,
) -> Result<BTreeMap<u32, FoundList>, TableError> {
    let (words, slots) = (store.service_words(), store.slots());
    let of: HashMap<u32, &Frontend> = frontends.iter().map(|(frontend, &index)| (index, frontend)).collect();
    let mut lists: BTreeMap<u32, FoundList> = BTreeMap::new();
    let mut pointing: Vec<(u32, u32, Frontend)> = Vec::new();
    for index in 0..words.capacity() {
        let word = ServiceWord(words.load(index, 0).unwrap_or(0));
        if word.0 == 0 {
            continue;
        }
        match of.get(&index).filter(|frontend| ServiceKey::from(**frontend).tag() == word.tag()) {
            Some(frontend) => pointing.push((word.base(), index, **frontend)),
            None => words.store(index, &[0])?,
        }
    }
    pointing.sort_unstable();
    let mut end = 1;
    for (base, index, frontend) in pointing {
        if let Some(list) = lists.get_mut(&base) {
            if list.family == frontend.family() {
                list.frontends.push(frontend);
                continue;
            }
        } else if base >= end
            && let Some(read) = read_list(slots, base)
        {
            let list = FoundList { family: frontend.family(), words: read, frontends: vec![frontend] };
            end = base.saturating_add(list.lines());
            lists.insert(base, list);
            continue;
        }
        words.store(index, &[0])?;
    }
    Ok(lists)
}

/// The words of a list; `None` where it does not end within the lines.
fn read_list(slots: &dyn WordArray, base: u32) -> Option<Vec<u64>> {
    let capacity = slots.capacity() / SLOT_LINE_WORDS * SLOT_LINE_WORDS;
    let first = base.checked_mul(SLOT_LINE_WORDS)?;
    let header = SlotHeader(slots.load(first, 0)?);
    let length = SLOT_HEADER_WORDS.checked_add(header.entries())?.checked_add(header.table_words())?;
    let end = first.checked_add(length).filter(|&end| end <= capacity)?;
    (first..end).map(|word| slots.load(word, 0)).collect()
}

/// The backends of a family, by index. Of two that are the same, the one to which fewer lists lead is gone from now on: a
/// controller was ended before it had cleared its place.
fn find_backends(
    family: IpFamily,
    store: &dyn Store,
    lists: &BTreeMap<u32, FoundList>,
) -> Result<Vec<FoundBackend>, TableError> {
    let table = backends(family, store);
    let width = table.width();
    let read = |index| {
        let mut words = [0; 4];
        for (to, word) in words.iter_mut().zip(0..width) {
            *to = table.load(index, word).unwrap_or(0);
        }
        FoundBackend::read(family, index, words)
    };
    let mut rows: Vec<FoundBackend> = (0..table.capacity()).map(read).collect();
    let mut named: HashMap<BackendRef, u32> = HashMap::new();
    for list in lists.values().filter(|list| list.family == family) {
        list.entries().for_each(|entry| *named.entry(entry).or_default() += 1);
    }
    let names = |index: u32, row: &FoundBackend| {
        named.get(&BackendRef::new(index, row.generation)).copied().unwrap_or(0)
    };
    let mut best: HashMap<_, u32> = HashMap::new();
    let mut surplus = Vec::new();
    for (index, row) in (0u32..).zip(&rows).filter(|(_, row)| row.generation != 0) {
        match best.get_mut(&row.key) {
            None => {
                best.insert(row.key, index);
            }
            Some(other) if names(*other, &rows[*other as usize]) >= names(index, row) => surplus.push(index),
            Some(other) => surplus.push(std::mem::replace(other, index)),
        }
    }
    for index in surplus {
        table.store(index, &[0])?;
        let row = &mut rows[index as usize];
        (row.last_generation, row.generation, row.draining) = (row.generation, 0, None);
    }
    Ok(rows)
}

/// Clears the counters of indexes that no frontend has: a controller was perhaps ended before it had.
fn clear_counters(store: &dyn Store, frontends: &HashMap<Frontend, u32>) -> Result<(), TableError> {
    let counters = store.counters();
    let taken: hashbrown::HashSet<u32> = frontends.values().copied().collect();
    for index in (0..store.service_words().capacity()).filter(|index| !taken.contains(index)) {
        if counters.service(index)? != Default::default() {
            counters.clear_service(index)?;
        }
    }
    Ok(())
}
