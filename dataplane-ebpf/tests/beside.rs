//! Beside others on one interface: another's program is never replaced and never taken off, and who stands beside us is
//! told.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::os::unix::process::ExitStatusExt as _;

use common::{EGRESS, Host, INGRESS, XDP, has_tcx, id, in_child, is_child, seen, small};
use dataplane_core::{pipeline::Hook, tables::Store};
use dataplane_ebpf::{
    EbpfDataplane, Error, HookName, Order, Standing, TcAttachment, TcMode, Uplink, Warning, XdpAttachment,
    XdpMode, XdpOff,
};
use dataplane_testkit::{net::Namespace, require_kernel};

#[test]
fn a_taken_xdp_slot_is_left_alone_and_its_holder_named() {
    require_kernel!();
    let host = Host::new("taken");
    let uplink = |mode| small().uplink(Uplink::named("uplink").xdp(mode));
    // Where there is no tcx, both of them need a place of their own at clsact, too.
    let last = |mode| small().uplink(Uplink::named("uplink").xdp(mode).order(Order::Last));
    let holder = host.open(last(XdpMode::Native)).unwrap();

    for mode in [XdpMode::Native, XdpMode::Generic] {
        match host.open(uplink(mode)) {
            Err(error @ Error::XdpTaken { .. }) => {
                let text = error.to_string();
                assert!(text.contains("uplink") && text.contains("forebay_xdp"), "{text}");
                let Error::XdpTaken { program_id, .. } = error else { unreachable!() };
                assert_eq!(program_id, Some(xdp_id(&holder)));
            }
            other => panic!("{mode:?}: {other:?}"),
        }
    }
    // Who has it still has it.
    holder.refresh().unwrap();
    assert_eq!(host.xdp_program(), Some(xdp_id(&holder)));
    host.address();
    host.ping();
    assert!(seen(&holder.tables(), Hook::Xdp) > 0);
    drop(holder);
    host.open(uplink(XdpMode::Native)).unwrap().detach().unwrap();
}

/// A program that was put there by netlink, as `ip link` does, is one that an attempt by netlink would replace.
#[test]
fn a_program_that_is_no_link_is_left_alone_too() {
    require_kernel!();
    let host = Host::new("by netlink");
    let other = host.open(small()).unwrap();
    host.attach_xdp_by_netlink(xdp_id(&other));
    let before = host.xdp_program();
    assert_eq!(before, Some(xdp_id(&other)));
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let result = host.open(small().uplink(Uplink::named("uplink").xdp(mode)));
        assert!(
            matches!(&result, Err(Error::XdpTaken { program_id, .. }) if *program_id == before),
            "{result:?}"
        );
    }
    assert_eq!(host.xdp_program(), before);
    // Nor does one who works beside it take it along when it goes.
    host.open(small().uplink(Uplink::named("uplink").xdp(XdpMode::Auto))).unwrap().detach().unwrap();
    drop(host.open(small().uplink(Uplink::named("uplink").xdp(XdpMode::Off))).unwrap());
    assert_eq!(host.xdp_program(), before);
}

#[test]
fn automatic_choice_leaves_a_taken_slot_alone() {
    require_kernel!();
    // Not a veth, and its driver has native XDP: a tap.
    let host = Host::new("tap");
    host.command("ip", &["tuntap", "add", "tap0", "mode", "tap"]);
    let tap = || small().uplink(Uplink::named("tap0"));
    let holder = host.open(tap()).unwrap();
    assert_eq!(holder.attachments()[0].xdp, XdpAttachment::Native, "{:?}", holder.attachments());
    let second = host.open(tap()).unwrap();
    let attachment = second.attachments().remove(0);
    let XdpAttachment::Off(XdpOff::Taken { program_name, .. }) = &attachment.xdp else {
        panic!("{attachment:?}");
    };
    assert_eq!(program_name.as_deref(), Some("forebay_xdp"));
    assert_eq!(attachment.tc, TcAttachment::Tcx);
    let third = host.open(tap()).unwrap();
    drop(third);
    second.detach().unwrap();
    holder.refresh().unwrap();
    assert_eq!(holder.attachments()[0].standing, Standing::Attached);
}

