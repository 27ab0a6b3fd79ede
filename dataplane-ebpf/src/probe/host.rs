//! What the host must have for traffic to flow.

use super::{PeerChecksums, Warning};
use crate::net::{LinkState, Network};

/// Checks an interface. `xdp`: whether XDP runs on it.
pub(crate) fn check_interface(network: &Network, link: &LinkState, xdp: bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let interface = || link.name.clone();
    if !link.up {
        warnings.push(Warning::InterfaceDown { interface: interface() });
    }
    for (family, forwards) in [("ipv4", link.forwards_v4), ("ipv6", link.forwards_v6)] {
        if forwards == Some(false) {
            let setting = setting(family, &link.name, "forwarding");
            warnings.push(Warning::ForwardingOff { interface: interface(), setting });
        }
    }
    // The greater of the two holds, and loose is greater than strict (Documentation/networking/ip-sysctl.rst).
    let all = network.reverse_path_filter_of_all();
    if all.max(link.reverse_path_filter) == 1 {
        let whose = if all == 1 { "all" } else { link.name.as_str() };
        let setting = setting("ipv4", whose, "rp_filter");
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

/// A setting as sysctl(8) writes it.
fn setting(family: &str, whose: &str, setting: &str) -> String {
    format!("net.{family}.conf.{}.{setting}", whose.replace('.', "/"))
}
