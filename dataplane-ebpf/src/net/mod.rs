//! What the kernel tells of network interfaces, over netlink. Safe code; the sockets belong to the network namespace in
//! which they were opened, whichever thread uses them later.

mod address;
mod clsact;
mod link;
mod message;
mod netdev;
mod reserved_ports;
mod socket;

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
};

pub(crate) use self::{
    clsact::{FilterError, FilterPlace},
    link::LinkState,
    netdev::XdpFeatures,
    reserved_ports::Ports,
};
use self::{reserved_ports::LocalPorts, socket::Netlink};
use crate::{
    Error,
    sys::{self, ethtool},
};

fn namespace_of_this_thread() -> Option<u64> {
    fs::metadata("/proc/thread-self/ns/net").ok().map(|metadata| metadata.ino())
}

/// One network namespace's interfaces.
#[derive(Debug)]
pub(crate) struct Network {
    route: Netlink,
    /// `None` where the kernel has no generic netlink.
    generic: Option<Netlink>,
    /// The inode of the network namespace, which is its own as long as the sockets are open; `None` without /proc.
    namespace: Option<u64>,
    /// Why not, where they can't be read or written.
    ports: io::Result<LocalPorts>,
}

impl Network {
    /// That of the calling thread.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub(crate) fn open() -> Result<Self, Error> {
        let route = Netlink::open(libc::NETLINK_ROUTE)
            .map_err(|source| Error::Netlink { operation: "open a netlink socket".into(), source })?;
        let generic = Netlink::open(libc::NETLINK_GENERIC).ok();
        Ok(Self { route, generic, namespace: namespace_of_this_thread(), ports: LocalPorts::open() })
    }

    /// The inode of the network namespace, as in /proc; `None` without /proc.
    pub(crate) fn namespace(&self) -> Option<u64> {
        self.namespace
    }

    /// Whether the calling thread is in this network namespace, as far as /proc tells. Commands of bpf(2) that name an
    /// interface by its index mean that of the calling thread's.
    pub(crate) fn is_of_this_thread(&self) -> bool {
        self.namespace.is_some() && self.namespace == namespace_of_this_thread()
    }

    /// What is known of an interface.
    ///
    /// # Errors
    /// [`Error::InterfaceMissing`], [`Error::Netlink`].
    pub(crate) fn link(&self, interface: &str) -> Result<LinkState, Error> {
        link::by_name(&self.route, interface).map_err(|source| match source.raw_os_error() {
            // The kernel says ERANGE or EINVAL of names that no interface can have.
            Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => {
                Error::InterfaceMissing { interface: interface.into() }
            }
            _ => Error::Netlink { operation: format!("ask about interface {interface}"), source },
        })
    }

    /// What is known of an interface by its index; `None` where it is gone.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub(crate) fn link_by_index(&self, index: u32) -> Result<Option<LinkState>, Error> {
        match link::by_index(&self.route, index, None) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(Error::Netlink { operation: format!("ask about interface {index}"), source }),
        }
    }

    /// What tells the network namespace from all others that there are or were since the last boot, in a file's name.
    pub(crate) fn identity(&self) -> String {
        match sys::namespace::cookie(self.route.as_fd()) {
            Ok(cookie) => format!("c{cookie}"),
            // Before 5.14. An inode's number may be that of a namespace that is gone.
            Err(_) => format!("i{}", self.namespace.unwrap_or(0)),
        }
    }

    /// The ports that the host gives to its own sockets unless they are reserved.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn given_ports(&self) -> io::Result<RangeInclusive<u16>> {
        Ok(self.local_ports()?.given())
    }

    /// The ports that the host gives to none of its own sockets.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn reserved_ports(&self) -> io::Result<Ports> {
        self.local_ports()?.reserved()
    }

    /// Keeps the host from giving these ports and no others to its own sockets.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn reserve_ports(&self, ports: &Ports) -> io::Result<()> {
        self.local_ports()?.reserve(ports)
    }

    fn local_ports(&self) -> io::Result<&LocalPorts> {
        self.ports.as_ref().map_err(|error| match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => error.kind().into(),
        })
    }

    /// The address of each family that the host speaks from on an interface; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Netlink`]: the kernel does not tell, which says nothing about addresses.
    pub(crate) fn primary_addresses(
        &self,
        index: u32,
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Error> {
        address::primary(&self.route, index).map_err(|source| Error::Netlink {
            operation: format!("ask about the addresses of interface {index}"),
            source,
        })
    }

    /// The other end of a veth, wherever it is; `None` where it can't be seen.
    pub(crate) fn peer(&self, link: &LinkState) -> Option<LinkState> {
        link::by_index(&self.route, link.peer?, link.peer_namespace).ok()
    }

    /// The reverse path filter of all interfaces; the stricter of this and an interface's own holds.
    pub(crate) fn reverse_path_filter_of_all(&self) -> u32 {
        link::reverse_path_filter_of_all(&self.route).unwrap_or(0)
    }

    /// What the driver's XDP can do; `None` before kernel 6.3, which does not tell.
    pub(crate) fn xdp_features(&self, index: u32) -> Option<XdpFeatures> {
        netdev::xdp_features(self.generic.as_ref()?, index).ok()
    }

    /// Whether the interface leaves the checksums of what it sends to its hardware; `None` where it does not tell.
    pub(crate) fn leaves_checksums_open(&self, interface: &str) -> Option<bool> {
        ethtool::leaves_checksums_open(self.route.as_fd(), interface).ok()
    }

    /// Whether the interface's hardware takes VLAN tags off; `None` where it does not tell.
    pub(crate) fn takes_vlan_tags_off(&self, interface: &str) -> Option<bool> {
        ethtool::takes_vlan_tags_off(self.route.as_fd(), interface).ok()
    }

    /// The names of the VLANs on top of an interface, as far as they are in the same network namespace; none where the
    /// kernel does not tell.
    pub(crate) fn vlans_on(&self, index: u32) -> Vec<String> {
        link::joined_to(&self.route, index, "vlan").unwrap_or_default()
    }

    /// The name of the interface's driver; `None` where it does not tell.
    pub(crate) fn driver(&self, interface: &str) -> Option<String> {
        ethtool::driver(self.route.as_fd(), interface).ok()
    }

    /// Makes the clsact qdisc of an interface where it is not there; tells whether it was made.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn add_qdisc(&self, interface: u32) -> io::Result<bool> {
        clsact::add_qdisc(&self.route, interface)
    }

    /// Takes the clsact qdisc of an interface away, unless somebody has a filter there. That it is gone is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn remove_unused_qdisc(&self, interface: u32) -> io::Result<()> {
        clsact::remove_unused_qdisc(&self.route, interface)
    }

    /// Takes off a filter of this name with a program of this name. That it is gone already, or that another's stands
    /// there, is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn detach_filter_named(&self, place: &FilterPlace, name: &str) -> io::Result<()> {
        clsact::detach_named(&self.route, place, name)
    }

    /// Puts our filter onto the clsact qdisc, which must be there.
    ///
    /// # Errors
    /// [`FilterError::Taken`] where a filter stands there that is not ours, else the kernel's.
    pub(crate) fn attach_filter(
        &self,
        place: &FilterPlace,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), FilterError> {
        clsact::attach(&self.route, place, program, name)
    }

    /// Whether a filter with the program of this id stands there.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn has_filter(&self, place: &FilterPlace, program: u32) -> io::Result<bool> {
        clsact::stands(&self.route, place, program)
    }

    /// The id of the program of a filter of this name that stands there; `None` where it is not there or does not tell.
    pub(crate) fn filter_named(&self, place: &FilterPlace, name: &str) -> Option<u32> {
        clsact::named(&self.route, place, name).ok().flatten()
    }

    /// Takes off the filter with the program of this id. Another's is left, and the answer is false; that it is gone
    /// already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn detach_filter(&self, place: &FilterPlace, program: u32) -> io::Result<bool> {
        clsact::detach(&self.route, place, program)
    }
}
