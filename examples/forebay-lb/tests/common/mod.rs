//! The daemon as a child process, in a namespace that stands for the balancer.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

pub mod page;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType};
use dataplane_testkit::{
    child::{self, Lines},
    net::{Namespace, http, wait_for},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub const LIMIT: Duration = child::LIMIT;

/// A request may take so long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A transfer that goes on may hear nothing for so long.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Where status is served in each of the namespaces.
pub const STATUS: &str = "127.0.0.1:9095";

/// A folder with the daemon's file and that of its services.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new(config: &str, services: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("services.d")).unwrap();
        let files = Self { folder };
        files.configure(config);
        files.serve(services);
        files
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("forebay-lb.yaml")
    }

    pub fn configure(&self, config: &str) {
        fs::write(self.config(), config).unwrap();
    }

    pub fn services(&self) -> PathBuf {
        self.folder.path().join("services.d/web.yaml")
    }

    /// Writes the services, as editors do it.
    pub fn serve(&self, services: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, services).unwrap();
        fs::rename(draft, self.services()).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Small tables: many daemons run side by side in tests.
pub fn config(uplinks: &str) -> String {
    format!(
        "uplinks: [{uplinks}]\nservices: services.d\n\
         capacity: {{frontends: 64, backends: 64, slots: 1024, conntrack: 1024}}\n"
    )
}

/// The binary with arguments; whoever runs it says where.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-lb"));
    command.args(arguments).env_remove("NOTIFY_SOCKET").env_remove("FOREBAY_LOG").stdin(Stdio::null());
    command
}

/// The same, with these files.
pub fn with(files: &Files, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.arg("--config").arg(files.config());
    command
}

/// Runs it to its end: the exit code, and what it said.
pub fn end_of(mut command: Command) -> (i32, String) {
    let output = child::output(&mut command, LIMIT).unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    (output.status.code().unwrap_or_else(|| panic!("killed: {said}")), said.into_owned())
}

/// A daemon that runs. Dropping it kills it, if it still does.
pub struct Daemon<'h> {
    pub host: &'h Namespace,
    child: Child,
    said: Lines,
    flows: Option<Lines>,
}

impl<'h> Daemon<'h> {
    /// Starts it, and waits until it serves.
    pub fn start(host: &'h Namespace, files: &Files) -> Self {
        Self::start_as(host, with(files, &[]))
    }

    pub fn start_as(host: &'h Namespace, command: Command) -> Self {
        let mut daemon = Self::start_without_reader(host, command);
        daemon.flows = daemon.child.stdout.take().map(Lines::of);
        daemon
    }

    /// Nobody reads what it writes to standard output.
    pub fn start_without_reader(host: &'h Namespace, mut command: Command) -> Self {
        let mut child = host.run(|| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let said = Lines::of(child.stderr.take().unwrap());
        let daemon = Self { host, child, said, flows: None };
        daemon.wait_to_say("status at http://");
        daemon
    }

    /// The lines that it writes to standard output.
    pub fn flows(&self) -> &Lines {
        self.flows.as_ref().unwrap()
    }

    /// Closes standard output.
    pub fn close_flows(&mut self) {
        drop(self.child.stdout.take());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads its log on until it says this.
    pub fn wait_to_say(&self, mark: &str) -> Vec<String> {
        let said = self.said.until(mark, LIMIT);
        said.unwrap_or_else(|lines| panic!("no {mark:?} in:\n{}", lines.join("\n")))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let address: SocketAddr = STATUS.parse().unwrap();
        let response = self.host.run(|| http::get(address, path, PATIENCE)).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    }

    pub fn status(&self) -> Value {
        let (status, body) = self.get("/status");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the status is as wanted, and returns it.
    pub fn wait_for_status(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait_for(LIMIT, what, || {
            last = self.status();
            wanted(&last)
        })
        .unwrap_or_else(|error| panic!("{error}; the last status:\n{last:#}"));
        last
    }

    /// Ends it as systemd does; what it said since it was last read.
    pub fn terminate(self) -> (ExitStatus, String) {
        let (status, _, said) = self.terminate_with_flows();
        (status, said)
    }

    /// The same, and the rest of its lines about flows.
    pub fn terminate_with_flows(mut self) -> (ExitStatus, Vec<String>, String) {
        self.signal(Signal::TERM);
        let status = child::wait(&mut self.child, LIMIT, "forebay-lb").unwrap();
        let flows = self.flows.as_ref().map(|flows| flows.rest(LIMIT)).unwrap_or_default();
        (status, flows, self.said.rest(LIMIT).join("\n"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// What iproute2 and bpftool show of a namespace, and who stands at tcx of its interfaces: compared before and after.
pub fn looks(host: &Namespace) -> String {
    let commands: [&[&str]; 5] = [
        &["ip", "-details", "address"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["tc", "qdisc"],
        &["bpftool", "net"],
    ];
    let mut shown = String::new();
    for words in commands {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let output = host.run(|| child::output(&mut command, LIMIT)).unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        // Link-local addresses and the state of a link come about in their own time.
        let settles = ["fe80", "ff00", "valid_lft", "<"];
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().filter(|line| !settles.iter().any(|mark| line.contains(mark)));
        shown += &format!("$ {}\n{}\n", words.join(" "), lines.collect::<Vec<_>>().join("\n"));
    }
    // bpftool of Debian 12 does not know tcx.
    for interface in host.interfaces().unwrap() {
        for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
            let stands = host.run(|| SchedClassifier::query_tcx(&interface, hook));
            let ids =
                stands.map(|(_, programs)| programs.iter().map(|program| program.id()).collect::<Vec<_>>());
            shown += &match ids {
                Ok(ids) => format!("tcx of {interface}, {hook:?}: {ids:?}\n"),
                // Before Linux 6.6.
                Err(error) => format!("tcx of {interface}: {error}\n"),
            };
        }
    }
    shown
}

/// What a running process holds in the kernel.
#[derive(Debug)]
pub struct Held {
    pub programs: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Held {
    pub fn by(process: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
        // What is closed meanwhile is an error there.
        let texts: Vec<_> =
            descriptors.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        let ids = |field: &str| -> BTreeSet<u32> {
            let of = |text: &String| {
                text.lines()
                    .find_map(|line| line.strip_prefix(field)?.trim_start_matches(':').trim().parse().ok())
            };
            texts.iter().filter_map(of).collect()
        };
        let held = Self { programs: ids("prog_id"), links: ids("link_id") };
        assert!(!held.programs.is_empty() && !held.links.is_empty(), "{held:?}");
        held
    }

    pub fn is_gone(&self) -> bool {
        let programs: BTreeSet<u32> =
            aya::programs::loaded_programs().map(|program| program.unwrap().id()).collect();
        let links: BTreeSet<u32> = aya::programs::loaded_links().map(|link| link.unwrap().id()).collect();
        self.programs.is_disjoint(&programs) && self.links.is_disjoint(&links)
    }
}
