//! How the quickstart ends when it is not let finish, by Ctrl-C and because nobody reads on, and when it finds a fault.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use dataplane_testkit::{
    child::{self, Lines},
    net::{Namespace, wait_for},
    require_kernel,
};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = child::LIMIT;

/// The quickstart, with a temporary folder of its own.
struct Quickstart {
    child: Child,
    folder: tempfile::TempDir,
    said: Lines,
}

impl Quickstart {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_quickstart"))
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Lines::of(child.stderr.take().unwrap());
        Self { child, folder, said }
    }

    /// Presses Ctrl-C, as it were, once a line with this mark was printed. `look` is called in between.
    fn interrupt_at<T>(mut self, mark: &str, look: impl FnOnce(u32) -> T) -> (T, ExitStatus, String) {
        let printed = Lines::of(self.child.stdout.take().unwrap());
        printed.until(mark, LIMIT).unwrap_or_else(|lines| panic!("no {mark:?} in:\n{}", lines.join("\n")));
        let seen = look(self.child.id());
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let (status, said) = self.end();
        (seen, status, said)
    }

    /// Reads the first line, and closes the pipe.
    fn read_one_line(mut self) -> (String, ExitStatus, String) {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (status, said) = self.end();
        (line, status, said)
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = child::wait(&mut self.child, LIMIT, "the quickstart").unwrap();
        let left: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        (status, self.said.rest(LIMIT).join("\n"))
    }
}

/// What a running process holds in the kernel.
struct Held {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
    /// Its network namespaces, by inode.
    namespaces: BTreeSet<String>,
}

impl Held {
    fn by(process: u32) -> Self {
        let ids = |field: &str| {
            children(Path::new(&format!("/proc/{process}/fdinfo")))
                .filter_map(|path| fs::read_to_string(path).ok())
                .filter_map(|text| {
                    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
                    line.trim().parse().ok()
                })
                .collect()
        };
        Self { programs: ids("prog_id"), links: ids("link_id"), namespaces: namespaces_of(process) }
    }

    fn is_gone(&self) -> bool {
        // What vanishes while it is listed is an error there.
        let programs: BTreeSet<u32> =
            aya::programs::loaded_programs().flatten().map(|program| program.id()).collect();
        let links: BTreeSet<u32> = aya::programs::loaded_links().flatten().map(|link| link.id()).collect();
        let processes =
            children(Path::new("/proc")).filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        let namespaces: BTreeSet<String> = processes.flat_map(namespaces_of).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        self.programs.is_disjoint(&programs)
            && self.links.is_disjoint(&links)
            && self.namespaces.is_disjoint(&namespaces)
            && !self.namespaces.iter().any(|namespace| mounts.contains(namespace.as_str()))
    }
}

/// What stands in a folder; nothing where that is gone.
fn children(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// The network namespaces of a process's threads, but for our own.
fn namespaces_of(process: u32) -> BTreeSet<String> {
    let name = |path: PathBuf| Some(fs::read_link(path).ok()?.to_string_lossy().into_owned());
    let ours = name("/proc/thread-self/ns/net".into());
    children(Path::new(&format!("/proc/{process}/task")))
        .filter_map(|task| name(task.join("ns/net")))
        .filter(|namespace| Some(namespace) != ours.as_ref())
        .collect()
}

#[test]
fn ctrl_c_ends_the_run_in_memory() {
    let quickstart = Quickstart::start(&["--memory", "--requests", "100000"]);
    let ((), status, said) = quickstart.interrupt_at("services:", |_| ());
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted") && !said.contains("panicked"), "{said}");
}

/// In a namespace that stands for the host, at the height of traffic.
#[test]
fn ctrl_c_takes_everything_down_in_the_kernel() {
    require_kernel!();
    let host = Namespace::new("stands for the host").unwrap();
    let quickstart = host.run(|| Quickstart::start(&[]));
    let (held, status, said) = quickstart.interrupt_at(" requests, downloads ", Held::by);
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("everything was taken down again") && !said.contains("panicked"), "{said}");
    assert!(held.programs.len() >= 3, "{:?}", held.programs);
    // A client, the balancer and three backends, and the one where it was started.
    assert_eq!(held.namespaces.len(), 6, "{:?}", held.namespaces);
    assert_eq!(host.interfaces().unwrap(), ["lo"]);
    drop(host);
    wait_for(LIMIT, "programs, links and namespaces are gone", || held.is_gone()).unwrap();
}

