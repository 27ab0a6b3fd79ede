//! The twenty lines, on real connections.

use std::{collections::HashSet, time::Duration};

use dataplane_testkit::{
    net::{AddressPlan, HttpServer, LoadBalancerTopology, http},
    require_kernel,
};

#[test]
fn twenty_lines_balance_real_connections() {
    require_kernel!();
    let topology = LoadBalancerTopology::builder(2).build().unwrap();
    let servers: Vec<_> = topology
        .backends
        .iter()
        .map(|b| HttpServer::start(&b.namespace, b.name.as_str(), &b.addresses.with_port(8080)).unwrap())
        .collect();
    let [address, _] = AddressPlan::vip(0).with_port(80);
    let names = topology.balancer.run(|| {
        let mut names = HashSet::new();
        embed::balance(&["to-client", "to-backend0", "to-backend1"], || {
            for _ in 0..40 {
                let response =
                    topology.client.run(|| http::get(address, "/name", Duration::from_secs(5))).unwrap();
                names.insert(String::from_utf8(response.body).unwrap());
            }
        })
        .map(|()| names)
        .map_err(|error| error.to_string())
    });
    assert_eq!(names.unwrap().len(), servers.len(), "each backend gets some of 40 connections");
}
