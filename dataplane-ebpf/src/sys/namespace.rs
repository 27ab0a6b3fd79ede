//! Which network namespace a socket is of.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `SO_NETNS_COOKIE` of asm-generic/socket.h, which libc does not have everywhere.
const NETNS_COOKIE: libc::c_int = 71;

/// A number that no other network namespace has or gets until the next boot (kernel 5.14).
///
/// # Errors
/// The kernel's; ENOPROTOOPT before 5.14.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has, and the length; both live here.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
