//! Places of backends, shared between services.

use hashbrown::{HashMap, hash_map::Entry};

use super::{BackendKey, BackendRow, Indexes};
use crate::{model::IpFamily, state::Refusal};

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
    written: bool,
}

impl Backends {
    pub fn new(family: IpFamily, table: &'static str, capacity: u32) -> Self {
        Self { family, table, by_key: HashMap::new(), places: Vec::new(), indexes: Indexes::new(capacity) }
    }

    /// Finds or gives the backend a place, and counts one more holder.
    pub fn hold(&mut self, key: BackendKey) -> Result<u32, Refusal> {
        let vacant = match self.by_key.entry(key) {
            Entry::Occupied(index) => {
                let index = *index.get();
                self.places[index as usize].holders += 1;
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
        let place = Place { key, generation, holders: 1, written: false };
        match self.places.get_mut(index as usize) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        Ok(index)
    }

    /// Counts one holder less; tells whether there is none left.
    pub fn let_go(&mut self, index: u32) -> bool {
        let place = &mut self.places[index as usize];
        place.holders -= 1;
        place.holders == 0
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

    pub fn row(&self, index: u32) -> BackendRow {
        let Place { key, generation, .. } = self.places[index as usize];
        BackendRow { family: self.family, index, generation, key }
    }

    pub fn is_written(&self, index: u32) -> bool {
        self.places[index as usize].written
    }

    pub fn set_written(&mut self, index: u32) {
        self.places[index as usize].written = true;
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
        let mut backends = Backends::new(IpFamily::V4, "backends_v4", 2);
        let first = backends.hold(key(1)).unwrap();
        assert_eq!(backends.hold(key(1)), Ok(first));
        let second = backends.hold(key(2)).unwrap();
        assert_ne!(first, second);
        assert!(matches!(backends.hold(key(3)), Err(Refusal::NoRoom { needed: 1, capacity: 2, .. })));

        assert!(!backends.let_go(first));
        assert!(backends.let_go(first));
        // Whoever comes before it is retired finds it as it was.
        let generation = backends.row(first).generation;
        assert_eq!(backends.hold(key(1)), Ok(first));
        assert!(!backends.retire(first));
        assert!(backends.let_go(first) && backends.retire(first) && !backends.retire(first));
        assert!(backends.hold(key(1)).is_err());
        backends.give_back(first);
        assert_eq!(backends.hold(key(3)), Ok(first));
        assert_eq!(backends.row(first).generation, generation + 1);
    }

    #[test]
    fn generations_are_never_0() {
        let mut backends = Backends::new(IpFamily::V4, "backends_v4", 1);
        let index = backends.hold(key(1)).unwrap();
        backends.places[0].generation = u32::MAX;
        assert!(backends.let_go(index) && backends.retire(index));
        backends.give_back(index);
        assert_eq!(backends.hold(key(2)), Ok(index));
        assert_eq!(backends.row(index).generation, 1);
    }
}
