//! tc: links at tcx, or filters on the clsact qdisc.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
};

use super::Programs;
use crate::{
    Error,
    net::{FilterError, FilterPlace, LinkState, Network},
    object::{EGRESS, INGRESS},
    sys::bpf::{Link, LinkPlace},
    uplink::{HookName, Order},
};

/// The priority of our filters that are in front of others'.
const FIRST: u16 = 1;
/// The priority of our filters that are behind others': the last that the kernel does not give out by itself, which it
/// does from 49152 downwards.
const LAST: u16 = 0xffff;
/// The handle of our filters.
const HANDLE: u32 = 0xf0eb;

/// Our programs at tc on one interface.
#[derive(Debug)]
pub(super) enum TcLinks {
    /// tcx.
    Tcx { ingress: Link, egress: Link },
    /// clsact.
    Clsact { ingress: Filter, egress: Filter, _lock: Lock },
}

impl TcLinks {
    pub(super) fn tcx(link: &LinkState, order: Order, programs: Programs<'_>) -> Result<Self, Error> {
        let first = order == Order::First;
        let create = |program, place, hook| {
            Link::create(program, link.index, place).map_err(|source| refusal(link, hook, source))
        };
        // Egress first: a reply that is translated back needs no flow, a flow needs its replies translated.
        let egress = create(programs.egress, LinkPlace::TcxEgress { first }, HookName::TcxEgress)?;
        let ingress = create(programs.ingress, LinkPlace::TcxIngress { first }, HookName::TcxIngress)?;
        Ok(Self::Tcx { ingress, egress })
    }

    pub(super) fn clsact(
        network: &Arc<Network>,
        link: &LinkState,
        order: Order,
        programs: Programs<'_>,
    ) -> Result<Self, Error> {
        let priority = match order {
            Order::First => FIRST,
            Order::Last => LAST,
        };
        let taken = |hook, owner| Error::FilterTaken {
            interface: link.name.clone(),
            hook,
            priority,
            handle: HANDLE,
            owner,
        };
        let hook = HookName::ClsactIngress;
        let lock = Lock::take(link.index, priority)
            .map_err(|source| refusal(link, hook, source))?
            .ok_or_else(|| taken(hook, String::from("another dataplane's that is alive")))?;
        let create = |program, ingress, name, hook| {
            let place = FilterPlace { interface: link.index, ingress, priority, handle: HANDLE };
            network.attach_filter(&place, program, name).map_err(|error| match error {
                FilterError::Taken(owner) => taken(hook, owner),
                FilterError::System(source) => refusal(link, hook, source),
            })?;
            Ok::<_, Error>(Filter { network: Arc::clone(network), place, name, attached: true })
        };
        let egress = create(programs.egress, false, EGRESS, HookName::ClsactEgress)?;
        let ingress = create(programs.ingress, true, INGRESS, HookName::ClsactIngress)?;
        Ok(Self::Clsact { ingress, egress, _lock: lock })
    }

    /// Whether both programs still stand on the interface of this index.
    pub(super) fn stands(&self, index: u32) -> io::Result<bool> {
        match self {
            Self::Tcx { ingress, egress } => {
                Ok(ingress.interface()? == Some(index) && egress.interface()? == Some(index))
            }
            Self::Clsact { ingress, egress, .. } => Ok(ingress.stands()? && egress.stands()?),
        }
    }

    /// Takes both programs off.
    pub(super) fn detach(self, interface: &str) -> Result<(), Error> {
        match self {
            // The kernel detaches a link with its last descriptor.
            Self::Tcx { .. } => Ok(()),
            Self::Clsact { mut ingress, mut egress, _lock } => {
                let results =
                    [(HookName::ClsactIngress, ingress.detach()), (HookName::ClsactEgress, egress.detach())];
                for (hook, result) in results {
                    result.map_err(|source| Error::Detach { interface: interface.into(), hook, source })?;
                }
                Ok(())
            }
        }
    }
}

/// What tells the filters of a living dataplane from those that a killed one left behind: a name among the Unix sockets
/// of this network namespace (unix(7), abstract sockets), which the kernel gives up with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _socket: UnixDatagram,
}

impl Lock {
    /// Takes the lock of a place; `None` where somebody has it.
    fn take(interface: u32, priority: u16) -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(format!("forebay/clsact/{interface}/{priority}"))?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn refusal(link: &LinkState, hook: HookName, source: io::Error) -> Error {
    let interface = link.name.clone();
    if source.raw_os_error() == Some(libc::ENODEV) {
        Error::InterfaceVanished { interface, index: link.index }
    } else {
        Error::Attach { interface, hook, source }
    }
}

/// A filter of ours. Unlike a link it is no file: it is taken off when this is dropped, and stays where the process is
/// killed.
#[derive(Debug)]
pub(super) struct Filter {
    network: Arc<Network>,
    place: FilterPlace,
    name: &'static str,
    attached: bool,
}

impl Filter {
    fn stands(&self) -> io::Result<bool> {
        self.network.has_filter(&self.place, self.name)
    }

    fn detach(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.attached) { self.network.detach_filter(&self.place) } else { Ok(()) }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(program = self.name, interface = self.place.interface, %error, "cannot take a filter off");
        }
    }
}
