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
        let takes_off = || network.takes_vlan_tags_off(&link.name);
        warnings.extend(hidden_tags(link, takes_off, || network.vlans_on(link.index)));
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

/// What hardware hides from XDP, in the driver and in the stack: the tags that it takes off, where there are VLANs.
fn hidden_tags(
    link: &LinkState,
    takes_off: impl FnOnce() -> Option<bool>,
    vlans: impl FnOnce() -> Vec<String>,
) -> Option<Warning> {
    // A veth has no hardware: its setting takes nothing off.
    if link.is_veth() || takes_off() != Some(true) {
        return None;
    }
    let vlans = vlans();
    (!vlans.is_empty()).then(|| Warning::HiddenVlanTags { interface: link.name.clone(), vlans })
}

/// A setting as sysctl(8) writes it.
fn setting(family: &str, whose: &str, setting: &str) -> String {
    format!("net.{family}.conf.{}.{setting}", whose.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use dataplane_testkit::{
        child,
        net::{Namespace, veth},
        require_kernel,
    };

    use super::*;

    fn link(kind: Option<&str>) -> LinkState {
        LinkState {
            name: "eth0".into(),
            index: 2,
            link_type: libc::ARPHRD_ETHER,
            up: true,
            mtu: 1500,
            mac: None,
            kind: kind.map(String::from),
            peer: None,
            peer_namespace: None,
            xdp: None,
            forwards_v4: Some(true),
            forwards_v6: Some(true),
            reverse_path_filter: 0,
        }
    }

    #[test]
    fn hidden_tags_are_warned_about_where_there_are_vlans() {
        let vlans = || vec![String::from("eth0.5"), String::from("storage")];
        let of = |kind, takes_off| hidden_tags(&link(kind), || takes_off, vlans);
        let warning = of(None, Some(true)).unwrap();
        assert_eq!(warning, Warning::HiddenVlanTags { interface: "eth0".into(), vlans: vlans() });
        let text = warning.to_string();
        for said in ["of eth0.5, storage are", "`ethtool -K eth0 rxvlan off`"] {
            assert!(text.contains(said), "{text}");
        }
        assert_eq!([of(None, Some(false)), of(None, None), of(Some("veth"), Some(true))], [None, None, None]);
        assert_eq!(hidden_tags(&link(None), || Some(true), Vec::new), None);
    }

    /// By ethtool(8): a veth has the setting, though nothing behind it.
    #[test]
    fn whether_tags_are_taken_off_is_read() {
        require_kernel!();
        let host = Namespace::new("tags").unwrap();
        let (_uplink, _far) = veth(&host, "uplink", &host, "far").unwrap();
        let network = host.run(|| Network::open().unwrap());
        for (word, on) in [("off", false), ("on", true), ("off", false)] {
            let mut command = std::process::Command::new("ethtool");
            command.args(["-K", "uplink", "rxvlan", word]);
            let output = host.run(|| child::output(&mut command, child::LIMIT)).unwrap();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(network.takes_vlan_tags_off("uplink"), Some(on));
            assert_eq!(network.takes_vlan_tags_off("far"), Some(true));
        }
        assert_eq!(network.takes_vlan_tags_off("nowhere"), None);
    }
}
