//! What a driver says of an interface (ioctl SIOCETHTOOL, linux/ethtool.h).
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// A struct that begins with the number of its command and is no larger than the kernel takes it to be.
trait Request {}
impl Request for DriverInfo {}
impl Request for Value {}

/// The name of the driver.
///
/// # Errors
/// The kernel's: EOPNOTSUPP where the driver has none, ENODEV where there is no such interface in the socket's network
/// namespace.
pub(crate) fn driver(socket: BorrowedFd<'_>, interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    request(socket, interface, &mut info)?;
    let name: Vec<u8> = info.driver.into_iter().take_while(|&byte| byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Whether the interface leaves the transport checksums of what it sends to its hardware.
///
/// # Errors
/// As [`driver`].
pub(crate) fn leaves_checksums_open(socket: BorrowedFd<'_>, interface: &str) -> io::Result<bool> {
    let mut value = Value { command: ETHTOOL_GTXCSUM, data: 0 };
    request(socket, interface, &mut value)?;
    Ok(value.data != 0)
}

/// Whether the interface's hardware takes the VLAN tag off what it receives, and hands it on beside the frame.
///
/// # Errors
/// As [`driver`].
pub(crate) fn takes_vlan_tags_off(socket: BorrowedFd<'_>, interface: &str) -> io::Result<bool> {
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    request(socket, interface, &mut value)?;
    Ok(value.data & ETH_FLAG_RXVLAN != 0)
}

fn request<T: Request>(socket: BorrowedFd<'_>, interface: &str, data: &mut T) -> io::Result<()> {
    // SAFETY: ifreq is a struct of integers and of a union of integers and pointers: all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    // The last byte stays 0.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
    // SAFETY: the kernel reads the name and fills the struct that `ifru_data` points to; its first field says which
    // struct it is, and both have the sizes of linux/ethtool.h.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