#[test]
fn a_foreign_filter_on_clsact_is_left_alone() {
    require_kernel!();
    let host = Host::new("filter");
    host.command("tc", &["qdisc", "add", "dev", "uplink", "clsact"]);
    // A filter of classic BPF that matches nothing, with our handle but not our name.
    let bytecode = ["handle", "0xf0eb", "bpf", "bytecode", "1,6 0 0 0", "flowid", "1:1"];
    host.command(
        "tc",
        &[&["filter", "add", "dev", "uplink", "ingress", "prio", "1"][..], &bytecode].concat(),
    );
    host.command(
        "tc",
        &[&["filter", "add", "dev", "uplink", "egress", "prio", "65535", "protocol", "ip"][..], &bytecode]
            .concat(),
    );
    let clsact = |order| small().uplink(Uplink::named("uplink").tc(TcMode::Clsact).order(order));
    let result = host.open(clsact(Order::First));
    assert!(matches!(&result, Err(Error::FilterTaken { priority: 1, .. })), "{result:?}");
    // Nothing of ours stays: neither at egress, where there was room.
    let left = host.command("tc", &["filter", "show", "dev", "uplink", "egress"]);
    assert!(!left.contains("forebay"), "{left}");
    // One protocol only at that priority: there is no room for a filter for all of them.
    let result = host.open(clsact(Order::Last));
    assert!(matches!(&result, Err(Error::FilterTaken { priority: 65535, .. })), "{result:?}");
    host.command("tc", &["filter", "del", "dev", "uplink", "egress"]);
    host.open(clsact(Order::Last)).unwrap().detach().unwrap();
    let left = host.command("tc", &["filter", "show", "dev", "uplink", "ingress"]);
    assert!(left.contains("bytecode") && !left.contains("forebay"), "{left}");
}

/// Somebody puts a filter in our place while we live: it is told, and it is not taken off when we go.
#[test]
fn a_filter_that_took_our_place_is_left_alone() {
    require_kernel!();
    for dropped in [false, true] {
        let host = Host::new("displaced");
        let plane = host.open(small().uplink(Uplink::named("uplink").tc(TcMode::Clsact))).unwrap();
        let put = "filter replace dev uplink ingress prio 1 handle 0xf0eb bpf bytecode 1,6~0~0~0 flowid 1:1";
        let words: Vec<String> = put.split(' ').map(|word| word.replace('~', " ")).collect();
        host.command("tc", &words.iter().map(String::as_str).collect::<Vec<_>>());

        assert_eq!(plane.attachments()[0].standing, Standing::Displaced(HookName::ClsactIngress));
        match plane.refresh() {
            Err(Error::Displaced { interface, hook: HookName::ClsactIngress }) => {
                assert_eq!(interface, "uplink")
            }
            other => panic!("{other:?}"),
        }
        if dropped {
            drop(plane);
        } else {
            plane.detach().unwrap();
        }
        let filters = |direction| host.command("tc", &["filter", "show", "dev", "uplink", direction]);
        let left = filters("ingress");
        assert!(left.contains("0xf0eb") && left.contains("bytecode") && !left.contains("forebay"), "{left}");
        assert!(!filters("egress").contains("forebay"), "what was ours is gone");
    }
}

