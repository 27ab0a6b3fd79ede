//! Packet bytes between `data` and `data_end`.

use core::mem::size_of;

use dataplane_core::wire::{Header, LAST_HEADER_OFFSET};

/// The linear part of a packet. Any helper that changes the packet ends its validity; it is made anew for each access.
#[derive(Clone, Copy)]
pub struct Bytes {
    pub data: usize,
    pub end: usize,
}

impl Bytes {
    #[inline(always)]
    pub fn read<T: Header>(self, offset: u32) -> Option<T> {
        let at: *mut T = self.at(offset)?;
        // SAFETY: `at` is within the packet for the whole of `T`, and any bytes are a valid `T`. The packet may not be
        // aligned for it: this code only ever runs on the BPF target, whose loads are plain loads of that width.
        Some(unsafe { core::ptr::read(at) })
    }

    #[inline(always)]
    pub fn write<T: Header>(self, offset: u32, header: T) -> Option<()> {
        let at: *mut T = self.at(offset)?;
        // SAFETY: as in `read`; nobody holds a reference into the packet.
        unsafe { core::ptr::write(at, header) };
        Some(())
    }

    /// The bytes at `offset`, if there is room for a `T`.
    #[inline(always)]
    fn at<T>(self, offset: u32) -> Option<*mut T> {
        // The verifier wants a bound on what is added to a packet pointer.
        if offset > LAST_HEADER_OFFSET {
            return None;
        }
        let start = self.data + bounded(offset);
        // A check for one byte is rewritten to `start >= end`, of which verifiers before 6.18 learn nothing; no header
        // that is read or written by single bytes ends with one.
        let needed = if size_of::<T>() < 2 { 2 } else { size_of::<T>() };
        if start + needed > self.end {
            return None;
        }
        Some(start as *mut T)
    }
}

/// The same offset, with a bound that every verifier sees: `LAST_HEADER_OFFSET` is all ones.
///
/// The comparison above is not enough. The compiler may make it a signed one, of which verifiers before 6.18 learn no
/// lower bound, and it would drop a plain `&` as needless.
#[inline(always)]
fn bounded(offset: u32) -> usize {
    const _: () = assert!((LAST_HEADER_OFFSET + 1).is_power_of_two());
    let mut offset = offset as u64;
    if !core::intrinsics::is_val_statically_known(offset) {
        // SAFETY: an operation on one register.
        unsafe {
            core::arch::asm!(
                "{offset} &= {mask}",
                offset = inout(reg) offset,
                mask = const LAST_HEADER_OFFSET,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    offset as usize
}
