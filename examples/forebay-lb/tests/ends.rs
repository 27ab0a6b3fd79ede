//! Ends that come at a bad moment.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{os::unix::process::ExitStatusExt as _, process::Stdio, thread, time::Duration};

use common::{Files, LIMIT, command, config, looks};
use dataplane_testkit::{
    child,
    net::{Namespace, veth, wait_for},
    require_kernel,
};
use rustix::process::{Pid, Signal, kill_process};

/// However far it has come: before signals are caught, while programs are loaded, while the first services are written.
#[test]
fn whoever_is_ended_while_it_begins_leaves_nothing_behind() {
    require_kernel!();
    let (host, other) = (Namespace::new("host").unwrap(), Namespace::new("other").unwrap());
    let (_uplink, _far) = veth(&host, "eth0", &other, "eth0").unwrap();
    let services: String = (1..=50)
        .map(|n| {
            format!("- {{name: s{n}, address: 203.0.113.10, port: {n}, backends: ['198.51.100.{n}:80']}}\n")
        })
        .collect();
    let files = Files::new(&config("eth0"), &format!("services:\n{services}"));
    let before = looks(&host);
    for delay in [0, 10, 30, 60, 100, 150, 200, 300, 500] {
        let mut command = command(&["--config"]);
        command.arg(files.config()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = host.run(|| command.spawn().unwrap());
        // What is looked for lies anywhere in this time.
        thread::sleep(Duration::from_millis(delay));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = child::wait(&mut child, LIMIT, "forebay-lb").unwrap();
        let ended = status.success() || status.signal() == Some(Signal::TERM.as_raw());
        assert!(ended, "after {delay} ms: {status:?}");
        // Where it was killed, the kernel takes links off a moment later.
        wait_for(LIMIT, "nothing is left", || looks(&host) == before).unwrap();
    }
}