/// A link that is detached by force, as `bpftool link detach` does, is not an interface that is gone.
#[test]
fn a_program_that_was_taken_off_is_told_from_an_interface_that_is_gone() {
    require_kernel!();
    let host = Host::new("forced");
    let plane = host.open(small().uplink(Uplink::named("uplink").xdp(XdpMode::Native))).unwrap();
    let program = xdp_id(&plane);
    let links = host.command("bpftool", &["--json", "link", "show"]);
    // The ids of a link and of its program stand side by side.
    let marks = [',', '}'].map(|end| format!(",\"type\":\"xdp\",\"prog_id\":{program}{end}"));
    let found = marks.iter().find_map(|mark| links.split_once(mark.as_str()));
    let (before, _) = found.unwrap_or_else(|| panic!("{links}"));
    let (_, link) = before.rsplit_once("\"id\":").unwrap();
    host.command("bpftool", &["link", "detach", "id", link]);
    assert_eq!(plane.attachments()[0].standing, Standing::Displaced(HookName::XdpNative));
    let result = plane.refresh();
    assert!(matches!(&result, Err(Error::Displaced { hook: HookName::XdpNative, .. })), "{result:?}");
    plane.detach().unwrap();
}

/// The lock of a place on clsact is nothing that somebody without privileges could hold: it once was a name among the
/// abstract sockets of the network namespace.
#[test]
fn nobody_else_can_hold_a_place_on_clsact() {
    use std::os::{linux::net::SocketAddrExt as _, unix::net};
    require_kernel!();
    let host = Host::new("socket");
    let name = format!("forebay/clsact/{}/1", host.uplink.index());
    let address = net::SocketAddr::from_abstract_name(name).unwrap();
    let _held = host.host.run(|| net::UnixDatagram::bind_addr(&address).unwrap());
    host.open(small().uplink(Uplink::named("uplink").tc(TcMode::Clsact))).unwrap().detach().unwrap();
}

