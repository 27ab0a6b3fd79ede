//! Places of backends, shared between services.

use hashbrown::{HashMap, hash_map::Entry};

use super::{BackendKey, BackendRow, FoundBackend, Indexes};
use crate::{abi::BackendRef, model::IpFamily, state::Refusal};

/// The backends of one family: who stands where, and how many lists hold it.
#[derive(Debug)]
pub(crate) struct Backends {
    family: IpFamily,
    table: &'static str,
    by_key: HashMap<BackendKey, u32>,
    places: Vec<Place>,
    indexes: Indexes,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: BackendKey,
    /// Of the current or the last backend here.
    generation: u32,
    /// How many lists hold it.
    holders: u32,
    /// How many of them send it new flows.
    selectors: u32,
    /// What surely stands in the table: whether the row says that it drains. `None` where no row does surely.
    written: Option<bool>,
}

impl Place {
    fn drains(&self) -> bool {
        self.selectors == 0
    }
}

/// What a backend lost with a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// One of several.
    Holder,
    /// The last one that sent it new flows: its row must say so.
    LastSelector,
    /// The last one: nobody holds it.
    LastHolder,
}

impl Backends {
    /// Backends as they were found in the table, by index, each held once, by nobody in particular. Of two that are the
    /// same only one may live.
    pub fn found(family: IpFamily, table: &'static str, capacity: u32, rows: &[FoundBackend]) -> Self {
        let is_used = |row: &FoundBackend| row.generation != 0 || row.last_generation != 0;
        let next = rows.iter().rposition(is_used).map_or(0, |last| last + 1);
        let rows = &rows[..next];
        let lives = |index: u32| rows[index as usize].generation != 0;
        let place = |row: &FoundBackend| Place {
            key: row.key,
            generation: if row.generation != 0 { row.generation } else { row.last_generation },
            holders: u32::from(row.generation != 0),
            selectors: 0,
            written: row.draining,
        };
        let places = rows.iter().map(place).collect();
        let living = (0..next as u32).filter(|&index| lives(index));
        let by_key = living.map(|index| (rows[index as usize].key, index)).collect();
        let indexes = Indexes::found(capacity, next as u32, lives);
        Self { family, table, by_key, places, indexes }
    }

    /// Whether this backend stands at its place.
    pub fn stands(&self, backend: BackendRef) -> bool {
        let place = self.places.get(backend.index() as usize);
        place.is_some_and(|place| place.holders > 0 && place.generation == backend.generation())
    }

    /// Counts one more holder of a place, which sends it new flows.
    pub fn hold_place(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        place.holders += 1;
        place.selectors += 1;
    }

    /// Finds or gives the backend a place, and counts one more holder, which sends it new flows or not.
    pub fn hold(&mut self, key: BackendKey, selects: bool) -> Result<u32, Refusal> {
        let vacant = match self.by_key.entry(key) {
            Entry::Occupied(index) => {
                let index = *index.get();
                let place = &mut self.places[index as usize];
                place.holders += 1;
                place.selectors += u32::from(selects);
                return Ok(index);
            }
            Entry::Vacant(vacant) => vacant,
        };
        let Some(index) = self.indexes.take() else {
            let capacity = self.indexes.capacity();
            return Err(Refusal::NoRoom { table: self.table, needed: 1, free: 0, capacity });
        };
        vacant.insert(index);
        let generation = match self.places.get(index as usize) {
            // 0 is nobody.
            Some(place) => place.generation.checked_add(1).unwrap_or(1),
            None => 1,
        };
        let place = Place { key, generation, holders: 1, selectors: selects.into(), written: None };
        match self.places.get_mut(index as usize) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        Ok(index)
    }

