//! Ends that come at a bad moment.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Stdio},
};

use common::{Files, LIMIT, config, looks, with};
use dataplane_testkit::{
    net::{Namespace, veth, wait_for},
    require_kernel,
};
use rustix::process::{Pid, Signal, kill_process};

/// How far a daemon has come, as the kernel shows it of any process.
#[derive(Debug)]
struct Progress {
    catches_signals: bool,
    maps: usize,
    programs: usize,
    links: usize,
    threads: String,
}

impl Progress {
    /// Of one that has ended: nothing.
    fn of(process: u32) -> Self {
        let proc = PathBuf::from(format!("/proc/{process}"));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
        let caught = u64::from_str_radix(caught, 16).unwrap();
        // What is closed meanwhile can't be read.
        let descriptors = fs::read_dir(proc.join("fdinfo")).into_iter().flatten().flatten();
        let infos: Vec<_> = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        let has = |info: &str, field: &str| info.lines().any(|line| line.starts_with(field));
        let count = |field| infos.iter().filter(|info| has(info, field)).count();
        Self {
            catches_signals: caught & 1 << (Signal::TERM.as_raw() - 1) != 0,
            maps: count("map_id:"),
            // A link names its program.
            programs: infos.iter().filter(|info| has(info, "prog_id:") && !has(info, "link_id:")).count(),
            links: count("link_id:"),
            threads: threads(process),
        }
    }
}

/// Whether it has come so far.
type Reached = fn(&Progress) -> bool;

/// What is reached, and stays so, one after the other.
const STEPS: [(&str, Reached); 9] = [
    ("it was started", |_| true),
    ("it catches signals", |progress| progress.catches_signals),
    ("it makes maps", |progress| progress.maps > 0),
    ("a program is loaded", |progress| progress.programs > 0),
    ("some are", |progress| progress.programs >= 10),
    ("more are", |progress| progress.programs >= 20),
    ("the first one is attached", |progress| progress.links > 0),
    ("tables are written", |progress| progress.threads.contains("forebay-control")),
    ("services are read", |progress| progress.threads.contains("source-")),
];

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
    for (when, reached) in STEPS {
        let mut command = with(&files, &[]);
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut child = Begun(host.run(|| command.spawn().unwrap()));
        let process = child.0.id();
        let mut progress = Progress::of(process);
        let came = wait_for(LIMIT, when, || {
            progress = Progress::of(process);
            reached(&progress) || child.0.try_wait().unwrap().is_some()
        });
        let said = || fs::read_to_string(&log).unwrap();
        assert!(came.is_ok() && reached(&progress), "{when}: never: {progress:?}; it said:\n{}", said());
        kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
        let mut status = None;
        let ended = wait_for(LIMIT, "it ends", || {
            status = child.0.try_wait().unwrap();
            status.is_some()
        });
        if let Err(error) = ended {
            panic!("{when}: {error}; it said:\n{}\nits threads:\n{}", said(), threads(process));
        }
        let status = status.unwrap();
        let killed = !progress.catches_signals && status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || killed, "{when}: {status:?}; it said:\n{}", said());
        // Where it was killed, the kernel takes links off a moment later.
        wait_for(LIMIT, "nothing is left", || looks(&host) == before)
            .unwrap_or_else(|error| panic!("{when}: {error}"));
        println!("{when}: {progress:?}");
    }
}

/// A daemon that is killed where the test fails.
struct Begun(Child);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

/// What each thread of a process waits for: its name, the kernel's function, and the system call.
fn threads(process: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    tasks
        .map(|task| ["comm", "wchan", "syscall"].map(|file| read(task.path().join(file))).join(" ") + "\n")
        .collect()
}
