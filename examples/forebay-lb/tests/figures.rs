//! Figures of the status against what the sockets at both ends know: ports lent by source NAT, flows, and drops by reason.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use common::{Daemon, Files, LIMIT, PATIENCE, config};
use dataplane_testkit::{
    frames::{Frame, flags},
    net::{AddressPlan, BackendHost, LoadBalancerTopology, RawSender, Route, wait_for},
    require_kernel,
};
use serde_json::Value;

/// Connections of each family, which stay; and flows of datagrams.
const CONNECTIONS: usize = 20;
const QUESTIONS: usize = 12;

/// How many flows each address is the source of, as backends see it.
type Lent = BTreeMap<IpAddr, u64>;

/// A backend's ends of all flows that came to it.
struct Server {
    listener: TcpListener,
    socket: UdpSocket,
    accepted: Vec<TcpStream>,
    asked: Vec<SocketAddr>,
}

impl Server {
    fn start(host: &BackendHost) -> Self {
        let any = (Ipv6Addr::UNSPECIFIED, 8080);
        let (listener, socket) =
            host.namespace.run(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        listener.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { listener, socket, accepted: Vec::new(), asked: Vec::new() }
    }

    /// Takes what has come until now.
    fn take(&mut self) {
        while let Some((stream, _)) = unless_none(self.listener.accept()) {
            self.accepted.push(stream);
        }
        while let Some((_, from)) = unless_none(self.socket.recv_from(&mut [0; 16])) {
            self.asked.push(from);
        }
    }

    fn lent(&self) -> impl Iterator<Item = IpAddr> {
        let accepted = self.accepted.iter().map(|stream| stream.peer_addr().unwrap());
        accepted.chain(self.asked.iter().copied()).map(|peer| peer.ip().to_canonical())
    }
}

fn unless_none<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Ok(one) => Some(one),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// A figure of each address in the status.
fn nat(status: &Value, figure: &str) -> Lent {
    let each = status["nat"].as_array().unwrap().iter();
    each.map(|one| (one["address"].as_str().unwrap().parse().unwrap(), one[figure].as_u64().unwrap()))
        .collect()
}

/// What is not 0 of what became of packets, by reason, at all hooks together.
fn reasons(status: &Value, became: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for hook in status["counters"].as_object().unwrap().values() {
        for (reason, packets) in hook[became].as_object().unwrap() {
            *sums.entry(reason.clone()).or_default() += packets.as_u64().unwrap();
        }
    }
    sums.retain(|_, packets| *packets > 0);
    sums
}

#[test]
fn figures_are_those_of_the_sockets() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(2).build().unwrap();
    let (balancer, client) = (&topology.balancer, &topology.client);
    let vips = AddressPlan::vip(0);
    // Else it is the stack's, as far as routes tell, and nothing to it is dropped.
    balancer.add_route(&Route::to(IpAddr::from(vips.v4).into()).unreachable()).unwrap();
    let service = |name: &str, v6: usize, port: u16, protocol: &str, has_backends: bool| {
        let hosts = topology.backends.iter().filter(|_| has_backends);
        let backends: Vec<_> = hosts.map(|host| host.addresses.with_port(8080)[v6].to_string()).collect();
        format!(
            "- {{name: {name}, address: \"{}\", port: {port}, protocol: {protocol}, backends: {backends:?}}}\n",
            vips.both()[v6]
        )
    };
    let services = [
        service("web", 0, 80, "tcp", true),
        service("web6", 1, 80, "tcp", true),
        service("names", 0, 53, "udp", true),
        service("none", 0, 81, "tcp", false),
    ];
    let files = Files::new(
        &(config("to-client, to-backend0, to-backend1")
            + "timeouts: {tcp_closing: 2, udp: 300}\ndrop_unserved_ports: true\n"),
        &format!("services:\n{}", services.concat()),
    );
    let mut servers: Vec<_> = topology.backends.iter().map(Server::start).collect();
    let daemon = Daemon::start(balancer, &files);
    assert_eq!(nat(&daemon.status(), "high_water"), Lent::new());

