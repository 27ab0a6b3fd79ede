//! Packets from whomever: what a hostile client sends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket},
};

/// Sends whole IP packets, headers and all, by the routes of the network in which it was made: also from addresses that
/// are nobody's, and also malformed ones. Needs CAP_NET_RAW.
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl RawSender {
    /// Sockets of the calling thread's network.
    ///
    /// # Errors
    /// What the kernel says: EPERM without CAP_NET_RAW.
    pub fn new() -> io::Result<Self> {
        let raw = |family| socket(family, SocketType::RAW, Some(ipproto::RAW));
        Ok(Self { v4: raw(AddressFamily::INET)?, v6: raw(AddressFamily::INET6)? })
    }

    /// Sends a packet by the way to this address. IPv4's checksum and length are made right by the kernel.
    ///
    /// # Errors
    /// What the kernel says: EMSGSIZE where the packet is too long for its way, EINVAL where its IPv4 header is longer than
    /// the packet.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        loop {
            // Ports mean nothing to it, and IPv6 takes none but 0.
            return match sendto(socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0)) {
                Ok(_) => Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}
