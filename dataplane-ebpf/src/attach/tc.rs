//! tc: links at tcx, or filters on the clsact qdisc.

use std::{io, sync::Arc};

use super::{Means, Programs, TcAttachment};
use crate::{
    Error,
    lock::{Attempt, Lock},
    net::{FilterError, FilterPlace, LinkState, Network},
    object::{EGRESS, INGRESS},
    pin::{LinkName, Name, Place},
    sys::bpf::{self, Link, LinkPlace},
    uplink::{HookName, Order, TcMode},
};

/// The priority of our filters that are in front of others'.
const FIRST: u16 = 1;
/// The priority of our filters that are behind others': the last that the kernel does not give out by itself, which it
/// does from 49152 downwards.
const LAST: u16 = 0xffff;
/// The handle of our filters.
const HANDLE: u32 = 0xf0eb;

/// How to attach where `mode` is wanted, `tcx`: on a kernel that has it.
pub(super) fn choose(mode: TcMode, tcx: bool) -> TcAttachment {
    match (mode, tcx) {
        // Where it is wanted and not there, attaching says so.
        (TcMode::Tcx, _) | (TcMode::Auto, true) => TcAttachment::Tcx,
        (TcMode::Clsact, _) => TcAttachment::Clsact,
        (TcMode::Auto, false) => TcAttachment::ClsactForLackOfTcx,
    }
}

/// The places of an interface where a filter of ours may stand.
pub(super) fn places(interface: u32, ingress: bool) -> [FilterPlace; 2] {
    [FIRST, LAST].map(|priority| place(interface, ingress, priority))
}

/// The place of our filter of a priority.
pub(super) fn place(interface: u32, ingress: bool, priority: u16) -> FilterPlace {
    FilterPlace { interface, ingress, priority, handle: HANDLE }
}

/// Our programs at tc on one interface.
#[derive(Debug)]
pub(super) enum TcLinks {
    /// tcx.
    Tcx { ingress: Link, egress: Link },
    /// clsact.
    Clsact { ingress: Filter, egress: Filter, _lock: Lock },
}

impl TcLinks {
    pub(super) fn tcx(means: Means<'_>, link: &LinkState, order: Order) -> Result<Self, Error> {
        let first = order == Order::First;
        let attach = |program, place, hook| match means.pinned(hook, link, program)? {
            // Where it stands among others, it stays.
            Some(pinned) => Ok(pinned),
            None => Link::create(program, link.index, place).map_err(|source| refusal(link, hook, source)),
        };
        let Programs { ingress, egress, .. } = means.programs;
        // Egress first: a reply that is translated back needs no flow, a flow needs its replies translated.
        let egress = attach(egress, LinkPlace::TcxEgress { first }, HookName::TcxEgress)?;
        let ingress = attach(ingress, LinkPlace::TcxIngress { first }, HookName::TcxIngress)?;
        Ok(Self::Tcx { ingress, egress })
    }

    pub(super) fn clsact(means: Means<'_>, link: &LinkState, order: Order) -> Result<Self, Error> {
        let Means { network, programs, run_directory, pins, .. } = means;
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
        // Interfaces have their indexes in each network namespace anew.
        let namespace = network.namespace().unwrap_or(0);
        let lock = format!("clsact-{namespace}-{}-{priority}.lock", link.index);
        let lock = match Lock::take(run_directory, &lock)? {
            Attempt::Held(lock) => lock,
            Attempt::Taken(holder) => {
                return Err(taken(hook, format!("another dataplane's that is alive, {holder}")));
            }
        };
        let place = means.place(link);
        // Noted before they are there: whoever finds the note looks whether they are.
        let stood = pins.map_or(Ok(false), |pins| pins.note(Name::Clsact { priority, place }))?;
        let made = network.add_qdisc(link.index).map_err(|source| refusal(link, hook, source))?;
        if made && let Some(pins) = pins {
            pins.note(Name::Qdisc(place))?;
        }
        let create = |program, ingress, name, hook| {
            let place = self::place(link.index, ingress, priority);
            let id = bpf::program_id(program).map_err(|source| refusal(link, hook, source))?;
            network.attach_filter(&place, program, name).map_err(|error| match error {
                FilterError::Taken(owner) => taken(hook, owner),
                FilterError::System(source) => refusal(link, hook, source),
            })?;
            // One that took over from another run stays whatever becomes of this one.
            Ok::<_, Error>(Filter {
                network: Arc::clone(network),
                place,
                name,
                program: id,
                attached: !stood,
            })
        };
        let egress = create(programs.egress, false, EGRESS, HookName::ClsactEgress)?;
        let ingress = create(programs.ingress, true, INGRESS, HookName::ClsactIngress)?;
        Ok(Self::Clsact { ingress, egress, _lock: lock })
    }

    /// Has filters outlive this process; the links, which must be pinned for that.
    pub(super) fn keep(&mut self) -> Vec<(HookName, &mut Link)> {
        match self {
            Self::Tcx { ingress, egress } => {
                vec![(HookName::TcxEgress, egress), (HookName::TcxIngress, ingress)]
            }
            Self::Clsact { ingress, egress, .. } => {
                (ingress.attached, egress.attached) = (false, false);
                Vec::new()
            }
        }
    }

