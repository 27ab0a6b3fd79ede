//! The only unsafe code of this crate: system calls that neither `std` nor a crate wraps.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Moves the calling thread, and no other, into a new network namespace. Needs CAP_SYS_ADMIN.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointers; CLONE_NEWNET changes only which network the calling thread's later calls see.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread, and no other, into the network namespace of `namespace`. Needs CAP_SYS_ADMIN.
pub(super) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call; the kernel checks that it is a network
    // namespace (EINVAL).
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// The calling thread's network namespace. It lives as long as the descriptor.
pub(super) fn current_network() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// One SIOCETHTOOL request that carries a single number (`struct ethtool_value`), in the calling thread's network
/// namespace. Returns the number as the kernel left it.
pub(super) fn ethtool_value(interface: &str, command: u32, value: u32) -> io::Result<u32> {
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        value: u32,
    }

    // SAFETY: ifreq is plain bytes, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = interface.as_bytes();
    if name.len() >= request.ifr_name.len() || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name) {
        *slot = *byte as libc::c_char;
    }
    let mut argument = EthtoolValue { command, value };
    request.ifr_ifru.ifru_data = (&raw mut argument).cast();

    // Any socket names its namespace to the ioctl; this one is never used for traffic.
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    // SAFETY: `request` and the `argument` it points to outlive the call. The commands used with this function
    // (ethtool's *G* and *S* pairs of one value) read and write exactly the two words of EthtoolValue.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })?;
    Ok(argument.value)
}

/// Waits until one of two descriptors is readable or at its end, or the time is over.
/// Returns which of them are. A signal counts as nothing happened.
pub(super) fn wait_readable(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout: Duration,
) -> io::Result<(bool, bool)> {
    let entry = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(first.as_fd()), entry(second.as_fd())];
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are of one live array; both descriptors are borrowed for the call.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok((false, false));
        }
        return Err(error);
    }
    Ok((entries[0].revents != 0, entries[1].revents != 0))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