    // Flows that stay.
    let [web, web6] = vips.with_port(80);
    let mut connections: Vec<TcpStream> = client.run(|| {
        let each = (0..2 * CONNECTIONS).map(|index| [web, web6][index % 2]);
        each.map(|to| TcpStream::connect_timeout(&to, PATIENCE).unwrap()).collect()
    });
    let _questions: Vec<UdpSocket> = client.run(|| {
        let each = (0..QUESTIONS).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
        each.inspect(|socket| assert_eq!(socket.send_to(b"?", vips.with_port(53)[0]).unwrap(), 1)).collect()
    });
    wait_for(LIMIT, "all flows have come to backends", || {
        servers.iter_mut().for_each(Server::take);
        let come = |server: &Server| server.accepted.len() + server.asked.len();
        servers.iter().map(come).sum::<usize>() == 2 * CONNECTIONS + QUESTIONS
    })
    .unwrap();
    let lent = |servers: &[Server]| {
        let mut lent = Lent::new();
        servers.iter().flat_map(Server::lent).for_each(|address| *lent.entry(address).or_default() += 1);
        lent
    };
    let most = lent(&servers);
    // Two backends, each on a link of its own, on which the balancer has an address of each family.
    let expected: Vec<IpAddr> = topology.backends.iter().flat_map(|host| host.gateways.both()).collect();
    assert!(most.len() == 4 && expected.iter().all(|address| most.contains_key(address)), "{most:?}");
    let status = daemon.wait_for_status("as many ports are in use", |status| nat(status, "in_use") == most);
    assert_eq!(nat(&status, "high_water"), most);
    let flows = |status: &Value, service: usize| {
        status["services"][service]["frontends"][0]["counters"]["flows"].as_u64().unwrap()
    };
    let by_name: BTreeMap<&str, u64> = (0..4)
        .map(|index| (status["services"][index]["name"].as_str().unwrap(), flows(&status, index)))
        .collect();
    let both = CONNECTIONS as u64;
    let expected = [("names", QUESTIONS as u64), ("none", 0), ("web", both), ("web6", both)];
    assert_eq!(by_name, expected.into());
    assert_eq!(reasons(&status, "drop"), BTreeMap::new());

    // The connections of one backend end, by its end and by their clients'.
    let gone = servers[0].accepted.drain(..).count();
    assert!(gone > 0, "none of {} came to it", connections.len());
    wait_for(LIMIT, "the clients are told", || {
        connections.retain(|stream| {
            stream.set_nonblocking(true).unwrap();
            unless_none(stream.peek(&mut [0])).is_none()
        });
        connections.len() == servers[1].accepted.len()
    })
    .unwrap();
    // An address that lends none any more is listed for what it once lent, or is not.
    let now = lent(&servers);
    let status = daemon.wait_for_status("fewer ports are in use", |status| {
        let mut in_use = nat(status, "in_use");
        in_use.retain(|_, ports| *ports > 0);
        in_use == now
    });
    assert_eq!(nat(&status, "high_water"), most);

    // What is dropped: resets of no connection, and datagrams to a port of nobody's. What is of no backend is answered.
    let (resets, strays, refused) = (30, 20, 10);
    client.run(|| {
        let sender = RawSender::new().unwrap();
        for port in 0..resets {
            let from = SocketAddr::new(topology.client_addresses.v4.into(), 20_000 + port);
            sender.send(&Frame::tcp(from, web, flags::RST).packet(), web.ip()).unwrap();
        }
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..strays {
            socket.send_to(b"?", vips.with_port(9)[0]).unwrap();
        }
        for _ in 0..refused {
            let error = TcpStream::connect_timeout(&vips.with_port(81)[0], PATIENCE).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    });
    let by_reason = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    };
    let dropped = by_reason(&[("no-flow", resets.into()), ("no-port", strays)]);
    let answered = by_reason(&[("no-backend", refused)]);
    let status = daemon.wait_for_status("each packet is counted by its reason", |status| {
        (reasons(status, "drop"), reasons(status, "answer")) == (dropped.clone(), answered.clone())
    });
    assert_eq!((flows(&status, 2), nat(&status, "high_water")), (by_name["names"], most));
    let (ended, said) = daemon.terminate();
    assert!(ended.success(), "{said}");
}
