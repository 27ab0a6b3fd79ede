//! A pin directory: packets are balanced on while nobody runs, one daemon at a time, and an order to take all of it off.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::process::Command;

use common::{Daemon, Files, PATIENCE, PinFolder, command, config, end_of, looks};
use dataplane_testkit::{
    net::{AddressPlan, HttpServer, LoadBalancerTopology, Namespace, http},
    require_kernel,
};

fn with(files: &Files, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.arg("--config").arg(files.config());
    command
}

fn services(backend: &str) -> String {
    format!("services:\n- {{name: web, address: 203.0.113.10, port: 80, backends: ['{backend}:8080']}}\n")
}

#[test]
fn what_is_kept_balances_on_and_is_taken_off_by_order() {
    require_kernel!();
    let folder = PinFolder::new("kept");
    let topology = LoadBalancerTopology::builder(1).build().unwrap();
    let (balancer, backend) = (&topology.balancer, &topology.backends[0]);
    let _server = HttpServer::start(&backend.namespace, "web", &backend.addresses.with_port(8080)).unwrap();
    let pins = folder.pins().display().to_string();
    let config = config("to-client, to-backend0") + &format!("pins: {pins}\n");
    let files = Files::new(&config, &services(&backend.addresses.v4.to_string()));
    let [vip, _] = AddressPlan::vip(0).with_port(80);
    let ask = || topology.client.run(|| http::get(vip, "/name", PATIENCE));
    let before = looks(balancer);

    let daemon = Daemon::start_as(balancer, with(&files, &["--keep"]));
    let status = daemon.status();
    assert_eq!((&status["pins"]["path"], &status["pins"]["adopted"]), (&pins.clone().into(), &false.into()));
    assert_eq!(ask().unwrap().body, b"web");
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && said.contains("left attached"), "{said}");
    assert_eq!(ask().unwrap().body, b"web", "nobody runs");

    let (code, said) = balancer.run(|| end_of(with(&files, &["--remove"])));
    assert_eq!(code, 0, "{said}");
    assert!(!folder.pins().exists());
    assert_eq!(looks(balancer), before);
    ask().unwrap_err();
    // And once more: there is nothing.
    assert_eq!(balancer.run(|| end_of(with(&files, &["--remove"]))).0, 0);

    // Without --keep it takes its pins along.
    let daemon = Daemon::start_as(balancer, with(&files, &[]));
    assert_eq!(ask().unwrap().body, b"web");
    assert!(daemon.terminate().0.success() && !folder.pins().exists());
    assert_eq!(looks(balancer), before);
}

#[test]
fn one_pin_directory_has_one_daemon() {
    require_kernel!();
    let folder = PinFolder::new("twice");
    let (host, files) =
        (Namespace::new("host").unwrap(), Files::new(&config("lo"), &services("198.51.100.1")));
    let pins = folder.pins().display().to_string();
    let first = Daemon::start_as(&host, with(&files, &["--pins", &pins]));
    let elsewhere = Files::new(&(config("lo") + "status: 127.0.0.1:9096\n"), &services("198.51.100.1"));
    for arguments in [&["--pins", &pins][..], &["--pins", &pins, "--keep"], &["--pins", &pins, "--remove"]] {
        let (code, said) = host.run(|| end_of(with(&elsewhere, arguments)));
        assert_eq!(code, 6, "{said}");
        let holder = format!("pin directory {pins} is in use by another dataplane (process {}", first.id());
        assert!(said.contains(&holder) && said.contains("stop that one first"), "{said}");
    }
    assert_eq!(first.get("/readyz").0, 200);
    let (ended, said) = first.terminate();
    assert!(ended.success(), "{said}");
}

#[test]
fn a_directory_that_can_hold_no_pins_is_named() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), &services("198.51.100.1"));
    let no_bpffs = files.path().join("pins").display().to_string();
    let before = looks(&host);
    for (arguments, expected, parts) in [
        (&["--pins", &no_bpffs][..], 7, ["is no absolute path into a bpffs", "mount -t bpf"]),
        (&["--pins", &no_bpffs, "--remove"], 7, ["is no absolute path into a bpffs", "mount -t bpf"]),
        (&["--keep"], 3, ["--keep needs a pin directory", "--pins"]),
        (&["--remove"], 3, ["--remove needs a pin directory", "--pins"]),
    ] {
        let (code, said) = host.run(|| end_of(with(&files, arguments)));
        assert_eq!(code, expected, "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    assert_eq!(looks(&host), before);
    // Tables of another size: named, and what to do; nothing is changed.
    let folder = PinFolder::new("size");
    let pins = folder.pins().display().to_string();
    assert!(Daemon::start_as(&host, with(&files, &["--pins", &pins, "--keep"])).terminate().0.success());
    let kept = looks(&host);
    files.configure("uplinks: [lo]\nservices: services.d\ncapacity: {conntrack: 2048}\n");
    let (code, said) = host.run(|| end_of(with(&files, &["--pins", &pins])));
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("can't be taken over: table") && said.contains("forebay-lb --remove"), "{said}");
    assert_eq!(looks(&host), kept);
    assert_eq!(host.run(|| end_of(with(&files, &["--pins", &pins, "--remove"]))).0, 0);
    assert_eq!(looks(&host), before);
}