    /// What it is called among the pins.
    pub(super) fn names(&self, place: Place) -> Vec<Name> {
        match self {
            Self::Tcx { .. } => [HookName::TcxIngress, HookName::TcxEgress]
                .into_iter()
                .filter_map(|hook| LinkName::new(hook, place).map(Name::Link))
                .collect(),
            Self::Clsact { ingress, .. } => {
                vec![Name::Clsact { priority: ingress.place.priority, place }]
            }
        }
    }

    /// The first hook of the interface of this index where our program no longer stands.
    pub(super) fn lost(&self, index: u32) -> io::Result<Option<HookName>> {
        let stands = match self {
            Self::Tcx { ingress, egress } => [
                (HookName::TcxIngress, ingress.interface()? == Some(index)),
                (HookName::TcxEgress, egress.interface()? == Some(index)),
            ],
            Self::Clsact { ingress, egress, .. } => {
                [(HookName::ClsactIngress, ingress.stands()?), (HookName::ClsactEgress, egress.stands()?)]
            }
        };
        Ok(stands.into_iter().find(|(_, stands)| !stands).map(|(hook, _)| hook))
    }

    /// Takes both programs off.
    pub(super) fn detach(self, interface: &str) -> Result<(), Error> {
        match self {
            // A link that is not pinned goes when it is dropped.
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

fn refusal(link: &LinkState, hook: HookName, source: io::Error) -> Error {
    let interface = link.name.clone();
    if source.raw_os_error() == Some(libc::ENODEV) {
        Error::InterfaceVanished { interface, index: link.index }
    } else {
        Error::Attach { interface, hook, source }
    }
}

/// A filter of ours. Unlike a link it is no file: it is taken off when this is dropped, unless it is to stay, and stays
/// where the process is killed.
#[derive(Debug)]
pub(super) struct Filter {
    network: Arc<Network>,
    place: FilterPlace,
    name: &'static str,
    /// The id of our program: a filter with another one is not ours, wherever it stands.
    program: u32,
    /// Whether it is to go with this.
    attached: bool,
}

impl Filter {
    fn stands(&self) -> io::Result<bool> {
        self.network.has_filter(&self.place, self.program)
    }

    fn detach(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.attached) && !self.network.detach_filter(&self.place, self.program)? {
            let Self { name, place, .. } = self;
            tracing::warn!(
                program = name,
                interface = place.interface,
                "another's filter stands in our place: left alone"
            );
        }
        Ok(())
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(program = self.name, interface = self.place.interface, %error, "cannot take a filter off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use aya::programs::Program;
    use dataplane_core::tables::Capacity;
    use dataplane_testkit::{
        net::{Namespace, veth},
        require_kernel,
    };

    use super::*;
    use crate::{EbpfDataplane, Uplink};

    #[test]
    fn automatic_choice_goes_to_clsact_where_the_kernel_has_no_tcx() {
        assert_eq!(choose(TcMode::Auto, true), TcAttachment::Tcx);
        assert_eq!(choose(TcMode::Auto, false), TcAttachment::ClsactForLackOfTcx);
        for tcx in [false, true] {
            assert_eq!(choose(TcMode::Tcx, tcx), TcAttachment::Tcx);
            assert_eq!(choose(TcMode::Clsact, tcx), TcAttachment::Clsact);
        }
    }

    /// A filter that somebody else names stands where ours belongs, and one that has our name but not our program.
    #[test]
    fn a_foreign_filter_is_refused_by_name_and_stays() {
        require_kernel!();
        let (host, peer) = (Namespace::new("host").unwrap(), Namespace::new("peer").unwrap());
        let (uplink, _far) = veth(&host, "uplink", &peer, "far").unwrap();
        let small = || EbpfDataplane::builder().unpinned().capacity(Capacity::small());
        // A program at tc that is not called as ours at this hook is.
        let theirs = host.run(|| small().open()).unwrap();
        let Some(Program::SchedClassifier(program)) = theirs.ebpf.program(EGRESS) else { panic!("{EGRESS}") };
        let program = program.fd().unwrap().as_fd();
        let id = bpf::program_id(program).unwrap();
        let network = host.run(Network::open).unwrap();
        let place = FilterPlace { interface: uplink.index(), ingress: true, priority: FIRST, handle: HANDLE };

        for name in ["somebody_else", INGRESS] {
            network.add_qdisc(uplink.index()).unwrap();
            network.attach_filter(&place, program, name).unwrap();
            let ours = Uplink::named("uplink").tc(TcMode::Clsact);
            match host.run(|| small().uplink(ours).open()) {
                Err(error @ Error::FilterTaken { .. }) => {
                    let text = error.to_string();
                    let named = format!("{name}, program {EGRESS}, id {id}");
                    assert!(text.contains(&named), "{text}");
                }
                other => panic!("{other:?}"),
            }
            assert!(network.has_filter(&place, id).unwrap(), "{name} is still there");
            // Who asks for another program to be taken off takes nothing off.
            assert!(!network.detach_filter(&place, id + 1).unwrap());
            assert!(network.has_filter(&place, id).unwrap());
            assert!(network.detach_filter(&place, id).unwrap());
            assert!(!network.has_filter(&place, id).unwrap());
            assert!(network.detach_filter(&place, id).unwrap(), "gone already");
        }
    }
}
