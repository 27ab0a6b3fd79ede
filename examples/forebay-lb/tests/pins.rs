//! A pin directory: packets are balanced on while nobody runs, one daemon at a time, and an order to take all of it off.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::{Daemon, Files, LIMIT, PATIENCE, SILENCE, config, end_of, looks, with};
use dataplane_testkit::{
    Raise,
    net::{AddressPlan, HttpServer, LoadBalancerTopology, Namespace, http, wait_for},
    pins::PinFolder,
    require_kernel,
};

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
    let pins = folder.edge().display().to_string();
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
    assert!(!folder.edge().exists());
    assert_eq!(looks(balancer), before);
    ask().unwrap_err();
    // And once more: there is nothing.
    assert_eq!(balancer.run(|| end_of(with(&files, &["--remove"]))).0, 0);

    // Without --keep it takes its pins along.
    let daemon = Daemon::start_as(balancer, with(&files, &[]));
    assert_eq!(ask().unwrap().body, b"web");
    assert!(daemon.terminate().0.success() && !folder.edge().exists());
    assert_eq!(looks(balancer), before);
}

#[test]
fn one_pin_directory_has_one_daemon() {
    require_kernel!();
    let folder = PinFolder::new("twice");
    let (host, files) =
        (Namespace::new("host").unwrap(), Files::new(&config("lo"), &services("198.51.100.1")));
    let pins = folder.edge().display().to_string();
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
    let pins = folder.edge().display().to_string();
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

/// An upgrade by `systemctl restart`, a crash, and a file that was edited meanwhile: connections that stand notice nothing,
/// and new ones are served all the time.
#[test]
fn connections_outlive_restarts_and_crashes() {
    require_kernel!();
    let folder = PinFolder::new("restarts");
    let topology = LoadBalancerTopology::builder(2).build().unwrap();
    let (balancer, client) = (&topology.balancer, &topology.client);
    let servers = topology.backends.iter().map(|backend| {
        HttpServer::start(&backend.namespace, backend.name.as_str(), &backend.addresses.with_port(8080))
            .unwrap()
    });
    let _servers: Vec<_> = servers.collect();
    let config =
        config("to-client, to-backend0, to-backend1") + &format!("pins: {}\n", folder.edge().display());
    let [first, second] = [0, 1].map(|index: usize| topology.backends[index].addresses.v4);
    let both = services(&first.to_string()).replace("']", &format!("', '{second}:8080']"));
    let files = Files::new(&config, &both);
    let [vip, _] = AddressPlan::vip(0).with_port(80);
    let before = looks(balancer);
    let start = || Daemon::start_as(balancer, with(&files, &["--keep"]));

    let (enough, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut daemon = start();
    let daemon = std::thread::scope(|scope| {
        // Whatever fails here, the threads end.
        let _at_the_end = Raise(&enough);
        let go_on = |_| {
            if enough.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let downloads: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || client.run(|| http::download_while(vip, 1 << 18, SILENCE, go_on))))
            .collect();
        let requests = scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                client.run(|| http::get(vip, "/name", PATIENCE)).unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        daemon.wait_for_status("all downloads run", |status| status["flows"]["ipv4"].as_u64() >= Some(8));
        for round in 0..6 {
            let served = asked.load(Ordering::Relaxed);
            if round % 2 == 0 {
                let (ended, said) = daemon.terminate();
                assert!(ended.success() && said.contains("left attached"), "{said}");
            } else {
                // Its end is that of a process that is killed.
                drop(daemon);
            }
            wait_for(LIMIT, "requests are served while nobody runs", || {
                asked.load(Ordering::Relaxed) > served + 10
            })
            .unwrap();
            daemon = start();
            assert_eq!(daemon.status()["pins"]["adopted"], true);
            assert_eq!(daemon.get("/readyz").0, 200);
            let served = asked.load(Ordering::Relaxed);
            wait_for(LIMIT, "and after", || asked.load(Ordering::Relaxed) > served + 10).unwrap();
        }
        enough.store(true, Ordering::Relaxed);
        requests.join().unwrap();
        for download in downloads {
            assert!(download.join().unwrap().unwrap().bytes > 0);
        }
        daemon
    });
    // What the file says after a start is what serves, whatever was left attached.
    assert!(daemon.terminate().0.success());
    files.serve(&services(&second.to_string()));
    let daemon = start();
    for _ in 0..20 {
        assert_eq!(client.run(|| http::get(vip, "/name", PATIENCE)).unwrap().body, b"backend1");
    }
    assert!(daemon.terminate().0.success());
    assert_eq!(balancer.run(|| end_of(with(&files, &["--remove"]))).0, 0);
    assert_eq!(looks(balancer), before);
}

/// Files that lost most of their services while nobody looked are a mistake more likely than a wish.
#[test]
fn what_an_earlier_run_served_waits_until_its_removal_is_confirmed() {
    require_kernel!();
    let folder = PinFolder::new("unclaimed");
    let host = Namespace::new("host").unwrap();
    let services = |names: &[&str]| {
        let backends: Vec<_> = (1..=10).map(|n| format!("198.51.100.{n}:8080")).collect();
        let each = names.iter().zip(1..).map(|(name, port)| {
            format!("- {{name: {name}, address: 203.0.113.10, port: {port}, backends: {backends:?}}}\n")
        });
        format!("services:\n{}", each.collect::<String>())
    };
    let files = Files::new(
        &(config("lo") + &format!("pins: {}\n", folder.edge().display())),
        &services(&["a", "b", "c"]),
    );
    let fill = |status: &serde_json::Value| {
        let tables = status["tables"].as_array().unwrap();
        tables.iter().find(|table| table["name"] == "services_v4").unwrap()["fill"].clone()
    };
    assert!(Daemon::start_as(&host, with(&files, &["--keep"])).terminate().0.success());
    files.serve(&services(&["a"]));
    let daemon = Daemon::start_as(&host, with(&files, &[]));
    let status = daemon.wait_for_status("it is held back", |status| !status["held_back"].is_null());
    assert_eq!((&status["held_back"]["frontends"], &status["held_back"]["services"]), (&2.into(), &0.into()));
    // Three frontends and their address.
    assert_eq!(fill(&status), 4);
    daemon.signal(rustix::process::Signal::USR1);
    daemon.wait_to_say("SIGUSR1: what an earlier run served, and no file names, is removed now");
    daemon.wait_for_status("it is gone", |status| status["held_back"].is_null() && fill(status) == 2);
    assert!(daemon.terminate().0.success() && !folder.edge().exists());
}
