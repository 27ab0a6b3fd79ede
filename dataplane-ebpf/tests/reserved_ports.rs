//! Ports of source NAT that the host's sockets are kept off: as long as a dataplane lives that has them, and no longer.
//!
//! The oracle is the kernel's own setting.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::ops::RangeInclusive;

use common::{Host, in_child, is_child, small};
use dataplane_core::{model::NatPorts, tables::Capacity};
use dataplane_ebpf::{Builder, EbpfDataplane, PinDir, Uplink, Warning};
use dataplane_testkit::{net::veth, pins::PinFolder, require_kernel};

const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const OURS: RangeInclusive<u16> = 50_000..=50_099;

fn reserved(host: &Host) -> String {
    host.host.read_sysctl(RESERVED).unwrap().trim().to_owned()
}

fn with(builder: Builder, ports: RangeInclusive<u16>) -> Builder {
    builder.nat_ports(NatPorts::new(ports).unwrap()).uplink(Uplink::named("uplink"))
}

/// On another uplink, so that the two do not see each other's packets.
fn beside(ports: RangeInclusive<u16>) -> Builder {
    small().nat_ports(NatPorts::new(ports).unwrap()).uplink(Uplink::named("other"))
}

fn with_other(label: &str) -> Host {
    let host = Host::new(label);
    veth(&host.host, "other", &host.peer, "elsewhere").unwrap();
    host
}

/// What a killed one left is the next one's to give back; what was reserved before anybody came stays.
#[test]
fn a_killed_ones_ports_are_given_back_with_the_next() {
    const NAME: &str = "a_killed_ones_ports_are_given_back_with_the_next";
    if is_child(NAME) {
        let _plane = with(small(), OURS).open().unwrap();
        std::process::abort();
    }
    require_kernel!();
    let host = Host::new("killed ports");
    host.host.sysctl(RESERVED, "8080,50050").unwrap();
    let kill = || {
        let output = host.host.run(|| in_child(NAME, &["env"]));
        assert!(!output.status.success());
        assert_eq!(reserved(&host), "8080,50000-50099", "{output:?}");
    };
    kill();
    host.open(with(small(), OURS)).unwrap().detach().unwrap();
    assert_eq!(reserved(&host), "8080,50050");

    // One that has others gives back what nobody has, at once.
    kill();
    kill();
    let plane = host.open(with(small(), 50_090..=50_109)).unwrap();
    assert_eq!(reserved(&host), "8080,50050,50090-50109");
    drop(plane);
    assert_eq!(reserved(&host), "8080,50050");
}

#[test]
fn the_last_of_two_gives_the_ports_back() {
    require_kernel!();
    let host = with_other("two of ports");
    for first_goes_first in [true, false] {
        let first = host.open(with(small(), OURS)).unwrap();
        let second = host.open(beside(50_050..=50_149)).unwrap();
        assert_eq!(reserved(&host), "50000-50149");
        let left = if first_goes_first {
            first.detach().unwrap();
            assert_eq!(reserved(&host), "50050-50149");
            second
        } else {
            second.detach().unwrap();
            assert_eq!(reserved(&host), "50000-50099");
            first
        };
        left.detach().unwrap();
        assert_eq!(reserved(&host), "");
    }
}

/// One with pins has its ports while nobody runs.
#[test]
fn pins_keep_their_ports_from_those_beside_them() {
    require_kernel!();
    let (host, folder) = (with_other("pinned ports"), PinFolder::new("ports"));
    let open = |ports| {
        let pinned =
            EbpfDataplane::builder().pins(PinDir::new(folder.edge()).unwrap()).capacity(Capacity::small());
        host.open(with(pinned, ports)).unwrap()
    };
    open(OURS).leave_attached().unwrap();
    let beside = || host.open(beside(OURS)).unwrap();
    beside().detach().unwrap();
    assert_eq!(reserved(&host), "50000-50099", "they are the pinned one's");
    let second = beside();
    open(OURS).detach().unwrap();
    assert_eq!(reserved(&host), "50000-50099", "they are the other one's");
    // With another range the earlier one is given back, but for what somebody has.
    open(OURS).leave_attached().unwrap();
    second.detach().unwrap();
    let third = open(50_090..=50_109);
    assert_eq!(reserved(&host), "50090-50109");
    third.detach().unwrap();
    assert_eq!(reserved(&host), "");
    assert_eq!(folder.names("."), [""; 0]);
}

#[test]
fn what_somebody_takes_out_is_put_back() {
    require_kernel!();
    let host = Host::new("ports put back");
    let plane = host.open(with(small(), OURS)).unwrap();
    host.host.sysctl(RESERVED, "8080").unwrap();
    plane.refresh().unwrap();
    assert_eq!(reserved(&host), "8080,50000-50099");
    plane.detach().unwrap();
    assert_eq!(reserved(&host), "8080");
}

/// Without a folder for notes nothing is reserved that nobody would give back, and the reason is told.
#[test]
fn without_notes_nothing_is_reserved() {
    require_kernel!();
    let host = Host::new("no notes");
    let folder = std::env::temp_dir().join(format!("forebay-no-notes-{}", std::process::id()));
    std::fs::write(&folder, "").unwrap();
    let plane = host.open(with(small(), OURS).run_directory(folder.join("below"))).unwrap();
    let warnings = plane.warnings();
    assert!(
        warnings.iter().any(|warning| matches!(warning, Warning::PortsNotReserved { reason }
            if reason.contains("forebay-no-notes"))),
        "{warnings:?}"
    );
    assert_eq!(reserved(&host), "");
    plane.detach().unwrap();
    std::fs::remove_file(&folder).unwrap();
}
