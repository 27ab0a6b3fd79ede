//! What the host must have for traffic to flow.

use std::{fs, path::PathBuf};

use super::{PeerChecksums, Warning};
use crate::net::{LinkState, Network};

/// Checks an interface of the calling thread's network namespace. `xdp`: whether XDP runs on it.
pub(crate) fn check_interface(network: &Network, link: &LinkState, xdp: bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let interface = || link.name.clone();
    if !link.up {
        warnings.push(Warning::InterfaceDown { interface: interface() });
    }
    for family in ["ipv4", "ipv6"] {
        // A family that is switched off forwards nothing, and is not meant to.
        let off = family == "ipv6" && setting(family, &link.name, "disable_ipv6") == Some(1);
        if !off && setting(family, &link.name, "forwarding") == Some(0) {
            let setting = name(family, &link.name, "forwarding");
            warnings.push(Warning::ForwardingOff { interface: interface(), setting });
        }
    }
    // The stricter of the two holds (Documentation/networking/ip-sysctl.rst), and 2, loose, counts as the greater.
    let filters = ["all", link.name.as_str()].map(|whose| setting("ipv4", whose, "rp_filter").unwrap_or(0));
    if filters.into_iter().max() == Some(1) {
        let whose = if filters.first() == Some(&1) { "all" } else { link.name.as_str() };
        let setting = name("ipv4", whose, "rp_filter");
        warnings.push(Warning::StrictReversePath { interface: interface(), setting });
    }
    if xdp {
        let unfinished = |peer| Warning::UnfinishedChecksums { interface: interface(), peer };
        warnings.extend(peer_checksums(network, link).map(unfinished));
    }
    warnings
}

fn peer_checksums(network: &Network, link: &LinkState) -> Option<PeerChecksums> {
    if !link.is_veth() {
        return None;
    }
    if link.peer_namespace.is_some() {
        return Some(PeerChecksums::Unknown);
    }
    let Some(peer) = network.peer(link) else { return Some(PeerChecksums::Unknown) };
    match network.leaves_checksums_open(&peer.name) {
        Some(false) => None,
        Some(true) => Some(PeerChecksums::On(peer.name)),
        None => Some(PeerChecksums::Unknown),
    }
}

fn name(family: &str, whose: &str, setting: &str) -> String {
    format!("net.{family}.conf.{}.{setting}", whose.replace('.', "/"))
}

/// A setting of an interface. The files of /proc/sys/net are those of the reading thread's network namespace.
fn setting(family: &str, whose: &str, setting: &str) -> Option<u32> {
    let path: PathBuf = ["/proc/sys/net", family, "conf", whose, setting].iter().collect();
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
