//! The set-up of `docs/bare-metal.md`, from its own text, on real traffic: started, edited, drained, mistaken, ended.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use common::{Daemon, Files, Held, LIMIT, PATIENCE, PinFolder, looks};
use dataplane_testkit::{
    net::{AddressPlan, BackendLinks, HttpServer, LoadBalancerTopology, http, wait_for},
    require_kernel,
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/bare-metal.md");

/// A block of the page, by its first line.
fn block(first: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("```yaml\n# {first}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The page's network, with the page's files. The cards have other names here.
struct Page {
    topology: LoadBalancerTopology,
    _servers: Vec<HttpServer>,
    files: Files,
    services: String,
    _pins: PinFolder,
}

impl Page {
    fn new() -> Self {
        let topology = LoadBalancerTopology::builder(3).links(BackendLinks::Shared).build().unwrap();
        let servers = topology.backends.iter().map(|backend| {
            let addresses = backend.addresses.with_port(8080);
            HttpServer::start(&backend.namespace, backend.name.as_str(), &addresses).unwrap()
        });
        let servers = servers.collect();
        let config = block("/etc/forebay/forebay-lb.yaml");
        let config = config.replace("eth0", "to-client").replace("eth1", "to-backends");
        let pins = PinFolder::new("documented");
        let config = config.replace("/sys/fs/bpf/forebay", &pins.pins().display().to_string());
        // So that a connection that ended is soon forgotten.
        let config = config.replace("timeouts: {", "timeouts: {tcp_closing: 3, ");
        let services = block("/etc/forebay/services.d/web.yaml");
        let files = Files::new(&config, &services);
        Self { topology, _servers: servers, files, services, _pins: pins }
    }

    /// Who answers so many requests, half of them over each family.
    fn answers(&self, requests: usize) -> BTreeSet<String> {
        let addresses = AddressPlan::vip(0).with_port(80);
        self.topology.client.run(|| {
            let get = |index: usize| http::get(addresses[index % 2], "/name", PATIENCE).unwrap();
            (0..requests).map(|index| String::from_utf8(get(index).body).unwrap()).collect()
        })
    }

    /// The page's services, with both addresses of a backend's host in another form, or without them.
    fn edit(&self, host: usize, change: impl Fn(SocketAddr) -> Option<String>) -> String {
        let both = self.topology.backends[host].addresses.with_port(8080);
        let line = |line: &str| {
            let address = line.trim().trim_start_matches("- ").trim_matches('"').parse();
            match address.ok().filter(|address| both.contains(address)) {
                Some(address) => change(address).map(|entry| format!("      - {entry}")),
                None => Some(line.to_owned()),
            }
        };
        self.services.lines().filter_map(line).collect::<Vec<_>>().join("\n")
    }

    /// The flows that the status shows of each host's IPv4 backend.
    fn flows(&self, status: &Value) -> Vec<u64> {
        let listed = status["services"][0]["backends"].as_array().unwrap();
        let of = |address: IpAddr| listed.iter().find(|backend| backend["address"] == address.to_string());
        let hosts = self.topology.backends.iter();
        hosts.map(|host| of(host.addresses.v4.into()).map_or(0, |b| b["flows"].as_u64().unwrap())).collect()
    }
}

/// Who serves where this host does not.
fn others(host: usize) -> BTreeSet<String> {
    (0..3).filter(|other| *other != host).map(|other| format!("backend{other}")).collect()
}

#[test]
fn the_documented_set_up_serves_is_edited_and_leaves_nothing_behind() {
    require_kernel!();
    let page = Page::new();
    let (balancer, [v4, _]) = (&page.topology.balancer, AddressPlan::vip(0).with_port(80));
    let before = looks(balancer);
    let daemon = Daemon::start(balancer, &page.files);
    let held = Held::by(daemon.id());
    assert!(held.programs.len() >= 3, "{held:?}");
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(daemon.get("/readyz"), (200, "ready\n".into()));
    let status = daemon.status();
    assert_eq!((&status["warnings"], &status["ready"]), (&json!([]), &json!(true)));

    let enough = AtomicBool::new(false);
    // A download slow enough to last, and ended below.
    let go_on = |_| {
        if enough.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let host = std::thread::scope(|scope| {
        let downloading = scope.spawn(|| {
            page.topology.client.run(|| http::download_with(v4, 1 << 30, Some(1 << 20), LIMIT, go_on))
        });
        let status = daemon.wait_for_status("the download has a backend", |status| {
            page.flows(status).iter().sum::<u64>() == 1
        });
        assert_eq!(status["flows"], json!({"ipv4": 1, "ipv6": 0}));
        let host = page.flows(&status).iter().position(|flows| *flows == 1).unwrap();

        let draining =
            |a: SocketAddr| Some(format!("{{address: \"{}\", port: 8080, state: draining}}", a.ip()));
        page.files.serve(&page.edit(host, draining));
        daemon.wait_for_status("the file was read", |status| status["source"]["generation"] == 2);
        daemon.wait_for_status("it is in place", |status| status["services"][0]["status"] == "applied");
        assert_eq!(page.answers(40), others(host));
        assert_eq!(page.flows(&daemon.status())[host], 1, "the download goes on");
        enough.store(true, Ordering::Relaxed);
        assert!(downloading.join().unwrap().unwrap().bytes > 0);
        host
    });
    daemon.wait_for_status("it has drained", |status| page.flows(status)[host] == 0);
    page.files.serve(&page.edit(host, |_| None));
    daemon.wait_for_status("the file was read", |status| status["source"]["generation"] == 3);
    assert_eq!(page.answers(40), others(host));

    // A mistake changes nothing, and is told.
    page.files.serve(&page.services.replace("port: 80\n", "port: http\n"));
    let status =
        daemon.wait_for_status("the mistake is told", |status| !status["source"]["rejected"].is_null());
    let mistake = &status["source"]["rejected"]["errors"][0];
    assert_eq!((&mistake["line"], &mistake["column"]), (&json!(4), &json!(11)), "{mistake}");
    assert_eq!(mistake["field"], "services[0].port");
    assert_eq!(status["source"]["generation"], 3);
    assert_eq!(page.answers(40), others(host));
    page.files.serve(&page.services);
    daemon.wait_for_status("it is mended", |status| {
        status["source"]["rejected"].is_null() && status["source"]["generation"] == 4
    });
    assert_eq!(page.answers(60).len(), 3);
    // 180 requests, half of them over IPv4, and the download.
    daemon.wait_for_status("all flows are counted", |status| {
        let counted = &status["services"][0]["frontends"][0]["counters"];
        (&counted["flows"], &counted["drops"]) == (&json!(91), &json!(0))
    });

    let (ended, said) = daemon.terminate();
    assert_eq!(ended.code(), Some(0), "{said}");
    assert!(said.contains("services[0].port: expected a port") && !said.contains("panicked"), "{said}");
    wait_for(LIMIT, "programs and links are gone", || held.is_gone()).unwrap();
    assert_eq!(looks(balancer), before);
    page.topology.client.run(|| http::get(v4, "/name", PATIENCE)).unwrap_err();
}
