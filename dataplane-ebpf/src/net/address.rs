//! Addresses of interfaces (rtnetlink, linux/if_addr.h).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    message::{Request, find, read},
    socket::Netlink,
};

const RTM_GETADDR: u16 = 22;
const DUMP: u16 = 0x300;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;

/// Secondary, also temporary; no duplicate found yet, or found; deprecated.
const UNFIT: u32 = 0x01 | 0x08 | 0x20 | 0x40;
/// `RT_SCOPE_UNIVERSE`.
const EVERYWHERE: u8 = 0;

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AddressMessage {
    family: u8,
    prefix_length: u8,
    flags: u8,
    scope: u8,
    index: u32,
}

/// The address of each family that a host speaks from on an interface, as far as it has one that is valid everywhere: the
/// first that is not secondary, deprecated or unchecked.
pub(super) fn primary(netlink: &Netlink, index: u32) -> io::Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let bodies = netlink.ask(Request::new(RTM_GETADDR, DUMP, &AddressMessage::default()))?;
    let (mut v4, mut v6) = (None, None);
    for address in bodies.iter().filter_map(|body| parse(body, index)) {
        match address {
            IpAddr::V4(address) => v4 = v4.or(Some(address)),
            IpAddr::V6(address) => v6 = v6.or(Some(address)),
        }
    }
    Ok((v4, v6))
}

/// The address in a message, if it is one of this interface to speak from.
fn parse(body: &[u8], index: u32) -> Option<IpAddr> {
    let message: AddressMessage = read(body)?;
    let attributes = body.get(size_of::<AddressMessage>()..)?;
    let flags = find(attributes, IFA_FLAGS).and_then(read::<u32>).unwrap_or(message.flags.into());
    if message.index != index || message.scope != EVERYWHERE || flags & UNFIT != 0 {
        return None;
    }
    // On a point-to-point interface the address is the other end's, and only the local one is ours.
    let bytes = find(attributes, IFA_LOCAL).or_else(|| find(attributes, IFA_ADDRESS))?;
    match i32::from(message.family) {
        libc::AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        libc::AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dataplane_testkit::{
        child,
        net::{Namespace, veth},
        require_kernel,
    };

    use super::*;

    /// By ip(8).
    #[test]
    fn the_first_address_that_is_fit_is_found() {
        require_kernel!();
        let host = Namespace::new("addresses").unwrap();
        let (one, two) = veth(&host, "one", &host, "two").unwrap();
        let ip = |arguments: &str| {
            let mut command = std::process::Command::new("ip");
            command.args(arguments.split(' '));
            let output = host.run(|| child::output(&mut command, child::LIMIT)).unwrap();
            assert!(output.status.success(), "{arguments}: {output:?}");
        };
        let netlink = host.run(|| Netlink::open(libc::NETLINK_ROUTE).unwrap());
        assert_eq!(primary(&netlink, one.index()).unwrap(), (None, None));
        ip("address add 169.254.7.1/16 dev one scope link");
        ip("address add 192.0.2.1/24 dev one");
        ip("address add 192.0.2.2/24 dev one");
        ip("address add 198.51.100.1 peer 198.51.100.2 dev two");
        ip("address add 2001:db8::1/64 dev one nodad preferred_lft 0");
        ip("address add 2001:db8::2/64 dev one nodad");
        let found = primary(&netlink, one.index()).unwrap();
        assert_eq!(found, (Some([192, 0, 2, 1].into()), Some("2001:db8::2".parse().unwrap())));
        assert_eq!(primary(&netlink, two.index()).unwrap(), (Some([198, 51, 100, 1].into()), None));
    }

    #[test]
    fn nothing_is_read_from_a_short_message() {
        assert_eq!([parse(&[], 1), parse(&[2, 24, 0, 0, 1, 0, 0, 0], 1)], [None, None]);
        // An IPv4 address of three bytes.
        let body = [&[2, 24, 0, 0, 1, 0, 0, 0][..], &[7, 0, 2, 0, 192, 0, 2, 0]].concat();
        assert_eq!(parse(&body, 1), None);
    }
}
