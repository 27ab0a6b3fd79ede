//! Interfaces: veth pairs across namespaces, bridges, and what can be set on them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::stream::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, LinkBridge, LinkUnspec, LinkVeth};

use std::os::fd::AsRawFd;

use super::{Namespace, NetError, wait_for};

/// A MAC address, first byte on the wire first.
pub type MacAddress = [u8; 6];

/// A carrier comes up within a millisecond; a loaded machine may take longer.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates a pair of joined Ethernet interfaces, one end in each namespace (which may be the same), sets both up and
/// waits until both have a carrier. Names have at most 15 bytes. Costs about a millisecond.
///
/// # Errors
/// [`NetError::Netlink`], EEXIST where a name is taken; [`NetError::Wait`] where no carrier comes up.
pub fn veth(
    a: &Namespace,
    name_a: &str,
    b: &Namespace,
    name_b: &str,
) -> Result<(Interface, Interface), NetError> {
    let (index_a, index_b) = (next_index(), next_index());
    let peer = LinkUnspec::new_with_name(name_b).index(index_b).setns_by_fd(b.fd().as_raw_fd()).build();
    let pair = LinkVeth::new(name_a, name_b)
        .index(index_a)
        .up()
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    a.netlink(
        format!("create veth {name_a} with its peer {name_b} in {}", b.label()),
        async move |handle| handle.link().add(pair).execute().await,
    )?;
    let near = Interface { namespace: a.clone(), name: name_a.to_owned(), index: index_a };
    let far = Interface { namespace: b.clone(), name: name_b.to_owned(), index: index_b };
    // Not in the request: the kernel makes the peer first, and it can't be up without its other end (ENOTCONN).
    far.set_up()?;
    near.wait_for_carrier()?;
    far.wait_for_carrier()?;
    Ok((near, far))
}

/// Creates a bridge, a switch in software, and sets it up. [`Interface::attach_to`] makes an interface its port.
pub fn bridge(namespace: &Namespace, name: &str) -> Result<Interface, NetError> {
    let index = next_index();
    let message = LinkBridge::new(name).index(index).build();
    namespace.netlink(format!("create bridge {name}"), async move |handle| {
        handle.link().add(message).execute().await
    })?;
    Ok(Interface { namespace: namespace.clone(), name: name.to_owned(), index })
}

/// Indices that no other interface made by this process has, in whichever namespace. Besides being easy to tell apart, a
/// pair with two different indices gets its carrier at once: the kernel delays the event by up to a second
/// where both ends have the same (it takes them for no pair then).
fn next_index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An interface in a namespace. Clones are the same interface; dropping them leaves it.
#[derive(Debug, Clone)]
pub struct Interface {
    namespace: Namespace,
    name: String,
    index: u32,
}

