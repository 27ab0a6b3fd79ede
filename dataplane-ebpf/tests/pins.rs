//! Pins: what stays while nobody runs, who takes it over, who is refused, and that nothing is left once all is taken off.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    fs,
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, chown, symlink},
    },
    path::Path,
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType};
use common::{EGRESS, Host, INGRESS, XDP, has_tcx, id, in_child, is_child, seen};
use dataplane_core::{
    abi::{ABI_VERSION, Setting, map},
    pipeline::Hook,
    tables::{Capacity, Store as _},
};
use dataplane_ebpf::{
    Builder, Distrust, EbpfDataplane, Error, KernelTables, Order, PinDir, PinFault, Standing, TcAttachment,
    TcMode, Uplink, XdpAttachment, XdpMode,
};
use dataplane_testkit::{
    net::{Namespace, veth, wait_for},
    pins::PinFolder,
    require_kernel,
};

fn pins(folder: &PinFolder) -> PinDir {
    PinDir::new(folder.edge()).unwrap()
}

/// Small tables, pinned.
fn pinned(folder: &PinFolder) -> Builder {
    EbpfDataplane::builder().pins(pins(folder)).capacity(Capacity::small())
}

fn native() -> Uplink {
    Uplink::named("uplink").xdp(XdpMode::Native)
}

/// The kernel's number of a table's map.
fn map_id(tables: &KernelTables, name: &str) -> String {
    let fd = tables.map_fd(name).unwrap().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    info.lines().find_map(|line| line.strip_prefix("map_id:")).unwrap().trim().to_owned()
}

/// All that iproute2, ethtool and bpftool tell of a host's interfaces.
fn state(host: &Host) -> String {
    // bpftool of Debian 12 does not know tcx.
    let tcx = [TcAttachType::Ingress, TcAttachType::Egress]
        .map(|hook| if has_tcx() { at_tcx(host, hook) } else { Vec::new() });
    [
        ("ip", &["-details", "link", "show"][..]),
        ("tc", &["qdisc", "show"]),
        ("tc", &["filter", "show", "dev", "uplink", "ingress"]),
        ("tc", &["filter", "show", "dev", "uplink", "egress"]),
        ("bpftool", &["net", "show"]),
        ("ethtool", &["-k", "uplink"]),
        ("sysctl", &["-a", "--pattern", "^net\\.(ipv4|ipv6)\\."]),
    ]
    .map(|(program, arguments)| host.command(program, arguments))
    .concat()
        + &format!("{tcx:?}")
}

