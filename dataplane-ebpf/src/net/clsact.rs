//! Filters on the clsact qdisc (rtnetlink, linux/pkt_sched.h and linux/pkt_cls.h).
//!
//! Written here because a filter, unlike a link, is not tied to a file: to take it off again, the kernel must be asked
//! in the network namespace where it stands, and aya asks in that of the calling thread.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    message::{Request, find, read, text},
    socket::Netlink,
};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 3;

const KIND: &str = "bpf";
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const ACT_DIRECT: u32 = 1;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TcMessage {
    family: u8,
    pad: [u8; 3],
    interface: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

/// Where a filter of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterPlace {
    /// Index of the interface.
    pub interface: u32,
    /// Packets that come in, or that go out.
    pub ingress: bool,
    /// Its priority; lower ones come first.
    pub priority: u16,
    /// Its handle within the priority.
    pub handle: u32,
}

impl FilterPlace {
    fn message(&self) -> TcMessage {
        TcMessage {
            family: 0,
            pad: [0; 3],
            interface: self.interface,
            handle: self.handle,
            parent: if self.ingress { INGRESS } else { EGRESS },
            info: u32::from(self.priority) << 16 | u32::from(ETH_P_ALL.to_be()),
        }
    }
}

/// Why a filter was not put there.
#[derive(Debug)]
pub(crate) enum FilterError {
    /// Another's stands there; what is known of it.
    Taken(String),
    /// The kernel refused.
    System(io::Error),
}

impl From<io::Error> for FilterError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

pub(super) fn attach(
    netlink: &Netlink,
    place: &FilterPlace,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<(), FilterError> {
    add_qdisc(netlink, place.interface)?;
    if let Some(owner) = owner(netlink, place)?.filter(|owner| owner != name) {
        return Err(FilterError::Taken(owner));
    }
    // Without EXCLUSIVE a filter that is there is replaced in one step: one of ours, as was just seen.
    let request = Request::new(RTM_NEWTFILTER, ACK | CREATE, &place.message());
    let request = request.text(TCA_KIND, KIND).nest(TCA_OPTIONS, |options| {
        options
            .attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
            .text(TCA_BPF_NAME, name)
            .attribute(TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes())
    });
    netlink.ask(request)?;
    Ok(())
}

pub(super) fn detach(netlink: &Netlink, place: &FilterPlace) -> io::Result<()> {
    let request = Request::new(RTM_DELTFILTER, ACK, &place.message()).text(TCA_KIND, KIND);
    match netlink.ask(request) {
        Ok(_) => Ok(()),
        // The filter, its qdisc or its interface is gone already.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Makes the clsact qdisc where it is not there. It is left when we go: others may have come to use it.
fn add_qdisc(netlink: &Netlink, interface: u32) -> io::Result<()> {
    let message =
        TcMessage { family: 0, pad: [0; 3], interface, handle: 0xffff_0000, parent: CLSACT, info: 0 };
    let request = Request::new(RTM_NEWQDISC, ACK | CREATE | EXCLUSIVE, &message).text(TCA_KIND, "clsact");
    match netlink.ask(request) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Who stands at a place: the filter's name, or why there is no room for one of ours.
///
/// All filters of the priority are listed: the kernel answers about a single one as if it were not there where the
/// whole priority is of another kind.
fn owner(netlink: &Netlink, place: &FilterPlace) -> io::Result<Option<String>> {
    let wanted = place.message();
    // Of this priority, of whatever protocol.
    let question = TcMessage { handle: 0, info: wanted.info & 0xffff_0000, ..wanted };
    for body in netlink.ask(Request::new(RTM_GETTFILTER, DUMP, &question))? {
        let Some(found) = read::<TcMessage>(&body) else { continue };
        let attributes = body.get(size_of::<TcMessage>()..).unwrap_or_default();
        let kind = find(attributes, TCA_KIND).map(text).unwrap_or_default();
        if found.parent != wanted.parent || found.info >> 16 != wanted.info >> 16 {
            continue;
        }
        if kind != KIND {
            return Ok(Some(format!("filters of kind {kind}")));
        }
        if found.info != wanted.info {
            return Ok(Some(String::from("filters for one protocol only")));
        }
        if found.handle == place.handle {
            let name = find(attributes, TCA_OPTIONS).and_then(|options| find(options, TCA_BPF_NAME));
            return Ok(Some(name.map_or_else(|| String::from("a filter without a name"), text)));
        }
    }
    Ok(None)
}

/// Whether our filter stands there.
pub(super) fn stands(netlink: &Netlink, place: &FilterPlace, name: &str) -> io::Result<bool> {
    // An interface that is gone has no filters.
    Ok(owner(netlink, place)?.as_deref() == Some(name))
}
