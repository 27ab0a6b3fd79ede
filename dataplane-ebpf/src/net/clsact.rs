//! Filters on the clsact qdisc (rtnetlink, linux/pkt_sched.h and linux/pkt_cls.h).
//!
//! Written here because a filter, unlike a link, is not tied to a file: to take it off again, the kernel must be asked
//! in the network namespace where it stands, and aya asks in that of the calling thread.

use std::{
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    message::{Request, find, read, text},
    socket::Netlink,
};
use crate::sys::bpf;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
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
const TCA_BPF_ID: u16 = 11;
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

/// Puts a filter there; a qdisc for it must be there.
pub(super) fn attach(
    netlink: &Netlink,
    place: &FilterPlace,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<(), FilterError> {
    let flags = match occupant(netlink, place)? {
        // Whoever comes between our look and this request keeps the place.
        None => CREATE | EXCLUSIVE,
        // One that a killed process left is replaced in one step, without a gap. The kernel can't be told which filter we
        // mean, so that it would also replace one that came after our look.
        Some(occupant) if occupant.is_ours_by_name(name) => CREATE,
        Some(occupant) => return Err(FilterError::Taken(occupant.to_string())),
    };
    let request = Request::new(RTM_NEWTFILTER, ACK | flags, &place.message());
    let request = request.text(TCA_KIND, KIND).nest(TCA_OPTIONS, |options| {
        options
            .attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
            .text(TCA_BPF_NAME, name)
            .attribute(TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes())
    });
    match netlink.ask(request) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let occupant = occupant(netlink, place)?.map(|occupant| occupant.to_string());
            Err(FilterError::Taken(occupant.unwrap_or_else(|| String::from("gone meanwhile"))))
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes a filter off if it holds the program of this id; tells whether nobody else's is there.
pub(super) fn detach(netlink: &Netlink, place: &FilterPlace, program: u32) -> io::Result<bool> {
    match occupant(netlink, place) {
        Ok(Some(occupant)) if occupant.holds(program) => {}
        Ok(Some(_)) => return Ok(false),
        Ok(None) => return Ok(true),
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
    }
    // The kernel deletes by place, whoever stands there: one that was put there since our look would go, too.
    let request = Request::new(RTM_DELTFILTER, ACK, &place.message()).text(TCA_KIND, KIND);
    match netlink.ask(request) {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Takes a filter off if it has this name and a program of this name.
pub(super) fn detach_named(netlink: &Netlink, place: &FilterPlace, name: &str) -> io::Result<()> {
    match occupant(netlink, place) {
        Ok(Some(Occupant::Filter { name: Some(found), program: Some(program) }))
            if Occupant::Filter { name: Some(found.clone()), program: Some(program) }
                .is_ours_by_name(name) =>
        {
            detach(netlink, place, program).map(drop)
        }
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an answer says that the filter, its qdisc or its interface is gone already.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}

fn qdisc(interface: u32) -> TcMessage {
    TcMessage { family: 0, pad: [0; 3], interface, handle: 0xffff_0000, parent: CLSACT, info: 0 }
}

/// Makes the clsact qdisc where it is not there; tells whether it was made. Others may come to use it.
pub(super) fn add_qdisc(netlink: &Netlink, interface: u32) -> io::Result<bool> {
    let request = Request::new(RTM_NEWQDISC, ACK | CREATE | EXCLUSIVE, &qdisc(interface));
    match netlink.ask(request.text(TCA_KIND, "clsact")) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the clsact qdisc away where nobody has a filter there. One that is put there since our look would go, too.
pub(super) fn remove_unused_qdisc(netlink: &Netlink, interface: u32) -> io::Result<()> {
    for parent in [INGRESS, EGRESS] {
        let question = TcMessage { family: 0, pad: [0; 3], interface, handle: 0, parent, info: 0 };
        let answer = match netlink.ask(Request::new(RTM_GETTFILTER, DUMP, &question)) {
            Err(error) if is_gone(&error) => return Ok(()),
            answer => answer?,
        };
        let is_filter = |body: &Vec<u8>| read::<TcMessage>(body).is_some_and(|found| found.parent == parent);
        if answer.iter().any(is_filter) {
            return Ok(());
        }
    }
    match netlink.ask(Request::new(RTM_DELQDISC, ACK, &qdisc(interface)).text(TCA_KIND, "clsact")) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Who stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Occupant {
    /// A filter with a program.
    Filter {
        /// The filter's name, where it has one.
        name: Option<String>,
        /// The program's id; `None` for classic BPF, and before kernel 4.13.
        program: Option<u32>,
    },
    /// Something that leaves no room for a filter of ours.
    Other(String),
}

impl Occupant {
    /// Whether it is the program of this id.
    fn holds(&self, id: u32) -> bool {
        matches!(self, Self::Filter { program: Some(program), .. } if *program == id)
    }

    /// Whether it is a filter of this name with a program of this name, as far as the kernel tells.
    fn is_ours_by_name(&self, wanted: &str) -> bool {
        let Self::Filter { name: Some(name), program: Some(program) } = self else { return false };
        name == wanted && bpf::program_name(*program).is_none_or(|program| program == wanted)
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(what) => f.write_str(what),
            Self::Filter { name, program } => {
                f.write_str(name.as_deref().unwrap_or("a filter without a name"))?;
                let Some(id) = program else { return Ok(()) };
                match bpf::program_name(*id) {
                    Some(program) => write!(f, ", program {program}, id {id}"),
                    None => write!(f, ", program id {id}"),
                }
            }
        }
    }
}

/// Who stands at a place.
///
/// All filters of the priority are listed: the kernel answers about a single one as if it were not there where the
/// whole priority is of another kind.
fn occupant(netlink: &Netlink, place: &FilterPlace) -> io::Result<Option<Occupant>> {
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
            return Ok(Some(Occupant::Other(format!("filters of kind {kind}"))));
        }
        if found.info != wanted.info {
            return Ok(Some(Occupant::Other(String::from("filters for one protocol only"))));
        }
        if found.handle == place.handle {
            let options = find(attributes, TCA_OPTIONS).unwrap_or_default();
            let name = find(options, TCA_BPF_NAME).map(text);
            return Ok(Some(Occupant::Filter { name, program: find(options, TCA_BPF_ID).and_then(read) }));
        }
    }
    Ok(None)
}

/// Whether the program of this id stands there.
pub(super) fn stands(netlink: &Netlink, place: &FilterPlace, program: u32) -> io::Result<bool> {
    // An interface that is gone has no filters.
    Ok(occupant(netlink, place)?.is_some_and(|occupant| occupant.holds(program)))
}

/// The program that a filter of this name holds at a place, whoever put it there.
pub(super) fn named(netlink: &Netlink, place: &FilterPlace, name: &str) -> io::Result<Option<u32>> {
    Ok(match occupant(netlink, place)? {
        Some(Occupant::Filter { name: Some(found), program }) if found == name => program,
        _ => None,
    })
}
