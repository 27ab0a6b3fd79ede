//! Do the tests notice a broken pipeline? `cargo xtask mutation`.
//!
//! The programs' sources are copied, one line of the copy is changed, and the programs are built from it. The simulator
//! stays as it is, so the agreement test must see the two disagree, and must say so: a program that fails to load proves
//! nothing. So must the torn-read test for what only a value that is being changed shows. Which lines are changed, and
//! which test must catch them, stands in [`list`]. What the agreement test catches must be noticed on the host, too, by
//! tests that know nothing of the pipeline: see [`host`]. What only packets show that race is for those alone.
//!
//! Programs and host tests are built and run side by side, each from a copy of their own. A mutation that proves nothing,
//! because it does not build or a test can't run, is one that was missed: the others are tried all the same.

mod copy;
mod host;
mod kernel;
mod line;
mod list;
mod share;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{machine, repo, toolchain::Toolchain};
use host::Host;
use kernel::{Kernel, SUITES, Suite};
use line::Mutation;
use list::{AGREEMENT, HOST, TOLD};
use share::Share;

#[derive(clap::Args)]
pub struct Arguments {
    /// Only these mutations, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only every N-th mutation, beginning at the K-th of 0 to N-1: N runs try them all
    #[arg(long, value_name = "K/N", conflicts_with = "only")]
    share: Option<Share>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let chosen = choose(arguments)?;
    if let Err(reason) = machine::can_run_kernel_tests() {
        if machine::kernel_is_required() {
            bail!("kernel tests can't run here: {reason}");
        }
        println!("not run: {reason}");
        return Ok(());
    }
    let started = Instant::now();
    let toolchain = Toolchain::find()?;
    let folder = repo::target().join("bpf/mutations");
    let kernel = Kernel::new(&toolchain, folder.clone());
    // What one lane can't go on after ends the other, too: it is to be mended first.
    let given_up = AtomicBool::new(false);
    let gives_up = |error: &anyhow::Error| {
        println!("given up: {error:#}");
        given_up.store(true, Ordering::Relaxed);
    };
    let (in_kernel, on_host) = thread::scope(|scope| {
        let host = scope.spawn(|| on_the_host(&chosen, &folder, &given_up).inspect_err(gives_up));
        (in_the_kernel(&chosen, &kernel, &given_up).inspect_err(gives_up), host.join())
    });
    // Whoever was ended by an error has told of what it had missed by then.
    let on_host = on_host.map_err(|_| anyhow!("the lane of the host's tests panicked"))?;
    let ((mut missed, later), on_host) = (in_kernel?, on_host?);
    for later in later {
        later.try_alone(&kernel, &mut missed)?;
    }
    missed.extend(on_host);
    if !missed.is_empty() {
        bail!("mutations that no test catches: {}", missed.join(", "));
    }
    println!("{} mutations, each caught, in {} s", chosen.len(), started.elapsed().as_secs());
    Ok(())
}

/// All mutations, in the order that shares are counted in.
fn all() -> impl Iterator<Item = &'static Mutation> {
    SUITES.iter().flat_map(|suite| suite.mutations).chain(HOST)
}

/// The names of the mutations that are to be tried.
fn choose(Arguments { only, share }: &Arguments) -> Result<Vec<&'static str>> {
    let names: Vec<_> = all().map(|mutation| mutation.name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no mutation {unknown}; there are: {}", names.join(", "));
    }
    let share = share.unwrap_or(Share::WHOLE);
    let wanted = |(place, name): &(usize, &str)| {
        share.has(*place) && (only.is_empty() || only.iter().any(|wanted| wanted == name))
    };
    Ok(names.into_iter().enumerate().filter(wanted).map(|(_, name)| name).collect())
}

