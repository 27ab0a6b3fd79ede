//! Mutations in the programs: they are built from a copy with one line changed, and a test runs on them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    Outcome, copy,
    line::Mutation,
    list::{AGREEMENT, EVENTS, TOLD, TORN},
    watch::{self, Run},
};
use crate::{
    check_programs::OBJECT_VARIABLE,
    process,
    programs::{self, Tree},
    repo,
    toolchain::Toolchain,
};

/// A test, and what it must catch.
pub struct Suite {
    /// The name of the test program.
    pub test: &'static str,
    /// The one of its tests that is run, where it is not all.
    only: &'static [&'static str],
    /// How it begins the line that tells what it found.
    finding: &'static str,
    /// Whether it needs the machine for itself.
    pub alone: bool,
    pub mutations: &'static [Mutation],
}

pub const SUITES: &[Suite] = &[
    Suite {
        test: "agreement",
        only: &["kernel_and_simulator_agree"],
        finding: "DISAGREEMENT",
        alone: false,
        mutations: AGREEMENT,
    },
    Suite {
        test: "agreement",
        only: &["kernel_and_simulator_tell_the_same"],
        finding: "DISAGREEMENT",
        alone: false,
        mutations: TOLD,
    },
    Suite { test: "events", only: &[], finding: "UNTOLD", alone: false, mutations: EVENTS },
    // It races two CPUs.
    Suite { test: "torn", only: &[], finding: "TORN", alone: true, mutations: TORN },
];

/// The copy of the programs' sources, and where it is built.
pub struct Kernel<'a> {
    toolchain: &'a Toolchain,
    folder: PathBuf,
    tree: Tree,
}

impl<'a> Kernel<'a> {
    pub fn new(toolchain: &'a Toolchain, folder: PathBuf) -> Self {
        let tree = Tree { root: folder.join("src"), target: folder.join("target") };
        Self { toolchain, folder, tree }
    }

    /// Builds the programs without a mutation. What passes with them is what the mutations are held against: same compiler,
    /// same copy.
    pub fn build_unchanged(&self) -> Result<()> {
        self.refresh()?;
        programs::build_programs_silently(self.toolchain, &self.tree, &self.unchanged())
    }

    /// Sees that the test passes without a mutation.
    pub fn passes(&self, suite: &Suite) -> Result<()> {
        let test = suite.test;
        match suite.run(&self.unchanged())? {
            Run::Passed => Ok(()),
            Run::Found(said) | Run::Failed(said) => {
                bail!("the test {test} fails without any mutation; mend that first:\n{said}")
            }
        }
    }

    /// Builds the programs with this line changed.
    ///
    /// # Errors
    /// Why no test can tell anything of them.
    pub fn build(&self, mutation: &Mutation) -> Result<PathBuf> {
        let object = self.folder.join(format!("{}.o", mutation.name));
        self.refresh()?;
        mutation.apply(&self.tree.root)?;
        programs::build_programs_silently(self.toolchain, &self.tree, &object)?;
        // A change that the compiler sees no difference in would be missed for a reason of its own.
        if fs::read(&object)? == fs::read(self.unchanged())? {
            bail!("it changes nothing in the programs");
        }
        Ok(object)
    }

    fn unchanged(&self) -> PathBuf {
        self.folder.join("unchanged.o")
    }

    fn refresh(&self) -> Result<()> {
        copy::refresh(repo::root(), &self.tree.root, copy::FOR_PROGRAMS)
    }
}

impl Suite {
    /// What the test makes of these programs.
    pub fn catches(&self, object: &Path) -> Result<Outcome> {
        let Self { test, finding, .. } = self;
        Ok(match self.run(object)? {
            Run::Found(line) => Outcome::Caught(line),
            Run::Passed => Outcome::Missed(format!("the test {test} passes")),
            Run::Failed(output) => {
                Outcome::Missed(format!("the test {test} fails without a line {finding}:\n{output}"))
            }
        })
    }

    /// Runs the test on these programs. It is never ended early: what it has made, it takes down.
    fn run(&self, object: &Path) -> Result<Run> {
        let mut cargo = process::cargo();
        cargo.args(["test", "--package", "dataplane-ebpf", "--test", self.test, "--"]).args(self.only);
        // A test that skips itself must not pass for one that found nothing.
        cargo.arg("--nocapture").env(OBJECT_VARIABLE, object).env("FOREBAY_REQUIRE_KERNEL", "1");
        watch::run(&mut cargo, |line| {
            // On one thread the harness prints `test name ... ` before it, on the same line.
            let said = line.rsplit_once(" ... ").map_or(line, |(_, said)| said);
            said.starts_with(self.finding).then(|| said.to_owned())
        })
    }
}