/// The same with `#` for every number, but for those of sysctls: programs may have been replaced by the same ones.
fn without_ids(state: &str) -> String {
    let digits = |a: char, b: char| a.is_ascii_digit() && b.is_ascii_digit();
    let line = |line: &str| {
        if line.starts_with("net.") {
            return line.to_owned();
        }
        let mut characters: Vec<char> = line.chars().collect();
        characters.dedup_by(|a, b| digits(*a, *b));
        characters.iter().map(|one| if one.is_ascii_digit() { '#' } else { *one }).collect()
    };
    state.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The ids of the programs at tcx of the uplink, in their order.
fn at_tcx(host: &Host, hook: TcAttachType) -> Vec<u32> {
    let (_, programs) = host.host.run(|| SchedClassifier::query_tcx("uplink", hook)).unwrap();
    programs.iter().map(|program| program.id()).collect()
}

#[test]
fn what_is_dropped_stays_and_the_next_takes_it_over() {
    require_kernel!();
    for tc in [TcMode::Auto, TcMode::Clsact] {
        let (host, folder) = (Host::new("stays"), PinFolder::new(&format!("stays-{tc:?}")));
        host.address();
        let open = || host.open(pinned(&folder).uplink(native().tc(tc))).unwrap();
        let first = open();
        assert!(!first.is_adopted());
        assert_eq!(first.pins(), Some(folder.edge().as_path()));
        host.ping();
        let tables = first.tables();
        let config = map_id(&tables, map::CONFIG);
        let (xdp, before) = (id(&first, XDP), seen(&tables, Hook::Xdp));
        assert!(before > 0);
        first.leave_attached().unwrap();
        drop(tables);

        assert_eq!(host.xdp_program(), Some(xdp), "nobody runs, and the program is there");
        host.ping();
        let names = folder.names("edge");
        let count = names.len();
        let second = open();
        assert!(second.is_adopted());
        // The arrays of tail calls are of one generation of programs: those of before are gone.
        assert!(names.contains(&"stages_1".into()), "{names:?}");
        let names = folder.names("edge");
        assert!(names.contains(&"stages_2".into()) && names.len() == count, "{names:?}");
        let tables = second.tables();
        assert_eq!(map_id(&tables, map::CONFIG), config);
        assert!(seen(&tables, Hook::Xdp) > before, "packets were counted while nobody ran");
        assert_ne!(id(&second, XDP), xdp);
        assert_eq!(host.xdp_program(), Some(id(&second, XDP)));
        let filters = host.command("tc", &["filter", "show", "dev", "uplink", "ingress"]);
        if second.attachments()[0].tc == TcAttachment::Tcx {
            assert_eq!(at_tcx(&host, TcAttachType::Ingress), [id(&second, INGRESS)]);
            assert_eq!(at_tcx(&host, TcAttachType::Egress), [id(&second, EGRESS)]);
            assert_eq!(filters, "");
        } else {
            assert_eq!(filters.matches(" handle ").count(), 1, "{filters}");
            assert!(filters.contains(&format!(" id {} ", id(&second, INGRESS))), "{filters}");
        }
        assert_eq!(second.attachments()[0].standing, Standing::Attached);
        drop((second, tables));
        assert_eq!(folder.names("edge"), names);
        open().detach().unwrap();
        assert_eq!(folder.names("."), [""; 0]);
    }
}

/// Somebody else's programs stand before and after ours, and stay through taking over and taking off.
#[test]
fn detaching_leaves_the_host_as_it_was() {
    require_kernel!();
    for tc in [TcMode::Auto, TcMode::Clsact] {
        for foreign in [false, true] {
            let (host, folder) = (Host::new("trace"), PinFolder::new(&format!("trace-{tc:?}-{foreign}")));
            let elsewhere = Namespace::new("elsewhere").unwrap();
            veth(&host.host, "other", &elsewhere, "end").unwrap();
            let place = |order| Uplink::named("uplink").xdp(XdpMode::Off).order(order);
            let others = foreign.then(|| {
                let other = |uplink| host.open(common::small().uplink(uplink)).unwrap();
                let xdp = other(Uplink::named("other").xdp(XdpMode::Native));
                // Behind ours there will be one more.
                (xdp, other(place(Order::First)))
            });
            if foreign {
                host.command("tc", &["qdisc", "add", "dev", "other", "clsact"]);
                let words =
                    ["filter", "add", "dev", "other", "egress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0"];
                host.command("tc", &words);
            }
            let before = state(&host);
            let open = |order| {
                // XDP, which changes settings of the driver; on the other interface it is taken, if anybody is there.
                let xdp = if foreign { XdpMode::Off } else { XdpMode::Native };
                let uplink = Uplink::named("uplink").xdp(XdpMode::Native).tc(tc).order(order);
                let other = Uplink::named("other").xdp(xdp).tc(tc).order(order);
                host.open(pinned(&folder).uplink(uplink).uplink(other)).unwrap()
            };
            let first = open(Order::Last);
            let behind = (foreign && has_tcx()).then(|| {
                let behind = host.open(common::small().uplink(place(Order::Last).tc(TcMode::Tcx))).unwrap();
                (at_tcx(&host, TcAttachType::Ingress).len(), behind)
            });
            assert_ne!(state(&host), before);
            drop(first);
            let second = open(Order::Last);
            if let (Some((count, behind)), Some((_, front))) = (&behind, &others) {
                let at = at_tcx(&host, TcAttachType::Ingress);
                assert_eq!(at.len(), *count, "no more and no fewer than before the upgrade");
                assert_eq!(at.first(), Some(&id(front, INGRESS)));
                assert_eq!(at.last(), Some(&id(behind, INGRESS)));
                if tc == TcMode::Auto {
                    assert_eq!(at[1], id(&second, INGRESS));
                }
            }
            let maps: Vec<String> =
                [map::SLOTS, map::CONNTRACK_V4].map(|name| map_id(&second.tables(), name)).into();
            second.detach().unwrap();
            if let Some((_, behind)) = behind {
                behind.refresh().unwrap();
                behind.detach().unwrap();
            }
            if let Some((xdp, front)) = &others {
                xdp.refresh().unwrap();
                front.refresh().unwrap();
            }
            assert_eq!(state(&host), before);
            assert_eq!(folder.names("."), [""; 0]);
            for map in maps {
                let gone = || {
                    let found =
                        std::process::Command::new("bpftool").args(["map", "show", "id", &map]).output();
                    !found.unwrap().status.success()
                };
                wait_for(Duration::from_secs(10), "a map that nobody holds to be freed", gone).unwrap();
            }
        }
    }
}

#[test]
fn uplinks_and_hooks_follow_the_new_configuration() {
    require_kernel!();
    let (host, folder) = (Host::new("follow"), PinFolder::new("follow"));
    let elsewhere = Namespace::new("elsewhere").unwrap();
    veth(&host.host, "other", &elsewhere, "end").unwrap();
    let before = state(&host);
    let open = |uplinks: &[Uplink]| {
        let builder = uplinks.iter().cloned().fold(pinned(&folder), Builder::uplink);
        host.open(builder).unwrap()
    };
    let standing = |plane: &EbpfDataplane| -> Vec<(String, XdpAttachment, TcAttachment)> {
        let attachments = plane.attachments();
        assert!(attachments.iter().all(|one| one.standing == Standing::Attached), "{attachments:?}");
        attachments.into_iter().map(|one| (one.interface, one.xdp, one.tc)).collect()
    };
    let interfaces = |plane: &EbpfDataplane| {
        let tables = plane.tables();
        let interfaces = tables.interfaces();
        (0..interfaces.capacity()).filter(|&place| interfaces.load(place, 0) != Some(0)).count()
    };
    let plane = open(&[native()]);
    assert_eq!(interfaces(&plane), 1);
    drop(plane);
    // One more, which is added; then only that one.
    let both = open(&[native(), Uplink::named("other")]);
    assert_eq!((standing(&both).len(), interfaces(&both)), (2, 2));
    drop(both);
    let one = open(&[Uplink::named("other")]);
    assert_eq!((standing(&one).len(), interfaces(&one)), (1, 1));
    assert_eq!(host.xdp_program(), None);
    if has_tcx() {
        assert_eq!(at_tcx(&host, TcAttachType::Ingress), [0; 0]);
    }
    drop(one);
    // Each kind of attachment in the place of each other kind.
    for xdp in [XdpMode::Native, XdpMode::Generic, XdpMode::Off, XdpMode::Native, XdpMode::Auto] {
        for (tc, order) in [
            (TcMode::Auto, Order::First),
            (TcMode::Clsact, Order::First),
            (TcMode::Clsact, Order::Last),
            (TcMode::Auto, Order::Last),
        ] {
            let plane = open(&[Uplink::named("uplink").xdp(xdp).tc(tc).order(order)]);
            let (_, what, kind) = standing(&plane).remove(0);
            assert_eq!(what == XdpAttachment::Native, xdp == XdpMode::Native, "{what:?}");
            assert_eq!(what == XdpAttachment::Generic, xdp == XdpMode::Generic, "{what:?}");
            assert_eq!(host.xdp_program().is_some(), matches!(xdp, XdpMode::Native | XdpMode::Generic));
            let filters = host.command("tc", &["filter", "show", "dev", "uplink", "ingress"]);
            assert_eq!(filters.matches(INGRESS).count() > 0, kind != TcAttachment::Tcx, "{filters}");
            assert!(filters.matches(" handle ").count() <= 1, "{filters}");
            drop(plane);
        }
    }
    PinDir::new(folder.edge()).unwrap();
    host.host.run(|| pins(&folder).remove(None)).unwrap();
    assert_eq!(state(&host), before);
    assert_eq!(folder.names("."), [""; 0]);
}

/// An interface that was made anew while nobody ran has the old one's name, perhaps its index, and not its programs.
#[test]
fn an_interface_that_was_made_anew_is_attached_to_anew() {
    require_kernel!();
    let (mut host, folder) = (Host::new("anew"), PinFolder::new("anew"));
    let open = |host: &Host| host.open(pinned(&folder).uplink(native())).unwrap();
    drop(open(&host));
    let index = host.uplink.index().to_string();
    host.command("ip", &["link", "del", "uplink"]);
    let name = ["link", "add", "uplink", "index", &index, "type", "veth", "peer", "name", "far2"];
    host.command("ip", &name);
    host.command("ip", &["link", "set", "uplink", "up"]);
    let plane = open(&host);
    assert_eq!(plane.attachments()[0].standing, Standing::Attached);
    assert_eq!(plane.attachments()[0].index.to_string(), index);
    assert_eq!(host.xdp_program(), Some(id(&plane, XDP)));
    // What somebody took off by force is put back.
    let links = host
        .command("bpftool", &["link", "show", "pinned", link_path(&folder, "xdp_native").to_str().unwrap()]);
    let link = links.split(':').next().unwrap().to_owned();
    drop(plane);
    host.command("bpftool", &["link", "detach", "id", &link]);
    assert_eq!(host.xdp_program(), None);
    let plane = open(&host);
    assert_eq!(host.xdp_program(), Some(id(&plane, XDP)));
    plane.detach().unwrap();
    assert_eq!(folder.names("."), [""; 0]);
    host.far = host.host.interface("far2").unwrap();
}

fn link_path(folder: &PinFolder, prefix: &str) -> std::path::PathBuf {
    let names = folder.names("edge");
    let name = names.iter().find(|name| name.starts_with(prefix)).unwrap_or_else(|| panic!("{names:?}"));
    folder.edge().join(name)
}

#[test]
fn a_second_dataplane_is_refused_and_the_first_named() {
    require_kernel!();
    let (host, folder) = (Host::new("lock"), PinFolder::new("lock"));
    let plane = host.open(pinned(&folder)).unwrap();
    let refused = |builder: Builder| match host.open(builder) {
        Err(Error::PinsHeld { path, process, command }) => {
            assert_eq!(path, folder.edge());
            (process, command)
        }
        other => panic!("{other:?}"),
    };
    let own = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    assert_eq!(refused(pinned(&folder)), (Some(std::process::id()), Some(own)));
    // Who keeps its locks elsewhere is refused, too, but can't tell by whom.
    let run = std::env::temp_dir().join(format!("forebay-pins-run-{}", std::process::id()));
    assert_eq!(refused(pinned(&folder).run_directory(&run)), (None, None));
    // While tables may be written to, nobody takes them over.
    let tables = plane.tables();
    plane.leave_attached().unwrap();
    assert!(refused(pinned(&folder)).0.is_some());
    let removed = host.host.run(|| pins(&folder).remove(None));
    assert!(matches!(&removed, Err(Error::PinsHeld { .. })), "{removed:?}");
    drop(tables);
    let error = host.open(EbpfDataplane::builder().capacity(Capacity::small())).unwrap().leave_attached();
    assert!(matches!(&error, Err(Error::NotPinned)), "{error:?}");
    host.open(pinned(&folder).run_directory(&run)).unwrap().detach().unwrap();
    fs::remove_dir(&run).unwrap();
}

/// A process that is killed leaves its dataplane attached and nothing locked.
#[test]
fn a_killed_process_is_taken_over() {
    const NAME: &str = "a_killed_process_is_taken_over";
    const FOLDER: &str = "FOREBAY_TEST_PINS";
    if is_child(NAME) {
        let path = std::env::var(FOLDER).unwrap();
        let builder = EbpfDataplane::builder().pins(PinDir::new(path).unwrap()).capacity(Capacity::small());
        let plane = builder.uplink(native()).open().unwrap();
        println!("adopted: {}", plane.is_adopted());
        std::process::abort();
    }
    require_kernel!();
    let (host, folder) = (Host::new("killed"), PinFolder::new("killed"));
    for adopted in [false, true] {
        let path = folder.edge();
        let variable = format!("{FOLDER}={}", path.display());
        let output = host.host.run(|| in_child(NAME, &["env", &variable]));
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("adopted: {adopted}")), "{output:?}");
        assert!(host.xdp_program().is_some());
    }
    let plane = host.open(pinned(&folder).uplink(native())).unwrap();
    assert!(plane.is_adopted());
    plane.detach().unwrap();
    assert_eq!(host.xdp_program(), None);
    assert_eq!(folder.names("."), [""; 0]);
}

