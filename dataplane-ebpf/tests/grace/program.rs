//! A program that runs for a good while: it stores 1 in a word of an array, goes round and round, and stores 2.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_insn, bpf_prog_type};

use crate::bpf::{self, instruction};

/// Such a program, loaded.
pub struct LongProgram(OwnedFd);

/// What stands in the word while it runs, and once it has run.
pub const BEGUN: u64 = 1;
pub const ENDED: u64 = 2;

impl LongProgram {
    /// Loads it. `array` has values of 8 bytes; its element `index` is the program's word.
    pub fn load(array: BorrowedFd<'_>, index: u8) -> io::Result<Self> {
        let map = array.as_raw_fd();
        let instructions = [
            store_immediate(4, 10, -4, index.into()), // *(u32 *)(r10 - 4) = index
            instruction(0xbf, 2, 10, 0, 0),           // r2 = r10
            instruction(0x07, 2, 0, 0, -4),           // r2 += -4
            instruction(0x18, 1, 1, 0, map),          // r1 = the map
            instruction(0, 0, 0, 0, 0),
            instruction(0x85, 0, 0, 0, 1), // call bpf_map_lookup_elem
            instruction(0x15, 0, 0, 6, 0), // if r0 == 0 goto the end
            instruction(0xbf, 6, 0, 0, 0), // r6 = r0
            store_immediate(8, 6, 0, BEGUN as i32),
            // may_goto: out of the loop once the kernel thinks that it is enough; after a quarter of a second on x86, after
            // eight million rounds elsewhere and on older kernels.
            instruction(0xe5, 0, 0, 2, 0),
            instruction(0x85, 0, 0, 0, 5), // call bpf_ktime_get_ns
            instruction(0x05, 0, 0, -3, 0),
            store_immediate(8, 6, 0, ENDED as i32),
            // The end.
            instruction(0xb7, 0, 0, 0, 0), // r0 = 0
            instruction(0x95, 0, 0, 0, 0), // exit
        ];
        bpf::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, &instructions).map(Self)
    }

    /// Runs it once, and returns when it has run.
    pub fn run(&self) -> io::Result<()> {
        bpf::run(self.0.as_fd())
    }
}

/// A store of so many bytes of an immediate value.
fn store_immediate(bytes: u8, destination: u8, off: i16, imm: i32) -> bpf_insn {
    instruction(if bytes == 8 { 0x7a } else { 0x62 }, destination, 0, off, imm)
}
