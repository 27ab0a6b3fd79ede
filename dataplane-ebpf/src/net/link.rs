//! Interfaces (rtnetlink, linux/if_link.h).

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    message::{Request, find, read, text},
    socket::Netlink,
};

const RTM_GETLINK: u16 = 18;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;

/// Places in the lists of settings: `IPV4_DEVCONF_*` less one (linux/ip.h), `DEVCONF_*` (linux/ipv6.h).
const IPV4_FORWARDING: usize = 0;
const IPV4_RP_FILTER: usize = 7;
const IPV6_FORWARDING: usize = 0;
const IPV6_DISABLE: usize = 26;

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InterfaceMessage {
    family: u8,
    pad: u8,
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its link type, an `ARPHRD_*`.
    pub link_type: u16,
    /// Whether it is up.
    pub up: bool,
    /// The longest packet that it takes, in bytes, without a link-layer header.
    pub mtu: u32,
    /// Its link-layer address, where that has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// What kind of virtual interface it is, as in `ip link add type`; `None` for hardware.
    pub kind: Option<String>,
    /// The index of the interface that it is joined to: the other end of a veth.
    pub peer: Option<u32>,
    /// The id of the network namespace where that is; `None`: this one.
    pub peer_namespace: Option<i32>,
    /// The XDP program that is attached.
    pub xdp: Option<AttachedXdp>,
    /// Whether it forwards IPv4; `None` where it has none.
    pub forwards_v4: Option<bool>,
    /// Whether it forwards IPv6; `None` where it has none.
    pub forwards_v6: Option<bool>,
    /// Its reverse path filter: 0 off, 1 strict, 2 loose. That of all interfaces counts too.
    pub reverse_path_filter: u32,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttachedXdp {
    /// Its id, where there is only one.
    pub program: Option<u32>,
    /// Whether it runs in the driver.
    pub native: bool,
}

impl LinkState {
    /// Whether it is one end of a pair that stands for a wire.
    pub(crate) fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    /// Whether its frames begin with an Ethernet header.
    pub(crate) fn is_ethernet(&self) -> bool {
        matches!(self.link_type, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK)
    }
}

/// The interface of a name.
pub(super) fn by_name(netlink: &Netlink, name: &str) -> io::Result<LinkState> {
    let request = Request::new(RTM_GETLINK, ACK, &InterfaceMessage::default());
    answer(netlink, request.text(IFLA_IFNAME, name))
}

/// The interface of an index, in the network namespace that has an id in ours, or in ours.
pub(super) fn by_index(netlink: &Netlink, index: u32, namespace: Option<i32>) -> io::Result<LinkState> {
    let message = InterfaceMessage { index, ..InterfaceMessage::default() };
    let mut request = Request::new(RTM_GETLINK, ACK, &message);
    if let Some(id) = namespace {
        request = request.attribute(IFLA_TARGET_NETNSID, &id.to_ne_bytes());
    }
    answer(netlink, request)
}

/// The names of the interfaces of a kind that are joined to the one of this index, all in our network namespace.
pub(super) fn joined_to(netlink: &Netlink, index: u32, kind: &str) -> io::Result<Vec<String>> {
    let request = Request::new(RTM_GETLINK, DUMP, &InterfaceMessage::default());
    // The kernel lists this kind only, or everything where it has never made one of it.
    let bodies = netlink.ask(request.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, kind)))?;
    let links = bodies.iter().filter_map(|body| parse(body));
    let joined = links.filter(|link| {
        link.kind.as_deref() == Some(kind) && link.peer == Some(index) && link.peer_namespace.is_none()
    });
    Ok(joined.map(|link| link.name).collect())
}

fn answer(netlink: &Netlink, request: Request) -> io::Result<LinkState> {
    let bodies = netlink.ask(request)?;
    bodies.first().and_then(|body| parse(body)).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))
}

