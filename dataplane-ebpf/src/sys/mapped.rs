//! Arrays of the kernel, mapped into memory (`BPF_F_MMAPABLE`, kernel 5.5).
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// An array of 8-byte words that programs in the kernel read and write at the same time.
///
/// Every access is one atomic word: no reader, here or in the kernel, sees half of one. Stores are released, so that who
/// sees a word sees what was stored before it, on processors that reorder stores (ARM64) too. Programs load plainly and
/// rely on the address of each load being computed from the word before it: see "Stores are released, loads follow an address" in
/// `docs/tables.md`.
#[derive(Debug)]
pub(crate) struct MappedArray {
    words: NonNull<AtomicU64>,
    length: usize,
    bytes: usize,
}

// SAFETY: the memory is mapped until the value is dropped, is not bound to a thread, and is only accessed by atomics.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps the first `length` words of an array map. The map stays alive as long as the mapping.
    ///
    /// # Errors
    /// The kernel's; EINVAL where the map is shorter, ENOTSUPP or EINVAL where it was made without
    /// `BPF_F_MMAPABLE`.
    pub(crate) fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let bytes = length
            .checked_mul(size_of::<AtomicU64>())
            .filter(|&bytes| bytes > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours. The kernel refuses
        // lengths beyond the map's end, rounded up to pages.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Self { words, length, bytes })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `length` words from `words` on, page-aligned, and lives as long as `self`.
        // Programs in the kernel change them behind our back, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }

    /// One word, with all that was written before it was stored; `None` beyond the end.
    pub(crate) fn load(&self, index: usize) -> Option<u64> {
        self.words().get(index).map(|word| word.load(Ordering::Acquire))
    }

    /// Stores words from `index` on, the first of them last, each after all that was stored before; tells whether they fit,
    /// else nothing is stored.
    #[must_use]
    pub(crate) fn store(&self, index: usize, words: &[u64]) -> bool {
        let range = index.checked_add(words.len()).and_then(|end| self.words().get(index..end));
        let Some(targets) = range else { return false };
        for (target, &word) in targets.iter().zip(words).rev() {
            target.store(word, Ordering::Release);
        }
        true
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; nothing borrowed from it outlives `self`.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}
