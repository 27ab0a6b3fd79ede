//! Room in the slot table, in lines.

use std::collections::{BTreeMap, BTreeSet};

/// Gives out runs of lines.
///
/// A run comes from the smallest hole that is large enough, the first of several; what is given back is joined with
/// the holes beside it. Cost: logarithmic in the number of holes.
#[derive(Debug)]
pub struct Lines {
    /// Holes by their first line, with their lengths.
    by_place: BTreeMap<u32, u32>,
    /// The same by length.
    by_length: BTreeSet<(u32, u32)>,
    free: u32,
    capacity: u32,
}

impl Lines {
    /// All lines from 1 on to `end`, which is not one of them. A list never begins at line 0.
    pub fn new(end: u32) -> Self {
        let mut lines = Self {
            by_place: BTreeMap::new(),
            by_length: BTreeSet::new(),
            free: 0,
            capacity: end.saturating_sub(1),
        };
        lines.add(1, lines.capacity);
        lines.free = lines.capacity;
        lines
    }

    /// The same with runs that are taken already, by rising place; none of them overlaps another or goes beyond the end.
    pub(crate) fn found(end: u32, taken: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut lines = Self::new(0);
        lines.capacity = end.saturating_sub(1);
        let mut free = 1;
        for (place, length) in taken.into_iter().chain([(end.max(1), 0)]) {
            lines.add(free, place - free);
            lines.free += place - free;
            free = place + length;
        }
        lines
    }

    /// How many lines there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many are free.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// How many holes they are in.
    pub fn holes(&self) -> usize {
        self.by_place.len()
    }

    /// Takes a run; its first line. `None` where no hole is large enough.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let &(hole, place) = self.by_length.range((length, 0)..).next()?;
        self.by_length.remove(&(hole, place));
        self.by_place.remove(&place);
        self.add(place + length, hole - length);
        self.free -= length;
        Some(place)
    }

    /// Gives a run back that was taken.
    pub fn give_back(&mut self, place: u32, length: u32) {
        self.free += length;
        let (mut first, mut end) = (place, place + length);
        if let Some((&before, &hole)) = self.by_place.range(..place).next_back()
            && before + hole == place
        {
            self.cut(before, hole);
            first = before;
        }
        if let Some(&hole) = self.by_place.get(&end) {
            self.cut(end, hole);
            end += hole;
        }
        self.add(first, end - first);
    }

    fn add(&mut self, place: u32, length: u32) {
        if length > 0 {
            self.by_place.insert(place, length);
            self.by_length.insert((length, place));
        }
    }

    fn cut(&mut self, place: u32, length: u32) {
        self.by_place.remove(&place);
        self.by_length.remove(&(length, place));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_0_is_never_given_out() {
        assert_eq!(Lines::new(0).take(1), None);
        assert_eq!(Lines::new(1).take(1), None);
        assert_eq!(Lines::new(2).take(1), Some(1));
    }

    proptest! {
        /// No line is given out twice, none is lost, and holes side by side become one: a map of bits is the oracle.
        #[test]
        fn runs_do_not_overlap(steps in prop::collection::vec((1u32..40, any::<prop::sample::Index>()), 0..300)) {
            const END: u32 = 512;
            let mut lines = Lines::new(END);
            let mut taken = [false; END as usize];
            taken[0] = true;
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for (length, pick) in steps {
                if length % 3 == 0 && !runs.is_empty() {
                    let (place, length) = runs.swap_remove(pick.index(runs.len()));
                    lines.give_back(place, length);
                    taken[place as usize..][..length as usize].fill(false);
                } else if let Some(place) = lines.take(length) {
                    let run = &mut taken[place as usize..][..length as usize];
                    prop_assert!(run.iter().all(|taken| !taken));
                    run.fill(true);
                    runs.push((place, length));
                } else {
                    let longest = taken.split(|&taken| taken).map(<[bool]>::len).max().unwrap();
                    prop_assert!(longest < length as usize);
                }
                prop_assert_eq!(lines.free() as usize, taken.iter().filter(|&&taken| !taken).count());
                let holes = taken.split(|&taken| taken).filter(|hole| !hole.is_empty()).count();
                prop_assert_eq!(lines.holes(), holes);
                let mut runs = runs.clone();
                runs.sort_unstable();
                let found = Lines::found(END, runs);
                prop_assert_eq!((&found.by_place, &found.by_length), (&lines.by_place, &lines.by_length));
                prop_assert_eq!((found.free, found.capacity), (lines.free, lines.capacity));
            }
        }
    }
}
