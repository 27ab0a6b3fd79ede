//! The topology without any balancer: the kernel alone forwards between the client and the backends.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use dataplane_testkit::net::http;
use dataplane_testkit::net::{
    AddressPlan, BackendLinks, HttpServer, LoadBalancerTopology, NetError, Offload, UdpClient, UdpEchoServer,
    wait_for,
};
use dataplane_testkit::require_kernel;

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 8080;

/// Every backend answers with its own name, over TCP and UDP and both families, and sees who asks.
fn everybody_is_reached(topology: &LoadBalancerTopology) {
    let mut servers = Vec::new();
    for backend in &topology.backends {
        let addresses = backend.addresses.with_port(PORT);
        servers.push((
            HttpServer::start(&backend.namespace, &backend.name, &addresses).unwrap(),
            UdpEchoServer::start(&backend.namespace, &backend.name, &addresses).unwrap(),
        ));
    }
    let before = topology.balancer.statistics().unwrap();
    for backend in &topology.backends {
        for address in backend.addresses.with_port(PORT) {
            let response = topology.client.run(|| http::get(address, "/name", SECOND)).unwrap();
            assert_eq!(response.body, backend.name.as_bytes(), "{address}");
            let client = topology.client.run(|| UdpClient::connect(address)).unwrap();
            assert_eq!(client.exchange(b"hello", SECOND).unwrap().server, backend.name, "{address}");
            let length = 1024 * 1024;
            let transfer = topology.client.run(|| http::download(address, length, 10 * SECOND)).unwrap();
            assert_eq!(transfer.bytes, length);
        }
    }
    let after = topology.balancer.statistics().unwrap();
    let backends = topology.backends.len() as u64;
    // A request and an echo are at least eight packets each way and family; nothing of it went elsewhere.
    assert!(after.ip.since(&before.ip).forwarded >= 8 * backends, "{:?}", after.ip.since(&before.ip));
    assert!(after.ip6.since(&before.ip6).forwarded >= 8 * backends, "{:?}", after.ip6.since(&before.ip6));
    assert_eq!(topology.client.statistics().unwrap().tcp.retransmitted_segments, 0);
}

#[test]
fn a_forwarding_namespace_joins_client_and_backends() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(3).build().unwrap();
    everybody_is_reached(&topology);
    assert_eq!(topology.balancer_interfaces().count(), 4);
    assert_eq!(topology.backends[2].balancer_side.name(), "to-backend2");
}

#[test]
fn backends_may_share_a_link() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(3).links(BackendLinks::Shared).mtu(1400).build().unwrap();
    everybody_is_reached(&topology);
    assert_eq!(
        topology.balancer_interfaces().map(|interface| interface.name()).collect::<Vec<_>>(),
        ["to-client", "to-backends"]
    );
    for interface in topology.balancer_interfaces().chain(topology.host_interfaces()) {
        assert_eq!(interface.mtu().unwrap(), 1400);
    }
}

#[test]
fn made_for_xdp_the_hosts_finish_their_checksums() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(1).for_xdp().build().unwrap();
    for interface in topology.host_interfaces() {
        assert!(!interface.offload(Offload::TxChecksum).unwrap());
        assert!(!interface.offload(Offload::Tso).unwrap());
        assert!(interface.offload(Offload::Gro).unwrap());
    }
    everybody_is_reached(&topology);
}

#[test]
fn nobody_answers_for_a_virtual_address() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(1).build().unwrap();
    for address in AddressPlan::vip(0).with_port(80) {
        let client = topology.client.run(|| UdpClient::connect(address)).unwrap();
        assert!(client.exchange(b"x", Duration::from_millis(50)).is_err(), "{address}");
    }
    // "Unreachable" comes from the balancer: so the packets do get there.
    let unreachable = || {
        let statistics = topology.client.statistics().unwrap();
        (statistics.icmp.in_destination_unreachable, statistics.icmp6.in_destination_unreachable)
    };
    wait_for(SECOND, "the balancer says that it has no route", || unreachable() == (1, 1)).unwrap();
    assert_eq!(topology.backends[0].namespace.statistics().unwrap().udp.no_ports, 0);
}

#[test]
fn a_backend_sees_the_clients_own_address() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(1).build().unwrap();
    let backend = &topology.backends[0];
    for (server, client) in backend.addresses.both().into_iter().zip(topology.client_addresses.both()) {
        let listener = backend.namespace.run(|| std::net::TcpListener::bind((server, PORT)).unwrap());
        let stream = topology.client.run(|| TcpStream::connect((server, PORT)).unwrap());
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
        assert_eq!(stream.local_addr().unwrap().ip(), client);
    }
    let socket = topology.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect((backend.addresses.v4, 9)).unwrap();
    assert_eq!(socket.local_addr().unwrap().ip(), topology.client_addresses.v4);
}

#[test]
fn the_plan_has_a_limit() {
    for count in [0, AddressPlan::MOST_BACKENDS + 1] {
        let error = LoadBalancerTopology::builder(count).build().unwrap_err();
        assert!(matches!(error, NetError::BackendCount { count: named, .. } if named == count), "{error}");
    }
}

#[test]
fn the_plan_can_be_filled() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(AddressPlan::MOST_BACKENDS).build().unwrap();
    let last = topology.backends.last().unwrap();
    let server = HttpServer::start(&last.namespace, &last.name, &last.addresses.with_port(PORT)).unwrap();
    for &address in server.addresses() {
        assert_eq!(topology.client.run(|| http::get(address, "/name", SECOND)).unwrap().body, b"backend63");
    }
}
