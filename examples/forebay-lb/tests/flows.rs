//! `--log-flows`: what the lines say, held against what the sockets at both ends say themselves.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::SystemTime,
};

use common::{Daemon, Files, LIMIT, PATIENCE, config, with};
use dataplane_testkit::{
    net::{AddressPlan, LoadBalancerTopology},
    require_kernel,
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/bare-metal.md");

/// A network, and a daemon's files with one service of both families, whose flows are soon forgotten. Port 81 has no backend.
struct World {
    topology: LoadBalancerTopology,
    files: Files,
}

impl World {
    fn new(masquerade: &str) -> Self {
        let topology = LoadBalancerTopology::builder(1).build().unwrap();
        let [v4, v6] = topology.backends[0].addresses.with_port(8080);
        let service = |name: &str, address: &str, port: u16, protocol: &str, backends: &str| {
            format!(
                "- {{name: {name}, address: \"{address}\", port: {port}, protocol: {protocol}, \
                 masquerade: {masquerade}, backends: [{backends}]}}\n"
            )
        };
        let [vip, vip6] = AddressPlan::vip(0).both().map(|address| address.to_string());
        let services = [
            service("web", &vip, 80, "tcp", &format!("\"{v4}\"")),
            service("web6", &vip6, 80, "tcp", &format!("\"{v6}\"")),
            service("names", &vip, 53, "udp", &format!("\"{v4}\"")),
            service("none", &vip, 81, "tcp", ""),
        ];
        let timeouts = "timeouts: {tcp_closing: 3, udp: 3, udp_stream: 3}\n";
        let files = Files::new(
            &(config("to-client, to-backend0") + timeouts),
            &format!("services:\n{}", services.concat()),
        );
        Self { topology, files }
    }

    fn command(&self) -> Command {
        with(&self.files, &["--log-flows"])
    }

    fn daemon(&self) -> Daemon<'_> {
        Daemon::start_as(&self.topology.balancer, self.command())
    }

    /// Somebody who listens at the backend's port, for both families.
    fn listen(&self) -> TcpListener {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080));
        self.topology.backends[0].namespace.run(|| TcpListener::bind(any).unwrap())
    }
}

/// The fields of the page's line of a kind of event.
fn documented(event: &Value) -> Vec<String> {
    let (_, block) = PAGE.split_once("```json\n{\"event\"").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = format!("{{\"event\"{block}");
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.into_iter().find(|line| line["event"] == *event).unwrap();
    line.as_object().unwrap().keys().cloned().collect()
}

/// The next line of a kind. It has the fields that the page shows.
fn line(daemon: &Daemon<'_>, mark: &str) -> Value {
    let lines = daemon.flows().until(mark, LIMIT);
    let lines = lines.unwrap_or_else(|lines| panic!("no {mark:?} in:\n{}", lines.join("\n")));
    let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let fields: Vec<String> = line.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, documented(&line["event"]));
    line
}

