//! Commands of bpf(2): maps by single entries and in batches, links, and what the kernel tells of its objects.
//!
//! aya has no batch commands, cannot create a map of maps by itself, and attaches XDP by netlink where a link is
//! refused, which may replace another's program. Keys and values are byte slices here, checked against the sizes that
//! the kernel itself states for the map; so every function is safe.
#![allow(unsafe_code)]

mod link;
mod pin;

pub(crate) use self::{
    link::{Link, LinkKind, LinkPlace},
    pin::{Object, open, pin},
};

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info,
};

/// The size of `bpf_attr` up to the end of a member. The kernel refuses unknown bytes behind what it knows unless they
/// are 0, and these always are; so the whole of it may be handed over.
const ATTRIBUTES: usize = size_of::<bpf_attr>();

/// An error number of the kernel that is not for user space: a map type that has no batch command of some kind.
const ENOTSUPP: i32 = 524;

/// Runs one command.
///
/// # Safety
/// Every pointer in `attributes` must be valid for what the command reads and writes there.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the first pointer is to a live bpf_attr of the size given; the caller answers for those inside.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attributes), ATTRIBUTES)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { returned(result) }
}

/// What a command returns: 0, a length, or a descriptor.
///
/// # Errors
/// EOVERFLOW where it can't be any of these.
fn returned(result: libc::c_long) -> io::Result<RawFd> {
    RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Runs a command that returns a new file descriptor.
///
/// # Safety
/// As [`bpf`]; and the command must return a new file descriptor.
unsafe fn bpf_fd(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for the attributes.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attributes() -> bpf_attr {
    // SAFETY: bpf_attr is a union of structs of integers: all zeroes are a valid value of each.
    unsafe { std::mem::zeroed() }
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// A batch command that stopped.
#[derive(Debug)]
pub(crate) struct BatchStop {
    /// How many entries the kernel handled.
    pub done: usize,
    /// Why it stopped.
    pub error: io::Error,
}

/// Where a listing in batches stands: the kernel's own mark, opaque to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchCursor([u8; 64]);

impl BatchCursor {
    /// The mark in front of a bucket of a hash table.
    pub(crate) fn at_bucket(bucket: u32) -> Self {
        let mut mark = [0; 64];
        if let Some(front) = mark.first_chunk_mut() {
            *front = bucket.to_ne_bytes();
        }
        Self(mark)
    }

    /// The bucket where a hash table's listing goes on.
    pub(crate) fn bucket(&self) -> u32 {
        self.0.first_chunk().map_or(0, |front| u32::from_ne_bytes(*front))
    }
}

/// A loaded program that the kernel can be asked to run.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

impl Program {
    /// The program of this descriptor.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Runs it `repeat` times on an empty frame, for the sake of what it does to maps.
    ///
    /// # Errors
    /// The kernel's; EINTR where a signal ended it early.
    pub(crate) fn run(&self, repeat: u32) -> io::Result<()> {
        // The kernel wants an Ethernet header at least.
        let frame = [0u8; 14];
        let mut attributes = attributes();
        attributes.test.prog_fd = descriptor(self.0.as_fd());
        attributes.test.data_in = frame.as_ptr() as u64;
        attributes.test.data_size_in = frame.len() as u32;
        attributes.test.repeat = repeat;
        // SAFETY: the kernel reads the frame, which has this length, and writes nothing: no room for an answer is named.
        unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
    }
}

/// An open map, with the sizes that the kernel states for it.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    id: u32,
    name: String,
    kind: u32,
    key_size: usize,
    value_size: usize,
    user_value_size: usize,
    capacity: u32,
    flags: u32,
}

impl Map {
    /// Takes a descriptor and asks the kernel what it is. `cpus`: how many CPUs there can be; values of per-CPU maps
    /// are that many in user space, each rounded up to 8 bytes.
    ///
    /// # Errors
    /// The kernel's; EINVAL where the descriptor is not a map.
    pub(crate) fn from_fd(fd: OwnedFd, cpus: usize) -> io::Result<Self> {
        let info: bpf_map_info = object_info(fd.as_fd())?;
        let key_size = info.key_size as usize;
        let value_size = info.value_size as usize;
        let per_cpu = [
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
        ];
        let user_value_size = if per_cpu.iter().any(|&kind| kind as u32 == info.type_) {
            value_size.next_multiple_of(8).checked_mul(cpus).ok_or_else(invalid)?
        } else {
            value_size
        };
        Ok(Self {
            fd,
            id: info.id,
            name: text(&info.name),
            kind: info.type_,
            key_size,
            value_size,
            user_value_size,
            capacity: info.max_entries,
            flags: info.map_flags,
        })
    }

    /// Makes a map of `capacity` entries. `inner`: for a map of maps, one like those that it will hold.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn create(
        name: &CStr,
        kind: bpf_map_type,
        (key_size, value_size): (u32, u32),
        capacity: u32,
        flags: u32,
        inner: Option<&Self>,
    ) -> io::Result<Self> {
        let mut attributes = attributes();
        // SAFETY: each member of the union is integers, and all of it was zeroed: any member may be viewed.
        let create = unsafe { &mut attributes.__bindgen_anon_1 };
        create.map_type = kind as u32;
        create.key_size = key_size;
        create.value_size = value_size;
        create.max_entries = capacity;
        create.map_flags = flags;
        create.inner_map_fd = inner.map_or(0, |map| descriptor(map.fd.as_fd()));
        // The kernel takes 15 characters and a zero.
        for (to, &from) in create.map_name.iter_mut().take(15).zip(name.to_bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: no pointer in the attributes of this command, which returns a new descriptor.
        let fd = unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes) }?;
        Self::from_fd(fd, 1)
    }

    /// The kernel's number of it. It tells maps apart; nothing is opened by it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// As much of its name as the kernel keeps: 15 characters.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The number of its type, a `BPF_MAP_TYPE_*`.
    pub(crate) fn kind(&self) -> u32 {
        self.kind
    }

    /// Bytes of a key.
    pub(crate) fn key_size(&self) -> usize {
        self.key_size
    }

    /// Bytes of a value, on one CPU.
    pub(crate) fn value_size(&self) -> usize {
        self.value_size
    }

    /// Bytes of a value as user space reads and writes it: of all CPUs.
    pub(crate) fn user_value_size(&self) -> usize {
        self.user_value_size
    }

    /// How many entries there is room for.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The `BPF_F_*` flags that it was made with.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// Copies the value of a key; tells whether there is one.
    ///
    /// # Errors
    /// The kernel's; EINVAL where a length is not the map's.
    pub(crate) fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key.len(), value.len(), 1)?;
        let mut attributes = self.element(key.as_ptr(), value.as_mut_ptr(), 0);
        // SAFETY: the kernel reads a key and writes a value of the sizes that it told us, which both slices have.
        match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts an entry in, or replaces the value of a key.
    ///
    /// # Errors
    /// The kernel's; EINVAL where a length is not the map's.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key.len(), value.len(), 1)?;
        let mut attributes = self.element(key.as_ptr(), value.as_ptr(), 0);
        // SAFETY: the kernel reads a key and a value of the sizes that it told us, which both slices have.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(|_| ())
    }

    /// Puts a map into the only place of a map of maps that are indexed by u32. The kernel returns from this one
    /// grace period later.
    ///
    /// # Errors
    /// The kernel's; EINVAL where this is no such map.
    pub(crate) fn put_map(&self, inner: &Self) -> io::Result<()> {
        self.put(&0u32.to_ne_bytes(), &descriptor(inner.fd.as_fd()).to_ne_bytes())
    }

    /// Takes an entry out; tells whether there was one.
    ///
    /// # Errors
    /// The kernel's; EINVAL where a length is not the map's.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key.len(), self.user_value_size, 1)?;
        let mut attributes = self.element(key.as_ptr(), std::ptr::null(), 0);
        // SAFETY: the kernel reads a key of the size that it told us, which the slice has.
        match unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies the key after `key` into `next`, or the first one; tells whether there is one. Where `key` has gone
    /// meanwhile, the kernel begins with the first one again.
    ///
    /// # Errors
    /// The kernel's; EINVAL where a length is not the map's.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(key.map_or(self.key_size, <[u8]>::len), self.user_value_size, 1)?;
        self.check(next.len(), self.user_value_size, 1)?;
        let mut attributes = self.element(key.map_or(std::ptr::null(), <[u8]>::as_ptr), next.as_mut_ptr(), 0);
        // SAFETY: the kernel reads a key, if any, and writes one, of the size that it told us, which both slices have.
        match unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts entries in, in order: keys and values stand one after another.
    ///
    /// # Errors
    /// [`BatchStop`]: the entry after those done was refused, the rest was not tried.
    pub(crate) fn put_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), BatchStop> {
        let count = self.count(keys).map_err(not_begun)?;
        self.check(keys.len(), values.len(), count).map_err(not_begun)?;
        // SAFETY: the kernel reads `count` keys and values of the sizes that it told us, which both slices have.
        unsafe { self.write_batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, keys.as_ptr(), values.as_ptr(), count) }
    }

    /// Takes entries out, in order.
    ///
    /// # Errors
    /// [`BatchStop`]: the entry after those done was refused, with ENOENT because there is none; the rest was not
    /// tried.
    pub(crate) fn delete_batch(&self, keys: &[u8]) -> Result<(), BatchStop> {
        let count = self.count(keys).map_err(not_begun)?;
        // SAFETY: the kernel reads `count` keys of the size that it told us, which the slice has.
        unsafe { self.write_batch(bpf_cmd::BPF_MAP_DELETE_BATCH, keys.as_ptr(), std::ptr::null(), count) }
    }

    /// # Safety
    /// `keys` and, for a command that reads values, `values` must hold `count` elements.
    unsafe fn write_batch(
        &self,
        command: bpf_cmd,
        keys: *const u8,
        values: *const u8,
        count: usize,
    ) -> Result<(), BatchStop> {
        if count == 0 {
            return Ok(());
        }
        let mut attributes = attributes();
        attributes.batch.map_fd = descriptor(self.fd.as_fd());
        attributes.batch.keys = keys as u64;
        attributes.batch.values = values as u64;
        attributes.batch.count = u32::try_from(count).map_err(|_| not_begun(invalid()))?;
        // SAFETY: the caller answers for both pointers.
        match unsafe { bpf(command, &mut attributes) } {
            Ok(_) => Ok(()),
            Err(error) => {
                // SAFETY: the attributes are those of a batch command. On failure the kernel writes the number of
                // handled entries, fewer than asked for, over the count; where it refuses the command as a whole, it
                // leaves the count as it was.
                let done = unsafe { attributes.batch.count } as usize;
                Err(BatchStop { done: if done >= count { 0 } else { done }, error })
            }
        }
    }

    /// Lists the entries of a hash table from `cursor` on, by whole buckets, into the front of `keys` and `values`.
    /// Returns how many, and where to go on; no cursor means that this was the end.
    ///
    /// # Errors
    /// The kernel's; ENOSPC where there is no room for one bucket.
    pub(crate) fn get_batch(
        &self,
        cursor: Option<&BatchCursor>,
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<(usize, Option<BatchCursor>)> {
        let count = self.count(keys)?;
        self.check(keys.len(), values.len(), count)?;
        let mut next = BatchCursor([0; 64]);
        // The mark of a hash table is a u32, that of other maps a key.
        if self.key_size > next.0.len() {
            return Err(invalid());
        }
        let mut attributes = attributes();
        attributes.batch.map_fd = descriptor(self.fd.as_fd());
        attributes.batch.in_batch = cursor.map_or(0, |cursor| cursor.0.as_ptr() as u64);
        attributes.batch.out_batch = next.0.as_mut_ptr() as u64;
        attributes.batch.keys = keys.as_mut_ptr() as u64;
        attributes.batch.values = values.as_mut_ptr() as u64;
        attributes.batch.count = u32::try_from(count).map_err(|_| invalid())?;
        // SAFETY: the kernel writes at most `count` keys and values of the sizes that it told us, which both slices
        // have, and reads and writes a mark of at most 64 bytes.
        let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        // SAFETY: the attributes are those of a batch command.
        let filled = (unsafe { attributes.batch.count } as usize).min(count);
        match result {
            Ok(_) => Ok((filled, Some(next))),
            Err(error) if is_missing(&error) => Ok((filled, None)),
            Err(error) => Err(error),
        }
    }

    fn count(&self, keys: &[u8]) -> io::Result<usize> {
        keys.len().checked_div(self.key_size).ok_or_else(invalid)
    }

    fn check(&self, keys: usize, values: usize, count: usize) -> io::Result<()> {
        let fits = self.key_size.checked_mul(count) == Some(keys)
            && self.user_value_size.checked_mul(count) == Some(values);
        if fits { Ok(()) } else { Err(invalid()) }
    }

    fn element(&self, key: *const u8, value_or_next: *const u8, flags: u64) -> bpf_attr {
        let mut attributes = attributes();
        // SAFETY: each member of the union is integers, and all of it was zeroed: any member may be viewed.
        let element = unsafe { &mut attributes.__bindgen_anon_2 };
        element.map_fd = descriptor(self.fd.as_fd());
        element.key = key as u64;
        element.__bindgen_anon_1.value = value_or_next as u64;
        element.flags = flags;
        attributes
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn not_begun(error: io::Error) -> BatchStop {
    BatchStop { done: 0, error }
}

/// Whether an error says that this kernel or this kind of map has no batch command.
pub(crate) fn lacks_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
}

/// The name of the program with this id; `None` where the kernel does not tell us (it wants CAP_SYS_ADMIN).
pub(crate) fn program_name(id: u32) -> Option<String> {
    let mut attributes = attributes();
    attributes.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: no pointer in the attributes of this command, which returns a new descriptor.
    let fd = unsafe { bpf_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attributes) }.ok()?;
    let info: bpf_prog_info = object_info(fd.as_fd()).ok()?;
    Some(text(&info.name))
}

