//! Programs of a test's own, instruction by instruction.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_type};

/// An instruction: its code, the registers that it writes and reads, an offset, and an immediate value.
pub fn instruction(code: u8, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
    let registers = bpf_insn::new_bitfield_1(destination, source);
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
}

/// Loads a program; it may use helpers that are for GPL programs alone.
///
/// # Errors
/// The kernel's, with the verifier's words.
pub fn load(kind: bpf_prog_type, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; 1 << 16];
    let mut attributes = zeroed();
    // SAFETY: the member of BPF_PROG_LOAD, integers all; every bit pattern is valid.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insn_cnt = instructions.len() as u32;
    load.insns = instructions.as_ptr() as u64;
    load.license = c"GPL".as_ptr() as u64;
    load.log_level = 1;
    load.log_size = log.len() as u32;
    load.log_buf = log.as_mut_ptr() as u64;
    // SAFETY: the pointers are to live memory of the lengths given.
    match unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes) } {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Err(io::Error::other(format!("{error}: {}", String::from_utf8_lossy(&log[..end]))))
        }
    }
}

/// Runs a loaded program once on a packet of nothing but zeroes, and returns when it has run.
///
/// # Errors
/// The kernel's.
pub fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    let frame = [0u8; 64];
    let mut attributes = zeroed();
    // SAFETY: the member of BPF_PROG_TEST_RUN, integers all; every bit pattern is valid.
    let test = unsafe { &mut attributes.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_size_in = frame.len() as u32;
    test.data_in = frame.as_ptr() as u64;
    test.repeat = 1;
    // SAFETY: the pointer is to live memory of the length given.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
}

/// Makes a hash map with keys and values of these sizes in bytes.
///
/// # Errors
/// The kernel's.
pub fn hash_map(key_size: u32, value_size: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    // SAFETY: the member of BPF_MAP_CREATE, integers all; every bit pattern is valid.
    let create = unsafe { &mut attributes.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    create.key_size = key_size;
    create.value_size = value_size;
    create.max_entries = entries;
    // SAFETY: no pointer in the attributes of this command.
    let fd = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a program or a map at a path in a bpffs.
///
/// # Errors
/// The kernel's.
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = zeroed();
    // SAFETY: the member of BPF_OBJ_PIN, integers all; every bit pattern is valid.
    let pin = unsafe { &mut attributes.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = object.as_fd().as_raw_fd() as u32;
    // SAFETY: the pointer is to a live text that ends with 0.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
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
