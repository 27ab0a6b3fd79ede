//! Does the agreement test notice a broken pipeline? `cargo xtask mutation`.
//!
//! The programs' sources are copied, one line of the copy is changed, and the programs are built from it. The simulator
//! stays as it is, so the agreement test must see the two disagree, and must say so: a program that fails to load proves
//! nothing. Which lines are changed stands in [`list`].

mod copy;
mod list;

use std::{env, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    check_programs::OBJECT_VARIABLE,
    machine,
    programs::{self, Tree},
    repo,
    toolchain::Toolchain,
};
use list::{MUTATIONS, Mutation};

/// How the agreement test begins the line that tells of a difference.
const DISAGREEMENT: &str = "DISAGREEMENT";

#[derive(clap::Args)]
pub struct Arguments {
    /// Only this mutation
    #[arg(long)]
    only: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let chosen = |mutation: &&Mutation| arguments.only.as_deref().is_none_or(|only| only == mutation.name);
    let mutations: Vec<_> = MUTATIONS.iter().filter(chosen).collect();
    if mutations.is_empty() {
        let names: Vec<_> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
        bail!("there is no such mutation; there are: {}", names.join(", "));
    }
    if let Err(reason) = machine::can_run_kernel_tests() {
        if machine::kernel_is_required() {
            bail!("the agreement test can't run here: {reason}");
        }
        println!("not run: {reason}");
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    let folder = repo::target().join("bpf/mutations");
    let tree = Tree { root: folder.join("src"), target: folder.join("target") };

    // What passes without a mutation is what the mutations are held against: same compiler, same copy.
    let unchanged = folder.join("unchanged.o");
    let started = Instant::now();
    copy::refresh(repo::root(), &tree.root)?;
    programs::build_programs_with(&toolchain, &tree, &[], &unchanged)?;
    match agreement(&unchanged)? {
        Outcome::Agrees => println!("unchanged: agrees, as it must ({} s)", started.elapsed().as_secs()),
        Outcome::Disagrees(said) | Outcome::Fails(said) => {
            bail!("the agreement test fails without any mutation; mend that first:\n{said}")
        }
    }

    let mut missed = Vec::new();
    for mutation in mutations {
        let Mutation { name, breaks, .. } = mutation;
        let started = Instant::now();
        let object = folder.join(format!("{name}.o"));
        copy::refresh(repo::root(), &tree.root)?;
        mutation.apply(&tree.root)?;
        programs::build_programs_with(&toolchain, &tree, &[], &object)?;
        // A change that the compiler sees no difference in would be "missed" for a reason of its own.
        if fs::read(&object)? == fs::read(&unchanged)? {
            bail!("the mutation {name} changes nothing in the programs");
        }
        let outcome = agreement(&object)?;
        let seconds = started.elapsed().as_secs();
        match outcome {
            Outcome::Disagrees(line) => println!("{name} ({breaks}): caught in {seconds} s: {line}"),
            Outcome::Agrees => {
                println!("{name} ({breaks}): MISSED, the agreement test passes");
                missed.push(*name);
            }
            Outcome::Fails(output) => {
                println!(
                    "{name} ({breaks}): MISSED, the test fails without a line {DISAGREEMENT}:\n{output}"
                );
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
