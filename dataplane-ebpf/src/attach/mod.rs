//! Programs on interfaces: which hooks were got, and why.

mod others;
mod tc;
mod xdp;

use std::{fmt, os::fd::BorrowedFd, path::Path, sync::Arc};

use self::tc::TcLinks;
use crate::{
    Error,
    net::{LinkState, Network},
    object::{EGRESS, INGRESS},
    pin::{LinkName, Name, Pins, Place},
    sys::bpf::{self, Link},
    uplink::{HookName, Uplink},
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
    /// Whether our programs still stand there.
    pub standing: Standing,
    /// Programs of other dataplanes at the same interface. Each balances by tables of its own, and the first in order
    /// takes what it knows.
    pub others: Vec<OtherProgram>,
}

/// Whether our programs stand where they were attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// All of them do.
    Attached,
    /// The interface is gone, or is in another network namespace now, and our programs went with it.
    InterfaceGone,
    /// Somebody took our program off, or put another in its place.
    Displaced(HookName),
}

/// A program of another dataplane, of this process or of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherProgram {
    /// Where it stands.
    pub hook: HookName,
    /// Its id.
    pub program_id: u32,
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
        let Self { interface, xdp, tc, .. } = self;
        match self.standing {
            Standing::Attached => write!(f, "{interface}: {xdp}, {tc}"),
            Standing::InterfaceGone => write!(f, "{interface}: gone (was {xdp}, {tc})"),
            Standing::Displaced(hook) => write!(f, "{interface}: {xdp}, {tc}, but taken off from {hook}"),
        }
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

impl Programs<'_> {
    /// Their ids.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn ids(&self) -> std::io::Result<[u32; 3]> {
        Ok([bpf::program_id(self.xdp)?, bpf::program_id(self.ingress)?, bpf::program_id(self.egress)?])
    }
}

/// What it takes to attach to any interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    pub network: &'a Arc<Network>,
    pub programs: Programs<'a>,
    /// Whether the kernel has tcx.
    pub tcx: bool,
    /// Where locks are.
    pub run_directory: &'a Path,
    /// Where what is attached is pinned, if it is.
    pub pins: Option<&'a Pins>,
}

impl Means<'_> {
    fn place(&self, link: &LinkState) -> Place {
        Place { namespace: self.network.namespace().unwrap_or(0), interface: link.index }
    }

    /// The pinned link at a hook, with this program in place of the one that it had: no packet meets neither or both.
    ///
    /// # Errors
    /// [`Error::Pin`], [`Error::PinDirectory`], [`Error::Attach`].
    fn pinned(
        &self,
        hook: HookName,
        link: &LinkState,
        program: BorrowedFd<'_>,
    ) -> Result<Option<Link>, Error> {
        let (Some(pins), Some(name)) = (self.pins, LinkName::new(hook, self.place(link))) else {
            return Ok(None);
        };
        let Some(pinned) = pins.link(name)? else { return Ok(None) };
        pinned.update(program).map_err(|source| Error::Attach {
            interface: link.name.clone(),
            hook,
            source,
        })?;
        Ok(Some(pinned))
    }

    /// Takes off what is pinned at a hook.
    ///
    /// # Errors
    /// [`Error::Pin`], [`Error::PinDirectory`].
    fn take_off(&self, hook: HookName, link: &LinkState) -> Result<(), Error> {
        match (self.pins, LinkName::new(hook, self.place(link))) {
            (Some(pins), Some(name)) => pins.remove_link(name),
            _ => Ok(()),
        }
    }
}

/// Takes our filters of a priority off the clsact qdisc of an interface, whichever of our programs they hold.
///
/// # Errors
/// [`Error::Netlink`].
pub(crate) fn remove_filters(network: &Network, interface: u32, priority: u16) -> Result<(), Error> {
    for (name, ingress) in [(INGRESS, true), (EGRESS, false)] {
        let place = tc::place(interface, ingress, priority);
        network.detach_filter_named(&place, name).map_err(|source| Error::Netlink {
            operation: format!("take our filter off interface {interface}"),
            source,
        })?;
    }
    Ok(())
}

/// Our programs on one interface. They stay as long as this does.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What an embedder is told.
    pub report: Attachment,
    /// What was asked for.
    pub uplink: Uplink,
    // XDP leaves packets to tc: it goes first, so that there is always somebody to take them.
    xdp: Option<Link>,
    tc: TcLinks,
}

