//! What can be in the way, each with an exit code of its own and a message that says what to do.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{fs, net::TcpListener, process::Command};

use common::{Daemon, Files, STATUS, command, config, end_of, looks, with};
use dataplane_testkit::{
    net::{Namespace, veth},
    require_kernel,
};

const SERVICES: &str =
    "services:\n- {name: web, address: 203.0.113.10, port: 80, backends: ['198.51.100.10:8080']}\n";

/// Starts it in vain, in this namespace: its exit code and its last words. Nothing of it may be left there.
fn in_vain(host: &Namespace, files: &Files) -> (i32, String) {
    let before = looks(host);
    let result = host.run(|| end_of(with(files, &[])));
    assert_eq!(looks(host), before, "{result:?}");
    result
}

/// All that must be said, in one message.
#[track_caller]
fn assert_says((code, said): &(i32, String), expected: i32, parts: &[&str]) {
    assert_eq!(*code, expected, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

/// Needs neither privileges nor a kernel.
#[test]
fn check_tells_good_files_from_bad_ones_and_touches_nothing() {
    let files = Files::new(&config("eth0, eth1"), SERVICES);
    let check = || end_of(with(&files, &["--check"]));
    assert_says(&check(), 0, &["good: 1 services with 1 frontends and 1 backends in ", " on eth0, eth1"]);
    files.serve("services:\n- {name: web, port: http}\n");
    let services = files.services().display().to_string();
    let field = format!("{services}:2:21: services[0].port: expected a port");
    assert_says(&check(), 3, &["the services are wrong; nothing was started", &field]);
    fs::remove_file(files.services()).unwrap();
    assert_says(&check(), 3, &["services.d: has no *.yaml or *.yml file"]);
    files.configure("uplinks: [eth0]\nservice: x\n");
    let field = format!("{}:2:1: service: unknown field", files.config().display());
    assert_says(
        &check(),
        3,
        &["the configuration is wrong; nothing was started", &field, "did you mean `services`?"],
    );
    fs::remove_file(files.config()).unwrap();
    assert_says(&check(), 3, &["forebay-lb.yaml: cannot be read: No such file"]);
    assert_says(&end_of(command(&["--confg"])), 2, &["--confg", "--config"]);
    let (code, help) = end_of(command(&["--help"]));
    assert!(code == 0 && (0..=7).all(|code| help.contains(&format!("\n  {code}  "))), "{help}");
}

#[test]
fn wrong_files_and_a_missing_card_leave_nothing_behind() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo, eth7"), SERVICES);
    assert_says(&in_vain(&host, &files), 5, &["there is no interface eth7", "ip link"]);
    files.serve("services: 5\n");
    assert_says(&in_vain(&host, &files), 3, &["web.yaml:1:11: services: expected a list"]);
    files.serve(SERVICES);
    files.configure("uplinks: [lo]\nservices: services.d\ncapacity: {conntrack: 4294967295}\n");
    assert_says(&in_vain(&host, &files), 3, &["conntrack_v", "Capacity"]);
}

/// The daemon with no capabilities but these, by number: older tools do not know all of their names.
fn with_capabilities(files: &Files, capabilities: &[u8]) -> Command {
    let mut command = Command::new("setpriv");
    let added: String = capabilities.iter().map(|number| format!(",+cap_{number}")).collect();
    command.arg(format!("--bounding-set=-all{added}")).arg("--no-new-privs");
    command.arg(env!("CARGO_BIN_EXE_forebay-lb")).arg("--config").arg(files.config());
    command
}

const CAP_NET_ADMIN: u8 = 12;
const CAP_PERFMON: u8 = 38;
const CAP_BPF: u8 = 39;

#[test]
fn without_privileges_it_says_which_are_missing() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), SERVICES);
    for (capabilities, missing) in [
        (&[][..], "without CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON: run as root"),
        (&[CAP_BPF, CAP_PERFMON], "without CAP_NET_ADMIN: run as root"),
        (&[CAP_NET_ADMIN], "without CAP_BPF and CAP_PERFMON: run as root"),
    ] {
        let before = looks(&host);
        let result = host.run(|| end_of(with_capabilities(&files, capabilities)));
        assert_says(&result, 4, &[missing]);
        assert_eq!(looks(&host), before);
    }
}

#[test]
fn a_second_daemon_is_refused_by_the_status_address_and_by_the_uplink() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let other = Namespace::new("other").unwrap();
    let (uplink, _far) = veth(&host, "eth0", &other, "eth0").unwrap();
    let files = Files::new(&config("eth0"), SERVICES);
    let first = Daemon::start(&host, &files);
    let says = ["cannot serve status at 127.0.0.1:9095", "another forebay-lb", "`status:`"];
    assert_says(&in_vain(&host, &files), 6, &says);
    let elsewhere = Files::new(&(config("eth0") + "status: 127.0.0.1:9096\n"), SERVICES);
    let says = ["another dataplane has its program on eth0 already", "systemctl stop"];
    assert_says(&in_vain(&host, &elsewhere), 6, &says);
    // The first one has noticed nothing that lasts.
    let status = first.wait_for_status("nobody else is there", |status| {
        status["uplinks"][0]["others"].as_array().unwrap().is_empty()
    });
    assert_eq!((&status["ready"], &status["uplinks"][0]["standing"]), (&true.into(), &"attached".into()));
    assert_eq!(status["uplinks"][0]["index"], uplink.index());
    // Once it is gone, there is room.
    let (ended, said) = first.terminate();
    assert!(ended.success(), "{said}");
    assert!(Daemon::start(&host, &elsewhere).terminate().0.success());
}

#[test]
fn a_taken_xdp_slot_and_a_taken_address_are_named() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), SERVICES);
    let listener = host.run(|| TcpListener::bind(STATUS).unwrap());
    assert_says(&in_vain(&host, &files), 6, &["cannot serve status at 127.0.0.1:9095", "somebody listens"]);
    drop(listener);
    let other = Namespace::new("other").unwrap();
    let (_uplink, _far) = veth(&host, "eth0", &other, "eth0").unwrap();
    let native = |status: u16| {
        Files::new(
            &(config("{name: eth0, xdp: native}") + &format!("status: 127.0.0.1:{status}\n")),
            SERVICES,
        )
    };
    let files = native(9095);
    let _first = Daemon::start(&host, &files);
    assert_says(&in_vain(&host, &native(9096)), 6, &["eth0 has an XDP program already", "forebay_xdp"]);
}

/// What the page says: CAP_SYS_ADMIN is not needed to serve.
#[test]
fn three_capabilities_are_enough() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), SERVICES);
    let daemon = Daemon::start_as(&host, with_capabilities(&files, &[CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON]));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    assert!(status.contains("CapEff:\t000000c000001000\n"), "{status}");
    assert_eq!(daemon.get("/readyz").0, 200);
    let (ended, said) = daemon.terminate();
    assert!(ended.success(), "{said}");
}
