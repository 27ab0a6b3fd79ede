//! Programs of other dataplanes on the same interface.

use super::{OtherProgram, tc};
use crate::{
    net::{LinkState, Network},
    object::{EGRESS, INGRESS, XDP},
    sys::bpf,
    uplink::HookName,
};

/// Finds programs on an interface that have our names, but are not `ours`. At tcx only from within the interface's
/// network namespace; from elsewhere, what was `known` before is told again.
///
/// The names of programs want CAP_SYS_ADMIN; without it, only filters on clsact are recognised.
pub(super) fn find(
    network: &Network,
    link: &LinkState,
    ours: &[u32],
    known: &[OtherProgram],
) -> Vec<OtherProgram> {
    let is_other = |id: &u32| !ours.contains(id);
    let mut found = Vec::new();
    if let Some(xdp) = link.xdp
        && let Some(program_id) = xdp.program.filter(is_other)
        && bpf::program_name(program_id).as_deref() == Some(XDP)
    {
        let hook = if xdp.native { HookName::XdpNative } else { HookName::XdpGeneric };
        found.push(OtherProgram { hook, program_id });
    }
    for (name, ingress, tcx, clsact) in [
        (INGRESS, true, HookName::TcxIngress, HookName::ClsactIngress),
        (EGRESS, false, HookName::TcxEgress, HookName::ClsactEgress),
    ] {
        if network.is_of_this_thread() {
            let ids = bpf::tcx_programs(link.index, ingress).unwrap_or_default();
            let named = |id: &u32| bpf::program_name(*id).as_deref() == Some(name);
            let others = ids.into_iter().filter(is_other).filter(named);
            found.extend(others.map(|program_id| OtherProgram { hook: tcx, program_id }));
        } else {
            found.extend(known.iter().filter(|other| other.hook == tcx).cloned());
        }
        let filters = tc::places(link.index, ingress).into_iter();
        let others = filters.filter_map(|place| network.filter_named(&place, name)).filter(is_other);
        found.extend(others.map(|program_id| OtherProgram { hook: clsact, program_id }));
    }
    found
}
