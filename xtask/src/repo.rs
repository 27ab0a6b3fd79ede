//! Where things stand in this repository and on this machine.

use std::{
    env,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The root of the checkout that this xtask is run in.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // Cargo says at run time, too, where the manifest is. It may be elsewhere than at compile time: checkouts that share
        // a target folder share this program.
        let manifest = env::var_os("CARGO_MANIFEST_DIR");
        let folder = manifest.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        folder.parent().unwrap_or(Path::new("/")).to_path_buf()
    });
    &ROOT
}

/// Cargo's target folder of the workspace; everything that a chore writes and nobody commits goes below it.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The crate of the kernel programs, a workspace of its own, below the root.
pub const PROGRAMS: &str = "dataplane-ebpf/programs";

/// The crate of the kernel programs.
pub fn programs() -> PathBuf {
    root().join(PROGRAMS)
}

/// The committed object with the kernel programs.
pub fn object() -> PathBuf {
    root().join("dataplane-ebpf/object/forebay.bpf.o")
}

/// The versions of the tools that built the committed object.
pub fn object_versions() -> PathBuf {
    root().join("dataplane-ebpf/object/VERSIONS")
}

/// Cargo's home, where it keeps registries and installed programs.
pub fn cargo_home() -> PathBuf {
    match env::var_os("CARGO_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => home().join(".cargo"),
    }
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

/// Finds a program as a shell would, with cargo's own folder of programs searched too.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_home().join("bin"), "/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
