//! Is the committed object what its sources give? `cargo xtask check-programs`.
//!
//! With the versions that built it, the rebuilt bytes must be equal. With other versions they may differ; then this
//! chore says that the committed object is due, and the kernel tests can run on the fresh one too.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{process, programs, repo, toolchain::Toolchain};

/// The environment variable by which tests load another object than the committed one.
pub const OBJECT_VARIABLE: &str = "FOREBAY_OBJECT";

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the tools' versions differ from those of the committed object: run the kernel tests on the fresh one
    #[arg(long)]
    kernel_tests: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let fresh = repo::target().join("bpf/fresh/forebay.bpf.o");
    programs::build_programs_with(&toolchain, &programs::Tree::committed(), &[], &fresh)?;

    let committed = repo::object();
    let same = fs::read(&fresh)?
        == fs::read(&committed).with_context(|| format!("cannot read {}", committed.display()))?;
    let (then, now) =
        (fs::read_to_string(repo::object_versions()).unwrap_or_default(), toolchain.versions()?);
    if same {
        println!("the committed object is what its sources give, byte for byte");
        return Ok(());
    }
    if then == now {
        bail!(
            "the committed object is not what its sources give: run `cargo xtask build-programs` and commit {}",
            committed.display()
        );
    }
    println!("the committed object is due: other tools built it, so its bytes can't be compared.");
    println!("then:\n{}now:\n{}", indent(&then), indent(&now));
    println!("the fresh one: {OBJECT_VARIABLE}={}", fresh.display());
    if arguments.kernel_tests {
        let mut cargo = process::cargo();
        cargo.args(["test", "--package", "dataplane-ebpf"]);
        process::run(cargo.env(OBJECT_VARIABLE, &fresh))
            .context("the kernel tests fail on the fresh object")?;
    }
    Ok(())
}

fn indent(lines: &str) -> String {
    lines.lines().map(|line| format!("    {line}\n")).collect()
}
