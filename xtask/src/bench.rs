//! Measures, and writes a table: `cargo xtask bench --smoke`.
//!
//! Criterion's benches run first; then the crate `benches` measures what criterion can't (packets in the kernel, new
//! connections) and puts all of it into one report under `target/bench`.

use std::{ffi::OsString, fs, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{machine, process, programs, programs::Tree, repo, toolchain::Toolchain};

/// What criterion is told: enough for a figure that can be compared with the next one's, and no more.
const SMOKE: [&str; 9] = [
    "--noplot",
    "--warm-up-time",
    "0.1",
    "--measurement-time",
    "0.4",
    "--sample-size",
    "20",
    "--nresamples",
    "2000",
];

#[derive(clap::Args)]
pub struct Arguments {
    /// About a minute of measuring
    #[arg(long)]
    smoke: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.smoke {
        bail!("say how much is to be measured: --smoke");
    }
    let out = repo::target().join("bench");
    let object = out.join("bench.bpf.o");
    let mut measure: Vec<OsString> = vec!["--out".into(), out.clone().into()];

    match toolchain() {
        Ok(toolchain) => {
            programs::build_programs_with(&toolchain, &Tree::committed(), &["bench"], &object)?;
            measure.extend(["--object".into(), object.into()]);
        }
        Err(reason) => {
            println!("packets can't be measured here: {reason}");
            let first = reason.lines().next().unwrap_or_default();
            measure.extend(["--missing".into(), format!("packets: {first}").into()]);
        }
    }
    process::run(process::cargo().args(["build", "--quiet", "--release", "--package", "benches", "--bins"]))?;
    process::run(process::cargo().args(["bench", "--quiet", "--package", "benches", "--no-run"]))?;

    // Else results of benches that are no more would be reported again.
    let criterion = out.join("criterion");
    if criterion.is_dir() {
        fs::remove_dir_all(&criterion)
            .with_context(|| format!("cannot remove the folder {}", criterion.display()))?;
    }
    let start = Instant::now();
    println!("criterion's benches …");
    let mut benches = process::cargo();
    benches.args(["bench", "--quiet", "--package", "benches", "--"]).args(SMOKE);
    // What it prints is in the report, shorter.
    let said = process::output(benches.env("CRITERION_HOME", &criterion))?;
    fs::write(out.join("criterion.txt"), said)?;
    measure.extend(["--criterion".into(), criterion.into()]);
    measure.extend(["--seconds".into(), start.elapsed().as_secs_f64().to_string().into()]);

    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "benches", "--bin", "measure", "--"]);
    process::run(cargo.args(measure))
}

/// The compiler for the bench programs, or why they can't be built or run here.
fn toolchain() -> Result<Toolchain, String> {
    machine::can_run_kernel_tests()?;
    Toolchain::find().map_err(|error| error.to_string())
}
