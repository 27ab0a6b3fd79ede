//! Conntrack and reservations as the collector sees them.
//!
//! User space can't change an entry of a hash table without racing the packets that change it, too. So the looks are done
//! by a program, which the collector has the kernel run once for each suspect.

use std::{io, sync::Arc};

use dataplane_core::{
    abi::{CollectorWord, SUSPECTS},
    pipeline::Fate,
    tables::{FlowTable, Moment, Operation, Place, ScanPosition, Suspect, TableError, WordArray},
};
use parking_lot::Mutex;

use super::{KernelHash, MappedWords, hash::Plain};
use crate::sys::bpf::{BatchCursor, Map, Program};

/// How many entries a scan reads at once, at the least: whole buckets.
const SLICE: usize = 512;

/// The words of the collector's programs.
#[derive(Debug)]
pub(super) struct Looks {
    pub(super) words: MappedWords,
    /// Who holds it has the words and the programs for itself.
    turn: Mutex<()>,
}

impl Looks {
    pub(super) fn new(words: MappedWords) -> Self {
        Self { words, turn: Mutex::new(()) }
    }
}

/// A conntrack table, and how to look at its entries.
#[derive(Debug)]
pub(super) struct KernelFlows<K, V> {
    pub(super) hash: KernelHash<K, V>,
    place: Place,
    suspects: Arc<MappedWords>,
    looks: Arc<Looks>,
    program: Arc<Program>,
}

/// What the tables of one family are collected with.
pub(super) struct Collector {
    suspects: Arc<MappedWords>,
    looks: Arc<Looks>,
    program: Arc<Program>,
    batch: bool,
}

impl Collector {
    /// `batch`: whether the kernel has batch commands.
    pub(super) fn new(suspects: MappedWords, looks: &Arc<Looks>, program: Program, batch: bool) -> Self {
        let (suspects, program) = (Arc::new(suspects), Arc::new(program));
        Self { suspects, looks: looks.clone(), program, batch }
    }

    /// The flows of one place, in this map.
    pub(super) fn flows<K: Plain, V: Plain>(
        &self,
        place: Place,
        name: &'static str,
        map: Map,
    ) -> KernelFlows<K, V> {
        KernelFlows {
            hash: KernelHash::new(name, map, self.batch),
            place,
            suspects: self.suspects.clone(),
            looks: self.looks.clone(),
            program: self.program.clone(),
        }
    }
}

impl<K: Plain, V: Plain> KernelFlows<K, V> {
    /// The map of suspects.
    pub(super) fn suspects(&self) -> &MappedWords {
        &self.suspects
    }

    /// The words that both families' programs share.
    pub(super) fn looks(&self) -> &MappedWords {
        &self.looks.words
    }

    /// Looks at some suspects, as many as there is room for.
    fn look(&self, suspects: &[Suspect<K>], now: u64, fates: &mut Vec<Fate>) -> Result<(), TableError> {
        let _turn = self.looks.turn.lock();
        let looks = &self.looks.words;
        for (suspect, index) in suspects.iter().zip(0..) {
            self.suspects.store(index, &words(suspect, self.place))?;
        }
        looks.store(CollectorWord::Now as u32, &[now])?;
        looks.store(CollectorWord::Next as u32, &[0])?;
        let count = suspects.len();
        let done = || (looks.load(CollectorWord::Next as u32, 0).unwrap_or(0) as usize).min(count);
        let mut ran = Ok(());
        while done() < count && ran.is_ok() {
            let rest = u32::try_from(count.saturating_sub(done())).unwrap_or(u32::MAX);
            ran = match self.program.run(rest) {
                // A signal came in between.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                ran => ran,
            };
        }
        let fate_word = self.suspects.width().saturating_sub(1);
        fates.extend(
            (0..SUSPECTS)
                .take(done())
                .map(|index| Fate::from_number(self.suspects.load(index, fate_word).unwrap_or(0) as u32)),
        );
        ran.map_err(|error| self.hash.error(Operation::Collect, &error))
    }
}

/// A suspect's words: its tuple, frontend and backend, no fate yet, and its table.
fn words<K: Plain>(suspect: &Suspect<K>, place: Place) -> Vec<u64> {
    let mut bytes = suspect.tuple.as_bytes().to_vec();
    bytes.extend(suspect.revoked.frontend.to_ne_bytes());
    bytes.extend(suspect.revoked.backend.0.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend((place as u32).to_ne_bytes());
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

impl<K: Plain, V: Plain> FlowTable<K, V> for KernelFlows<K, V> {
    fn scan(&self, from: ScanPosition, into: &mut Vec<(K, V)>) -> Result<Option<ScanPosition>, TableError> {
        if !self.hash.has_batches() {
            // Such a kernel has no mark to go on from: all at once.
            for entry in dataplane_core::tables::HashTable::entries(&self.hash) {
                into.push(entry?);
            }
            return Ok(None);
        }
        let cursor = (from != ScanPosition::default()).then(|| BatchCursor::at_bucket(from.0));
        let behind = self.hash.scan(cursor, SLICE, into)?;
        Ok(behind.map(|cursor| ScanPosition(cursor.bucket())))
    }

    fn collect(&self, suspects: &[Suspect<K>], at: &Moment, fates: &mut Vec<Fate>) -> Result<(), TableError> {
        for part in suspects.chunks(SUSPECTS as usize) {
            self.look(part, at.now.0.into(), fates)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dataplane_core::{
        abi::{BackendRef, SuspectV4, SuspectV6, TupleV4, TupleV6},
        pipeline::Revoked,
    };
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn suspects_are_the_words_that_the_program_reads() {
        let revoked = Revoked { frontend: 7, backend: BackendRef::new(3, 9) };
        let tuple = TupleV4::read_from_bytes(&[5; 20]).unwrap();
        let expected = SuspectV4 { tuple, frontend: 7, backend: revoked.backend, fate: 0, place: 1 };
        assert_eq!(words(&Suspect { tuple, revoked }, Place::Nat).as_bytes(), expected.as_bytes());
        let tuple = TupleV6::read_from_bytes(&[5; 44]).unwrap();
        let expected = SuspectV6 { tuple, frontend: 7, backend: revoked.backend, fate: 0, place: 0 };
        assert_eq!(words(&Suspect { tuple, revoked }, Place::Conntrack).as_bytes(), expected.as_bytes());
    }
}