    /// Whether the backend has a place.
    pub fn has_place(&self, key: &BackendKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Counts one holder less, who `selected` it for new flows or did not.
    pub fn let_go(&mut self, index: u32, selected: bool) -> Loss {
        let place = &mut self.places[index as usize];
        place.holders -= 1;
        place.selectors -= u32::from(selected);
        match place.holders {
            0 => Loss::LastHolder,
            _ if selected && place.drains() => Loss::LastSelector,
            _ => Loss::Holder,
        }
    }

    /// Takes the place from a backend that nobody holds: whoever wants this backend from now on gets another place.
    /// Tells whether it did.
    pub fn retire(&mut self, index: u32) -> bool {
        let place = &self.places[index as usize];
        if place.holders > 0 || self.by_key.get(&place.key) != Some(&index) {
            return false;
        }
        self.by_key.remove(&place.key);
        true
    }

    /// The place may be given to another backend.
    pub fn give_back(&mut self, index: u32) {
        self.indexes.give_back(index);
    }

    /// The row as it is to be now.
    pub fn row(&self, index: u32) -> BackendRow {
        let place = &self.places[index as usize];
        let (family, draining) = (self.family, place.drains());
        BackendRow { family, index, generation: place.generation, key: place.key, draining }
    }

    /// Whether the row surely stands in the table as it is to be.
    pub fn is_written(&self, index: u32) -> bool {
        let place = &self.places[index as usize];
        place.written == Some(place.drains())
    }

    /// How many lists hold the backend of this place.
    pub fn holders(&self, index: u32) -> u32 {
        self.places[index as usize].holders
    }

    /// A row is about to be written: until it was, nobody knows what stands there.
    pub fn may_be_written(&mut self, index: u32) {
        self.places[index as usize].written = None;
    }

    pub fn was_written(&mut self, row: &BackendRow) {
        self.places[row.index as usize].written = Some(row.draining);
    }

    /// Places that are not free, those that wait for their grace period too.
    pub fn taken(&self) -> u32 {
        self.indexes.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> BackendKey {
        BackendKey { address: "192.0.2.1".parse().unwrap(), port, local: false }
    }

    #[test]
    fn a_place_is_shared_and_given_out_again_under_a_new_generation() {
        let mut backends = Backends::found(IpFamily::V4, "backends_v4", 2, &[]);
        let first = backends.hold(key(1), true).unwrap();
        assert_eq!(backends.hold(key(1), true), Ok(first));
        let second = backends.hold(key(2), true).unwrap();
        assert_ne!(first, second);
        assert!(matches!(backends.hold(key(3), true), Err(Refusal::NoRoom { needed: 1, capacity: 2, .. })));

        assert_eq!(backends.let_go(first, true), Loss::Holder);
        assert_eq!(backends.let_go(first, true), Loss::LastHolder);
        // Whoever comes before it is retired finds it as it was.
        let generation = backends.row(first).generation;
        assert_eq!(backends.hold(key(1), true), Ok(first));
        assert!(!backends.retire(first));
        assert_eq!(backends.let_go(first, true), Loss::LastHolder);
        assert!(backends.retire(first) && !backends.retire(first));
        assert!(backends.hold(key(1), true).is_err());
        backends.give_back(first);
        assert_eq!(backends.hold(key(3), true), Ok(first));
        assert_eq!(backends.row(first).generation, generation + 1);
    }

    #[test]
    fn a_backend_drains_once_nobody_sends_it_new_flows() {
        let mut backends = Backends::found(IpFamily::V4, "backends_v4", 1, &[]);
        let index = backends.hold(key(1), true).unwrap();
        assert!(!backends.is_written(index) && !backends.row(index).draining);
        backends.was_written(&backends.row(index));
        assert!(backends.is_written(index));

        backends.hold(key(1), false).unwrap();
        assert!(backends.is_written(index), "another holder that drains it changes nothing");
        assert_eq!(backends.let_go(index, true), Loss::LastSelector);
        assert!(backends.row(index).draining && !backends.is_written(index));
        backends.may_be_written(index);

        // A write that failed may have happened: that it is as before is not known.
        backends.hold(key(1), true).unwrap();
        assert!(!backends.row(index).draining && !backends.is_written(index));
        backends.was_written(&backends.row(index));
        assert_eq!(backends.let_go(index, false), Loss::Holder);
        assert!(backends.is_written(index) && backends.holders(index) == 1);
        assert_eq!(backends.let_go(index, true), Loss::LastHolder);
    }

    /// A place that is free has its last generation, or the next one there could be taken for who was there before.
    #[test]
    fn generations_go_on_where_places_were_found() {
        let row = |generation, last_generation, port| {
            let draining = (generation != 0).then_some(false);
            FoundBackend { generation, last_generation, key: key(port), draining }
        };
        let rows = [row(0, 7, 1), row(3, 3, 2), row(0, 0, 0), row(0, 9, 1), row(0, 0, 0)];
        let mut backends = Backends::found(IpFamily::V4, "backends_v4", 5, &rows);
        assert_eq!((backends.taken(), backends.holders(1)), (1, 1));
        assert_eq!(backends.hold(key(2), true), Ok(1));
        assert_eq!((backends.row(1).generation, backends.is_written(1)), (3, true));
        for (index, generation) in [(0, 8), (2, 1), (3, 10), (4, 1)] {
            assert_eq!(backends.hold(key(10 + index), true), Ok(u32::from(index)));
            assert_eq!(backends.row(index.into()).generation, generation);
        }
        assert!(backends.hold(key(20), true).is_err());
    }

    #[test]
    fn generations_are_never_0() {
        let mut backends = Backends::found(IpFamily::V4, "backends_v4", 1, &[]);
        let index = backends.hold(key(1), true).unwrap();
        backends.places[0].generation = u32::MAX;
        assert_eq!(backends.let_go(index, true), Loss::LastHolder);
        assert!(backends.retire(index));
        backends.give_back(index);
        assert_eq!(backends.hold(key(2), true), Ok(index));
        assert_eq!(backends.row(index).generation, 1);
    }
}
