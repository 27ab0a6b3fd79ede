//! Running a test until it says what it found.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::process;

/// The longest that a test may take: several times what the longest takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(900);

/// What came of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum Run {
    /// It passed.
    Passed,
    /// It said what it found.
    Found(String),
    /// It failed, or could not run, without a word of what it found; its output.
    Failed(String),
}

/// Runs a test to its end, and looks for what `finding` makes of one of its lines.
pub fn run(command: &mut Command, finding: impl Fn(&str) -> Option<String>) -> Result<Run> {
    watch(command, finding, false, LIMIT)
}

/// As [`run`], but what has found something is ended at once, with all that it started: for a test that leaves nothing behind.
pub fn run_until_found(command: &mut Command, finding: impl Fn(&str) -> Option<String>) -> Result<Run> {
    watch(command, finding, true, LIMIT)
}

fn watch(
    command: &mut Command,
    finding: impl Fn(&str) -> Option<String>,
    ends_then: bool,
    limit: Duration,
) -> Result<Run> {
    let line = process::describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
    let (sender, lines) = mpsc::channel();
    hand_on(child.stdout.take(), sender.clone());
    hand_on(child.stderr.take(), sender);
    let deadline = Instant::now() + limit;
    let (mut said, mut found) = (String::new(), None);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                found = found.or_else(|| finding(&line));
                said += &line;
                said.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                process::end_tree(&mut child)?;
                return Ok(Run::Failed(format!(
                    "{said}{line} had not ended after {limit:?} and was ended\n"
                )));
            }
        }
        if ends_then && let Some(found) = found.take() {
            process::end_tree(&mut child)?;
            return Ok(Run::Found(found));
        }
    }
    let status = child.wait()?;
    Ok(match found {
        _ if status.success() => Run::Passed,
        Some(found) => Run::Found(found),
        None => Run::Failed(said),
    })
}

/// Hands on the lines of one of a child's outputs.
fn hand_on(output: Option<impl Read + Send + 'static>, to: Sender<String>) {
    let Some(output) = output else { return };
    thread::spawn(move || {
        // Nobody listens any more where it was ended.
        BufReader::new(output)
            .split(b'\n')
            .map_while(Result::ok)
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .try_for_each(|line| to.send(line))
            .ok();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn shell(script: &str, ends_then: bool, limit: Duration) -> Run {
        let finding = |line: &str| line.strip_prefix("FOUND ").map(str::to_owned);
        watch(Command::new("sh").args(["-c", script]), finding, ends_then, limit).unwrap()
    }

    #[test]
    fn what_a_test_says_and_how_it_ends_is_told_apart() {
        assert_eq!(shell("echo all is well", false, LONG), Run::Passed);
        // Found, and passed all the same: nothing is wrong then.
        assert_eq!(shell("echo FOUND a", false, LONG), Run::Passed);
        assert_eq!(
            shell("echo b; echo FOUND a; echo FOUND c; exit 1", false, LONG),
            Run::Found("a".to_owned())
        );
        assert_eq!(shell("echo FOUND a >&2; exit 1", false, LONG), Run::Found("a".to_owned()));
        assert_eq!(shell("echo b; exit 1", false, LONG), Run::Failed("b\n".to_owned()));
    }

    #[test]
    fn what_has_found_something_is_ended() {
        let started = Instant::now();
        assert_eq!(shell("echo FOUND a; sleep 300", true, LONG), Run::Found("a".to_owned()));
        assert!(started.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn what_hangs_is_ended_and_told() {
        let Run::Failed(said) = shell("echo b; sleep 300", true, Duration::from_millis(300)) else {
            panic!("it has found nothing");
        };
        assert!(said.starts_with("b\n") && said.contains("had not ended after 300ms"), "{said}");
    }
}
