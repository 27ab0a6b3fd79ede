//! Other programs, with a limit: a test that starts one fails with what it printed, and never hangs with it.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// More than a test's child takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Between two looks at a child.
const INTERVAL: Duration = Duration::from_millis(2);

/// Runs a command to its end, with nothing to read, and returns what it printed. Where it has not ended after `limit`, or
/// its output is still held open by a process that it left behind, it is killed.
///
/// # Errors
/// [`ChildError`], with what it printed until then.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output, ChildError> {
    let line = describe(command);
    let failed = |source| ChildError::System { line: line.clone(), source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdout = Collector::start(child.stdout.take());
    let stderr = Collector::start(child.stderr.take());
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait().map_err(failed)?;
        if let (Some(status), true) = (status, stdout.is_finished() && stderr.is_finished()) {
            return Ok(Output { status, stdout: stdout.bytes(), stderr: stderr.bytes() });
        }
        if Instant::now() >= deadline {
            end(&mut child).map_err(failed)?;
            let printed =
                [stdout.bytes(), stderr.bytes()].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            return Err(ChildError::Late { line, limit, printed: printed.concat() });
        }
        thread::sleep(INTERVAL);
    }
}

/// Waits for a child to end by itself; where it does not, it is killed.
///
/// # Errors
/// [`ChildError`]; `what` it was is said there.
pub fn wait(
    child: &mut Child,
    limit: Duration,
    what: impl fmt::Display,
) -> Result<std::process::ExitStatus, ChildError> {
    let failed = |source| ChildError::System { line: what.to_string(), source };
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            end(child).map_err(failed)?;
            return Err(ChildError::Late { line: what.to_string(), limit, printed: String::new() });
        }
        thread::sleep(INTERVAL);
    }
}

/// The lines that a child prints while it runs.
#[derive(Debug)]
pub struct Lines {
    lines: mpsc::Receiver<String>,
}

impl Lines {
    /// Reads a pipe from now on.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { lines }
    }

    /// Reads on until a line contains `mark`; returns what was read, that line with it.
    ///
    /// # Errors
    /// What was read, where no such line comes within `limit` or before the end.
    pub fn until(&self, mark: &str, limit: Duration) -> Result<Vec<String>, Vec<String>> {
        let deadline = Instant::now() + limit;
        let mut read = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            read.push(line);
            if read.last().is_some_and(|line| line.contains(mark)) {
                return Ok(read);
            }
        }
        Err(read)
    }

    /// Reads on to the end, but no longer than `limit`; returns what was read.
    pub fn rest(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        std::iter::from_fn(|| {
            self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
        })
        .collect()
    }
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// It can't be started or waited for.
    #[error("cannot run {line}")]
    System {
        /// The command.
        line: String,
        /// Why.
        source: io::Error,
    },
    /// It did not end, and was killed.
    #[error("{line} had not ended after {limit:?} and was killed; it printed:\n{printed}")]
    Late {
        /// The command.
        line: String,
        /// How long it had.
        limit: Duration,
        /// What it printed: standard output, then standard error.
        printed: String,
    },
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Kills a child by its id, and takes its leave of it, so that the id is free again.
fn end(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// Reads a pipe on a thread of its own, which ends with the last process that holds the other end.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: thread::JoinHandle<()>,
}

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let read = buffer.get(..count).unwrap_or_default();
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(read);
            }
        });
        Self { bytes, thread }
    }

    fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_child_prints_and_how_it_ends_is_told() {
        let output = output(&mut shell("echo out; echo err >&2; exit 3"), LIMIT).unwrap();
        assert_eq!(
            (output.status.code(), &output.stdout[..], &output.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_its_words_are_kept() {
        let started = Instant::now();
        let error =
            output(&mut shell("echo here I am, process $$; exec sleep 60"), Duration::from_millis(500))
                .unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        let text = error.to_string();
        let (_, process) = text.rsplit_once("here I am, process ").unwrap_or_else(|| panic!("{text}"));
        let process: u32 = process.trim().parse().unwrap();
        let left = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        assert!(!left.contains("sleep"), "process {process} lives on: {left}");
    }

    /// Whoever inherits a pipe can hold it open long after the child has ended.
    #[test]
    fn a_grandchild_that_holds_the_output_is_not_waited_for() {
        let started = Instant::now();
        let error =
            output(&mut shell("echo gone; sleep 5 & exit 0"), Duration::from_millis(500)).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn lines_are_waited_for_with_a_limit() {
        let lines = Lines::of(&b"one\ntwo\nthree"[..]);
        assert_eq!(lines.until("tw", LIMIT).unwrap(), ["one", "two"]);
        assert_eq!(lines.until("tw", LIMIT).unwrap_err(), ["three"]);
        assert_eq!(lines.rest(LIMIT), [""; 0]);
        let (reader, _writer) = std::io::pipe().unwrap();
        let started = Instant::now();
        assert_eq!(Lines::of(reader).until("x", Duration::from_millis(50)).unwrap_err(), [""; 0]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = output(&mut Command::new("/nowhere/at-all"), LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "cannot run /nowhere/at-all");
    }
}
