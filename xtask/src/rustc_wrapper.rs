//! Makes crate hashes independent of the folder that the repository stands in.
//!
//! cargo mixes the path of a path dependency that lies outside its workspace (here `dataplane-core`, seen from
//! `dataplane-ebpf/programs`) into `-C metadata`, and rustc mixes that into every symbol name. With it, two checkouts
//! would never give the same object. So cargo calls this xtask in rustc's place, and for crates of this repository (and
//! of the compiler's source, whose folder depends on the installation) the value is replaced by the crate's name.

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::{Command, ExitCode},
};

/// Set for the cargo that builds the programs: the folders, in the manner of PATH, whose crates get a stable hash.
pub const STABLE_CRATES_BELOW: &str = "FOREBAY_STABLE_CRATES_BELOW";

/// Acts as rustc where cargo has called this program as its wrapper; `None` when a person called it.
pub fn run_if_called_by_cargo() -> Option<ExitCode> {
    let folders = env::var_os(STABLE_CRATES_BELOW)?;
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next()?;
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .filter(|here| env::split_paths(&folders).any(|folder| Path::new(here).starts_with(folder)));
    let name = env::var("CARGO_CRATE_NAME").ok().filter(|_| here.is_some());
    let status =
        Command::new(&rustc).args(arguments.map(|argument| stable(argument, name.as_deref()))).status();
    Some(match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: cannot start {}: {error}", rustc.to_string_lossy());
            ExitCode::FAILURE
        }
    })
}

fn stable(argument: OsString, crate_name: Option<&str>) -> OsString {
    match crate_name {
        Some(name) if argument.to_string_lossy().starts_with("metadata=") => {
            format!("metadata=forebay-{name}").into()
        }
        _ => argument,
    }
}
