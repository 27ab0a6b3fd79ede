//! A pin directory of a test's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::child;

/// Where a bpffs is; it is mounted there if it is not.
const BPFFS: &str = "/sys/fs/bpf";
/// What the name of each begins with; the number of the test's process and a label follow.
const PREFIX: &str = "forebay-test-";

/// A directory below the bpffs, gone with this, with all that is pinned in it: a pin that goes takes its link along. A
/// dataplane of the test pins to [`edge`](Self::edge), which is not made yet.
///
/// Making one removes what tests left that were killed: such directories of processes that are no more.
#[derive(Debug)]
#[must_use = "dropping this removes the directory"]
pub struct PinFolder {
    root: PathBuf,
}

impl PinFolder {
    /// Makes it. The label is this directory's alone among those of the process.
    ///
    /// # Panics
    /// Where there is no bpffs and none can be mounted, and where the directory can't be made, or is there already.
    pub fn new(label: &str) -> Self {
        let mounts =
            fs::read_to_string("/proc/mounts").unwrap_or_else(|error| panic!("/proc/mounts: {error}"));
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
            let mount = child::output(Command::new("mount").args(["-t", "bpf", "none", BPFFS]), child::LIMIT);
            assert!(mount.as_ref().is_ok_and(|output| output.status.success()), "{mount:?}");
        }
        sweep(Path::new(BPFFS));
        let root = Path::new(BPFFS).join(format!("{PREFIX}{}-{label}", std::process::id()));
        fs::create_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
        Self { root }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pin directory, below it; not there yet.
    pub fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }

    /// The names in a directory below it, sorted; none where it is not there.
    ///
    /// # Panics
    /// Where it can't be read.
    pub fn names(&self, below: &str) -> Vec<String> {
        let path = self.root.join(below);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let name = |entry: io::Result<fs::DirEntry>| match entry {
            Ok(entry) => entry.file_name().to_string_lossy().into_owned(),
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

/// Removes such directories of processes that are no more.
fn sweep(bpffs: &Path) {
    for entry in fs::read_dir(bpffs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Another test may be doing the same.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.root);
        // A second panic would hide the first one.
        if !thread::panicking() {
            removed.unwrap_or_else(|error| panic!("{}: {error}", self.root.display()));
        }
    }
}
