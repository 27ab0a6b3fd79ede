//! A dataplane that is open.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::programs::Program;
use dataplane_core::{
    abi::{INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, InterfaceEntry, MasqueradeEntry},
    pipeline::{DropReason, Hook, Verdict},
    tables::{Store as _, TableError},
    wire::{Ipv4Address, Ipv6Address},
};
use parking_lot::Mutex;

use crate::{
    Error,
    attach::{Attached, Attachment, Means, Programs, XdpAttachment},
    builder::{Builder, Parts},
    events::EventReader,
    net::{LinkState, Network},
    object::{EGRESS, INGRESS, PROGRAMS, XDP},
    pin::{Name, Pins},
    port_claim::{ClaimError, PortClaim},
    probe::{Features, Warning, check_interface},
    tables::KernelTables,
    uplink::Uplink,
};

/// A dataplane in the kernel: programs on interfaces, and their tables.
///
/// Two of them do not notice each other, in one process or in several, in one network namespace or in several, as long
/// as their uplinks differ. On one uplink a second one is refused at XDP and clsact; at tcx both see packets, and both say
/// so: in [`Attachment::others`], in [`Warning::SecondDataplane`] and in the log.
///
/// Dropping it detaches its programs: the kernel does so with the last descriptor of a link, also where the process is
/// killed. What is no file stays behind a process that is killed: filters on clsact, in whose place the next one to open puts
/// its own, and the reservation of the ports of source NAT, which is given back with the next one
/// ([`Builder::run_directory`] has a note of it). [`detach`](Self::detach) is the same, and tells what went wrong.
///
/// With [pins](Builder::pins), dropping it changes nothing: packets are balanced on by what the tables say, and the next one
/// to open takes over. Only [`detach`](Self::detach) takes it off.
#[derive(Debug)]
pub struct EbpfDataplane {
    attached: Mutex<Vec<Attached>>,
    warnings: Mutex<Vec<Warning>>,
    reserved: Reserved,
    pub(crate) tables: Arc<KernelTables>,
    pub(crate) network: Arc<Network>,
    features: Features,
    run_directory: PathBuf,
    /// The ids of our programs.
    ids: [u32; 3],
    pins: Option<Arc<Pins>>,
    /// What the arrays of our programs are called among the pins.
    stages: Option<Name>,
    adopted: bool,
    pub(crate) events: Option<EventReader>,
    pub(crate) ebpf: aya::Ebpf,
}

/// Whether the host's sockets keep off the ports of source NAT.
#[derive(Debug)]
pub(crate) enum Reserved {
    /// There is no uplink, and so no source NAT.
    Nothing,
    /// They do.
    Claim(PortClaim),
    /// They may get them.
    Not(Warning),
}

impl Reserved {
    pub(crate) fn not(error: &ClaimError) -> Self {
        Self::Not(Warning::PortsNotReserved { reason: error.to_string() })
    }
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramReport {
    /// Its name.
    pub name: &'static str,
    /// The kernel's id of it.
    pub id: u32,
    /// How many instructions the verifier walked through; `None` before kernel 5.16.
    pub verified_instructions: Option<u32>,
}

impl EbpfDataplane {
    /// Says what the dataplane is to be.
    ///
    /// ```no_run
    /// use dataplane_ebpf::{EbpfDataplane, Error, Uplink};
    ///
    /// # fn main() -> Result<(), Error> {
    /// let plane = EbpfDataplane::builder().unpinned().uplink(Uplink::named("eth0")).open()?;
    /// for attachment in plane.attachments() {
    ///     println!("{attachment}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn attach(
        parts: Parts<'_>,
        ebpf: aya::Ebpf,
        tables: Arc<KernelTables>,
        adopted: bool,
        reserved: Reserved,
    ) -> Result<Self, Error> {
        let Parts { network, features, uplinks, run_directory, pins } = parts;
        let mut attached = Vec::new();
        // Before the first packet meets these programs.
        let stages = pins.as_ref().map(|pins| pins.keep_stages(&ebpf)).transpose()?;
        let ids = {
            let programs = programs(&ebpf)?;
            let pins = pins.as_deref();
            let means = Means { network: &network, programs, tcx: features.tcx, run_directory, pins };
            for (uplink, link) in &uplinks {
                introduce(&tables, &network, uplink, link)?;
                attached.push(Attached::new(means, uplink, link)?);
            }
            programs.ids().map_err(|source| Error::ProgramInfo { source })?
        };
        if let Some(pins) = &pins {
            // Tables before what leads packets to them: whoever finds a link finds its tables.
            if !adopted {
                pins.keep_maps(&tables)?;
            }
            keep(pins, &network, &tables, &mut attached, stages)?;
            let kept: Vec<u32> = attached.iter().map(|one| one.report.index).collect();
            tables.keep_interfaces(&kept)?;
        }
        let plane = Self {
            attached: Mutex::new(attached),
            warnings: Mutex::default(),
            reserved,
            tables,
            network,
            features,
            run_directory: run_directory.to_owned(),
            ids,
            pins,
            stages,
            adopted,
            events: None,
            ebpf,
        };
        plane.refresh()?;
        Ok(plane)
    }