/// Why a dataplane can't be opened with these pins.
fn fault(host: &Host, builder: Builder) -> (String, PinFault) {
    let error = host.open(builder).expect_err("it opened");
    let text = error.to_string();
    match error {
        Error::Pin { path, reason } => {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(text.contains(&name), "{text}");
            (name, reason)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn pins_that_do_not_fit_are_refused_and_stay() {
    require_kernel!();
    let (host, folder) = (Host::new("misfit"), PinFolder::new("misfit"));
    let open = || pinned(&folder).uplink(native());
    let plane = host.open(open()).unwrap();
    let config = plane.tables();
    let program = host.xdp_program();
    plane.leave_attached().unwrap();

    // Another version, which is looked at before any size.
    config.config().store(Setting::AbiVersion as u32, &[ABI_VERSION + 1]).unwrap();
    drop(config);
    let larger = Capacity { slots: 1 << 13, ..Capacity::small() };
    let version = PinFault::Version { pinned: ABI_VERSION + 1, own: ABI_VERSION };
    assert_eq!(fault(&host, open().capacity(larger)), (String::from(map::CONFIG), version));
    bpftool_set_version(&folder, ABI_VERSION);

    // Another capacity: of one of the tables, both numbers are told.
    let small = Capacity::small();
    for (capacity, table, pinned, wanted) in [
        (larger, map::SLOTS, small.slots, 1 << 13),
        (Capacity { conntrack: 128, ..small }, map::CONNTRACK_V4, small.conntrack, 128),
        (Capacity { backends: 9, ..small }, map::BACKENDS_V4, small.backends, 9),
    ] {
        let reason = PinFault::Capacity { table, pinned, wanted };
        assert!(
            reason.to_string().contains(&pinned.to_string())
                && reason.to_string().contains(&wanted.to_string())
        );
        assert_eq!(fault(&host, open().capacity(capacity)), (table.to_owned(), reason));
    }

    // Somebody else's objects under our names, and none at all.
    let maps = folder.edge().join("maps");
    let (ours, kept) = (maps.join(map::SERVICE_WORDS), folder.root().join("kept"));
    fs::rename(&ours, &kept).unwrap();
    assert_eq!(fault(&host, open()), (map::SERVICE_WORDS.into(), PinFault::Missing));
    let create = |name: &str, kind: &str, key: u32, value: u32, entries: u32, flags: u32| {
        let [key, value, entries, flags] = [key, value, entries, flags].map(|n| n.to_string());
        let words = ["map", "create", ours.to_str().unwrap(), "type", kind, "key", &key, "value", &value];
        let more = ["entries", &entries, "name", name, "flags", &flags];
        host.command("bpftool", &[&words[..], &more].concat());
    };
    let words = small.frontends * 2;
    const MMAPABLE: u32 = 1 << 10;
    for (name, kind, key, value, flags) in [
        (map::SERVICE_WORDS, "hash", 4, 8, 0),
        (map::SERVICE_WORDS, "array", 4, 16, MMAPABLE),
        (map::SERVICE_WORDS, "array", 4, 8, 0),
    ] {
        create(name, kind, key, value, words, flags);
        let (_, reason) = fault(&host, open());
        assert!(matches!(&reason, PinFault::Layout { .. }), "{reason:?}");
        fs::remove_file(&ours).unwrap();
    }
    create("another", "array", 4, 8, words, MMAPABLE);
    let (_, reason) = fault(&host, open());
    assert!(matches!(&reason, PinFault::NoMap { found } if found.contains("another")), "{reason:?}");
    fs::remove_file(&ours).unwrap();
    let id = program.unwrap().to_string();
    host.command("bpftool", &["prog", "pin", "id", &id, ours.to_str().unwrap()]);
    let (_, reason) = fault(&host, open());
    assert_eq!(reason, PinFault::NoMap { found: "bpf-prog".into() });
    fs::remove_file(&ours).unwrap();
    fs::rename(&kept, &ours).unwrap();

    // A link's name.
    let link = link_path(&folder, "xdp_native");
    fs::rename(&link, &kept).unwrap();
    host.command("bpftool", &["prog", "pin", "id", &id, link.to_str().unwrap()]);
    assert_eq!(fault(&host, open()).1, PinFault::NoLink { found: "bpf-prog".into() });
    fs::remove_file(&link).unwrap();
    if has_tcx() {
        // A link, but of another hook.
        fs::rename(link_path(&folder, "tcx_ingress"), &link).unwrap();
        let (_, reason) = fault(&host, open());
        assert!(matches!(&reason, PinFault::NoLink { found } if found.contains("TcxIngress")), "{reason:?}");
        fs::remove_file(&link).unwrap();
    }
    fs::rename(&kept, &link).unwrap();

    // All the while packets met what was there.
    assert_eq!(host.xdp_program(), program);
    host.open(open()).unwrap().detach().unwrap();
    assert_eq!(host.xdp_program(), None);
}

fn bpftool_set_version(folder: &PinFolder, version: u64) {
    let path = folder.edge().join("maps").join(map::CONFIG);
    let bytes: Vec<String> = version.to_ne_bytes().iter().map(u8::to_string).collect();
    let status = std::process::Command::new("bpftool")
        .args(["map", "update", "pinned", path.to_str().unwrap(), "key", "0", "0", "0", "0", "value"])
        .args(bytes)
        .status();
    assert!(status.unwrap().success());
}

/// Of another version nothing is known but names: all of it can be taken off all the same, and what is not ours stays.
#[test]
fn what_does_not_fit_can_be_taken_off() {
    require_kernel!();
    for tc in [TcMode::Auto, TcMode::Clsact] {
        let (host, folder) = (Host::new("remove"), PinFolder::new(&format!("remove-{tc:?}")));
        let before = state(&host);
        drop(host.open(pinned(&folder).uplink(native().tc(tc))).unwrap());
        bpftool_set_version(&folder, ABI_VERSION + 7);
        let remove = || host.host.run(|| pins(&folder).remove(None));
        let stranger = folder.edge().join("stranger");
        let map = folder.edge().join("maps").join(map::SLOTS);
        fs::hard_link(&map, &stranger).or_else(|_| fs::rename(&map, &stranger)).unwrap();
        match remove() {
            Err(Error::PinDirectory { path, source, .. }) => {
                assert_eq!((path, source.raw_os_error()), (folder.edge(), Some(libc::ENOTEMPTY)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(folder.names("edge"), ["made_1", "stranger"]);
        assert_eq!(state(&host), before);
        fs::remove_file(&stranger).unwrap();
        remove().unwrap();
        assert_eq!(folder.names("."), [""; 0]);
        remove().unwrap();
    }
}

/// Killed while pinning, at any point: nobody takes half of it for the whole.
#[test]
fn half_made_pins_are_made_anew() {
    require_kernel!();
    let (host, folder) = (Host::new("half"), PinFolder::new("half"));
    drop(host.open(pinned(&folder)).unwrap());
    fs::rename(folder.edge().join("maps"), folder.edge().join("new")).unwrap();
    for name in folder.names("edge/new").iter().skip(3) {
        fs::remove_file(folder.edge().join("new").join(name)).unwrap();
    }
    let plane = host.open(pinned(&folder)).unwrap();
    assert!(!plane.is_adopted());
    assert_eq!(folder.names("edge"), ["made_1", "maps", "stages_2"]);
    drop(plane);
    // Beside whole ones, too.
    fs::create_dir(folder.edge().join("new")).unwrap();
    assert!(host.open(pinned(&folder)).unwrap().is_adopted());
    assert_eq!(folder.names("edge"), ["made_1", "maps", "stages_3"]);
    // What somebody else put there is not taken away.
    let strange = folder.edge().join("new").join("strange");
    fs::create_dir_all(&strange).unwrap();
    let result = host.open(pinned(&folder));
    assert!(
        matches!(&result, Err(Error::PinDirectory { source, .. }) if source.raw_os_error() == Some(libc::ENOTEMPTY)),
        "{result:?}"
    );
    fs::remove_dir(&strange).unwrap();
    host.open(pinned(&folder)).unwrap().detach().unwrap();
    assert_eq!(folder.names("."), [""; 0]);
}

#[test]
fn a_failed_attempt_leaves_nothing_behind() {
    require_kernel!();
    let (host, folder) = (Host::new("failed"), PinFolder::new("failed"));
    host.command("tc", &["qdisc", "add", "dev", "uplink", "clsact"]);
    let words = [
        "filter",
        "add",
        "dev",
        "uplink",
        "ingress",
        "prio",
        "1",
        "handle",
        "0xf0eb",
        "bpf",
        "bytecode",
        "1,6 0 0 0",
    ];
    host.command("tc", &words);
    let elsewhere = Namespace::new("elsewhere").unwrap();
    veth(&host.host, "other", &elsewhere, "end").unwrap();
    let before = state(&host);
    let other = || Uplink::named("other").xdp(XdpMode::Native).tc(TcMode::Clsact);
    let taken = || pinned(&folder).uplink(other()).uplink(Uplink::named("uplink").tc(TcMode::Clsact));
    let result = host.open(taken());
    assert!(matches!(&result, Err(Error::FilterTaken { .. })), "{result:?}");
    assert_eq!(state(&host), before);
    assert_eq!(folder.names("."), [""; 0]);
    // Where somebody ran before, that stays.
    drop(host.open(pinned(&folder).uplink(other())).unwrap());
    let standing = state(&host);
    assert!(host.open(taken()).is_err());
    assert_eq!(without_ids(&state(&host)), without_ids(&standing));
    host.open(pinned(&folder).uplink(other())).unwrap().detach().unwrap();
    assert_eq!(state(&host), before);
    assert_eq!(folder.names("."), [""; 0]);
}

#[test]
fn a_directory_that_others_may_have_a_hand_in_is_refused() {
    require_kernel!();
    let folder = PinFolder::new("trust");
    let edge = folder.edge();
    let refused = || match PinDir::new(&edge) {
        Err(error @ Error::UntrustedPins { .. }) => {
            let text = error.to_string();
            let Error::UntrustedPins { path, reason } = error else { unreachable!() };
            assert!(text.contains(&*path.to_string_lossy()), "{text}");
            (path, reason)
        }
        other => panic!("{other:?}"),
    };
    fs::create_dir(&edge).unwrap();
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(&edge, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused(), (edge.clone(), Distrust::Writable { mode }));
    }
    fs::set_permissions(&edge, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&edge, Some(65_534), None).unwrap();
    assert_eq!(refused(), (edge.clone(), Distrust::Owner { owner: 65_534, own: 0 }));
    chown(&edge, Some(0), None).unwrap();
    // One above it, whose entries others could exchange.
    fs::set_permissions(folder.root(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(refused(), (folder.root().to_owned(), Distrust::Writable { mode: 0o777 }));
    fs::set_permissions(folder.root(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(folder.root(), Some(65_534), None).unwrap();
    assert_eq!(refused(), (folder.root().to_owned(), Distrust::Owner { owner: 65_534, own: 0 }));
    chown(folder.root(), Some(0), None).unwrap();
    PinDir::new(&edge).unwrap();
    // What somebody does between looking and opening is seen when it is opened.
    let pins = PinDir::new(&edge).unwrap();
    fs::set_permissions(&edge, fs::Permissions::from_mode(0o722)).unwrap();
    let host = Host::new("trust");
    let result = host.open(EbpfDataplane::builder().capacity(Capacity::small()).pins(pins));
    assert!(matches!(&result, Err(Error::UntrustedPins { .. })), "{result:?}");
    // A link to a directory, and elsewhere than in a bpffs.
    fs::remove_dir(&edge).unwrap();
    symlink("/tmp", &edge).unwrap();
    assert_eq!(refused(), (edge.clone(), Distrust::NoFolder));
    fs::remove_file(&edge).unwrap();
    for path in ["/tmp/forebay", "relative", "/sys/fs/bpf/../forebay", ""] {
        let result = PinDir::new(Path::new(path));
        assert!(matches!(&result, Err(Error::PinsNotOnBpffs { .. })), "{path}: {result:?}");
    }
}

/// A directory that somebody made for us is left to them; one that we made goes, with those above it.
#[test]
fn only_directories_of_our_making_go() {
    require_kernel!();
    let (host, folder) = (Host::new("made"), PinFolder::new("made"));
    fs::create_dir(folder.edge()).unwrap();
    host.open(pinned(&folder)).unwrap().detach().unwrap();
    assert_eq!(folder.names("edge"), [""; 0]);
    assert_eq!(folder.names("."), ["edge"]);
    let deep = || PinDir::new(folder.root().join("a/b/c")).unwrap();
    let open = || host.open(EbpfDataplane::builder().capacity(Capacity::small()).pins(deep())).unwrap();
    let plane = open();
    assert_eq!(folder.names("a/b/c"), ["made_3", "maps", "stages_1"]);
    plane.detach().unwrap();
    assert_eq!(folder.names("."), ["edge"]);
    let plane = open();
    fs::create_dir(folder.root().join("a/theirs")).unwrap();
    plane.detach().unwrap();
    assert_eq!(folder.names("a"), ["theirs"]);
}
