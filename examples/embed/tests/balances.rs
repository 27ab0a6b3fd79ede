//! The twenty lines, on real connections, and the program around them.

use std::{
    collections::HashSet,
    process::{Command, Stdio},
    time::Duration,
};

use dataplane_testkit::{
    child,
    net::{AddressPlan, HttpServer, LoadBalancerTopology, Namespace, http},
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

/// `embed lo | head -0`: nobody reads, and that is no reason to panic.
#[test]
fn a_closed_pipe_ends_it_quietly() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = host.run(|| {
        Command::new(env!("CARGO_BIN_EXE_embed"))
            .arg("lo")
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let said = child::Lines::of(child.stderr.take().unwrap());
    let status = child::wait(&mut child, child::LIMIT, "embed").unwrap();
    let said = said.rest(child::LIMIT).join("\n");
    assert_eq!(status.code(), Some(141), "{said}");
    assert!(!said.contains("panicked") && !said.contains("pipe"), "{said}");
}
