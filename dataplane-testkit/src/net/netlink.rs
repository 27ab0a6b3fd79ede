//! One rtnetlink connection, driven by the thread that owns it.

use std::io;
use std::net::IpAddr;

use futures_util::stream::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::LinkAttribute;
use tokio::runtime::{Builder, Runtime};

/// Work for a namespace's thread.
pub(super) type Job = Box<dyn FnOnce(&mut Netlink) + Send>;

/// A connection to the network namespace of the thread that opened it.
pub(super) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let handle = {
            let _context = runtime.enter();
            let (connection, handle, _messages) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    pub(super) fn request<T>(
        &mut self,
        request: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>,
    ) -> io::Result<T> {
        self.runtime.block_on(request(self.handle.clone())).map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        })
    }
}

pub(super) async fn interface_names(handle: &Handle) -> Result<Vec<String>, rtnetlink::Error> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let name = |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    };
    Ok(links.into_iter().filter_map(|link| link.attributes.into_iter().find_map(name)).collect())
}

/// How netlink names the family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
