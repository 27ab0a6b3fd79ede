//! What kind of file system a path is on (statfs(2)).
#![allow(unsafe_code)]

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

/// Whether a path is in a bpffs, where objects of BPF have names.
///
/// # Errors
/// The kernel's.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: statfs is a struct of integers: all zeroes are a valid value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads a string that ends with a zero and fills a struct of the size that it knows.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The type of the field differs between architectures.
    Ok(found.f_type as u32 == libc::BPF_FS_MAGIC as u32)
}