fn parse(body: &[u8]) -> Option<LinkState> {
    let message: InterfaceMessage = read(body)?;
    let attributes = body.get(size_of::<InterfaceMessage>()..)?;
    let name = text(find(attributes, IFLA_IFNAME)?);
    let kind = find(attributes, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND)).map(text);
    let xdp = find(attributes, IFLA_XDP).and_then(|xdp| {
        let attached = find(xdp, IFLA_XDP_ATTACHED).and_then(read::<u8>).unwrap_or(0);
        (attached != 0).then(|| AttachedXdp {
            program: find(xdp, IFLA_XDP_PROG_ID).and_then(read),
            native: attached == 1 || find(xdp, IFLA_XDP_DRV_PROG_ID).is_some(),
        })
    });
    let family = |family: i32| {
        find(attributes, IFLA_AF_SPEC).and_then(|families| find(families, u16::try_from(family).ok()?))
    };
    let v4 = family(libc::AF_INET).and_then(|v4| find(v4, IFLA_INET_CONF)).unwrap_or_default();
    let v6 = family(libc::AF_INET6).and_then(|v6| find(v6, IFLA_INET6_CONF)).unwrap_or_default();
    let v6_is_off = word(v6, IPV6_DISABLE).is_none_or(|off| off != 0);
    Some(LinkState {
        name,
        index: message.index,
        link_type: message.kind,
        up: message.flags & libc::IFF_UP.cast_unsigned() != 0,
        mtu: find(attributes, IFLA_MTU).and_then(read).unwrap_or(u32::MAX),
        mac: find(attributes, IFLA_ADDRESS).and_then(|address| address.try_into().ok()),
        kind,
        peer: find(attributes, IFLA_LINK).and_then(read::<u32>).filter(|&index| index != 0),
        peer_namespace: find(attributes, IFLA_LINK_NETNSID).and_then(read::<i32>).filter(|&id| id >= 0),
        xdp,
        forwards_v4: word(v4, IPV4_FORWARDING).map(|on| on != 0),
        forwards_v6: word(v6, IPV6_FORWARDING).filter(|_| !v6_is_off).map(|on| on != 0),
        reverse_path_filter: word(v4, IPV4_RP_FILTER).unwrap_or(0),
    })
}

/// A word of a list.
fn word(list: &[u8], index: usize) -> Option<u32> {
    read(list.get(index.checked_mul(4)?..)?)
}

/// The reverse path filter of all interfaces.
pub(super) fn reverse_path_filter_of_all(netlink: &Netlink) -> io::Result<u32> {
    const RTM_GETNETCONF: u16 = 82;
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_RP_FILTER: u16 = 3;
    const ALL: i32 = -1;
    let family = u8::try_from(libc::AF_INET).unwrap_or(2);
    let request = Request::new(RTM_GETNETCONF, ACK, &family).attribute(NETCONFA_IFINDEX, &ALL.to_ne_bytes());
    let bodies = netlink.ask(request)?;
    // The family takes a byte, and attributes begin at the next multiple of 4.
    let attributes = bodies.first().and_then(|body| body.get(4..)).unwrap_or_default();
    Ok(find(attributes, NETCONFA_RP_FILTER).and_then(read).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use dataplane_testkit::{
        net::{Namespace, veth},
        require_kernel,
    };

    use super::*;

    /// Pairs stand for VLANs here, which not every kernel has: both are joined to another interface.
    #[test]
    fn interfaces_that_are_joined_to_one_are_listed() {
        require_kernel!();
        let (host, other) = (Namespace::new("joined").unwrap(), Namespace::new("joined far").unwrap());
        let netlink = host.run(|| Netlink::open(libc::NETLINK_ROUTE).unwrap());
        let (one, _) = veth(&host, "one", &host, "two").unwrap();
        let (far, _) = veth(&host, "far", &other, "there").unwrap();
        let joined = |index, kind: &str| joined_to(&netlink, index, kind).unwrap();
        assert_eq!(joined(one.index(), "veth"), ["two"]);
        assert_eq!(joined(one.index(), "vlan"), [""; 0]);
        assert_eq!(joined(far.index(), "veth"), [""; 0]);
    }

    #[test]
    fn every_namespace_has_a_loopback() {
        let netlink = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        let lo = by_name(&netlink, "lo").unwrap();
        assert_eq!((lo.index, lo.name.as_str(), lo.mac, lo.mtu), (1, "lo", Some([0; 6]), 65_536));
        assert!(lo.is_ethernet() && !lo.is_veth());
        assert_eq!(by_index(&netlink, 1, None).unwrap(), lo);
        assert_eq!(by_name(&netlink, "no-such-one").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(by_index(&netlink, u32::MAX >> 1, None).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn nothing_is_read_from_a_short_message() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; 16]), None);
    }
}
