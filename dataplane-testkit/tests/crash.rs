//! What is left when a process that made namespaces is killed: nothing.
//!
//! The test starts its own binary again as the process to be killed, inside a namespace that stands for the host.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::env;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use dataplane_testkit::net::{HttpServer, LoadBalancerTopology, Namespace, veth, wait_for};
use dataplane_testkit::{child, require_kernel};

/// Set in the process to be killed.
const CHILD: &str = "FOREBAY_TESTKIT_CRASH_CHILD";
const READY: &str = "networks stand";

#[test]
fn a_killed_process_leaves_no_links() {
    if env::var_os(CHILD).is_some() {
        return build_and_hang();
    }
    require_kernel!();
    let host = Namespace::new("stands for the host").unwrap();
    assert_eq!(host.interfaces().unwrap(), ["lo"]);
    let mut child = host.run(|| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_leaves_no_links", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    // Ends also where the child ends early: then there are no more lines.
    let ready = child::Lines::of(child.stdout.take().unwrap()).until(READY, child::LIMIT).is_ok();
    let during = host.interfaces().unwrap();
    child.kill().unwrap();
    let status = child::wait(&mut child, child::LIMIT, "the process that was killed").unwrap();
    assert!(ready, "the child ended early: {status}");
    assert!(!status.success());
    assert_eq!(during.len(), 3, "two links reach into the host: {during:?}");
    wait_for(Duration::from_secs(20), "the host has its loopback only", || {
        host.interfaces().unwrap() == ["lo"]
    })
    .unwrap();
}

fn build_and_hang() {
    let host = Namespace::current().unwrap();
    let topology = LoadBalancerTopology::builder(2).build().unwrap();
    let (_uplink, _) = veth(&host, "uplink0", &topology.balancer, "host0").unwrap();
    let (_downlink, _) = veth(&topology.backends[0].namespace, "host0", &host, "uplink1").unwrap();
    let backend = &topology.backends[1];
    let _server = HttpServer::start(&backend.namespace, "x", &backend.addresses.with_port(80)).unwrap();
    println!("{READY}");
    // Bounded, in case nobody kills it.
    thread::sleep(Duration::from_secs(30));
}