    /// Where its tables and attachments are pinned; `None` where they are not.
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref().map(Pins::path)
    }

    /// Whether it took its tables over from another run.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The tables. They are a [`Store`](dataplane_core::tables::Store), for a controller.
    pub fn tables(&self) -> Arc<KernelTables> {
        Arc::clone(&self.tables)
    }

    /// Who reads the events of drops and flows; `None` unless [`Builder::events`] wanted them.
    pub fn events(&self) -> Option<EventReader> {
        self.events.clone()
    }

    /// Which hooks were got on each uplink, and why, and whether our programs still stand there: an interface may go, and
    /// others may take our programs off, without anybody telling us.
    ///
    /// Cost: a few system calls for each uplink, from whatever network namespace. What the kernel does not tell now is
    /// as it was.
    pub fn attachments(&self) -> Vec<Attachment> {
        let mut attached = self.attached.lock();
        let reports = attached.iter_mut().map(|one| {
            if let Err(error) = one.look(&self.network) {
                tracing::debug!(%error, interface = one.report.interface, "cannot tell whether our programs stand");
            }
            one.report.clone()
        });
        reports.collect()
    }

    /// What keeps traffic from flowing or costs speed, as of [`open`](Builder::open) or the last
    /// [`refresh`](Self::refresh).
    pub fn warnings(&self) -> Vec<Warning> {
        self.warnings.lock().clone()
    }

    /// What this kernel and this process can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The loaded programs.
    ///
    /// # Errors
    /// [`Error::Load`] where the kernel does not tell about them.
    pub fn programs(&self) -> Result<Vec<ProgramReport>, Error> {
        PROGRAMS
            .into_iter()
            .map(|name| {
                let info = match self.ebpf.program(name) {
                    Some(Program::Xdp(program)) => program.info(),
                    Some(Program::SchedClassifier(program)) => program.info(),
                    _ => return Err(Error::Object { reason: format!("it has no program {name}") }),
                };
                let info = info.map_err(|error| Error::Load {
                    program: name.into(),
                    log: String::new(),
                    source: Box::new(error),
                })?;
                let verified_instructions = info.verified_instruction_count();
                Ok(ProgramReport { name, id: info.id(), verified_instructions })
            })
            .collect()
    }

    /// Looks at the uplinks again: whether our programs still stand, which link-layer address an interface has now, and
    /// whether it takes frames from XDP now. Ports of source NAT that somebody took out of the reserved ones are put back. Tables and [`warnings`](Self::warnings) follow. Where an interface was gone
    /// and there is one of its name again, our programs are attached to that.
    ///
    /// To be called now and then, and when an interface is known to have changed. Cost: a few system calls for each
    /// uplink. From whatever network namespace; but to an interface that came back programs are attached only where the
    /// caller is in the dataplane's own.
    ///
    /// # Errors
    /// [`Error::InterfaceVanished`] or [`Error::Displaced`] for the first uplink that is gone, or where our programs no
    /// longer stand; [`Error::Netlink`] for one that the kernel does not tell about, whose rows stay as they were; for one that came back whatever keeps us from it, as of [`open`](Builder::open). The others were
    /// looked at all the same.
    pub fn refresh(&self) -> Result<(), Error> {
        let mut attached = self.attached.lock();
        let mut warnings = self.features.warnings();
        match &self.reserved {
            Reserved::Nothing => {}
            Reserved::Claim(claim) => {
                let refused = claim.refresh().err();
                warnings.extend(refused.map(|error| Warning::PortsNotReserved { reason: error.to_string() }));
            }
            Reserved::Not(warning) => warnings.push(warning.clone()),
        }
        let mut outcome = Ok(());
        let mut came_back = false;
        let senders = Senders::of(&attached, &self.network);
        let places: Vec<_> =
            attached.iter().map(|one| (one.report.index, one.report.interface.clone())).collect();
        for one in attached.iter_mut() {
            let others: Vec<_> =
                places.iter().filter(|(_, name)| *name != one.report.interface).cloned().collect();
            let looked = self.reattach(one, &others).and_then(|is_back| {
                came_back |= is_back;
                self.refresh_one(one, senders, &mut warnings)
            });
            outcome = outcome.and(looked);
        }
        if came_back && let Some(pins) = &self.pins {
            outcome = outcome.and(keep(pins, &self.network, &self.tables, &mut attached, self.stages));
        }
        *self.warnings.lock() = warnings;
        outcome
    }

    fn refresh_one(
        &self,
        attached: &mut Attached,
        senders: Senders,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), Error> {
        attached.check(&self.network)?;
        let Attachment { index, ref interface, .. } = attached.report;
        let gone = || Error::InterfaceVanished { interface: interface.clone(), index };
        let link = self.network.link_by_index(index)?.ok_or_else(gone)?;
        attached.look_for_others(&self.network, &link, &self.ids);
        let report = &mut attached.report;
        warnings.extend(report.others.iter().map(|other| Warning::SecondDataplane {
            interface: link.name.clone(),
            hook: other.hook,
            program_id: other.program_id,
        }));
        let runs = !matches!(report.xdp, XdpAttachment::Off(_));
        report.xdp_redirect = can_redirect(&self.network, &link, &report.xdp, senders);
        report.xdp_tx = can_transmit(&self.network, &link, &report.xdp);
        let redirect = if report.xdp_redirect { INTERFACE_XDP_REDIRECT } else { 0 };
        let flags = redirect | if report.xdp_tx { INTERFACE_XDP_TX } else { 0 };
        // Where nobody tells, the row stays as it was: flows that are opened meanwhile get an address, and not none.
        let addresses = masquerade(&attached.uplink, &self.network, index).and_then(|row| {
            warnings.extend(self.missing_addresses(&row, &link.name)?);
            Ok(self.tables.set_masquerade(&row)?)
        });
        self.tables.set_interface(&entry(&link, report.zone, flags))?;
        warnings.extend(check_interface(&self.network, &link, runs));
        // Our programs are always at tc, too.
        if report.xdp == XdpAttachment::Generic {
            warnings.push(Warning::GenericXdp { interface: link.name.clone() });
        }
        if runs && !report.xdp_redirect {
            warnings.push(Warning::XdpCannotSend { interface: link.name.clone(), veth: link.is_veth() });
        }
        addresses
    }

    /// Which addresses an uplink lacks, where packets show that one is missed. Most hosts do without one of the families.
    fn missing_addresses(&self, row: &MasqueradeEntry, interface: &str) -> Result<Vec<Warning>, TableError> {
        let refused = Verdict::Drop(DropReason::NoMasqueradeAddress);
        let mut count = 0;
        for hook in Hook::ALL {
            count = self.tables.counters().verdict(hook, refused)?.max(count);
        }
        let lacks = [("IPv4", row.v4 == Ipv4Address::default()), ("IPv6", row.v6 == Ipv6Address::default())];
        let missing = lacks.into_iter().filter(|(_, lacks)| *lacks && count > 0);
        let warning = |(family, _)| Warning::NoMasqueradeAddress { interface: interface.to_owned(), family };
        Ok(missing.map(warning).collect())
    }

    /// What it takes to attach to another interface.
    pub(crate) fn means<'a>(&'a self, programs: Programs<'a>) -> Means<'a> {
        let Self { network, features, run_directory, pins, .. } = self;
        Means { network, programs, tcx: features.tcx, run_directory, pins: pins.as_deref() }
    }

    /// Detaches all programs, and takes away every trace of ours: filters, a clsact qdisc that was made by us and that
    /// nobody uses, pins and their directory. What is not ours stays, and so does the clsact qdisc where nothing is pinned.
    /// The tables stay as long as somebody holds them.
    ///
    /// # Errors
    /// [`Error::Detach`], [`Error::PortsStayReserved`], [`Error::Pin`], [`Error::PinDirectory`] for the first that could not be taken off; the others
    /// were all the same.
    pub fn detach(self) -> Result<(), Error> {
        let Some(pins) = &self.pins else {
            return self.take_off();
        };
        let outcome = pins.remove(&self.network);
        outcome.and(self.tables.keep_interfaces(&[]).map_err(Error::from))
    }

    /// Leaves all programs attached, for whoever opens the pin directory next. Dropping the dataplane does the same, but
    /// does not look whether they stand.
    ///
    /// # Errors
    /// [`Error::NotPinned`] where nothing is pinned: then everything goes, as by dropping it.
    /// [`Error::InterfaceVanished`], [`Error::Displaced`] for the first uplink that has no programs of ours to leave.
    pub fn leave_attached(self) -> Result<(), Error> {
        if self.pins.is_none() {
            return Err(Error::NotPinned);
        }
        let mut attached = self.attached.lock();
        attached.iter_mut().try_for_each(|one| one.check(&self.network))
    }

    fn take_off(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for attached in self.attached.lock().drain(..) {
            let index = attached.report.index;
            outcome = outcome.and(attached.detach());
            outcome = outcome.and(self.tables.clear_interface(index).map_err(Error::from));
        }
        if let Reserved::Claim(claim) = &self.reserved {
            outcome = outcome.and(claim.release());
        }
        outcome
    }
}

