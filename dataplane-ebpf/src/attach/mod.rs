//! Programs on interfaces: which hooks were got, and why.

mod tc;
mod xdp;

use std::{fmt, os::fd::BorrowedFd, sync::Arc};

use self::tc::TcLinks;
use crate::{
    Error,
    net::{LinkState, Network},
    sys::bpf::Link,
    uplink::{TcMode, Uplink},
};

/// What was got on an uplink, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its conntrack zone.
    pub zone: u16,
    /// What was got of XDP.
    pub xdp: XdpAttachment,
    /// What was got of tc.
    pub tc: TcAttachment,
    /// Whether XDP sends frames out of this interface that arrived at another one; if not, it leaves them to tc.
    pub xdp_redirect: bool,
    /// Whether XDP sends frames that arrived here back out of it.
    pub xdp_tx: bool,
}

/// What was got of XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum XdpAttachment {
    /// It runs in the driver.
    Native,
    /// It runs in the stack.
    Generic,
    /// It does not run.
    Off(XdpOff),
}

/// Why XDP does not run on an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum XdpOff {
    /// It was not wanted.
    NotWanted,
    /// Automatic choice does not use XDP on a veth.
    Veth,
    /// Automatic choice uses XDP in drivers only, and this one has none.
    NoDriverSupport {
        /// The driver's name, where it is known.
        driver: Option<String>,
    },
    /// Another's XDP program is there, and automatic choice leaves it alone.
    Taken {
        /// Its id, where the kernel tells it.
        program_id: Option<u32>,
        /// Its name, where the kernel tells it.
        program_name: Option<String>,
    },
    /// The kernel refused, and automatic choice goes on without.
    Refused {
        /// The error number.
        errno: i32,
    },
}

/// What was got of tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcAttachment {
    /// Links at tcx.
    Tcx,
    /// Filters on the clsact qdisc, as was wanted.
    Clsact,
    /// Filters on the clsact qdisc, because this kernel has no tcx.
    ClsactForLackOfTcx,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", self.interface, self.xdp, self.tc)
    }
}

impl fmt::Display for XdpAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("XDP native"),
            Self::Generic => f.write_str("XDP generic"),
            Self::Off(why) => write!(f, "XDP off ({why})"),
        }
    }
}

impl fmt::Display for XdpOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWanted => f.write_str("not wanted"),
            Self::Veth => f.write_str("automatic, and it is a veth"),
            Self::NoDriverSupport { driver: Some(driver) } => {
                write!(f, "automatic, and driver {driver} has none")
            }
            Self::NoDriverSupport { driver: None } => f.write_str("automatic, and the driver has none"),
            Self::Taken { program_id, program_name } => {
                f.write_str("automatic, and taken by another program")?;
                match (program_id, program_name) {
                    (Some(id), Some(name)) => write!(f, ": {name}, id {id}"),
                    (Some(id), None) => write!(f, ": id {id}"),
                    (None, _) => Ok(()),
                }
            }
            Self::Refused { errno } => {
                write!(f, "automatic, and refused: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl fmt::Display for TcAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::ClsactForLackOfTcx => "clsact (this kernel has no tcx)",
        })
    }
}

/// The loaded programs, by hook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs<'a> {
    pub xdp: BorrowedFd<'a>,
    pub ingress: BorrowedFd<'a>,
    pub egress: BorrowedFd<'a>,
}

/// Our programs on one interface. They stay as long as this does.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What an embedder is told.
    pub report: Attachment,
    // XDP leaves packets to tc: it goes first, so that there is always somebody to take them.
    xdp: Option<Link>,
    tc: TcLinks,
}

impl Attached {
    /// Attaches to an interface: tc first, then XDP.
    ///
    /// # Errors
    /// [`Error::XdpTaken`], [`Error::FilterTaken`], [`Error::Attach`], [`Error::InterfaceVanished`]. Then nothing is
    /// left attached.
    pub(crate) fn new(
        network: &Arc<Network>,
        uplink: &Uplink,
        link: &LinkState,
        programs: Programs<'_>,
        tcx: bool,
    ) -> Result<Self, Error> {
        let (tc, kind) = match (uplink.tc, tcx) {
            (TcMode::Tcx, _) | (TcMode::Auto, true) => {
                (TcLinks::tcx(link, uplink.order, programs)?, TcAttachment::Tcx)
            }
            (TcMode::Clsact, _) => {
                (TcLinks::clsact(network, link, uplink.order, programs)?, TcAttachment::Clsact)
            }
            (TcMode::Auto, false) => {
                (TcLinks::clsact(network, link, uplink.order, programs)?, TcAttachment::ClsactForLackOfTcx)
            }
        };
        let (xdp, what) = xdp::attach(network, uplink.xdp, link, programs.xdp)?;
        let report = Attachment {
            interface: link.name.clone(),
            index: link.index,
            zone: uplink.zone,
            xdp: what,
            tc: kind,
            xdp_redirect: false,
            xdp_tx: false,
        };
        Ok(Self { report, xdp, tc })
    }

    /// Tells whether all of it still stands.
    ///
    /// # Errors
    /// [`Error::InterfaceVanished`] where the interface is gone or a hook was cleared, [`Error::Netlink`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Attachment { interface, index, .. } = &self.report;
        let stands = self
            .xdp
            .as_ref()
            .map_or(Ok(true), |link| link.interface().map(|found| found == Some(*index)))
            .and_then(|xdp| Ok(xdp && self.tc.stands(*index)?));
        match stands {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::InterfaceVanished { interface: interface.clone(), index: *index }),
            Err(source) => {
                Err(Error::Netlink { operation: format!("ask about our programs on {interface}"), source })
            }
        }
    }

    /// Takes everything off.
    ///
    /// # Errors
    /// [`Error::Detach`]. Interfaces that are gone are no error.
    pub(crate) fn detach(self) -> Result<(), Error> {
        drop(self.xdp);
        self.tc.detach(&self.report.interface)
    }
}