#[test]
fn a_closed_pipe_ends_the_run_in_memory_quietly() {
    let (line, status, said) = Quickstart::start(&["--memory"]).read_one_line();
    assert!(line.starts_with("In memory"), "{line}");
    assert_eq!((status.code(), said.as_str()), (Some(141), ""));
}

#[test]
fn a_closed_pipe_ends_the_run_in_the_kernel_quietly() {
    require_kernel!();
    let (line, status, said) = Quickstart::start(&[]).read_one_line();
    assert!(line.contains("network namespaces"), "{line}");
    assert_eq!((status.code(), said.as_str()), (Some(141), ""));
}

/// No kernel program ran there, and none is said to have.
#[test]
fn the_run_in_memory_speaks_of_the_simulator() {
    let output =
        child::output(Command::new(env!("CARGO_BIN_EXE_quickstart")).arg("--memory"), LIMIT).unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("counted by the simulator") && !printed.contains("program"), "{printed}");
    assert!(printed.ends_with(" 0 failed\n"), "{printed}");
}

/// Runs it with a fault: its last lines, which must say what was wrong. The exit code must be 1.
fn sabotaged(arguments: &[&str]) -> String {
    let mut quickstart = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    let output = child::output(quickstart.args(["--requests", "1000"]).args(arguments), LIMIT).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{printed}\n{said}");
    assert_eq!(said, "", "{printed}");
    let (_, last) =
        printed.split_once("Who answered how often:").unwrap_or_else(|| panic!("no end of:\n{printed}"));
    last.to_owned()
}

/// Packets `sent by the client`, and those that were `counted by` somebody.
fn packets(last: &str) -> (u64, u64) {
    let line = last.lines().find_map(|line| line.strip_prefix("Packets to the services: ")).unwrap();
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn tells_of_a_packet_that_went_elsewhere(arguments: &[&str]) {
    let last = sabotaged(&[arguments, &["--sabotage", "elsewhere"]].concat());
    let (sent, counted) = packets(&last);
    assert_eq!(sent, counted + 1, "{last}");
    assert!(last.contains("These differ") && last.ends_with(" 0 failed\n"), "{last}");
}

fn tells_of_a_backend_that_refuses(arguments: &[&str]) {
    let last = sabotaged(&[arguments, &["--sabotage", "refuse"]].concat());
    let (sent, counted) = packets(&last);
    assert_eq!(sent, counted, "{last}");
    assert!(last.contains("refused") && !last.ends_with(" 0 failed\n"), "{last}");
}

#[test]
fn a_packet_that_went_elsewhere_ends_the_run_in_memory_with_1() {
    tells_of_a_packet_that_went_elsewhere(&["--memory"]);
}

#[test]
fn a_backend_that_refuses_ends_the_run_in_memory_with_1() {
    tells_of_a_backend_that_refuses(&["--memory"]);
}

#[test]
fn a_packet_that_went_elsewhere_ends_the_run_in_the_kernel_with_1() {
    require_kernel!();
    tells_of_a_packet_that_went_elsewhere(&[]);
}

#[test]
fn a_backend_that_refuses_ends_the_run_in_the_kernel_with_1() {
    require_kernel!();
    tells_of_a_backend_that_refuses(&[]);
}

#[test]
fn a_drained_backend_that_answers_ends_the_run_in_the_kernel_with_1() {
    require_kernel!();
    let last = sabotaged(&["--sabotage", "return"]);
    let (sent, counted) = packets(&last);
    assert_eq!(sent, counted, "{last}");
    assert!(last.contains("requests after it had drained.\n") && last.ends_with(" 0 failed\n"), "{last}");
}
