//! The same mutations in the pipeline's host build.
//!
//! The agreement test holds the programs against the simulator, which is the same pipeline: what is wrong in both it can't
//! see. So a line that is changed in the host build must be noticed by tests whose oracle is another: the stories of
//! `dataplane-core/tests/pipeline`, whose frames are dissected by code of the testkit's own.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{
    Outcome, copy,
    line::Mutation,
    watch::{self, Run},
};
use crate::{process, repo};

/// Tests of `dataplane-core`: those that notice most come first, for no more is built than it takes.
const TESTS: &[&[&str]] = &[&["--test", "pipeline"], &["--test", "collector"], &["--lib"]];

/// The copy of the workspace, and where it is built.
pub struct Host {
    folder: PathBuf,
}

impl Host {
    /// Makes the copy, and sees the tests pass there.
    pub fn new(folder: PathBuf) -> Result<Self> {
        let host = Self { folder };
        host.refresh()?;
        match host.outcome()? {
            Outcome::Missed(_) => Ok(host),
            Outcome::Caught(test) => bail!("{test} fails without any mutation; mend that first"),
        }
    }

    /// What the tests make of this line changed.
    pub fn catches(&self, mutation: &Mutation) -> Result<Outcome> {
        self.refresh()?;
        mutation.apply(&self.root())?;
        self.outcome()
    }

    fn root(&self) -> PathBuf {
        self.folder.join("host")
    }

    fn refresh(&self) -> Result<()> {
        copy::refresh(repo::root(), &self.root(), copy::WORKSPACE)
    }

    /// The first test that fails, as what catches; an error where one can't run.
    fn outcome(&self) -> Result<Outcome> {
        for which in TESTS {
            let mut cargo = process::cargo();
            cargo.current_dir(self.root()).env("CARGO_TARGET_DIR", self.folder.join("host-target"));
            // Nobody steps through these.
            cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
            cargo.args(["test", "--package", "dataplane-core"]).args(*which);
            // All that they have is memory.
            let run = watch::run_until_found(&mut cargo, |line| {
                line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned)
            })?;
            match run {
                Run::Passed => {}
                Run::Found(test) => return Ok(Outcome::Caught(test)),
                Run::Failed(output) => bail!("no test ran:\n{output}"),
            }
        }
        Ok(Outcome::Missed("dataplane-core's tests pass".to_owned()))
    }
}
