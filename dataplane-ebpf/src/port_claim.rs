//! Who has ports of source NAT reserved: `net.ipv4.ip_local_reserved_ports` says which are, and not for whom.
//!
//! ```text
//! /run/forebay/
//!     ports-<namespace>.lock       held while the setting and what is noted here change
//!     ports-<namespace>-<n>.lock   of each dataplane there: the ports that it has by our doing, and its pin directory; held
//!                                  as long as its process lives, and left to whoever comes next where that is killed
//! ```
//!
//! A port that is reserved by our doing is given back with the last dataplane that has it. One that was reserved before the
//! first of them is somebody else's, and stays. A dataplane with pins lives as long as they do.

use std::{
    fmt, fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    Error,
    lock::{Attempt, Found, Lock},
    net::{Network, Ports},
    pin::notes_ports_in,
};

/// Others hold the lock for a few system calls.
const PATIENCE: Duration = Duration::from_secs(5);

/// One dataplane's ports.
#[derive(Debug)]
pub(crate) struct PortClaim {
    network: Arc<Network>,
    run_directory: PathBuf,
    range: RangeInclusive<u16>,
    pins: Option<PathBuf>,
    /// `None` once they were given back.
    note: Mutex<Option<Note>>,
}

/// What a dataplane wrote down.
#[derive(Debug)]
struct Note {
    lock: Lock,
    ours: Ports,
}

/// Why ports are not reserved.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// None of the ports that the host gives to its own sockets would be left.
    NoneLeft {
        /// Those that it gives out.
        local: RangeInclusive<u16>,
    },
    /// The setting can't be read or written.
    System(io::Error),
    /// It can't be noted.
    Note(Error),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneLeft { local } => {
                write!(f, "the host would have none of {} to {} left", local.start(), local.end())
            }
            Self::System(error) => error.fmt(f),
            Self::Note(error) => {
                error.fmt(f)?;
                std::error::Error::source(error).map_or(Ok(()), |source| write!(f, ": {source}"))
            }
        }
    }
}

impl From<io::Error> for ClaimError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Error> for ClaimError {
    fn from(error: Error) -> Self {
        Self::Note(error)
    }
}

impl PortClaim {
    /// Reserves ports, and gives back what nobody has any more. `pinned`: the pin directory, and those that it says are ours.
    ///
    /// # Errors
    /// Then nothing is reserved.
    pub(crate) fn take(
        network: Arc<Network>,
        run_directory: &Path,
        range: RangeInclusive<u16>,
        pinned: Option<(&Path, &Ports)>,
    ) -> Result<Self, ClaimError> {
        let pins = pinned.map(|(path, _)| path.to_owned());
        let ours = {
            let register = Register::lock(&network, run_directory)?;
            let (before, given) = (network.reserved_ports()?, network.given_ports()?);
            let others = register.others(pins.as_deref(), None)?;
            let by_us = |port| {
                others.has(port) || pinned.is_some_and(|(_, noted)| noted.has(port) && before.has(port))
            };
            let wanted = |port| range.contains(&port);
            let after = Ports::of(|port| {
                wanted(port) || before.has(port) && (others.living.has(port) || !by_us(port))
            });
            if given.clone().all(|port| after.has(port)) {
                return Err(ClaimError::NoneLeft { local: given });
            }
            let ours = Ports::of(|port| wanted(port) && (!before.has(port) || by_us(port)));
            // Noted before it is done: whoever is killed between the two leaves a note of too much, and none of too little.
            let mut lock = register.new_note()?;
            lock.note(&text(&ours, pins.as_deref()))?;
            network.reserve_ports(&after)?;
            if pins.is_some() {
                lock.leave();
            }
            others.forget()?;
            Note { lock, ours }
        };
        let note = Mutex::new(Some(ours));
        Ok(Self { network, run_directory: run_directory.to_owned(), range, pins, note })
    }

    /// Those that are reserved by our doing.
    pub(crate) fn ours(&self) -> Vec<RangeInclusive<u16>> {
        self.note.lock().as_ref().map(|note| note.ours.ranges()).unwrap_or_default()
    }

    /// Reserves again what somebody took out of the setting.
    ///
    /// # Errors
    /// As of [`take`](Self::take).
    pub(crate) fn refresh(&self) -> Result<(), ClaimError> {
        let mut note = self.note.lock();
        let Some(note) = note.as_mut() else { return Ok(()) };
        let is_whole = |reserved: &Ports| self.range.clone().all(|port| reserved.has(port));
        if is_whole(&self.network.reserved_ports()?) {
            return Ok(());
        }
        let _register = Register::lock(&self.network, &self.run_directory)?;
        let before = self.network.reserved_ports()?;
        let ours = Ports::of(|port| note.ours.has(port) || self.range.contains(&port) && !before.has(port));
        note.lock.note(&text(&ours, self.pins.as_deref()))?;
        note.ours = ours;
        self.network.reserve_ports(&Ports::of(|port| before.has(port) || self.range.contains(&port)))?;
        Ok(())
    }

    /// Gives back what nobody else has. Where tables are pinned their directory is to forget them, and this does nothing.
    ///
    /// # Errors
    /// As of [`give_back`].
    pub(crate) fn release(&self) -> Result<(), Error> {
        if self.pins.is_some() {
            return Ok(());
        }
        let Some(mut note) = self.note.lock().take() else { return Ok(()) };
        let outcome = Register::lock(&self.network, &self.run_directory).and_then(|register| {
            register.give_back(&self.network, &note.ours, None, Some(note.lock.path()))?;
            Ok(register)
        });
        if outcome.is_err() {
            // Whoever comes next gives them back.
            note.lock.leave();
        }
        // While the register is held: nobody else sees a note of what is gone.
        drop(note);
        outcome.map(|_register| ())
    }
}

