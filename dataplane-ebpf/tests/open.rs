//! Opening and closing: which hooks are got and why, and how everything that can be in the way is named.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::sync::Arc;

use common::{Host, has_tcx, seen, small};
use dataplane_core::{
    abi::{ABI_VERSION, INTERFACE_PLACES, INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, Setting},
    model::NatPorts,
    pipeline::{Hook, Timeouts},
    tables::{Capacity, Store},
};
use dataplane_ebpf::{
    Builder, EbpfDataplane, Error, KernelTables, Order, PeerChecksums, Standing, TcAttachment, TcMode,
    Uplink, Warning, XdpAttachment, XdpMode, XdpOff,
};
use dataplane_testkit::{
    net::{Namespace, Offload, veth},
    require_kernel,
};

#[test]
fn handles_can_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<EbpfDataplane>();
    anywhere::<KernelTables>();
    anywhere::<Error>();
    anywhere::<Builder>();
    fn object_safe(tables: Arc<KernelTables>) -> Arc<dyn Store> {
        tables
    }
    let _ = object_safe;
}

#[test]
fn automatic_choice_on_a_veth_is_tcx_and_says_why() {
    require_kernel!();
    let host = Host::new("auto");
    let plane = host.open(small().uplink(Uplink::named("uplink"))).unwrap();
    let attachment = plane.attachments().remove(0);
    assert_eq!((attachment.interface.as_str(), attachment.index), ("uplink", host.uplink.index()));
    assert_eq!(attachment.xdp, XdpAttachment::Off(XdpOff::Veth));
    assert!(attachment.to_string().contains("veth"), "{attachment}");
    let tcx = plane.features().tcx;
    assert_eq!(attachment.tc, if tcx { TcAttachment::Tcx } else { TcAttachment::ClsactForLackOfTcx });
    assert!(!attachment.xdp_redirect && !attachment.xdp_tx);
    plane.detach().unwrap();
}

#[test]
fn the_tables_know_the_uplinks_and_the_time_outs() {
    require_kernel!();
    let host = Host::new("known");
    let timeouts = Timeouts { udp: 3_000, udp_stream: 1, ..Timeouts::default() };
    let plane = host.open(small().timeouts(timeouts).uplink(Uplink::named("uplink").zone(7))).unwrap();
    let tables = plane.tables();
    assert_eq!(tables.config().load(Setting::AbiVersion as u32, 0), Some(ABI_VERSION));
    // 3 s in units of 2^27 ns, rounded up; and the shortest time-out, 2.2 s.
    assert_eq!(tables.config().load(Setting::Udp as u32, 0), Some(23));
    assert_eq!(tables.config().load(Setting::UdpStream as u32, 0), Some(17));
    let place = host.uplink.index() % INTERFACE_PLACES;
    let mac = host.uplink.mac().unwrap();
    let first = u64::from(host.uplink.index()) | 7 << 32;
    let second = u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
    assert_eq!(tables.interfaces().load(place, 0), Some(first));
    assert_eq!(tables.interfaces().load(place, 1), Some(second));

    let other = [2, 0, 0, 0, 0, 9];
    host.uplink.set_mac(other).unwrap();
    plane.refresh().unwrap();
    assert_eq!(tables.interfaces().load(place, 1), Some(u64::from_ne_bytes([2, 0, 0, 0, 0, 9, 0, 0])));
    plane.detach().unwrap();
    assert_eq!(tables.interfaces().load(place, 0), Some(0));
}

/// Whoever holds the tables on, in whichever network namespace.
#[test]
fn a_dropped_dataplane_has_no_uplinks_in_its_tables() {
    require_kernel!();
    let host = Host::new("dropped");
    let plane = host.open(small().uplink(Uplink::named("uplink").zone(7))).unwrap();
    let tables = plane.tables();
    let place = host.uplink.index() % INTERFACE_PLACES;
    let entry = || [tables.interfaces().load(place, 0), tables.interfaces().load(place, 1)];
    assert_ne!(entry(), [Some(0), Some(0)]);
    drop(plane);
    assert_eq!(entry(), [Some(0), Some(0)]);
}

