//! Arrays of words, shared between threads as the kernel's are between CPUs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tables::{Cause, Operation, TableError, WordArray};

/// An array of elements of `width` words each.
#[derive(Debug)]
pub(super) struct Words {
    name: &'static str,
    width: u32,
    words: Box<[AtomicU64]>,
}

impl Words {
    pub(super) fn new(name: &'static str, capacity: u32, width: u32) -> Self {
        let words = (0..u64::from(capacity) * u64::from(width)).map(|_| AtomicU64::new(0)).collect();
        Self { name, width, words }
    }

    fn position(&self, index: u32, word: u32) -> Option<usize> {
        usize::try_from(u64::from(index) * u64::from(self.width) + u64::from(word)).ok()
    }
}

impl WordArray for Words {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capacity(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap_or(u32::MAX) / self.width
    }

    fn width(&self) -> u32 {
        self.width
    }

    fn load(&self, index: u32, word: u32) -> Option<u64> {
        self.words.get(self.position(index, word)?).map(|word| word.load(Ordering::Acquire))
    }

    fn store(&self, index: u32, words: &[u64]) -> Result<(), TableError> {
        let cause = Cause::OutOfRange { index, capacity: self.capacity() };
        let error = TableError::new(self.name, Operation::Store, cause);
        let start = self.position(index, 0).ok_or(error)?;
        let end = start.checked_add(words.len()).ok_or(error)?;
        let targets = self.words.get(start..end).ok_or(error)?;
        for (target, &word) in targets.iter().zip(words).rev() {
            target.store(word, Ordering::Release);
        }
        Ok(())
    }
}
