//! Do the tests notice a broken pipeline? `cargo xtask mutation`.
//!
//! The programs' sources are copied, one line of the copy is changed, and the programs are built from it. The simulator
//! stays as it is, so the agreement test must see the two disagree, and must say so: a program that fails to load proves
//! nothing. So must the torn-read test for what only a value that is being changed shows. Which lines are changed, and
//! which test must catch them, stands in [`list`]. What the agreement test catches must be noticed on the host, too, by
//! tests that know nothing of the pipeline: see [`host`]. What only packets show that race is for those alone.

mod copy;
mod host;
mod list;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    check_programs::OBJECT_VARIABLE,
    machine, process,
    programs::{self, Tree},
    repo,
    toolchain::Toolchain,
};
use host::Host;
use list::{AGREEMENT, EVENTS, HOST, Mutation, TORN};

/// A test, and what it must catch.
struct Suite {
    /// The name of the test program.
    test: &'static str,
    /// How it begins the line that tells what it found.
    finding: &'static str,
    mutations: &'static [Mutation],
}

const SUITES: &[Suite] = &[
    Suite { test: "agreement", finding: "DISAGREEMENT", mutations: AGREEMENT },
    Suite { test: "events", finding: "UNTOLD", mutations: EVENTS },
    Suite { test: "torn", finding: "TORN", mutations: TORN },
];

#[derive(clap::Args)]
pub struct Arguments {
    /// Only these mutations, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let only = &arguments.only;
    let chosen = |mutation: &Mutation| only.is_empty() || only.iter().any(|name| name == mutation.name);
    let all = || SUITES.iter().flat_map(|suite| suite.mutations).chain(HOST);
    if let Some(unknown) = only.iter().find(|name| !all().any(|mutation| mutation.name == name.as_str())) {
        let names: Vec<_> = all().map(|mutation| mutation.name).collect();
        bail!("there is no mutation {unknown}; there are: {}", names.join(", "));
    }
    if let Err(reason) = machine::can_run_kernel_tests() {
        if machine::kernel_is_required() {
            bail!("kernel tests can't run here: {reason}");
        }
        println!("not run: {reason}");
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    let folder = repo::target().join("bpf/mutations");
    let tree = Tree { root: folder.join("src"), target: folder.join("target") };

    // What passes without a mutation is what the mutations are held against: same compiler, same copy.
    let unchanged = folder.join("unchanged.o");
    copy::refresh(repo::root(), &tree.root, copy::FOR_PROGRAMS)?;
    programs::build_programs_with(&toolchain, &tree, &[], &unchanged)?;

    let mut missed = Vec::new();
    for suite in SUITES.iter().filter(|suite| suite.mutations.iter().any(chosen)) {
        let Suite { test, finding, .. } = suite;
        let started = Instant::now();
        match suite.run(&unchanged)? {
            Outcome::Passes => {
                println!("unchanged: {test} passes, as it must ({} s)", started.elapsed().as_secs())
            }
            Outcome::Finds(said) | Outcome::Fails(said) => {
                bail!("the test {test} fails without any mutation; mend that first:\n{said}")
            }
        }
        for mutation in suite.mutations.iter().filter(|mutation| chosen(mutation)) {
            let Mutation { name, breaks, .. } = mutation;
            let started = Instant::now();
            let object = folder.join(format!("{name}.o"));
            copy::refresh(repo::root(), &tree.root, copy::FOR_PROGRAMS)?;
            mutation.apply(&tree.root)?;
            programs::build_programs_with(&toolchain, &tree, &[], &object)?;
            // A change that the compiler sees no difference in would be "missed" for a reason of its own.
            if fs::read(&object)? == fs::read(&unchanged)? {
                bail!("the mutation {name} changes nothing in the programs");
            }
            let outcome = suite.run(&object)?;
            let seconds = started.elapsed().as_secs();
            match outcome {
                Outcome::Finds(line) => println!("{name} ({breaks}): caught in {seconds} s: {line}"),
                Outcome::Passes => {
                    println!("{name} ({breaks}): MISSED, the test {test} passes");
                    missed.push(*name);
                }
                Outcome::Fails(output) => {
                    println!(
                        "{name} ({breaks}): MISSED, the test {test} fails without a line {finding}:\n{output}"
                    );
                    missed.push(*name);
                }
            }
        }
    }
    if AGREEMENT.iter().chain(HOST).any(chosen) {
        let host = Host::new(&folder)?;
        println!("unchanged: the host's tests pass, as they must");
        for mutation in AGREEMENT.iter().chain(HOST).filter(|mutation| chosen(mutation)) {
            let started = Instant::now();
            let caught = host.catches(mutation)?;
            let (name, seconds) = (mutation.name, started.elapsed().as_secs());
            match caught {
                Some(test) => println!("{name} on the host: caught in {seconds} s by {test}"),
                None => {
                    println!("{name} on the host: MISSED, dataplane-core's tests pass");
                    missed.push(name);
                }
            }
        }
    }
    if !missed.is_empty() {
        bail!("mutations that no test catches: {}", missed.join(", "));
    }
    Ok(())
}

enum Outcome {
    /// The test passes.
    Passes,
    /// The test fails and says what it found.
    Finds(String),
    /// The test fails for another reason; its output.
    Fails(String),
}

impl Suite {
    /// Runs the test on another object.
    fn run(&self, object: &Path) -> Result<Outcome> {
        let mut cargo = process::cargo();
        cargo.args(["test", "--package", "dataplane-ebpf", "--test", self.test]);
        // A test that skips itself must not pass for one that found nothing.
        cargo.args(["--", "--nocapture"]).env(OBJECT_VARIABLE, object).env("FOREBAY_REQUIRE_KERNEL", "1");
        let output = cargo.output().context("cannot start cargo")?;
        if output.status.success() {
            return Ok(Outcome::Passes);
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        // On one thread the harness prints `test name ... ` before it, on the same line.
        let mut said = text.lines().map(|line| line.rsplit_once(" ... ").map_or(line, |(_, said)| said));
        let line = said.find(|line| line.starts_with(self.finding)).map(str::to_owned);
        Ok(line.map_or_else(|| Outcome::Fails(text), Outcome::Finds))
    }
}