/// Every hook sees packets, and none does after the dataplane has gone: by the program's own counters.
#[test]
fn attached_programs_see_packets_until_they_are_detached() {
    require_kernel!();
    let automatic = if has_tcx() { TcAttachment::Tcx } else { TcAttachment::ClsactForLackOfTcx };
    let choices = [
        (XdpMode::Off, TcMode::Tcx, TcAttachment::Tcx, XdpAttachment::Off(XdpOff::NotWanted)),
        (XdpMode::Off, TcMode::Clsact, TcAttachment::Clsact, XdpAttachment::Off(XdpOff::NotWanted)),
        (XdpMode::Generic, TcMode::Auto, automatic, XdpAttachment::Generic),
        (XdpMode::Native, TcMode::Auto, automatic, XdpAttachment::Native),
    ];
    for (xdp, tc, tc_got, xdp_got) in
        choices.into_iter().filter(|choice| has_tcx() || choice.1 != TcMode::Tcx)
    {
        for order in [Order::First, Order::Last] {
            let host = Host::new("hooks");
            host.address();
            let plane =
                host.open(small().uplink(Uplink::named("uplink").xdp(xdp).tc(tc).order(order))).unwrap();
            let attachment = plane.attachments().remove(0);
            assert_eq!((&attachment.xdp, attachment.tc), (&xdp_got, tc_got));
            let tables = plane.tables();
            host.ping();
            assert!(seen(&tables, Hook::Ingress) > 0, "{attachment}");
            assert!(seen(&tables, Hook::Egress) > 0, "{attachment}");
            assert_eq!(seen(&tables, Hook::Xdp) > 0, xdp != XdpMode::Off, "{attachment}");
            plane.refresh().unwrap();
            plane.detach().unwrap();
            let before = Hook::ALL.map(|hook| seen(&tables, hook));
            host.ping();
            assert_eq!(Hook::ALL.map(|hook| seen(&tables, hook)), before, "{attachment}");

            // Dropping is the same as detaching, and what was used can be used again.
            let plane = host.open(small().uplink(Uplink::named("uplink").xdp(xdp).tc(tc))).unwrap();
            let tables = plane.tables();
            // In another network namespace, whose interface of the same index is not ours.
            Namespace::new("elsewhere").unwrap().run(|| drop(plane));
            let before = Hook::ALL.map(|hook| seen(&tables, hook));
            host.ping();
            assert_eq!(Hook::ALL.map(|hook| seen(&tables, hook)), before, "{attachment}");
        }
    }
}

/// What kernels before 6.6 do, also on this one.
#[test]
fn without_tcx_the_automatic_choice_is_clsact_and_says_why() {
    require_kernel!();
    let host = Host::new("without tcx");
    host.address();
    let plane = host.open(small().without_tcx().uplink(Uplink::named("uplink"))).unwrap();
    let attachment = plane.attachments().remove(0);
    assert_eq!(attachment.tc, TcAttachment::ClsactForLackOfTcx);
    assert!(attachment.to_string().contains("clsact (this kernel has no tcx)"), "{attachment}");
    assert!(!plane.features().tcx);
    host.ping();
    assert!(seen(&plane.tables(), Hook::Ingress) > 0 && seen(&plane.tables(), Hook::Egress) > 0);
    plane.detach().unwrap();
    let left = host.command("tc", &["filter", "show", "dev", "uplink", "ingress"]);
    assert!(!left.contains("forebay"), "{left}");
}

#[test]
fn tcx_is_refused_where_there_is_none() {
    require_kernel!();
    let host = Host::new("no tcx");
    match host.open(small().uplink(Uplink::named("uplink").tc(TcMode::Tcx))) {
        Ok(plane) => assert!(has_tcx() && plane.attachments()[0].tc == TcAttachment::Tcx),
        Err(error) => assert!(!has_tcx() && error.to_string().contains("no tcx (6.6)"), "{error}"),
    }
}