/// A name that the kernel tells.
fn text(name: &[libc::c_char]) -> String {
    let bytes: Vec<u8> = name.iter().take_while(|&&c| c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The id of a loaded program.
///
/// # Errors
/// The kernel's; EINVAL where the descriptor is not a program.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let info: bpf_prog_info = object_info(program)?;
    Ok(info.id)
}

/// The ids of the programs that stand at tcx of the interface of this index in the calling thread's network namespace,
/// first to last. On a kernel without tcx this fails with EINVAL.
///
/// # Errors
/// The kernel's.
pub(crate) fn tcx_programs(interface: u32, ingress: bool) -> io::Result<Vec<u32>> {
    // As many as can stand at one place (BPF_MPROG_MAX in include/linux/bpf_mprog.h).
    let mut ids = [0u32; 64];
    let kind = if ingress { bpf_attach_type::BPF_TCX_INGRESS } else { bpf_attach_type::BPF_TCX_EGRESS };
    let mut attributes = attributes();
    attributes.query.__bindgen_anon_1.target_ifindex = interface;
    attributes.query.attach_type = kind as u32;
    attributes.query.prog_ids = ids.as_mut_ptr() as u64;
    attributes.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    // SAFETY: the kernel writes as many ids as we say that there is room for; the other pointers are null.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attributes) }?;
    // SAFETY: the attributes are those of a query, and the union is integers.
    let count = unsafe { attributes.query.__bindgen_anon_2.prog_cnt } as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// A struct that BPF_OBJ_GET_INFO_BY_FD fills for one kind of object.
///
/// # Safety
/// All zeroes, and whatever bytes the kernel writes, must be a valid value.
unsafe trait Info: Sized {}
// SAFETY: integers, and arrays and unions of them.
unsafe impl Info for bpf_map_info {}
// SAFETY: as above.
unsafe impl Info for bpf_link_info {}
// SAFETY: as above.
unsafe impl Info for bpf_prog_info {}

/// What the kernel knows of an object.
fn object_info<T: Info>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: `Info` says that all zeroes are valid.
    let mut info: T = unsafe { std::mem::zeroed() };
    let mut attributes = attributes();
    attributes.info.bpf_fd = descriptor(object);
    attributes.info.info_len = u32::try_from(size_of::<T>()).map_err(|_| invalid())?;
    attributes.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: the kernel writes at most as many bytes as we say, whatever the object. The pointers that it may look for
    // in them are those of lists, and their lengths are 0.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_descriptor_is_not_made_one() {
        assert_eq!(returned(libc::c_long::from(RawFd::MAX)).unwrap(), RawFd::MAX);
        let beyond = libc::c_long::from(RawFd::MAX).checked_add(1).unwrap();
        assert_eq!(returned(beyond).unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
    }
}
