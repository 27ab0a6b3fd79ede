//! A program that runs for a good while: it stores 1 in a word of an array, goes round and round, and stores 2.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

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
        let mut log = vec![0u8; 1 << 16];
        let mut attributes = zeroed();
        // SAFETY: the member of BPF_PROG_LOAD, integers all; every bit pattern is valid.
        let load = unsafe { &mut attributes.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        load.insn_cnt = instructions.len() as u32;
        load.insns = instructions.as_ptr() as u64;
        load.license = c"GPL".as_ptr() as u64;
        load.log_level = 1;
        load.log_size = log.len() as u32;
        load.log_buf = log.as_mut_ptr() as u64;
        // SAFETY: the pointers are to live memory of the lengths given.
        match unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes) } {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
            Ok(fd) => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) => {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                Err(io::Error::other(format!("{error}: {}", String::from_utf8_lossy(&log[..end]))))
            }
        }
    }

    /// Runs it once, and returns when it has run.
    pub fn run(&self) -> io::Result<()> {
        let frame = [0u8; 64];
        let mut attributes = zeroed();
        // SAFETY: the member of BPF_PROG_TEST_RUN, integers all; every bit pattern is valid.
        let test = unsafe { &mut attributes.test };
        test.prog_fd = self.0.as_raw_fd() as u32;
        test.data_size_in = frame.len() as u32;
        test.data_in = frame.as_ptr() as u64;
        test.repeat = 1;
        // SAFETY: the pointer is to live memory of the length given.
        unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
    }
}

fn instruction(code: u8, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(destination, source),
        off,
        imm,
    }
}

/// A store of so many bytes of an immediate value.
fn store_immediate(bytes: u8, destination: u8, off: i16, imm: i32) -> bpf_insn {
    instruction(if bytes == 8 { 0x7a } else { 0x62 }, destination, 0, off, imm)
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers: all zeroes are a valid value of each.
    unsafe { std::mem::zeroed() }
}

/// # Safety
/// Every pointer in `attributes` must be valid for what the command reads and writes there.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the first pointer is to a live bpf_attr of the size given; the caller answers for those inside.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
