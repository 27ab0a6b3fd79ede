//! A card that goes and comes back, and one whose program somebody took off.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use common::{Daemon, Files, PATIENCE, config};
use dataplane_testkit::{
    net::{AddressPlan, HttpServer, LoadBalancerTopology, Route, http, veth},
    require_kernel,
};

#[test]
fn a_card_that_came_back_serves_again() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(1).build().unwrap();
    let backend = &topology.backends[0];
    let _server = HttpServer::start(&backend.namespace, "web", &backend.addresses.with_port(8080)).unwrap();
    let services = format!(
        "services:\n- {{name: web, address: 203.0.113.10, port: 80, backends: ['{}:8080']}}\n",
        backend.addresses.v4
    );
    let files = Files::new(&config("to-client, to-backend0"), &services);
    let daemon = Daemon::start(&topology.balancer, &files);
    let [vip, _] = AddressPlan::vip(0).with_port(80);
    let ask = || topology.client.run(|| http::get(vip, "/name", PATIENCE)).unwrap().body;
    assert_eq!(ask(), b"web");

    topology.client_side.delete().unwrap();
    let status = daemon.wait_for_status("it is gone", |status| status["ready"] == false);
    assert_eq!(status["uplinks"][0]["standing"], "interface-gone");
    assert_eq!(status["uplinks"][1]["standing"], "attached");
    let why = status["not_ready"][0].as_str().unwrap();
    assert!(why.contains("interface to-client") && why.contains("is gone"), "{why}");
    let (code, told) = daemon.get("/readyz");
    assert!(code == 503 && told.contains("to-client"), "{code} {told}");

    let (client, near) = veth(&topology.client, "eth0", &topology.balancer, "to-client").unwrap();
    near.add_address("192.0.2.1/24".parse().unwrap()).unwrap();
    client.add_address("192.0.2.2/24".parse().unwrap()).unwrap();
    let gateway = "192.0.2.1".parse().unwrap();
    topology.client.add_route(&Route::to(AddressPlan::VIPS_V4.into()).via(gateway)).unwrap();
    let status = daemon.wait_for_status("it is back", |status| status["ready"] == true);
    assert_eq!(status["uplinks"][0]["index"], near.index());
    assert_eq!(ask(), b"web");
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && said.contains("the interface is back"), "{said}");
}
