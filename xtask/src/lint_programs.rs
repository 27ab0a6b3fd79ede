//! Runs clippy over the kernel programs: `cargo xtask lint-programs`.
//!
//! They stand outside the workspace and compile for the BPF target only, so the workspace's clippy never sees them.

use anyhow::{Context, Result};

use crate::{process, repo, toolchain::Toolchain};

#[derive(clap::Args)]
pub struct Arguments {
    /// Cargo features of the programs' crate, separated by commas
    #[arg(long)]
    features: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo();
    cargo.current_dir(repo::programs()).args(["clippy", "--release", "--locked", "--quiet"]);
    if let Some(features) = &arguments.features {
        cargo.arg("--features").arg(features);
    }
    cargo.arg("--target-dir").arg(repo::target().join("bpf")).args(["--", "--deny", "warnings"]);
    process::run(&mut cargo)
        .context("clippy complains about the kernel programs, or is missing: `cargo xtask setup`")
}
