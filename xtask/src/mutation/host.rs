//! The same mutations in the pipeline's host build.
//!
//! The agreement test holds the programs against the simulator, which is the same pipeline: what is wrong in both it can't
//! see. So a line that is changed in the host build must be noticed by tests whose oracle is another: the stories of
//! `dataplane-core/tests/pipeline`, whose frames are dissected by code of the testkit's own.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{copy, list::Mutation};
use crate::{process, repo};

/// The copy of the workspace, and where it is built.
pub struct Host<'a> {
    folder: &'a Path,
}

impl<'a> Host<'a> {
    /// Makes the copy, and sees the tests pass there.
    pub fn new(folder: &'a Path) -> Result<Self> {
        let host = Self { folder };
        host.refresh()?;
        match host.failing()? {
            None => Ok(host),
            Some(test) => bail!("dataplane-core's test {test} fails without any mutation; mend that first"),
        }
    }

    /// The first test that fails with this line changed.
    pub fn catches(&self, mutation: &Mutation) -> Result<Option<String>> {
        self.refresh()?;
        mutation.apply(&self.root())?;
        self.failing()
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.join("host")
    }

    fn refresh(&self) -> Result<()> {
        copy::refresh(repo::root(), &self.root(), copy::WORKSPACE)
    }

    fn failing(&self) -> Result<Option<String>> {
        let mut cargo = process::cargo();
        cargo.current_dir(self.root()).env("CARGO_TARGET_DIR", self.folder.join("host-target"));
        cargo.args([
            "test",
            "--package",
            "dataplane-core",
            "--lib",
            "--test",
            "pipeline",
            "--test",
            "collector",
            "--no-fail-fast",
        ]);
        let output = cargo.output().context("cannot start cargo")?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        match failed {
            Some(test) => Ok(Some(test.to_owned())),
            None => bail!("no test ran:\n{text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}
