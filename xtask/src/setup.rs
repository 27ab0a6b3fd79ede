//! Installs what the chores need: `cargo xtask setup`.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    machine, packages, process, repo,
    toolchain::{self, Toolchain},
};

#[derive(clap::Args)]
pub struct Arguments {
    /// Only say what is missing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let plan = Plan::for_this_machine();
    plan.print();
    if arguments.dry_run { Ok(()) } else { plan.carry_out() }
}

/// What is to be installed on this machine.
pub struct Plan {
    /// Debian packages that are missing.
    debian: Vec<&'static str>,
    bpf_linker: bool,
}

impl Plan {
    /// Compares what the chores need with what is here.
    pub fn for_this_machine() -> Self {
        let mut wanted = Vec::new();
        // Another toolchain, a nightly of rustup say, does as well as Debian's.
        if !Toolchain::find().is_ok_and(|toolchain| toolchain.name != toolchain::DEBIAN) {
            wanted.extend(packages::BPF_TOOLCHAIN);
        }
        wanted.extend(packages::KERNEL_TESTS);
        wanted.extend(packages::OTHER_KERNELS);
        let debian = wanted.into_iter().filter(|package| !installed(package)).collect();
        Self { debian, bpf_linker: repo::find_program("bpf-linker").is_none() }
    }

    fn is_empty(&self) -> bool {
        self.debian.is_empty() && !self.bpf_linker
    }

    /// Says what would be installed, and by what.
    pub fn print(&self) {
        if self.is_empty() {
            println!("to install: nothing");
            return;
        }
        println!("to install:");
        if !self.debian.is_empty() {
            println!("  apt-get install --no-install-recommends {}", self.debian.join(" "));
        }
        if self.bpf_linker {
            println!("  {}", packages::bpf_linker_command());
        }
    }

    /// Installs, or says why it can't.
    pub fn carry_out(&self) -> Result<()> {
        if !self.debian.is_empty() {
            if repo::find_program("apt-get").is_none() {
                bail!("this is not a Debian machine: install the counterparts of {}", self.debian.join(" "));
            }
            if !machine::is_root() {
                bail!("only root can install Debian packages: {}", self.debian.join(" "));
            }
            apt_get(&["update", "--quiet=2"]).context("apt-get update failed")?;
            let mut arguments = vec!["install", "--yes", "--quiet=2", "--no-install-recommends"];
            arguments.extend(&self.debian);
            apt_get(&arguments)?;
        }
        if self.bpf_linker {
            let mut cargo = Command::new("cargo");
            cargo.args(packages::BPF_LINKER).env("LLVM_PREFIX", packages::LLVM_PREFIX);
            process::run(cargo.env_remove("CARGO_TARGET_DIR"))?;
        }
        Ok(())
    }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    process::output(query.args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}