impl Drop for EbpfDataplane {
    fn drop(&mut self) {
        if self.pins.is_some() {
            return;
        }
        // Not left to the fields: the tables may live on, and are not to name uplinks that nobody works on.
        if let Err(error) = self.take_off() {
            tracing::warn!(%error, "a dropped dataplane is not off as a whole");
        }
    }
}

/// Pins what is attached, and takes off whatever else is pinned but for the arrays of these programs.
fn keep(
    pins: &Pins,
    network: &Network,
    tables: &KernelTables,
    attached: &mut [Attached],
    stages: Option<Name>,
) -> Result<(), Error> {
    attached.iter_mut().try_for_each(|one| one.keep(pins, network))?;
    let used: Vec<Name> = attached.iter().flat_map(|one| one.names(network)).chain(stages).collect();
    // A packet may be in the programs of before yet, and go on by their arrays.
    tables.synchronize()?;
    pins.sweep(network, &used)
}

pub(crate) fn programs(ebpf: &aya::Ebpf) -> Result<Programs<'_>, Error> {
    let fd = |name| program_fd(ebpf, name);
    Ok(Programs { xdp: fd(XDP)?, ingress: fd(INGRESS)?, egress: fd(EGRESS)? })
}

/// The descriptor of a loaded program.
///
/// # Errors
/// [`Error::Object`] where it was not loaded.
pub(crate) fn program_fd<'a>(ebpf: &'a aya::Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Error> {
    let program = ebpf.program(name).and_then(|program| program.fd().ok());
    program.map(AsFd::as_fd).ok_or_else(|| Error::Object { reason: format!("it has no program {name}") })
}

