//! Does the agreement test notice a broken pipeline? `cargo xtask mutation`.
//!
//! Each mutation is a cargo feature of the kernel programs that changes one line of the pipeline. The simulator stays
//! as it is, so the agreement test must see the two disagree, and must say so: a program that fails to load proves
//! nothing.

use std::{env, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{check_programs::OBJECT_VARIABLE, machine, programs, repo, toolchain::Toolchain};

/// The mutations: features of `dataplane-ebpf/programs` (there they switch on the feature of the same name in
/// `dataplane-core`), and what each breaks.
const MUTATIONS: &[(&str, &str)] = &[];

/// How the agreement test begins the line that tells of a difference.
const DISAGREEMENT: &str = "DISAGREEMENT";

#[derive(clap::Args)]
pub struct Arguments {
    /// Only this mutation
    #[arg(long)]
    only: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Err(reason) = machine::can_run_kernel_tests() {
        if machine::kernel_is_required() {
            bail!("the agreement test can't run here: {reason}");
        }
        println!("not run: {reason}");
        return Ok(());
    }
    if MUTATIONS.is_empty() {
        println!("no mutations yet");
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    let folder = repo::target().join("bpf/mutations");

    // What passes without a mutation is what the mutations are held against: same compiler, no feature.
    let unchanged = folder.join("unchanged.o");
    programs::build_programs_with(&toolchain, &[], &unchanged)?;
    let Outcome::Agrees = agreement(&unchanged)? else {
        bail!("the agreement test fails without any mutation: mend that first");
    };
    println!("unchanged: agrees, as it must");

    let mut missed = Vec::new();
    for (name, what) in MUTATIONS {
        if arguments.only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        let started = Instant::now();
        let object = folder.join(format!("{name}.o"));
        programs::build_programs_with(&toolchain, &[(*name).to_owned()], &object)?;
        // A feature that nothing reads would give the same bytes and be "missed" for a reason of its own.
        if fs::read(&object)? == fs::read(&unchanged)? {
            bail!("the feature {name} changes nothing in the programs");
        }
        let outcome = agreement(&object)?;
        let seconds = started.elapsed().as_secs();
        match outcome {
            Outcome::Disagrees(line) => println!("{name} ({what}): caught in {seconds} s: {line}"),
            Outcome::Agrees => {
                println!("{name} ({what}): MISSED, the agreement test passes");
                missed.push(*name);
            }
            Outcome::Fails(output) => {
                println!("{name} ({what}): MISSED, the test fails without a line {DISAGREEMENT}:\n{output}");
                missed.push(*name);
            }
        }
    }
    if !missed.is_empty() {
        bail!("mutations that the agreement test does not catch: {}", missed.join(", "));
    }
    Ok(())
}

enum Outcome {
    /// The test passes.
    Agrees,
    /// The test fails and says where program and simulator differ.
    Disagrees(String),
    /// The test fails for another reason; its output.
    Fails(String),
}

fn agreement(object: &Path) -> Result<Outcome> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repo::root()).args(["test", "--package", "dataplane-ebpf", "--test", "agreement"]);
    // A test that skips itself must not pass for one that agrees.
    cargo.args(["--", "--nocapture"]).env(OBJECT_VARIABLE, object).env("FOREBAY_REQUIRE_KERNEL", "1");
    let output = cargo.output().context("cannot start cargo")?;
    if output.status.success() {
        return Ok(Outcome::Agrees);
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // On one thread the harness prints `test name ... ` before it, on the same line.
    let mut said = text.lines().map(|line| line.rsplit_once(" ... ").map_or(line, |(_, said)| said));
    let line = said.find(|line| line.starts_with(DISAGREEMENT)).map(str::to_owned);
    Ok(line.map_or_else(|| Outcome::Fails(text), Outcome::Disagrees))
}
