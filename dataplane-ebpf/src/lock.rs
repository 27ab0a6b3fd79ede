//! What tells a dataplane that lives from what a killed one left behind: a locked file (flock(2)), which the kernel unlocks
//! with the process. There is one for each place on clsact, one for each pin directory, and one for each dataplane that has
//! ports reserved.
//!
//! In a folder that is ours and that nobody else may write to, so that nobody else can hold the lock, keep us from it, or
//! put a link in its place that has us write elsewhere.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{Error, error::Distrust};

/// Where locks are, unless the embedder says otherwise.
pub(crate) const RUN_DIRECTORY: &str = "/run/forebay";

/// A lock that is held. The file goes with it, unless the process is killed; what stays then says who that was.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
    /// Whether the file stays.
    stays: bool,
}

/// A file of a lock, whoever had or has it.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Whether somebody who lives has it.
    pub held: bool,
    /// What its holder noted.
    pub note: String,
}

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It is ours.
    Held(Lock),
    /// A living process has it.
    Taken(Holder),
}

/// Who has a lock, as far as it has written it down already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The process's id.
    pub process: Option<u32>,
    /// The file that it runs.
    pub command: Option<String>,
}

impl Holder {
    fn this() -> Self {
        let command = std::env::current_exe().ok();
        let command = command.map(|path| path.to_string_lossy().replace('\n', " "));
        Self { process: Some(std::process::id()), command }
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim);
        let process = lines.next().and_then(|process| process.parse().ok());
        Self { process, command: lines.next().filter(|command| !command.is_empty()).map(String::from) }
    }

    fn text(&self) -> String {
        let Self { process, command } = self;
        format!("{}\n{}\n", process.unwrap_or(0), command.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { process: Some(process), command: Some(command) } => {
                write!(f, "process {process}, {command}")
            }
            Self { process: Some(process), command: None } => write!(f, "process {process}"),
            Self { process: None, .. } => f.write_str("a process that has not said which"),
        }
    }
}

impl Lock {
    /// Takes the lock of this name, without waiting. The folder is made where it is not there.
    ///
    /// # Errors
    /// [`Error::Lock`], [`Error::UntrustedLock`].
    pub(crate) fn take(directory: &Path, name: &str) -> Result<Attempt, Error> {
        // Without a slash at the end, behind which a link would be followed.
        let directory: PathBuf = directory.components().collect();
        keep(&directory).map_err(|refusal| refusal.of(&directory))?;
        let path = directory.join(name);
        Self::try_take(&path).map_err(|refusal| refusal.of(&path))
    }

    /// Where its file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what others are to know of the holder, in place of what it noted before. It stays with the file where the
    /// process is killed.
    ///
    /// # Errors
    /// [`Error::Lock`].
    pub(crate) fn note(&mut self, text: &str) -> Result<(), Error> {
        let text = Holder::this().text() + text;
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let written = self.file.rewind().and_then(|()| self.file.write_all(text.as_bytes()));
        let written = written.and_then(|()| self.file.set_len(length));
        written.map_err(|source| Error::Lock { path: self.path.clone(), source })
    }

    /// Leaves the file and what is noted in it where it is when this is dropped.
    pub(crate) fn leave(&mut self) {
        self.stays = true;
    }

