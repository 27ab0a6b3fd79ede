//! A copy of the sources that programs, or tests on the host, are built from.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::repo;

/// What the programs need of a checkout: the root's manifest, of which `dataplane-core` inherits, and two crates.
pub const FOR_PROGRAMS: &[&str] = &["Cargo.toml", "dataplane-core", repo::PROGRAMS];

/// What the workspace is.
pub const WORKSPACE: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "benches",
    "control-static",
    "dataplane-core",
    "dataplane-ebpf",
    "dataplane-testkit",
    "examples",
    "xtask",
];

/// Makes the copy at `to` what stands at `from`, of these files and folders. Files that are the same are left alone, so
/// that cargo rebuilds no more than it must.
pub fn refresh(from: &Path, to: &Path, needed: &[&str]) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for path in needed {
        list(from, Path::new(path), &mut wanted)?;
    }
    let mut there = BTreeSet::new();
    for path in needed.iter().filter(|path| to.join(path).exists()) {
        list(to, Path::new(path), &mut there)?;
    }
    for gone in there.difference(&wanted) {
        fs::remove_file(to.join(gone)).with_context(|| format!("cannot remove {}", gone.display()))?;
    }
    for path in &wanted {
        let bytes = fs::read(from.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        let copy = to.join(path);
        if fs::read(&copy).is_ok_and(|old| old == bytes) {
            continue;
        }
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}

/// Adds the files at `path` below `root`, but for target folders.
fn list(root: &Path, path: &Path, into: &mut BTreeSet<PathBuf>) -> Result<()> {
    let full = root.join(path);
    if full.is_file() {
        into.insert(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))? {
        let name = entry?.file_name();
        if name != "target" {
            list(root, &path.join(name), into)?;
        }
    }
    Ok(())
}
