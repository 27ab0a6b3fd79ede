//! Arrays that control writes, in memory shared with the kernel.

use std::io;
use std::os::fd::AsFd;

use dataplane_core::tables::{Cause, Operation, TableError, WordArray};

use crate::sys::{bpf::Map, mapped::MappedArray};

/// An array of elements of `width` words each, in a map made with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(crate) struct MappedWords {
    name: &'static str,
    width: u32,
    map: Map,
    words: MappedArray,
}

impl MappedWords {
    /// Maps `map`, whose values are `width` words wide.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(name: &'static str, map: Map, width: u32) -> io::Result<Self> {
        let length = (map.capacity() as usize).saturating_mul(width as usize);
        let words = MappedArray::new(map.as_fd(), length)?;
        Ok(Self { name, width, map, words })
    }

    /// The map.
    pub(super) fn map(&self) -> &Map {
        &self.map
    }

    fn position(&self, index: u32, word: u32) -> Option<usize> {
        (index as usize).checked_mul(self.width as usize)?.checked_add(word as usize)
    }
}

impl WordArray for MappedWords {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    fn width(&self) -> u32 {
        self.width
    }

    fn load(&self, index: u32, word: u32) -> Option<u64> {
        if word >= self.width {
            return None;
        }
        self.words.load(self.position(index, word)?)
    }

    fn store(&self, index: u32, words: &[u64]) -> Result<(), TableError> {
        let stored = self.position(index, 0).is_some_and(|position| self.words.store(position, words));
        let cause = Cause::OutOfRange { index, capacity: self.capacity() };
        if stored { Ok(()) } else { Err(TableError::new(self.name, Operation::Store, cause)) }
    }
}