#[test]
fn a_missing_interface_is_named() {
    require_kernel!();
    let host = Host::new("missing");
    for name in ["eth7", "", "a-name-far-too-long-for-one", "far"] {
        match host.open(small().uplink(Uplink::named(name))) {
            Err(Error::InterfaceMissing { interface }) => assert_eq!(interface, name),
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

#[test]
fn an_interface_is_named_once() {
    require_kernel!();
    let host = Host::new("twice");
    let builder = small().uplink(Uplink::named("uplink")).uplink(Uplink::named("uplink"));
    assert!(matches!(host.open(builder), Err(Error::InterfaceTwice { interface }) if interface == "uplink"));
}

#[test]
fn interfaces_that_share_a_place_are_refused() {
    require_kernel!();
    let host = Host::new("places");
    let other = host.uplink.index() + INTERFACE_PLACES;
    host.command("ip", &["link", "add", "other", "index", &other.to_string(), "type", "veth"]);
    let builder = small().uplink(Uplink::named("uplink")).uplink(Uplink::named("other"));
    match host.open(builder) {
        Err(Error::InterfaceSlotTaken { interface, index, other: first, other_index }) => {
            assert_eq!((interface.as_str(), index), ("other", other));
            assert_eq!((first.as_str(), other_index), ("uplink", host.uplink.index()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interface_without_ethernet_is_refused() {
    require_kernel!();
    let host = Host::new("tun");
    host.command("ip", &["tuntap", "add", "tun0", "mode", "tun"]);
    let result = host.open(small().uplink(Uplink::named("tun0")));
    assert!(
        matches!(&result, Err(Error::InterfaceNotEthernet { interface, .. }) if interface == "tun0"),
        "{result:?}"
    );
}

#[test]
fn automatic_choice_says_that_a_driver_has_no_xdp() {
    require_kernel!();
    let host = Host::new("bridge");
    host.command("ip", &["link", "add", "br0", "type", "bridge"]);
    let plane = host.open(small().uplink(Uplink::named("br0"))).unwrap();
    let attachment = plane.attachments().remove(0);
    assert!(
        matches!(&attachment.xdp, XdpAttachment::Off(XdpOff::NoDriverSupport { driver }) if driver.as_deref() == Some("bridge")),
        "{attachment:?}"
    );
    drop(plane);
    match host.open(small().uplink(Uplink::named("br0").xdp(XdpMode::Native))) {
        Err(error @ Error::Attach { .. }) => {
            assert_eq!(error.errno(), Some(libc::EOPNOTSUPP));
            assert!(error.to_string().contains("driver has no XDP"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vanished_interface_is_named() {
    require_kernel!();
    for (xdp, tc) in
        [(XdpMode::Off, TcMode::Auto), (XdpMode::Off, TcMode::Clsact), (XdpMode::Native, TcMode::Auto)]
    {
        let host = Host::new("vanish");
        let plane = host
            .open(
                small()
                    .uplink(Uplink::named("uplink").xdp(xdp).tc(tc))
                    .uplink(Uplink::named("lo").xdp(XdpMode::Off)),
            )
            .unwrap();
        plane.refresh().unwrap();
        let index = host.uplink.index();
        assert_eq!(plane.attachments()[0].standing, Standing::Attached);
        host.uplink.delete().unwrap();
        // It need not be asked to refresh first.
        let [uplink, lo] = &plane.attachments()[..] else { panic!("two uplinks") };
        assert_eq!((uplink.standing, lo.standing), (Standing::InterfaceGone, Standing::Attached));
        assert!(uplink.to_string().starts_with("uplink: gone"), "{uplink}");
        match plane.refresh() {
            Err(Error::InterfaceVanished { interface, index: gone }) => {
                assert_eq!((interface.as_str(), gone), ("uplink", index));
            }
            other => panic!("{other:?}"),
        }
        // What is left works and can be taken off.
        plane.detach().unwrap();
    }
}

/// A network card that was unplugged, a tunnel that was made anew: the same name, another index.
#[test]
fn an_interface_that_came_back_is_attached_to_again() {
    require_kernel!();
    for (xdp, tc) in
        [(XdpMode::Off, TcMode::Auto), (XdpMode::Off, TcMode::Clsact), (XdpMode::Native, TcMode::Auto)]
    {
        let host = Host::new("back");
        let uplink = Uplink::named("uplink").xdp(xdp).tc(tc).zone(3);
        let plane = host.open(small().uplink(uplink)).unwrap();
        let before = plane.attachments().remove(0);
        host.uplink.delete().unwrap();
        let refresh = || host.host.run(|| plane.refresh());
        assert!(matches!(refresh(), Err(Error::InterfaceVanished { .. })));
        let (uplink, far) = veth(&host.host, "uplink", &host.peer, "far").unwrap();
        // From here its index would mean another interface.
        assert!(matches!(plane.refresh(), Err(Error::InterfaceVanished { .. })));
        refresh().unwrap();
        let after = plane.attachments().remove(0);
        assert_eq!(after.index, uplink.index());
        assert_ne!(after.index, before.index);
        assert_eq!((after.standing, after.zone, &after.xdp), (Standing::Attached, 3, &before.xdp));
        let host = Host { uplink, far, ..host };
        host.address();
        let before = seen(&plane.tables(), Hook::Ingress) + seen(&plane.tables(), Hook::Xdp);
        host.ping();
        assert!(seen(&plane.tables(), Hook::Ingress) + seen(&plane.tables(), Hook::Xdp) > before);
        plane.detach().unwrap();
    }
}

#[test]
fn a_table_without_room_or_too_large_is_named() {
    require_kernel!();
    let host = Host::new("capacity");
    let open = |capacity| host.open(EbpfDataplane::builder().unpinned().capacity(capacity));
    let none = Capacity { conntrack: 0, ..Capacity::small() };
    assert!(matches!(open(none), Err(Error::CapacityZero { table: "conntrack_v4" })));
    let huge = Capacity { conntrack: u32::MAX, ..Capacity::small() };
    match open(huge) {
        Err(error @ Error::Map { .. }) => {
            assert!(error.to_string().contains("conntrack_v"), "{error}");
            assert!(matches!(error.errno(), Some(libc::E2BIG | libc::ENOMEM | libc::EINVAL)), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// A range of one port is one; what leaves the host's own sockets none is refused, and changes nothing.
#[test]
fn ports_of_source_nat_that_are_the_hosts_own_are_named() {
    require_kernel!();
    const LOCAL: &str = "net/ipv4/ip_local_port_range";
    const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
    let host = Host::new("ports");
    host.host.sysctl(LOCAL, "50000\t50009").unwrap();
    let open = |ports| {
        let builder = small().nat_ports(NatPorts::new(ports).unwrap());
        host.open(builder.uplink(Uplink::named("uplink")))
    };
    for ports in [50_000..=50_009, 49_152..=u16::MAX] {
        let error = open(ports.clone()).unwrap_err();
        let Error::NatPortsTaken { first, last, local_first, local_last } = error else { panic!("{error}") };
        assert_eq!((first..=last, local_first, local_last), (ports, 50_000, 50_009));
        assert!(error.to_string().contains("net.ipv4.ip_local_port_range"), "{error}");
        assert_eq!(host.host.read_sysctl(RESERVED).unwrap().trim(), "");
    }
    // In the midst of the host's own: they are reserved as long as it is open.
    for (ports, reserved) in [(50_001..=50_009, "50001-50009"), (50_004..=50_004, "50004")] {
        let plane = open(ports).unwrap();
        assert_eq!(host.host.read_sysctl(RESERVED).unwrap().trim(), reserved);
        plane.detach().unwrap();
        assert_eq!(host.host.read_sysctl(RESERVED).unwrap().trim(), "");
    }
}

#[test]
fn the_host_is_looked_at() {
    require_kernel!();
    let host = Host::new("host");
    let open = || host.open(small().uplink(Uplink::named("uplink"))).unwrap().warnings();
    let has = |warnings: &[Warning], setting: &str| {
        warnings.iter().any(|warning| warning.to_string().contains(setting))
    };

    host.host.sysctl("net/ipv4/conf/uplink/forwarding", "0").unwrap();
    host.host.sysctl("net/ipv6/conf/uplink/forwarding", "0").unwrap();
    host.host.sysctl("net/ipv4/conf/uplink/rp_filter", "1").unwrap();
    let warnings = open();
    for setting in [
        "net.ipv4.conf.uplink.forwarding",
        "net.ipv6.conf.uplink.forwarding",
        "net.ipv4.conf.uplink.rp_filter",
    ] {
        assert!(has(&warnings, setting), "{setting}: {warnings:?}");
    }

    host.host.sysctl("net/ipv4/conf/uplink/forwarding", "1").unwrap();
    host.host.sysctl("net/ipv6/conf/uplink/forwarding", "1").unwrap();
    host.host.sysctl("net/ipv4/conf/uplink/rp_filter", "2").unwrap();
    assert_eq!(open(), []);
    host.host
        .sysctls(&[("net/ipv4/conf/uplink/rp_filter", "0"), ("net/ipv4/conf/all/rp_filter", "1")])
        .unwrap();
    let warnings = open();
    assert!(has(&warnings, "net.ipv4.conf.all.rp_filter") && warnings.len() == 1, "{warnings:?}");
    host.host.sysctl("net/ipv4/conf/all/rp_filter", "0").unwrap();
    assert_eq!(open(), []);

    // It is this namespace that is looked at, whichever the caller is in.
    let plane = host.open(small().uplink(Uplink::named("uplink"))).unwrap();
    host.host.sysctl("net/ipv4/conf/uplink/forwarding", "0").unwrap();
    plane.refresh().unwrap();
    assert!(has(&plane.warnings(), "net.ipv4.conf.uplink.forwarding"), "{:?}", plane.warnings());
    host.host.sysctl("net/ipv4/conf/uplink/forwarding", "1").unwrap();
    plane.refresh().unwrap();
    assert_eq!(plane.warnings(), []);
    drop(plane);

    host.host.sysctl("net/ipv6/conf/uplink/forwarding", "0").unwrap();
    host.host.sysctl("net/ipv6/conf/uplink/disable_ipv6", "1").unwrap();
    assert_eq!(open(), []);
    host.uplink.set_down().unwrap();
    assert_eq!(open(), [Warning::InterfaceDown { interface: "uplink".into() }]);
}

#[test]
fn unfinished_checksums_are_warned_about() {
    require_kernel!();
    let host = Namespace::new("checksums").unwrap();
    let (_, far) = veth(&host, "uplink", &host, "far").unwrap();
    let of = |mode| {
        let plane = host.run(|| small().uplink(Uplink::named("uplink").xdp(mode)).open().unwrap());
        let mut warnings = plane.warnings();
        warnings.retain(|warning| matches!(warning, Warning::UnfinishedChecksums { .. }));
        warnings
    };
    assert!(far.offload(Offload::TxChecksum).unwrap());
    let on =
        Warning::UnfinishedChecksums { interface: "uplink".into(), peer: PeerChecksums::On("far".into()) };
    assert_eq!(of(XdpMode::Native), std::slice::from_ref(&on));
    assert_eq!(of(XdpMode::Generic), [on]);
    assert_eq!(of(XdpMode::Auto), []);
    far.set_offload(Offload::TxChecksum, false).unwrap();
    assert_eq!(of(XdpMode::Native), []);

    // Across namespaces nobody can tell.
    let host = Host::new("checksums");
    let plane = host.open(small().uplink(Uplink::named("uplink").xdp(XdpMode::Native))).unwrap();
    let unknown = Warning::UnfinishedChecksums { interface: "uplink".into(), peer: PeerChecksums::Unknown };
    assert!(plane.warnings().contains(&unknown), "{:?}", plane.warnings());
}

#[test]
fn generic_xdp_is_warned_about() {
    require_kernel!();
    let host = Host::new("generic");
    let of = |xdp, tc| {
        let plane = host.open(small().uplink(Uplink::named("uplink").xdp(xdp).tc(tc))).unwrap();
        let mut warnings = plane.warnings();
        warnings.retain(|warning| matches!(warning, Warning::GenericXdp { .. }));
        warnings
    };
    for tc in [TcMode::Auto, TcMode::Clsact] {
        let warnings = of(XdpMode::Generic, tc);
        assert_eq!(warnings, [Warning::GenericXdp { interface: "uplink".into() }]);
        let text = warnings[0].to_string();
        assert!(text.starts_with("uplink ") && text.contains("use XdpMode::Auto"), "{text}");
        for quiet in [XdpMode::Auto, XdpMode::Native, XdpMode::Off] {
            assert_eq!(of(quiet, tc), []);
        }
    }
}

#[test]
fn xdp_sends_over_a_veth_only_where_the_other_end_takes_it() {
    require_kernel!();
    let host = Host::new("send");
    let plane = host.open(small().uplink(Uplink::named("uplink").xdp(XdpMode::Native))).unwrap();
    let flags = || {
        let word = plane.tables().interfaces().load(host.uplink.index() % INTERFACE_PLACES, 0).unwrap();
        (word >> 48) as u16
    };
    let warning = Warning::XdpCannotSend { interface: "uplink".into(), veth: true };
    assert!(!plane.attachments()[0].xdp_redirect && plane.warnings().contains(&warning));
    assert_eq!(flags(), 0);

    let peer = host.peer.run(|| small().uplink(Uplink::named("far").xdp(XdpMode::Native)).open().unwrap());
    plane.refresh().unwrap();
    assert!(plane.attachments()[0].xdp_redirect && !plane.warnings().contains(&warning));
    assert_eq!(flags(), INTERFACE_XDP_REDIRECT | INTERFACE_XDP_TX);

    peer.detach().unwrap();
    plane.refresh().unwrap();
    assert_eq!(flags(), 0);

    // GRO at the other end takes what is redirected, and still loses what is sent back.
    host.far.set_offload(Offload::Gro, true).unwrap();
    plane.refresh().unwrap();
    assert_eq!(flags(), INTERFACE_XDP_REDIRECT);
}

/// A tap takes frames from XDP, and none in several buffers (Linux 6.18, drivers/net/tun.c), as an uplink with a large MTU has.
#[test]
fn xdp_sends_no_fragments_to_who_takes_none() {
    require_kernel!();
    let host = Host::new("fragments");
    host.command("ip", &["tuntap", "add", "dev", "tap", "mode", "tap"]);
    host.command("ip", &["link", "set", "tap", "up"]);
    let peer = host.peer.run(|| small().uplink(Uplink::named("far").xdp(XdpMode::Native)).open().unwrap());
    let uplinks = small().uplink(Uplink::named("uplink").xdp(XdpMode::Native));
    let plane = host.open(uplinks.uplink(Uplink::named("tap").xdp(XdpMode::Off))).unwrap();
    let redirects = || -> Vec<bool> { plane.attachments().iter().map(|one| one.xdp_redirect).collect() };
    if !common::kernel::is_at_least(6, 3) {
        // Nobody tells: where XDP is off none are sent.
        assert_eq!(redirects(), [false, false]);
        return;
    }
    assert_eq!(redirects(), [true, true]);
    for (mtu, taken) in [("9000", false), ("1501", false), ("1500", true)] {
        host.command("ip", &["link", "set", "uplink", "mtu", mtu]);
        plane.refresh().unwrap();
        assert_eq!(redirects(), [true, taken], "{mtu}");
        let word = |index: u32| plane.tables().interfaces().load(index % INTERFACE_PLACES, 0).unwrap();
        let tap = host.host.interface("tap").unwrap().index();
        assert_eq!((word(tap) >> 48) as u16 & INTERFACE_XDP_REDIRECT != 0, taken, "{mtu}");
    }
    drop(peer);
}