    /// The locks of names that begin so, in the order of their names. The folder must be one that was looked at by
    /// [`take`](Self::take).
    ///
    /// # Errors
    /// [`Error::Lock`].
    pub(crate) fn named(directory: &Path, prefix: &str) -> Result<Vec<Found>, Error> {
        let failed = |source| Error::Lock { path: directory.to_owned(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().starts_with(prefix) {
                continue;
            }
            let path = entry.path();
            match Self::look(&path) {
                Ok((held, text)) => {
                    let note = text.splitn(3, '\n').nth(2).unwrap_or_default().to_owned();
                    found.push(Found { path, held, note });
                }
                // Its holder ended just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Lock { path, source }),
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    fn look(path: &Path) -> io::Result<(bool, String)> {
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let held = match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok((held, text))
    }

    fn try_take(path: &Path) -> Result<Attempt, Refusal> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // Of what may stand there, a terminal is not to become ours, and nothing is to be waited for.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
                .open(path)
                .map_err(|error| match error.raw_os_error() {
                    // A link, a folder, a socket.
                    Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => Refusal::Untrusted(Distrust::NoFile),
                    _ => Refusal::System(error),
                })?;
            if !file.metadata()?.is_file() {
                return Err(Refusal::Untrusted(Distrust::NoFile));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text)?;
                    return Ok(Attempt::Taken(Holder::parse(&text)));
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // Who had it before may have removed the file between our opening and our locking it.
            let named = match fs::symlink_metadata(path) {
                Ok(named) => (named.dev(), named.ino()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let held = file.metadata()?;
            if named == (held.dev(), held.ino()) {
                file.set_len(0)?;
                file.write_all(Holder::this().text().as_bytes())?;
                return Ok(Attempt::Held(Self { path: path.to_owned(), file, stays: false }));
            }
        }
    }
}

/// Makes the folder where it is not there, and looks whether it can be trusted.
fn keep(directory: &Path) -> Result<(), Refusal> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).or_else(|error| {
        // What stands there is looked at next.
        if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
    })?;
    distrust(directory)?.map_or(Ok(()), |reason| Err(Refusal::Untrusted(reason)))
}

/// Why a folder is not to be trusted: it is none, or others may have a hand in it.
pub(crate) fn distrust(directory: &Path) -> io::Result<Option<Distrust>> {
    let found = fs::symlink_metadata(directory)?;
    // The folder of a process belongs to its effective user, also where the rest of it is root's (proc(5)).
    let own = fs::metadata("/proc/self")?.uid();
    Ok(if !found.is_dir() {
        Some(Distrust::NoFolder)
    } else if found.uid() != own {
        Some(Distrust::Owner { owner: found.uid(), own })
    } else if found.mode() & 0o022 != 0 {
        Some(Distrust::Writable { mode: found.mode() & 0o7777 })
    } else {
        None
    })
}

/// Why a lock can't be taken.
#[derive(Debug)]
enum Refusal {
    System(io::Error),
    Untrusted(Distrust),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Refusal {
    fn of(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::System(source) => Error::Lock { path, source },
            Self::Untrusted(reason) => Error::UntrustedLock { path, reason },
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        // Before it is unlocked: afterwards it may be somebody else's.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{
            fs::{PermissionsExt as _, chown, symlink},
            net::UnixListener,
        },
        sync::atomic::{AtomicU32, Ordering},
    };

    use dataplane_testkit::require_kernel;

    use super::*;

    /// A folder of the test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("forebay-lock-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// What is said of a lock that is refused.
    fn refused(directory: &Path, name: &str) -> (PathBuf, Distrust) {
        match Lock::take(directory, name) {
            Err(Error::UntrustedLock { path, reason }) => (path, reason),
            other => panic!("{directory:?}, {name}: {other:?}"),
        }
    }

    #[test]
    fn a_lock_has_one_holder_who_is_named() {
        let folder = Folder::new("holder");
        let directory = folder.0.join("run");
        let Attempt::Held(lock) = Lock::take(&directory, "x").unwrap() else { panic!("it was free") };
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let own = std::process::id();
        assert!(
            matches!(Lock::take(&directory, "x").unwrap(), Attempt::Taken(holder) if holder.process == Some(own)
                && holder.command == Some(std::env::current_exe().unwrap().to_string_lossy().into_owned()))
        );
        assert!(matches!(Lock::take(&directory, "y").unwrap(), Attempt::Held(_)));
        drop(lock);
        assert!(matches!(Lock::take(&directory, "x").unwrap(), Attempt::Held(_)));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "the files went with their locks");
    }

    /// What a killed process leaves is a file that nobody holds.
    #[test]
    fn a_file_that_is_left_is_no_lock() {
        let folder = Folder::new("left");
        fs::write(folder.0.join("x"), "4194305\n").unwrap();
        let Attempt::Held(_lock) = Lock::take(&folder.0, "x").unwrap() else { panic!("nobody has it") };
        let text = fs::read_to_string(folder.0.join("x")).unwrap();
        assert_eq!(text.lines().next(), Some(std::process::id().to_string().as_str()));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = Folder::new("open");
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(refused(&folder.0, "x"), (folder.0.clone(), Distrust::Writable { mode: 0o777 }));
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        require_kernel!();
        let folder = Folder::new("owner");
        chown(&folder.0, Some(65_534), None).unwrap();
        let reason = Distrust::Owner { owner: 65_534, own: 0 };
        assert_eq!(refused(&folder.0, "x"), (folder.0.clone(), reason));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    /// Whoever may write to the folder above could have the link point elsewhere later.
    #[test]
    fn a_link_to_a_folder_is_refused() {
        let folder = Folder::new("link");
        let (real, link) = (folder.0.join("real"), folder.0.join("link"));
        DirBuilder::new().mode(0o700).create(&real).unwrap();
        symlink(&real, &link).unwrap();
        for path in [link.clone(), link.join(""), link.join(".")] {
            assert_eq!(refused(&path, "x"), (link.clone(), Distrust::NoFolder));
        }
        fs::write(folder.0.join("file"), "").unwrap();
        symlink(folder.0.join("nothing"), folder.0.join("dangling")).unwrap();
        for name in ["file", "dangling"] {
            let path = folder.0.join(name);
            assert_eq!(refused(&path, "x"), (path, Distrust::NoFolder));
        }
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
        assert!(Lock::take(&real.join(""), "x").is_ok());
    }

    /// A planted link would have us make, empty and write to a file elsewhere.
    #[test]
    fn a_lock_that_is_no_file_is_refused() {
        let folder = Folder::new("planted");
        let victim = folder.0.join("victim");
        fs::write(&victim, "text").unwrap();
        symlink(&victim, folder.0.join("link")).unwrap();
        symlink(folder.0.join("nothing"), folder.0.join("dangling")).unwrap();
        fs::create_dir(folder.0.join("folder")).unwrap();
        let _socket = UnixListener::bind(folder.0.join("socket")).unwrap();
        for name in ["link", "dangling", "folder", "socket"] {
            assert_eq!(refused(&folder.0, name), (folder.0.join(name), Distrust::NoFile));
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "text");
        assert!(!folder.0.join("nothing").exists());
    }

    /// Holders that come and go at once: never two of them, though each removes the file.
    #[test]
    fn there_are_never_two_holders() {
        let folder = Folder::new("race");
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if let Attempt::Held(lock) = Lock::take(&folder.0, "x").unwrap() {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 0);
    }
}