/// Writes what the programs know of an interface, before they are attached there: they must find it from their first packet
/// on. XDP sends nothing there until [`EbpfDataplane::refresh`] has looked whether it may.
pub(crate) fn introduce(
    tables: &KernelTables,
    network: &Network,
    uplink: &Uplink,
    link: &LinkState,
) -> Result<(), Error> {
    tables.set_masquerade(&masquerade(uplink, network, link.index)?)?;
    Ok(tables.set_interface(&entry(link, uplink.zone, 0))?)
}

fn entry(link: &LinkState, zone: u16, flags: u16) -> InterfaceEntry {
    InterfaceEntry { index: link.index, zone, flags, mac: link.mac.unwrap_or_default(), reserved: 0 }
}

/// The addresses that flows get which leave through an uplink.
fn masquerade(uplink: &Uplink, network: &Network, index: u32) -> Result<MasqueradeEntry, Error> {
    let (v4, v6) = network.primary_addresses(index)?;
    Ok(MasqueradeEntry {
        index,
        v4: uplink.masquerade_v4.or(v4).map(Into::into).unwrap_or_default(),
        v6: uplink.masquerade_v6.or(v6).map(Into::into).unwrap_or_default(),
    })
}

/// The longest packets that every driver with XDP has room for in one buffer: programs that know of one only run there up to
/// this MTU. What is longer may lie in several, by the driver and its settings.
const ONE_BUFFER: u32 = 1500;