impl Attached {
    /// Attaches to an interface: tc first, then XDP.
    ///
    /// # Errors
    /// [`Error::XdpTaken`], [`Error::FilterTaken`], [`Error::Lock`], [`Error::UntrustedLock`], [`Error::Attach`], [`Error::InterfaceVanished`].
    /// Then nothing is left attached.
    pub(crate) fn new(means: Means<'_>, uplink: &Uplink, link: &LinkState) -> Result<Self, Error> {
        let kind = tc::choose(uplink.tc, means.tcx);
        let tc = match kind {
            TcAttachment::Tcx => TcLinks::tcx(means, link, uplink.order)?,
            TcAttachment::Clsact | TcAttachment::ClsactForLackOfTcx => {
                TcLinks::clsact(means, link, uplink.order)?
            }
        };
        let (xdp, what) = xdp::attach(means, uplink.xdp, link)?;
        let report = Attachment {
            interface: link.name.clone(),
            index: link.index,
            zone: uplink.zone,
            xdp: what,
            tc: kind,
            xdp_redirect: false,
            xdp_tx: false,
            standing: Standing::Attached,
            others: Vec::new(),
        };
        Ok(Self { report, uplink: uplink.clone(), xdp, tc })
    }

    /// Has all of it outlive this process.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn keep(&mut self, pins: &Pins, network: &Network) -> Result<(), Error> {
        let place = self.place(network);
        let hook = self.xdp_hook();
        let links = self.xdp.as_mut().map(|link| (hook, link)).into_iter().chain(self.tc.keep());
        for (hook, link) in links.filter(|(_, link)| !link.is_pinned()) {
            if let Some(name) = LinkName::new(hook, place) {
                pins.keep_link(name, link)?;
            }
        }
        Ok(())
    }

    /// What it is called among the pins.
    pub(crate) fn names(&self, network: &Network) -> Vec<Name> {
        let place = self.place(network);
        let mut names = self.tc.names(place);
        let xdp = self.xdp.as_ref().and_then(|_| LinkName::new(self.xdp_hook(), place));
        names.extend(xdp.map(Name::Link));
        names
    }

    fn place(&self, network: &Network) -> Place {
        Place { namespace: network.namespace().unwrap_or(0), interface: self.report.index }
    }

    fn xdp_hook(&self) -> HookName {
        match self.report.xdp {
            XdpAttachment::Generic => HookName::XdpGeneric,
            _ => HookName::XdpNative,
        }
    }

    /// Looks whether all of it still stands, and tells the log where that has changed.
    ///
    /// # Errors
    /// [`Error::Netlink`]; then the report stays as it was.
    pub(crate) fn look(&mut self, network: &Network) -> Result<(), Error> {
        let Attachment { interface, index, standing: before, .. } = &self.report;
        let standing = self.standing(network, *index).map_err(|source| Error::Netlink {
            operation: format!("ask about our programs on {interface}"),
            source,
        })?;
        if standing != *before {
            match standing {
                Standing::Attached => tracing::info!(interface, index, "our programs stand again"),
                Standing::InterfaceGone => {
                    tracing::warn!(interface, index, "the interface is gone, and our programs with it");
                }
                Standing::Displaced(hook) => {
                    tracing::warn!(interface, index, %hook, "somebody took our program off");
                }
            }
        }
        self.report.standing = standing;
        Ok(())
    }

    fn standing(&self, network: &Network, index: u32) -> std::io::Result<Standing> {
        let xdp = match &self.xdp {
            Some(link) if link.interface()? != Some(index) => Some(self.xdp_hook()),
            _ => None,
        };
        let Some(lost) = xdp.map_or_else(|| self.tc.lost(index), |hook| Ok(Some(hook)))? else {
            return Ok(Standing::Attached);
        };
        Ok(match network.link_by_index(index) {
            Ok(None) => Standing::InterfaceGone,
            // Where nobody answers, that our program is lost is all that is known.
            Ok(Some(_)) | Err(_) => Standing::Displaced(lost),
        })
    }

    /// The same as an error, where it does not stand.
    ///
    /// # Errors
    /// [`Error::InterfaceVanished`], [`Error::Displaced`], [`Error::Netlink`].
    pub(crate) fn check(&mut self, network: &Network) -> Result<(), Error> {
        self.look(network)?;
        let Attachment { interface, index, standing, .. } = &self.report;
        match *standing {
            Standing::Attached => Ok(()),
            Standing::InterfaceGone => {
                Err(Error::InterfaceVanished { interface: interface.clone(), index: *index })
            }
            Standing::Displaced(hook) => Err(Error::Displaced { interface: interface.clone(), hook }),
        }
    }

    /// Looks for programs of other dataplanes beside ours, which have these ids.
    pub(crate) fn look_for_others(&mut self, network: &Network, link: &LinkState, ours: &[u32]) {
        let found = others::find(network, link, ours, &self.report.others);
        for other in found.iter().filter(|other| !self.report.others.contains(other)) {
            let OtherProgram { hook, program_id } = other;
            tracing::warn!(interface = link.name, %hook, program_id, "another dataplane works on this interface");
        }
        self.report.others = found;
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