/// Those of a list that were chosen.
fn of(list: &'static [Mutation], chosen: &[&str]) -> Vec<&'static Mutation> {
    list.iter().filter(|mutation| chosen.contains(&mutation.name)).collect()
}

/// Tries the mutations that the host's tests must catch; returns the names of those that were missed.
fn on_the_host(chosen: &[&str], folder: &Path, given_up: &AtomicBool) -> Result<Vec<String>> {
    let mutations = [AGREEMENT, TOLD, HOST].map(|list| of(list, chosen)).concat();
    let mut missed = Vec::new();
    if mutations.is_empty() {
        return Ok(missed);
    }
    let started = Instant::now();
    let host = Host::new(folder.to_path_buf())?;
    println!("unchanged: the host's tests pass, as they must ({} s)", started.elapsed().as_secs());
    for mutation in mutations {
        if given_up.load(Ordering::Relaxed) {
            break;
        }
        let started = Instant::now();
        tell(mutation, "on the host", host.catches(mutation), started.elapsed(), &mut missed);
    }
    Ok(missed)
}

/// Mutations whose test wants the machine for itself, and their programs.
struct Later {
    suite: &'static Suite,
    built: Vec<(&'static Mutation, PathBuf)>,
}

/// Tries the mutations that the kernel's tests must catch; returns the names of those that were missed, and what is to be tried
/// later. While a test runs, the next programs are built.
fn in_the_kernel(
    chosen: &[&str],
    kernel: &Kernel<'_>,
    given_up: &AtomicBool,
) -> Result<(Vec<String>, Vec<Later>)> {
    let suites: Vec<_> = SUITES.iter().map(|suite| (suite, of(suite.mutations, chosen))).collect();
    let (mut missed, mut later) = (Vec::new(), Vec::new());
    let mutations: Vec<_> = suites.iter().flat_map(|(_, mutations)| mutations.clone()).collect();
    if mutations.is_empty() {
        return Ok((missed, later));
    }
    kernel.build_unchanged()?;
    let (sender, programs) = mpsc::channel();
    // By its end the tester has let go of what it waits for, and the builder stops.
    thread::scope(move |scope| {
        scope.spawn(move || {
            for mutation in mutations {
                let started = Instant::now();
                let object = kernel.build(mutation);
                // Nobody waits for it any more where the tests were given up.
                if sender.send((object, started.elapsed())).is_err() {
                    break;
                }
            }
        });
        for (suite, mutations) in suites.into_iter().filter(|(_, mutations)| !mutations.is_empty()) {
            if !suite.alone {
                passes(suite, kernel)?;
            }
            let mut built = Vec::new();
            for mutation in mutations {
                if given_up.load(Ordering::Relaxed) {
                    return Ok((missed, later));
                }
                let (object, spent) = programs.recv().context("nobody builds programs any more")?;
                match object {
                    Ok(object) if suite.alone => built.push((mutation, object)),
                    object => {
                        let started = Instant::now();
                        let outcome = object.and_then(|object| suite.catches(&object));
                        tell(mutation, IN_THE_KERNEL, outcome, spent + started.elapsed(), &mut missed);
                    }
                }
            }
            if suite.alone {
                later.push(Later { suite, built });
            }
        }
        Ok((missed, later))
    })
}

impl Later {
    /// Tries them, while nothing else runs.
    fn try_alone(self, kernel: &Kernel<'_>, missed: &mut Vec<String>) -> Result<()> {
        passes(self.suite, kernel)?;
        for (mutation, object) in self.built {
            let started = Instant::now();
            tell(mutation, IN_THE_KERNEL, self.suite.catches(&object), started.elapsed(), missed);
        }
        Ok(())
    }
}

const IN_THE_KERNEL: &str = "in the kernel";

fn passes(suite: &Suite, kernel: &Kernel<'_>) -> Result<()> {
    let started = Instant::now();
    kernel.passes(suite)?;
    println!("unchanged: {} passes, as it must ({} s)", suite.test, started.elapsed().as_secs());
    Ok(())
}

/// What came of a mutation.
enum Outcome {
    /// A test noticed; what it said, or its name.
    Caught(String),
    /// None did, or none could tell; why.
    Missed(String),
}

/// Tells what came of a mutation, at once, and notes the name of one that was missed. An error is a miss: nothing was proved.
fn tell(
    Mutation { name, breaks, .. }: &Mutation,
    place: &str,
    outcome: Result<Outcome>,
    spent: Duration,
    missed: &mut Vec<String>,
) {
    let seconds = spent.as_secs();
    match outcome.unwrap_or_else(|error| Outcome::Missed(format!("{error:#}"))) {
        Outcome::Caught(by) => println!("{name} {place} ({breaks}): caught in {seconds} s: {by}"),
        Outcome::Missed(why) => {
            println!("{name} {place} ({breaks}): MISSED, {why}");
            missed.push(format!("{name} {place}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn arguments(only: &[&str], share: Option<&str>) -> Arguments {
        let only = only.iter().map(|&name| name.to_owned()).collect();
        Arguments { only, share: share.map(|share| share.parse().unwrap()) }
    }

    #[test]
    fn all_shares_together_are_the_list() {
        let whole = choose(&arguments(&[], None)).unwrap();
        for of in [1, 2, 7, 12, 1000] {
            let shares: Vec<_> =
                (0..of).map(|k| choose(&arguments(&[], Some(&format!("{k}/{of}")))).unwrap()).collect();
            assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), whole.len());
            assert_eq!(shares.concat().iter().collect::<BTreeSet<_>>(), whole.iter().collect());
            let lengths = shares.iter().map(Vec::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "none has much more to do");
        }
    }

    #[test]
    fn names_are_chosen_and_unknown_ones_refused() {
        assert_eq!(
            choose(&arguments(&["torn-word", "second-tag"], None)).unwrap(),
            ["second-tag", "torn-word"]
        );
        let error = choose(&arguments(&["second-tag", "nothing"], None)).unwrap_err().to_string();
        assert!(error.starts_with("there is no mutation nothing; there are: second-tag, "), "{error}");
    }
}
