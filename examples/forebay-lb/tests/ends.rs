//! Ends that come at a bad moment.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
    thread,
    time::Duration,
};

use common::{Files, LIMIT, command, config, looks};
use dataplane_testkit::{
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
    let log = files.path().join("log");
    for delay in [0, 10, 30, 60, 100, 150, 200, 300, 500] {
        let mut command = command(&["--config"]);
        command.arg(files.config()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut child = host.run(|| command.spawn().unwrap());
        // What is looked for lies anywhere in this time.
        thread::sleep(Duration::from_millis(delay));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let mut status = None;
        let ended = wait_for(LIMIT, "it ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        if let Err(error) = ended {
            let threads = threads(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            let said = fs::read_to_string(&log).unwrap();
            panic!("after {delay} ms: {error}; it said:\n{said}\nits threads:\n{threads}");
        }
        let status = status.unwrap();
        let ended = status.success() || status.signal() == Some(Signal::TERM.as_raw());
        assert!(ended, "after {delay} ms: {status:?}");
        // Where it was killed, the kernel takes links off a moment later.
        wait_for(LIMIT, "nothing is left", || looks(&host) == before).unwrap();
    }
}

/// What each thread of a process waits for: its name, the kernel's function, and the system call.
fn threads(process: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    tasks
        .map(|task| ["comm", "wchan", "syscall"].map(|file| read(task.path().join(file))).join(" ") + "\n")
        .collect()
}
