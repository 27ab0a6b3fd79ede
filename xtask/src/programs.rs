//! Builds the kernel programs into one object: `cargo xtask build-programs`.
//!
//! The object is committed, so that nobody needs the BPF toolchain to build or run Forebay. With the same versions of
//! the tools, every checkout on every machine gives the same bytes: paths are mapped to fixed names, and crate hashes
//! don't depend on the folder (see [`crate::rustc_wrapper`]).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process, repo, rustc_wrapper, toolchain::Toolchain};

const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to write the object; by default the committed one is written, with the tools' versions beside it
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let committed = repo::object();
    let out = arguments.out.as_deref().unwrap_or(&committed);
    build_programs_with(&toolchain, &Tree::committed(), &[], out)?;
    // The versions describe the committed object; an object elsewhere is nobody's reference.
    if arguments.out.is_none() {
        fs::write(repo::object_versions(), toolchain.versions()?)?;
    }
    println!("{} ({} bytes), built by {}", out.display(), fs::metadata(out)?.len(), toolchain.name);
    Ok(())
}

/// The sources that programs are built from, and where their artefacts go.
pub struct Tree {
    /// A checkout of this repository, or a copy of what the programs need of it.
    pub root: PathBuf,
    /// A target folder of its own for each root: another root's or compiler's artefacts would only be rebuilt.
    pub target: PathBuf,
}

impl Tree {
    /// The sources as they stand in this checkout.
    pub fn committed() -> Self {
        Self { root: repo::root().to_path_buf(), target: repo::target().join("bpf") }
    }
}

/// Builds the programs of this tree and writes the object, stripped of DWARF but with BTF, to `out`.
pub fn build_programs_with(toolchain: &Toolchain, tree: &Tree, features: &[&str], out: &Path) -> Result<()> {
    let mut cargo = build_command(toolchain, tree, features)?;
    process::run(&mut cargo).context("cannot build the kernel programs")?;
    finish(toolchain, tree, out)
}

/// As [`build_programs_with`] without features, but what the compiler says is kept for the error, where there is one.
pub fn build_programs_silently(toolchain: &Toolchain, tree: &Tree, out: &Path) -> Result<()> {
    process::output(&mut build_command(toolchain, tree, &[])?).context("cannot build the kernel programs")?;
    finish(toolchain, tree, out)
}

fn build_command(toolchain: &Toolchain, tree: &Tree, features: &[&str]) -> Result<Command> {
    let mut cargo = toolchain.cargo();
    cargo.current_dir(tree.root.join(repo::PROGRAMS)).args(["build", "--release", "--locked", "--quiet"]);
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    // cargo appends these to the flags of the crate's own configuration.
    cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={:?}", remap_flags(toolchain, &tree.root)?));
    cargo.arg("--target-dir").arg(&tree.target);
    cargo.env("RUSTC_WRAPPER", env::current_exe().context("cannot find this program's own file")?);
    let stable = env::join_paths([&tree.root, &toolchain.library])?;
    cargo.env(rustc_wrapper::STABLE_CRATES_BELOW, stable);
    Ok(cargo)
}

fn finish(toolchain: &Toolchain, tree: &Tree, out: &Path) -> Result<()> {
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    toolchain.strip(&tree.target.join(TARGET).join("release/forebay"), out)
}

/// Line information carries the paths of the sources: give each root a name that is the same on every machine.
fn remap_flags(toolchain: &Toolchain, root: &Path) -> Result<Vec<String>> {
    let mut roots = vec![(root.to_path_buf(), "/forebay"), (toolchain.library.clone(), "/rust/library")];
    // Below this, cargo has a folder for each registry, with its host's name in it.
    let registries = repo::cargo_home().join("registry/src");
    if registries.is_dir() {
        for registry in fs::read_dir(&registries)? {
            roots.push((registry?.path(), "/crates"));
        }
    }
    // Complaints keep the real paths, for editors.
    let mut flags = vec!["--remap-path-scope=object".to_owned()];
    for (path, name) in roots {
        // rustc sees some paths with links resolved and some without.
        let resolved = fs::canonicalize(&path)?;
        flags.push(format!("--remap-path-prefix={}={name}", path.display()));
        if resolved != path {
            flags.push(format!("--remap-path-prefix={}={name}", resolved.display()));
        }
    }
    Ok(flags)
}
