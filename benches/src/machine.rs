//! What was measured, and on what.

use std::{fs, process::Command};

use serde::Serialize;

/// The machine, its kernel, and the state of the repository.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many CPUs there are.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Load averages over 1, 5 and 15 minutes at the start: other work makes figures worse.
    pub load: String,
    /// The commit; with `+` where files differ from it.
    pub commit: String,
}

impl Machine {
    /// Looks. What can't be found out is `unknown`.
    pub fn look() -> Self {
        let unknown = || "unknown".to_owned();
        let read = |path| fs::read_to_string(path).ok();
        let processor = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let load =
            read("/proc/loadavg").map(|text| text.split_whitespace().take(3).collect::<Vec<_>>().join(", "));
        Self {
            processor: processor.unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").map_or_else(unknown, |text| text.trim().to_owned()),
            load: load.unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
        }
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { commit + "+" } else { commit })
}