impl Drop for PortClaim {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!(%error, "the ports of source NAT stay reserved");
        }
    }
}

/// Gives back what a pin directory says is reserved by our doing, and nobody else has.
///
/// # Errors
/// [`Error::Lock`], [`Error::UntrustedLock`], [`Error::PortsStayReserved`].
pub(crate) fn give_back(
    network: &Network,
    run_directory: &Path,
    ports: &Ports,
    pins: &Path,
) -> Result<(), Error> {
    Register::lock(network, run_directory)?.give_back(network, ports, Some(pins), None)
}

/// The notes of one network namespace, while nobody else changes them.
struct Register {
    directory: PathBuf,
    /// What the names of notes begin with.
    prefix: String,
    namespace: u64,
    _lock: Lock,
}

impl Register {
    fn lock(network: &Network, directory: &Path) -> Result<Self, Error> {
        let identity = network.identity();
        let name = format!("ports-{identity}.lock");
        let begun = Instant::now();
        loop {
            if let Attempt::Held(lock) = Lock::take(directory, &name)? {
                return Ok(Self {
                    directory: directory.components().collect(),
                    prefix: format!("ports-{identity}-"),
                    namespace: network.namespace().unwrap_or(0),
                    _lock: lock,
                });
            }
            if begun.elapsed() > PATIENCE {
                let source = io::ErrorKind::TimedOut.into();
                return Err(Error::Lock { path: directory.join(name), source });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A note of a name that nobody has.
    fn new_note(&self) -> Result<Lock, Error> {
        for number in 0u32.. {
            let name = format!("{}{number}.lock", self.prefix);
            // One that a killed process left is read before it goes.
            if fs::symlink_metadata(self.directory.join(&name)).is_ok() {
                continue;
            }
            if let Attempt::Held(lock) = Lock::take(&self.directory, &name)? {
                return Ok(lock);
            }
        }
        let source = io::ErrorKind::AlreadyExists.into();
        Err(Error::Lock { path: self.directory.clone(), source })
    }

    /// What others noted: not who has these pins, and not this note.
    fn others(&self, own_pins: Option<&Path>, own: Option<&Path>) -> Result<Others, Error> {
        let nothing = || Ports::of(|_| false);
        let mut others = Others { living: nothing(), dead: nothing(), left: Vec::new() };
        for Found { path, held, note } in Lock::named(&self.directory, &self.prefix)? {
            if Some(path.as_path()) == own {
                continue;
            }
            let (ports, pins) = parse(&note);
            let is_own = pins.is_some() && pins.as_deref() == own_pins;
            let lives = held || pins.is_some_and(|pins| notes_ports_in(&pins, self.namespace));
            let into = if lives && !is_own { &mut others.living } else { &mut others.dead };
            ports.ranges().into_iter().for_each(|range| into.add(range));
            if !lives || is_own {
                others.left.push(path);
            }
        }
        Ok(others)
    }

    /// Gives back these, and what was left by the dead. `own`: a note that does not count.
    fn give_back(
        &self,
        network: &Network,
        ports: &Ports,
        pins: Option<&Path>,
        own: Option<&Path>,
    ) -> Result<(), Error> {
        let failed = |source| Error::PortsStayReserved { source };
        let others = self.others(pins, own)?;
        let before = network.reserved_ports().map_err(failed)?;
        let goes = |port| (ports.has(port) || others.dead.has(port)) && !others.living.has(port);
        network.reserve_ports(&Ports::of(|port| before.has(port) && !goes(port))).map_err(failed)?;
        others.forget()
    }
}

/// What is noted by others.
struct Others {
    /// By those that live.
    living: Ports,
    /// By those that were killed, and by the run before of the same pins.
    dead: Ports,
    /// The notes of the dead.
    left: Vec<PathBuf>,
}

impl Others {
    fn has(&self, port: u16) -> bool {
        self.living.has(port) || self.dead.has(port)
    }

    fn forget(self) -> Result<(), Error> {
        for path in self.left {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Lock { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a note says: the ports, and on the next line the pin directory.
fn text(ours: &Ports, pins: Option<&Path>) -> String {
    format!("{ours}\n{}\n", pins.map(Path::to_string_lossy).unwrap_or_default())
}

/// Reads a note. Of one that can't be read nothing is ours.
fn parse(text: &str) -> (Ports, Option<PathBuf>) {
    let mut lines = text.lines();
    let ports = lines.next().and_then(Ports::parse).unwrap_or_else(|| Ports::of(|_| false));
    (ports, lines.next().filter(|path| !path.is_empty()).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let ours = Ports::parse("1024,50000-50009").unwrap();
        for pins in [None, Some(PathBuf::from("/sys/fs/bpf/forebay/edge"))] {
            assert_eq!(parse(&text(&ours, pins.as_deref())), (ours.clone(), pins));
        }
        for (short, pins) in [("", None), ("50000-", None), ("x\n/a\n", Some(PathBuf::from("/a")))] {
            assert_eq!(parse(short), (Ports::of(|_| false), pins), "{short:?}");
        }
    }
}
