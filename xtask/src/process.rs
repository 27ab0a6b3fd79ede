//! Running other programs.

use std::{
    env, fs,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::repo;

/// The cargo that runs us, in the root of the repository.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repo::root());
    cargo
}

/// Runs a command in the foreground; anything but success is an error that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs a command in the foreground as [`run`] does, but no longer than `limit`; then it and what it started is ended.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let line = describe(command);
    let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
    match wait_within(&mut child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{line} ended with {status}"),
        None => bail!("{line} had not ended after {limit:?} and was ended: something in it hangs"),
    }
}

/// Waits for a child; `None` where it had not ended after `limit`, and was ended with all that it started.
pub fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            end_tree(child)?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a child and what it started, each by its id.
pub fn end_tree(child: &mut Child) -> Result<()> {
    let mut ids = vec![child.id()];
    // Grows while it is walked: children of children.
    let mut next = 0;
    while let Some(id) = ids.get(next) {
        let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = texts
            .flat_map(|text| text.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
            .collect();
        ids.extend(children);
        next += 1;
    }
    child.kill()?;
    for id in ids.iter().skip(1) {
        // One that has ended by itself meanwhile is no error.
        output(Command::new("kill").args(["-KILL", &id.to_string()])).ok();
    }
    child.wait()?;
    Ok(())
}

/// Runs a command and returns what it printed, trimmed; its error output is part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", describe(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command as one would type it, without its environment.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Takes out of a command's environment what rustup and the cargo that runs us put there for their own toolchain.
/// Another toolchain's cargo would take it for settings. Networks, registries and colours stay as the user set them.
pub fn forget_our_toolchain(command: &mut Command) -> &mut Command {
    const KEEP: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "RUST_BACKTRACE",
        "RUSTUP_HOME",
        "RUSTUP_DIST_",
    ];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let ours = name.starts_with("CARGO") || name.starts_with("RUST") || name == "LD_LIBRARY_PATH";
        if ours && !KEEP.iter().any(|keep| name.starts_with(keep)) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; wait"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = Instant::now();
        assert_eq!(wait_within(&mut child, Duration::from_millis(50)).unwrap(), None);
        // The grandchild is nobody's to wait for here: whoever takes it in does that.
        let lives = || {
            let state = fs::read_to_string(format!("/proc/{}/stat", line.trim())).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while lives() && started.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!lives(), "process {line} lives on");
    }

    #[test]
    fn what_ends_in_time_tells_how() {
        let limit = Duration::from_secs(60);
        assert!(run_within(&mut Command::new("true"), limit).is_ok());
        assert!(
            run_within(&mut Command::new("false"), limit).unwrap_err().to_string().contains("exit status: 1")
        );
        let mut sleep = Command::new("sleep");
        let error = run_within(sleep.arg("60"), Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("sleep 60 had not ended after 20ms"), "{error}");
    }
}
