//! The set-up of `docs/bare-metal.md`, from its own text.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use dataplane_testkit::{
    net::{AddressPlan, BackendLinks, HttpServer, LoadBalancerTopology, http},
    pins::PinFolder,
};
use serde_json::Value;

use super::{Files, PATIENCE};

const PAGE: &str = include_str!("../../../../docs/bare-metal.md");

/// A block of the page, by its first line.
fn block(first: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("```yaml\n# {first}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The page's network, with the page's files. The cards have other names here.
pub struct Page {
    pub topology: LoadBalancerTopology,
    _servers: Vec<HttpServer>,
    pub files: Files,
    pub services: String,
    pub pins: PinFolder,
}

impl Page {
    pub fn new(label: &str) -> Self {
        let topology = LoadBalancerTopology::builder(3).links(BackendLinks::Shared).build().unwrap();
        let servers = topology.backends.iter().map(|backend| {
            let addresses = backend.addresses.with_port(8080);
            HttpServer::start(&backend.namespace, backend.name.as_str(), &addresses).unwrap()
        });
        let servers = servers.collect();
        let config = block("/etc/forebay/forebay-lb.yaml");
        let config = config.replace("eth0", "to-client").replace("eth1", "to-backends");
        let pins = PinFolder::new(label);
        let config = config.replace("/sys/fs/bpf/forebay", &pins.edge().display().to_string());
        // So that a connection that ended is soon forgotten.
        let config = config.replace("timeouts: {", "timeouts: {tcp_closing: 3, ");
        let services = block("/etc/forebay/services.d/web.yaml");
        let files = Files::new(&config, &services);
        Self { topology, _servers: servers, files, services, pins }
    }

    /// Who answers so many requests, half of them over each family.
    pub fn answers(&self, requests: usize) -> BTreeSet<String> {
        let addresses = AddressPlan::vip(0).with_port(80);
        self.topology.client.run(|| {
            let get = |index: usize| http::get(addresses[index % 2], "/name", PATIENCE).unwrap();
            (0..requests).map(|index| String::from_utf8(get(index).body).unwrap()).collect()
        })
    }

    /// The page's services, with both addresses of a backend's host in another form, or without them.
    pub fn edit(&self, host: usize, change: impl Fn(SocketAddr) -> Option<String>) -> String {
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
    pub fn flows(&self, status: &Value) -> Vec<u64> {
        let listed = status["services"][0]["backends"].as_array().unwrap();
        let of = |address: IpAddr| listed.iter().find(|backend| backend["address"] == address.to_string());
        let hosts = self.topology.backends.iter();
        hosts.map(|host| of(host.addresses.v4.into()).map_or(0, |b| b["flows"].as_u64().unwrap())).collect()
    }
}

/// Who serves where this host does not.
pub fn others(host: usize) -> BTreeSet<String> {
    (0..3).filter(|other| *other != host).map(|other| format!("backend{other}")).collect()
}
