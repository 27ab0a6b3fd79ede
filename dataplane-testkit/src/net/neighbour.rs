//! Neighbours: who owns an address on a link.

use std::net::IpAddr;

use futures_util::stream::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
pub use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::netlink::family;
use super::{Interface, MacAddress, NetError};

/// An entry of an interface's neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its MAC address, where the kernel knows one.
    pub mac: Option<MacAddress>,
    /// How sure the kernel is of it.
    pub state: NeighbourState,
}

impl Interface {
    /// Adds a neighbour that the kernel never asks for and never forgets, or replaces what it knew.
    pub fn add_permanent_neighbour(&self, address: IpAddr, mac: MacAddress) -> Result<(), NetError> {
        let index = self.index();
        self.netlink(format!("add the permanent neighbour {address} to"), async move |handle| {
            handle
                .neighbours()
                .add(index, address)
                .state(NeighbourState::Permanent)
                .link_layer_address(&mac)
                .replace()
                .execute()
                .await
        })
    }

    /// Makes the kernel forget a neighbour, so that the next packet to it finds it cold. Returns whether it
    /// was known.
    pub fn flush_neighbour(&self, address: IpAddr) -> Result<bool, NetError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.index();
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let deleted = self.netlink(format!("delete the neighbour {address} of"), async move |handle| {
            handle.neighbours().del(message).execute().await
        });
        match deleted {
            Ok(()) => Ok(true),
            Err(NetError::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its neighbour table, both families; groups and broadcast (state `Noarp`) left out.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>, NetError> {
        let index = self.index();
        let messages: Vec<NeighbourMessage> =
            self.netlink("list the neighbours of", async move |handle| {
                let mut request = handle.neighbours().get();
                request.message_mut().header.family = AddressFamily::Unspec;
                request.execute().try_collect().await
            })?;
        let on_this = |message: &NeighbourMessage| {
            message.header.ifindex == index && message.header.state != NeighbourState::Noarp
        };
        Ok(messages.into_iter().filter(on_this).filter_map(neighbour).collect())
    }

    /// What the kernel knows of one neighbour.
    pub fn neighbour(&self, address: IpAddr) -> Result<Option<Neighbour>, NetError> {
        Ok(self.neighbours()?.into_iter().find(|neighbour| neighbour.address == address))
    }
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, mac, state: message.header.state })
}