impl Namespace {
    /// The interface of that name.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`].
    pub fn interface(&self, name: &str) -> Result<Interface, NetError> {
        let wanted = name.to_owned();
        let found = self.netlink(format!("look up interface {name}"), async move |handle| {
            handle.link().get().match_name(wanted).execute().try_next().await
        });
        match found {
            Ok(Some(link)) => {
                Ok(Interface { namespace: self.clone(), name: name.to_owned(), index: link.header.index })
            }
            Err(NetError::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {
                Err(self.no_such_interface(name))
            }
            Ok(None) => Err(self.no_such_interface(name)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn no_such_interface(&self, interface: impl ToString) -> NetError {
        NetError::NoSuchInterface { namespace: self.label().to_owned(), interface: interface.to_string() }
    }
}

impl Interface {
    /// The namespace it is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index, host byte order, never 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its MAC address.
    pub fn mac(&self) -> Result<MacAddress, NetError> {
        self.attribute("MAC address", |attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        })
    }

    /// Sets its MAC address. Neighbours that know the old one find out by themselves, after some time.
    pub fn set_mac(&self, mac: MacAddress) -> Result<(), NetError> {
        self.change(
            "set the MAC address of",
            LinkUnspec::new_with_index(self.index).address(mac.to_vec()).build(),
        )
    }

    /// Its MTU in bytes, the Ethernet header not counted.
    pub fn mtu(&self) -> Result<u32, NetError> {
        self.attribute("MTU", |attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    }

    /// Sets its MTU. Both ends of a pair need the same, or the end with the smaller drops what is too long.
    pub fn set_mtu(&self, bytes: u32) -> Result<(), NetError> {
        self.change("set the MTU of", LinkUnspec::new_with_index(self.index).mtu(bytes).build())
    }

    /// Sets it up. Its IPv6 link-local address is usable once it has a carrier.
    pub fn set_up(&self) -> Result<(), NetError> {
        self.change("set up", LinkUnspec::new_with_index(self.index).up().build())
    }

    /// Sets it down: the kernel forgets its neighbours, its routes and its global IPv6 addresses.
    pub fn set_down(&self) -> Result<(), NetError> {
        self.change("set down", LinkUnspec::new_with_index(self.index).down().build())
    }

    /// Makes it a port of a bridge in the same namespace.
    pub fn attach_to(&self, bridge: &Interface) -> Result<(), NetError> {
        self.change(
            "attach to a bridge",
            LinkUnspec::new_with_index(self.index).controller(bridge.index).build(),
        )
    }

    /// Deletes it, and with it the other end of the pair.
    pub fn delete(&self) -> Result<(), NetError> {
        let index = self.index;
        self.netlink("delete", async move |handle| handle.link().del(index).execute().await)
    }

    /// Adds an address with its prefix, usable at once, and so the route to that prefix.
    ///
    /// # Errors
    /// [`NetError::Netlink`], EEXIST where the interface has it already.
    pub fn add_address(&self, address: IpNet) -> Result<(), NetError> {
        let (index, message) = (self.index, address_message(self.index, address));
        self.netlink(format!("add address {address} to"), async move |handle| {
            let mut request = handle.address().add(index, address.addr(), address.prefix_len());
            *request.message_mut() = message;
            request.execute().await
        })
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`NetError::Netlink`], EADDRNOTAVAIL where the interface does not have it.
    pub fn delete_address(&self, address: IpNet) -> Result<(), NetError> {
        let message = address_message(self.index, address);
        self.netlink(format!("delete address {address} from"), async move |handle| {
            handle.address().del(message).execute().await
        })
    }

    /// Its addresses with their prefix lengths, IPv6 link-local ones too.
    pub fn addresses(&self) -> Result<Vec<IpNet>, NetError> {
        let index = self.index;
        let messages: Vec<AddressMessage> = self.netlink("list the addresses of", async move |handle| {
            handle.address().get().set_link_index_filter(index).execute().try_collect().await
        })?;
        let net = |message: AddressMessage| {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })?;
            IpNet::new(address, message.header.prefix_len).ok()
        };
        Ok(messages.into_iter().filter_map(net).collect())
    }

    fn wait_for_carrier(&self) -> Result<(), NetError> {
        let mut failure = None;
        let waited =
            wait_for(CARRIER_TIMEOUT, format_args!("{} has a carrier", self.name), || match self.link() {
                Ok(link) => link.header.flags.contains(LinkFlags::Running | LinkFlags::LowerUp),
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
        match failure {
            Some(error) => Err(error),
            None => waited
                .map_err(|source| NetError::Wait { namespace: self.namespace.label().to_owned(), source }),
        }
    }

    fn attribute<T>(&self, what: &str, pick: impl Fn(&LinkAttribute) -> Option<T>) -> Result<T, NetError> {
        self.link()?.attributes.iter().find_map(pick).ok_or_else(|| NetError::UnknownFormat {
            path: format!("netlink's description of {}", self.name),
            namespace: self.namespace.label().to_owned(),
            detail: format!("no {what} in it"),
        })
    }

    fn link(&self) -> Result<LinkMessage, NetError> {
        let index = self.index;
        self.netlink("look at", async move |handle| {
            handle.link().get().match_index(index).execute().try_next().await
        })?
        .ok_or_else(|| self.namespace.no_such_interface(&self.name))
    }

    fn change(&self, operation: &str, message: LinkMessage) -> Result<(), NetError> {
        self.netlink(operation, async move |handle| handle.link().change(message).execute().await)
    }

    /// A netlink request about this interface; where the interface is gone the error says so.
    pub(super) fn netlink<T: Send + 'static>(
        &self,
        operation: impl std::fmt::Display,
        request: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send + 'static,
    ) -> Result<T, NetError> {
        self.namespace.netlink(format!("{operation} {}", self.name), request).map_err(|error| match error {
            NetError::Netlink { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                self.namespace.no_such_interface(&self.name)
            }
            other => other,
        })
    }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(v4.addr(), v4.prefix_len())
            .build(),
        IpNet::V6(v6) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(v6.addr(), v6.prefix_len())
                .build();
            debug_assert_eq!(message.header.family, AddressFamily::Inet6);
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    }
}