/// What XDP in the drivers of all uplinks may send to one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Senders {
    /// Frames: there is one.
    native: bool,
    /// Frames in several buffers.
    fragments: bool,
}

impl Senders {
    /// Of an interface that can't be asked about, the worst is thought.
    fn of(attached: &[Attached], network: &Network) -> Self {
        let native = attached.iter().map(|one| &one.report).filter(|one| one.xdp == XdpAttachment::Native);
        let is_long = |index| match network.link_by_index(index) {
            Ok(link) => link.is_some_and(|link| link.mtu > ONE_BUFFER),
            Err(_) => true,
        };
        native.fold(Self::default(), |senders, one| Self {
            native: true,
            fragments: senders.fragments || is_long(one.index),
        })
    }
}

/// Whether an interface takes frames that XDP sends there from another one: all that may come, since what the programs know of
/// an interface is one answer for every frame.
///
/// In doubt it is no, and tc sends them: a frame that a driver can't take is lost without a trace.
fn can_redirect(network: &Network, link: &LinkState, xdp: &XdpAttachment, senders: Senders) -> bool {
    let Senders { native, fragments } = senders;
    // For a veth the kernel says so where its other end has GRO on, or an XDP program.
    let takes_frames = || network.xdp_features(link.index).map(|features| features.takes_frames(fragments));
    match xdp {
        // Before 6.3 nobody tells; a driver that runs XDP can nearly always send, too. Frames in several buffers no kernel of
        // then redirects (`xdp_do_redirect`).
        XdpAttachment::Native => takes_frames().unwrap_or(!link.is_veth() && !fragments),
        // XDP in the stack sends like the stack; in a driver it needs the other driver's consent.
        XdpAttachment::Generic if !native => true,
        XdpAttachment::Generic | XdpAttachment::Off(_) => native && takes_frames().unwrap_or(false),
    }
}

/// Whether frames that arrived at an interface can be sent out of it again by XDP.
fn can_transmit(network: &Network, link: &LinkState, xdp: &XdpAttachment) -> bool {
    match xdp {
        // A veth loses them without an XDP program in the driver at its other end.
        XdpAttachment::Native if link.is_veth() => {
            network.peer(link).and_then(|peer| peer.xdp).is_some_and(|xdp| xdp.native)
        }
        XdpAttachment::Native | XdpAttachment::Generic => true,
        XdpAttachment::Off(_) => false,
    }
}
