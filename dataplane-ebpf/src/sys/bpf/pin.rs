//! Pins: objects of BPF by their names in a bpffs.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::bpf_cmd;

use super::{attributes, bpf, bpf_fd, descriptor, invalid};

/// An object that was opened by its pin.
#[derive(Debug)]
pub(crate) enum Object {
    /// A map.
    Map(OwnedFd),
    /// A link.
    Link(OwnedFd),
    /// A program, or something that is newer than this crate; what the kernel calls it.
    Other(String),
}

/// Gives an object a name in a bpffs. It then outlives this process.
///
/// # Errors
/// The kernel's; EEXIST where something has that name.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes = attributes();
    // SAFETY: each member of the union is integers, and all of it was zeroed: any member may be viewed.
    let pin = unsafe { &mut attributes.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = descriptor(object);
    // SAFETY: the kernel reads a string that ends with a zero, and that lives until the command is done.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens what is pinned at a path, and tells what it is: by the name of the descriptor, since the kernel answers a question
/// about a map with what it knows of a program where that is what was opened.
///
/// # Errors
/// The kernel's; ENOENT where there is nothing, EACCES or EINVAL where it is no pin.
pub(crate) fn open(path: &Path) -> io::Result<Object> {
    let path = c_path(path)?;
    let mut attributes = attributes();
    // SAFETY: each member of the union is integers, and all of it was zeroed: any member may be viewed.
    let pin = unsafe { &mut attributes.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    // SAFETY: the kernel reads a string that ends with a zero, and the command returns a new descriptor.
    let fd = unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attributes) }?;
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let name = name.to_string_lossy().into_owned();
    let kind = name.trim_start_matches("anon_inode:").trim_matches(['[', ']']).replace('_', "-");
    Ok(match kind.as_str() {
        "bpf-map" => Object::Map(fd),
        "bpf-link" => Object::Link(fd),
        _ => Object::Other(kind),
    })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid())
}
