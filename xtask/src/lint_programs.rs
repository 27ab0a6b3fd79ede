//! Runs clippy over the kernel programs: `cargo xtask lint-programs`.
//!
//! They stand outside the workspace and compile for the BPF target only, so the workspace's clippy never sees them.

use anyhow::{Context, Result};

use crate::{process, repo, toolchain::Toolchain};

pub fn run() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo();
    cargo.current_dir(repo::programs()).args(["clippy", "--release", "--locked", "--quiet"]);
    cargo.arg("--target-dir").arg(repo::target().join("bpf")).args(["--", "--deny", "warnings"]);
    process::run(&mut cargo)
        .context("clippy complains about the kernel programs, or is missing: `cargo xtask setup`")
}
