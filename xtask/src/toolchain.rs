//! Compilers that can build for the BPF target.
//!
//! The target has no prebuilt `core`, so the compiler's own source must be there. Two installations have it: Debian's
//! `rustc-web` with `rust-web-src`, and a nightly of rustup with the component `rust-src`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};

use crate::{packages, process, repo};

/// The name of Debian's toolchain.
pub const DEBIAN: &str = "Debian's rustc-web";

/// A complete set of tools for the BPF target.
pub struct Toolchain {
    /// What it is, for people.
    pub name: &'static str,
    rustc: PathBuf,
    cargo: PathBuf,
    /// The source of `core`, which is compiled along with the programs.
    pub library: PathBuf,
    llvm_strip: PathBuf,
    bpf_linker: PathBuf,
}

impl Toolchain {
    /// Finds a toolchain on this machine, or says exactly what is missing and how to get it.
    pub fn find() -> Result<Self> {
        let compiler = debian().or_else(nightly);
        let bpf_linker = repo::find_program("bpf-linker");
        let llvm_strip = llvm_strip();
        match (compiler, bpf_linker, llvm_strip) {
            (Some((name, rustc, cargo, library)), Some(bpf_linker), Some(llvm_strip)) => {
                Ok(Self { name, rustc, cargo, library, llvm_strip, bpf_linker })
            }
            (compiler, bpf_linker, llvm_strip) => {
                Err(advice(compiler.is_none(), bpf_linker.is_none(), llvm_strip.is_none()))
            }
        }
    }

    /// A cargo that builds with this toolchain and takes no settings from the one that runs us.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        process::forget_our_toolchain(&mut command);
        // The linker is named without a folder in the crate's configuration, and cargo looks for clippy here too: it has
        // to be the one beside this compiler, not the one beside the linker.
        let folders = [self.cargo.parent(), self.bpf_linker.parent()];
        let mut path: Vec<PathBuf> = folders.into_iter().flatten().map(Path::to_path_buf).collect();
        if let Some(inherited) = std::env::var_os("PATH") {
            path.extend(std::env::split_paths(&inherited));
        }
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PATH", path);
        }
        // `-Z build-std` is refused by a stable compiler unless it is told to bootstrap.
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// Removes DWARF and keeps BTF.
    pub fn strip(&self, object: &Path, stripped: &Path) -> Result<()> {
        process::run(Command::new(&self.llvm_strip).arg("-g").arg(object).arg("-o").arg(stripped))
    }

    /// The versions that decide the object's bytes, a line each, as they are kept beside the committed object.
    pub fn versions(&self) -> Result<String> {
        let rustc = process::output(process::forget_our_toolchain(Command::new(&self.rustc).arg("-vV")))?;
        let field = |name: &str| {
            let line = rustc.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            line.with_context(|| format!("no line {name:?} in the answer of rustc -vV"))
        };
        let linker = process::output(Command::new(&self.bpf_linker).arg("--version"))?;
        let strip = process::output(Command::new(&self.llvm_strip).arg("--version"))?;
        let strip = strip
            .lines()
            .find_map(|line| line.split_once("LLVM version "))
            .map_or("unknown", |found| found.1);
        let mut versions = String::new();
        writeln!(versions, "rustc {} ({})", field("release:")?, field("commit-hash:")?)?;
        writeln!(versions, "LLVM {}", field("LLVM version:")?)?;
        writeln!(versions, "{linker}")?;
        writeln!(versions, "llvm-strip {strip}")?;
        Ok(versions)
    }
}

type Compiler = (&'static str, PathBuf, PathBuf, PathBuf);

fn debian() -> Option<Compiler> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    compiler(DEBIAN, rustc, cargo)
}

fn nightly() -> Option<Compiler> {
    let mut which = Command::new(repo::find_program("rustup")?);
    process::forget_our_toolchain(&mut which);
    let rustc =
        PathBuf::from(process::output(which.args(["which", "--toolchain", "nightly", "rustc"])).ok()?);
    let cargo = rustc.with_file_name("cargo");
    compiler("rustup's nightly", rustc, cargo)
}

/// The compiler with its source, if both are there and it is new enough for this repository's edition.
fn compiler(name: &'static str, rustc: PathBuf, cargo: PathBuf) -> Option<Compiler> {
    let sysroot =
        process::output(process::forget_our_toolchain(Command::new(&rustc).args(["--print", "sysroot"])))
            .ok()?;
    let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
    let version =
        process::output(process::forget_our_toolchain(Command::new(&rustc).arg("--version"))).ok()?;
    let minor: u32 = version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()?;
    (library.join("core/Cargo.toml").is_file() && cargo.is_file() && minor >= 95)
        .then_some((name, rustc, cargo, library))
}

/// The newest `llvm-strip` of Debian's LLVM packages, else the one on the path.
fn llvm_strip() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let newest = folders
        .filter_map(|folder| {
            let version: u32 = folder.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let strip = folder.path().join("bin/llvm-strip");
            strip.is_file().then_some((version, strip))
        })
        .max();
    newest.map(|found| found.1).or_else(|| repo::find_program("llvm-strip"))
}

fn advice(compiler: bool, linker: bool, strip: bool) -> anyhow::Error {
    let mut text = String::from("the kernel programs can't be built here; missing:");
    if compiler {
        text += "\n  - a Rust compiler (1.95 or newer) with the source of `core`";
    }
    if linker {
        text += "\n  - bpf-linker";
    }
    if strip {
        text += "\n  - llvm-strip";
    }
    text += "\n`cargo xtask setup` installs them. By hand, on Debian, as root:";
    text += &format!("\n    apt-get install --no-install-recommends {}", packages::BPF_TOOLCHAIN.join(" "));
    text += &format!("\n    {}", packages::bpf_linker_command());
    text += "\nor, with rustup:";
    text += "\n    rustup toolchain install nightly --component rust-src,clippy && cargo install bpf-linker";
    text += "\nNobody needs this to build or run Forebay: the compiled programs are committed.";
    anyhow!(text)
}
