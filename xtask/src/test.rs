//! Runs every test: `cargo xtask test`.
//!
//! It says first what it installs, asks nothing, and lists what this machine can't run with the reason. With
//! `FOREBAY_REQUIRE_KERNEL=1` that is a failure.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser as _;

use crate::{check_programs, kernels, machine, process, repo, setup, toolchain::Toolchain};

/// Tells the tests where to append their names, a line each, when they ran against the kernel.
const KERNEL_TEST_LOG: &str = "FOREBAY_KERNEL_TEST_LOG";

/// So many kernel tests exist; fewer that ran means that some skipped themselves or were lost.
const MINIMUM: &str = include_str!("../kernel-tests.minimum");

/// So long may all tests of the workspace take, from a cold build on: several times what they do on two busy cores.
const WORKSPACE_LIMIT: Duration = Duration::from_secs(45 * 60);

/// The same of the quickstart, which builds for some minutes and runs for some seconds.
const QUICKSTART_LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(clap::Args)]
pub struct Arguments {
    /// Install nothing
    #[arg(long)]
    no_install: bool,
    /// Only these groups, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Tests that stand or fall with the same needs of the machine.
struct Group {
    name: &'static str,
    about: &'static str,
    /// Why this machine can't run it.
    obstacle: fn() -> Option<String>,
    run: fn() -> Result<Counts>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "workspace",
        about: "unit, property and doc tests of every crate; examples compile; kernel tests where they can run",
        obstacle: || None,
        run: workspace,
    },
    Group {
        name: "kernel",
        about: "as many kernel tests ran as there are",
        obstacle: || machine::can_run_kernel_tests().err(),
        run: kernel_tests,
    },
    Group {
        name: "programs",
        about: "the committed object is what its sources give",
        obstacle: || Toolchain::find().err().map(|error| error.to_string()),
        run: || one(chore::<check_programs::Arguments>(&["--kernel-tests"], check_programs::run)),
    },
    Group {
        name: "kernels",
        about: "every program loads on Debian's 6.1 and 6.12 in virtual machines, under the verifier's budget, and serves real traffic there",
        obstacle: || machine::can_boot_kernels().err(),
        run: || one(chore::<kernels::Arguments>(&[], kernels::run)),
    },
    Group {
        name: "quickstart",
        about: "the README's first command",
        obstacle: || None,
        run: || {
            let mut quickstart = process::cargo();
            quickstart.args(["run", "--release", "--quiet", "--bin", "quickstart"]);
            one(process::run_within(&mut quickstart, QUICKSTART_LIMIT))
        },
    },
];

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let known = |name: &&String| GROUPS.iter().any(|group| group.name == name.as_str());
    if let Some(unknown) = arguments.only.iter().find(|name| !known(name)) {
        let names: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        bail!("there is no group {unknown}, only {}", names.join(", "));
    }
    if !arguments.no_install {
        let plan = setup::Plan::for_this_machine();
        plan.print();
        // Whatever could not be installed shows again below, as a group that can't run.
        if let Err(error) = plan.carry_out() {
            println!("not installed: {error:#}");
        }
    }

    let mut counts = Counts::default();
    let mut summary = Vec::new();
    for group in GROUPS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == group.name) {
            continue;
        }
        println!("\n== {}: {}", group.name, group.about);
        if let Some(reason) = (group.obstacle)() {
            let first = reason.lines().next().unwrap_or_default();
            if machine::kernel_is_required() {
                counts.failed += 1;
                summary.push(format!("{}: FAILED, can't run here: {first}", group.name));
            } else {
                summary.push(format!("{}: not run: {first}", group.name));
            }
            println!("can't run here: {reason}");
            continue;
        }
        let started = Instant::now();
        let found = (group.run)().unwrap_or_else(|error| {
            println!("FAILED: {error:#}");
            Counts { passed: 0, failed: 1 }
        });
        counts.passed += found.passed;
        counts.failed += found.failed;
        let Counts { passed, failed } = found;
        let seconds = started.elapsed().as_secs();
        summary.push(format!("{}: {passed} passed, {failed} failed, {seconds} s", group.name));
    }

    println!("\n== summary");
    for line in summary {
        println!("{line}");
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    if counts.failed > 0 {
        bail!("{} failed", counts.failed);
    }
    Ok(())
}

/// Runs another chore as if from the command line, so that its defaults are stated once.
fn chore<A: clap::Args>(arguments: &[&str], run: fn(&A) -> Result<()>) -> Result<()> {
    #[derive(clap::Parser)]
    struct Line<A: clap::Args> {
        #[command(flatten)]
        arguments: A,
    }
    run(&Line::try_parse_from(["xtask"].iter().chain(arguments))?.arguments)
}

/// A group that is one test as a whole.
fn one(result: Result<()>) -> Result<Counts> {
    result.map(|()| Counts { passed: 1, failed: 0 })
}

fn kernel_test_log() -> std::path::PathBuf {
    repo::target().join("kernel-tests.log")
}

fn workspace() -> Result<Counts> {
    let log = kernel_test_log();
    fs::create_dir_all(repo::target())?;
    fs::write(&log, "")?;
    let mut cargo = process::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).env(KERNEL_TEST_LOG, log).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let pipe = child.stdout.take().context("no pipe from cargo")?;
    let reader = thread::spawn(move || {
        let mut counts = Counts::default();
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            println!("{line}");
            if let Some(found) = parse_result(&line) {
                counts.passed += found.passed;
                counts.failed += found.failed;
            }
        }
        counts
    });
    let status = process::wait_within(&mut child, WORKSPACE_LIMIT)?;
    let Some(status) = status else {
        bail!(
            "the tests had not ended after {WORKSPACE_LIMIT:?} and were ended: the last one named above hangs"
        );
    };
    let mut counts = reader.join().map_err(|_| anyhow!("the reader of cargo's output panicked"))?;
    // A crate that does not compile, or a test that dies by a signal, leaves no line.
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Reads cargo's closing line: `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |unit: &str| {
        let mut parts = counts.split("; ");
        parts.find_map(|part| part.strip_suffix(unit)?.trim().parse().ok())
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")? })
}

/// Holds the number of kernel tests that ran against the committed minimum.
fn kernel_tests() -> Result<Counts> {
    let minimum: usize = MINIMUM.trim().parse().context("kernel-tests.minimum holds no number")?;
    let log = fs::read_to_string(kernel_test_log()).context("the group `workspace` must run before")?;
    let mut names: Vec<&str> = log.lines().collect();
    names.sort_unstable();
    names.dedup();
    println!("{} kernel tests ran; there must be {minimum} at least", names.len());
    if names.len() < minimum {
        bail!("only {} of {minimum} kernel tests ran", names.len());
    }
    one(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cargos_closing_line() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s";
        assert_eq!(parse_result(line), Some(Counts { passed: 12, failed: 3 }));
        assert_eq!(parse_result("test result ok"), None);
        assert_eq!(parse_result("running 3 tests"), None);
    }
}