#[test]
fn a_folder_for_locks_that_anybody_may_write_to_is_refused() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    require_kernel!();
    let host = Host::new("locks");
    let folder = std::env::temp_dir().join(format!("forebay-run-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let open = |tc| host.open(small().run_directory(&folder).uplink(Uplink::named("uplink").tc(tc)));
    let result = open(TcMode::Clsact);
    assert!(matches!(&result, Err(Error::UntrustedLock { path, .. }) if *path == folder), "{result:?}");
    if has_tcx() {
        open(TcMode::Tcx).unwrap().detach().unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let plane = open(TcMode::Clsact).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "one of the place and one of the ports");
    plane.detach().unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::remove_dir(&folder).unwrap();
}

#[test]
fn filters_of_a_living_dataplane_are_left_alone() {
    require_kernel!();
    let host = Host::new("living");
    let clsact = || small().uplink(Uplink::named("uplink").xdp(XdpMode::Off).tc(TcMode::Clsact));
    let first = host.open(clsact()).unwrap();
    match host.open(clsact()) {
        Err(error @ Error::FilterTaken { .. }) => {
            let holder = format!("alive, process {}", std::process::id());
            assert!(error.to_string().contains(&holder), "{error}");
        }
        other => panic!("{other:?}"),
    }
    first.refresh().unwrap();
    // The other place is free, and both are told.
    let last = || small().uplink(Uplink::named("uplink").tc(TcMode::Clsact).order(Order::Last));
    let second = host.open(last()).unwrap();
    first.refresh().unwrap();
    assert_eq!(
        others(&first),
        [(HookName::ClsactIngress, id(&second, INGRESS)), (HookName::ClsactEgress, id(&second, EGRESS))]
    );
    assert_eq!(
        others(&second),
        [(HookName::ClsactIngress, id(&first, INGRESS)), (HookName::ClsactEgress, id(&first, EGRESS))]
    );
    drop(second);
    first.refresh().unwrap();
    assert_eq!(others(&first), []);
}

#[test]
fn filters_of_a_killed_process_are_replaced() {
    const NAME: &str = "filters_of_a_killed_process_are_replaced";
    let clsact = || small().uplink(Uplink::named("uplink").tc(TcMode::Clsact));
    if is_child(NAME) {
        let _plane = clsact().open().unwrap();
        std::process::abort();
    }
    require_kernel!();
    let host = Host::new("killed");
    let filters = || {
        host.command("tc", &["filter", "show", "dev", "uplink", "ingress"]).matches("forebay_ingress").count()
    };
    let output = host.host.run(|| in_child(NAME, &[]));
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", String::from_utf8_lossy(&output.stderr));
    let left = filters();
    assert!(left > 0);
    let plane = host.open(clsact()).unwrap();
    assert_eq!(filters(), left);
    host.address();
    host.ping();
    assert!(seen(&plane.tables(), Hook::Ingress) > 0);
    plane.detach().unwrap();
    assert_eq!(filters(), 0);
}

/// At tcx there is room for both, and neither would see that the other takes its packets.
#[test]
fn two_dataplanes_on_one_uplink_are_told() {
    require_kernel!(if has_tcx() { Ok(()) } else { Err("no tcx") });
    let host = Host::new("shared");
    let open = || host.open(small().uplink(Uplink::named("uplink").tc(TcMode::Tcx))).unwrap();
    let at_tcx =
        |plane| [(HookName::TcxIngress, id(plane, INGRESS)), (HookName::TcxEgress, id(plane, EGRESS))];
    let first = open();
    assert_eq!(others(&first), []);
    let second = open();
    assert_eq!(others(&second), at_tcx(&first));
    let warning = second.warnings().iter().map(ToString::to_string).collect::<String>();
    assert!(warning.contains("uplink has a program of another dataplane at tcx ingress"), "{warning}");
    // The first one finds it at its next look, and keeps to that where it can't look.
    host.host.run(|| first.refresh()).unwrap();
    assert_eq!(others(&first), at_tcx(&second));
    Namespace::new("elsewhere").unwrap().run(|| first.refresh()).unwrap();
    assert_eq!(others(&first), at_tcx(&second));
    let at_tcx_of_second = at_tcx(&second);
    second.detach().unwrap();
    assert_eq!(others(&first), at_tcx_of_second);
    host.host.run(|| first.refresh()).unwrap();
    assert_eq!(others(&first), []);
}

#[test]
fn two_dataplanes_do_not_notice_each_other() {
    require_kernel!();
    let (one, two) = (Host::new("one"), Host::new("two"));
    one.address();
    two.address();
    let open = |host: &Host| host.open(small().uplink(Uplink::named("uplink"))).unwrap();
    let (plane_one, plane_two) = (open(&one), open(&two));
    one.ping();
    let one_saw = seen(&plane_one.tables(), Hook::Ingress);
    assert!(one_saw > 0);
    let two_saw = seen(&plane_two.tables(), Hook::Ingress);
    plane_one.tables().slots().store(8, &[42]).unwrap();
    assert_eq!(plane_two.tables().slots().load(8, 0), Some(0));
    plane_one.detach().unwrap();
    two.ping();
    assert!(seen(&plane_two.tables(), Hook::Ingress) > two_saw);

    // Two in one namespace, with an uplink each.
    let host = Host::new("both");
    host.command("ip", &["link", "add", "second", "type", "veth"]);
    let first = host.open(small().uplink(Uplink::named("uplink"))).unwrap();
    let second = host.open(small().uplink(Uplink::named("second"))).unwrap();
    first.detach().unwrap();
    second.refresh().unwrap();
}

/// The programs of others on the first uplink, which the warnings must name, too.
fn others(plane: &EbpfDataplane) -> Vec<(HookName, u32)> {
    let attachment = plane.attachments().remove(0);
    let others: Vec<_> = attachment.others.iter().map(|other| (other.hook, other.program_id)).collect();
    let warned: Vec<_> = plane
        .warnings()
        .into_iter()
        .filter_map(|warning| match warning {
            Warning::SecondDataplane { interface, hook, program_id } => {
                assert_eq!(interface, attachment.interface);
                Some((hook, program_id))
            }
            _ => None,
        })
        .collect();
    assert_eq!(others, warned);
    others
}

fn xdp_id(plane: &EbpfDataplane) -> u32 {
    id(plane, XDP)
}