fn text(address: SocketAddr) -> String {
    // What a socket for both families calls an IPv4 address.
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn seconds(line: &Value) -> f64 {
    line["time"].as_f64().unwrap()
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn a_connection_is_told_as_its_sockets_know_it(masquerade: &str) {
    let world = World::new(masquerade);
    let listener = world.listen();
    let daemon = world.daemon();
    for vip in AddressPlan::vip(0).with_port(80) {
        let begun = now();
        let mut client = world.topology.client.run(|| TcpStream::connect_timeout(&vip, PATIENCE).unwrap());
        let (mut server, peer) = listener.accept().unwrap();
        let opened = line(&daemon, "\"opened\"");
        let [from, to] = [client.local_addr().unwrap(), client.peer_addr().unwrap()].map(text);
        let [backend, seen] = [server.local_addr().unwrap(), peer].map(text);
        assert_eq!([&opened["client"], &opened["frontend"]], [&json!(from), &json!(to)]);
        assert_eq!(opened["backend"], json!(backend));
        let expected = if masquerade == "never" { Value::Null } else { json!(seen) };
        assert_eq!(opened["masquerade"], expected, "{opened}");
        assert_eq!(seen == from, masquerade == "never");
        assert_eq!((&opened["protocol"], &opened["local"]), (&json!("tcp"), &json!(false)));
        assert_eq!(opened["interface"], world.topology.client_side.index());
        // The kernel's coarse clock and a tick of ours are between them.
        assert!((begun - 0.1..=now() + 0.01).contains(&seconds(&opened)), "{begun}: {opened}");

        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let over = now();
        let closed = line(&daemon, "\"closed\"");
        assert_eq!((&closed["reason"], &closed["answered"]), (&json!("finished"), &json!(true)));
        for field in ["client", "frontend", "backend", "masquerade", "protocol", "local", "zone"] {
            assert_eq!(closed[field], opened[field], "{field}");
        }
        for field in ["frontend_index", "backend_index", "backend_generation"] {
            assert_eq!(closed[field], opened[field], "{field}");
            assert!(closed[field].is_u64());
        }
        // When it was closed, less how long it was idle, is when its sockets were.
        let last = seconds(&closed) - closed["idle"].as_f64().unwrap();
        assert!((last - over).abs() < 1.5, "closed at {over}, told as {last}: {closed}");
    }
    let (ended, said) = daemon.terminate();
    assert!(ended.success(), "{said}");
}

#[test]
fn a_masqueraded_connection_is_told_as_its_sockets_know_it() {
    require_kernel!();
    a_connection_is_told_as_its_sockets_know_it("always");
}

#[test]
fn a_connection_that_keeps_its_source_is_told_as_its_sockets_know_it() {
    require_kernel!();
    a_connection_is_told_as_its_sockets_know_it("never");
}

#[test]
fn resets_drops_and_datagrams_are_told() {
    require_kernel!();
    let world = World::new("always");
    let daemon = world.daemon();
    let [web, _] = AddressPlan::vip(0).with_port(80);
    // Nobody listens there: the backend's host resets it.
    let refused = world.topology.client.run(|| TcpStream::connect_timeout(&web, PATIENCE)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(line(&daemon, "\"opened\"")["frontend"], json!(web.to_string()));
    let closed = line(&daemon, "\"closed\"");
    assert_eq!((&closed["reason"], &closed["answered"]), (&json!("reset"), &json!(true)));

    let [none, _] = AddressPlan::vip(0).with_port(81);
    world.topology.client.run(|| TcpStream::connect_timeout(&none, PATIENCE)).unwrap_err();
    let dropped = line(&daemon, "\"dropped\"");
    assert_eq!(dropped["destination"], json!(none.to_string()));
    assert_eq!((&dropped["reason"], &dropped["answered"]), (&json!("no-backend"), &json!(true)));
    assert_eq!((&dropped["protocol"], &dropped["hook"]), (&json!("tcp"), &json!("ingress")));
    assert_eq!(dropped["interface"], world.topology.client_side.index());

    let [names, _] = AddressPlan::vip(0).with_port(53);
    let socket = world.topology.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(names).unwrap();
        socket.send(b"question").unwrap();
        socket
    });
    let opened = line(&daemon, "\"udp\"");
    assert_eq!(opened["client"], json!(socket.local_addr().unwrap().to_string()));
    let closed = line(&daemon, "\"closed\"");
    assert_eq!((&closed["reason"], &closed["answered"]), (&json!("timed-out"), &json!(false)));

    let status = daemon.status();
    assert_eq!(status["events"], json!({"lost": 0, "withheld": 0}));
    // What happened to the end is written.
    world.topology.client.run(|| TcpStream::connect_timeout(&none, PATIENCE)).unwrap_err();
    assert!(daemon.flows().until("\"dropped\"", LIMIT).is_ok());
    world.topology.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", names).unwrap());
    world.topology.client.run(|| TcpStream::connect_timeout(&none, PATIENCE)).unwrap_err();
    let (ended, rest, said) = daemon.terminate_with_flows();
    assert!(ended.success(), "{said}");
    let rest = rest.join("\n");
    assert!(rest.contains("\"opened\"") && rest.contains("\"dropped\""), "{rest}");
}

/// Nobody reads: pipe and ring fill, and nothing else waits. Then the pipe is closed.
#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    require_kernel!();
    let world = World::new("never");
    let daemon = Daemon::start_without_reader(&world.topology.balancer, world.command());
    let [names, _] = AddressPlan::vip(0).with_port(53);
    // Two hundred bytes each: more than a pipe takes.
    world.topology.client.run(|| {
        for _ in 0..1500 {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"question", names).unwrap();
        }
    });
    // Some have the port of one before.
    daemon.wait_for_status("they are balanced", |status| {
        let services = status["services"].as_array().unwrap().iter();
        let counters = services.map(|service| &service["frontends"][0]["counters"]);
        let sum = |field: &str| counters.clone().filter_map(|each| each[field].as_u64()).sum::<u64>();
        sum("packets") == 1500 && sum("flows") > 1200
    });
    assert_eq!(daemon.get("/healthz").0, 200);
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && said.contains("whoever reads the flow log is too slow"), "{said}");

    let mut daemon = Daemon::start_without_reader(&world.topology.balancer, world.command());
    daemon.close_flows();
    world.topology.client.run(|| {
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"question", names).unwrap();
    });
    daemon.wait_to_say("flows are logged no more: Broken pipe");
    assert_eq!(daemon.get("/readyz").0, 200);
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && !said.contains("panicked"), "{said}");
}
