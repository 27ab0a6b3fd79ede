//! A pin directory of a test's own.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use dataplane_ebpf::PinDir;
use dataplane_testkit::child;

/// Where a bpffs is; it is mounted there if it is not.
const BPFFS: &str = "/sys/fs/bpf";
/// What the name of each begins with; the number of the test's process and a label follow.
const PREFIX: &str = "forebay-test-";

/// A directory below the bpffs, gone with this, with all that is pinned in it. A dataplane of the test pins to
/// [`edge`](Self::edge), which is not made yet.
#[derive(Debug)]
pub struct PinFolder {
    pub root: PathBuf,
}

impl PinFolder {
    pub fn new(label: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
            let mount = child::output(Command::new("mount").args(["-t", "bpf", "none", BPFFS]), child::LIMIT);
            assert!(mount.as_ref().is_ok_and(|output| output.status.success()), "{mount:?}");
        }
        sweep();
        let root = Path::new(BPFFS).join(format!("{PREFIX}{}-{label}", std::process::id()));
        fs::create_dir(&root).unwrap();
        Self { root }
    }

    pub fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }

    pub fn pins(&self) -> PinDir {
        PinDir::new(self.edge()).unwrap()
    }

    /// The names in a directory below it, sorted; none where it is not there.
    pub fn names(&self, below: &str) -> Vec<String> {
        let entries = match fs::read_dir(self.root.join(below)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{error}"),
        };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Removes what tests left that were killed: directories of processes that are no more.
fn sweep() {
    for entry in fs::read_dir(BPFFS).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Another test may be doing the same.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        // A pin that goes takes its link along.
        let removed = fs::remove_dir_all(&self.root);
        // A second panic would hide the first one.
        if !thread::panicking() {
            removed.unwrap();
        }
    }
}
