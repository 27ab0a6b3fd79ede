//! The directory: where it may be, who may write to it, and who has it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use super::{Name, Pins};
use crate::{
    Error,
    error::Distrust,
    lock::{Attempt, Holder, Lock, RUN_DIRECTORY, distrust},
    net::Network,
    sys::file,
};

/// A directory in a bpffs that holds a dataplane's tables and links, so that they stay while nobody runs.
///
/// It belongs to one dataplane. It must be the effective user's own, and nobody else may write to it; where it is not
/// there, it is made so, and the directories above it. Nothing else should be put there: what is not ours is left alone.
///
/// ```no_run
/// use dataplane_ebpf::{EbpfDataplane, Error, PinDir, Uplink};
///
/// # fn main() -> Result<(), Error> {
/// let plane = EbpfDataplane::builder()
///     .pins(PinDir::new("/sys/fs/bpf/forebay/edge")?)
///     .uplink(Uplink::named("eth0"))
///     .open()?; // takes over what the last run left there
/// plane.leave_attached()?; // packets are balanced on, until the next run
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDir {
    path: PathBuf,
}

impl PinDir {
    /// The directory of this path. Nothing is made yet.
    ///
    /// # Errors
    /// [`Error::PinsNotOnBpffs`] where it is not in a bpffs, or is no absolute path; [`Error::UntrustedPins`] where it is
    /// somebody else's, or others may write to it; [`Error::PinDirectory`] where nothing can be told of it.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let is_plain = path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        // Without a slash at the end, behind which a link would be followed.
        let directory = Self { path: path.components().collect() };
        if !is_plain {
            return Err(Error::PinsNotOnBpffs { path: directory.path });
        }
        directory.check()?;
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes off whatever was left attached by means of this directory, and takes it away with all that is in it, without
    /// looking at layouts: what another version left, too. What is not ours stays. A directory that is not there is no
    /// error. To be called in the network namespace of the interfaces. `run_directory`: as
    /// [`Builder::run_directory`](crate::Builder::run_directory); `None` for its default.
    ///
    /// # Errors
    /// [`Error::PinsHeld`] while a dataplane has it; [`Error::Pin`], [`Error::PinDirectory`], [`Error::Detach`]: the first
    /// of what could not be taken off or away, the rest was.
    pub fn remove(&self, run_directory: Option<&Path>) -> Result<(), Error> {
        if !self.exists()? {
            return Ok(());
        }
        let network = Network::open()?;
        Pins::take(self, run_directory.unwrap_or(Path::new(RUN_DIRECTORY)))?.remove(&network)
    }

    fn exists(&self) -> Result<bool, Error> {
        match fs::symlink_metadata(&self.path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed("look at", source)),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::PinDirectory { operation, path: self.path.clone(), source }
    }

    /// Looks at the directory, or at the last one above it that is there.
    fn check(&self) -> Result<(), Error> {
        let failed = |source| self.failed("look at", source);
        for path in self.path.ancestors() {
            let found = match fs::symlink_metadata(path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            if !found.is_dir() {
                return Err(Error::UntrustedPins { path: path.into(), reason: Distrust::NoFolder });
            }
            if !file::is_bpffs(path).map_err(failed)? {
                return Err(Error::PinsNotOnBpffs { path: self.path.clone() });
            }
            if path == self.path
                && let Some(reason) = distrust(path).map_err(failed)?
            {
                return Err(Error::UntrustedPins { path: path.into(), reason });
            }
            break;
        }
        self.check_above()
    }

    /// Whoever may write to a directory above it, and is not kept from others' entries there, could put another in its place.
    fn check_above(&self) -> Result<(), Error> {
        let failed = |source| self.failed("look at", source);
        let own = fs::metadata("/proc/self").map_err(failed)?.uid();
        for path in self.path.ancestors().skip(1) {
            let Ok(found) = fs::symlink_metadata(path) else { continue };
            if !file::is_bpffs(path).map_err(failed)? {
                break;
            }
            let sticky = found.mode() & 0o1000 != 0;
            let reason = if !found.is_dir() {
                Distrust::NoFolder
            } else if found.uid() != own && found.uid() != 0 {
                Distrust::Owner { owner: found.uid(), own }
            } else if found.mode() & 0o022 != 0 && !sticky {
                Distrust::Writable { mode: found.mode() & 0o7777 }
            } else {
                continue;
            };
            return Err(Error::UntrustedPins { path: path.into(), reason });
        }
        Ok(())
    }

    /// Makes what is not there of the path; how many directories that were.
    fn make(&self) -> Result<u16, Error> {
        let mut made = 0;
        let mut missing: Vec<&Path> = Vec::new();
        for path in self.path.ancestors() {
            match fs::symlink_metadata(path) {
                Ok(_) => break,
                Err(_) => missing.push(path),
            }
        }
        for path in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(path) {
                Ok(()) => made += 1,
                // Another dataplane was faster: it is its own from here on.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => made = 0,
                Err(source) => {
                    return Err(Error::PinDirectory { operation: "make", path: path.into(), source });
                }
            }
        }
        Ok(made)
    }
}

/// What keeps other dataplanes from a pin directory: a lock in the folder for locks, which says who holds it, and one on
/// the directory itself, which holds too where two processes do not have that folder in common.
#[derive(Debug)]
pub(crate) struct PinLock {
    _directory: File,
    _lock: Lock,
}

impl PinLock {
    pub(super) fn take(directory: &PinDir, run_directory: &Path) -> Result<Self, Error> {
        loop {
            directory.check()?;
            let made = directory.make()?;
            directory.check()?;
            let failed = |source| directory.failed("open", source);
            let opened = File::open(&directory.path).map_err(failed)?;
            let held = opened.metadata().map_err(failed)?;
            let identity = (held.dev(), held.ino());
            let taken = |holder: Holder| Error::PinsHeld {
                path: directory.path.clone(),
                process: holder.process,
                command: holder.command,
            };
            // Not its path: that has several spellings, and may be another in another container.
            let name = format!("pins-{}-{}.lock", identity.0, identity.1);
            let lock = match Lock::take(run_directory, &name)? {
                Attempt::Held(lock) => lock,
                Attempt::Taken(holder) => return Err(taken(holder)),
            };
            match opened.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(Holder::default())),
                Err(TryLockError::Error(source)) => return Err(directory.failed("lock", source)),
            }
            // Who had it before may have removed it between our opening and our locking it.
            match fs::symlink_metadata(&directory.path) {
                Ok(found) if (found.dev(), found.ino()) == identity => {}
                _ => continue,
            }
            if made > 0 {
                let path = directory.path.join(Name::Made(made).to_string());
                DirBuilder::new().create(&path).map_err(|source| Error::PinDirectory {
                    operation: "make",
                    path,
                    source,
                })?;
            }
            return Ok(Self { _directory: opened, _lock: lock });
        }
    }
}
