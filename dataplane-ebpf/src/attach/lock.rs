//! What tells the filters of a living dataplane from those that a killed one left behind: a locked file (flock(2)), which
//! the kernel unlocks with the process.
//!
//! In a folder that only its owner may write to, so that nobody else can hold the lock, or keep us from it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where locks are, unless the embedder says otherwise.
pub(crate) const RUN_DIRECTORY: &str = "/run/forebay";

/// A lock that is held. The file goes with it, unless the process is killed; what stays then is empty but for a number.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is ours.
    Held(Lock),
    /// A living process has it; its id, where it has written it down already.
    Taken(Option<u32>),
}

impl Lock {
    /// Takes the lock of this name, without waiting. The folder is made where it is not there.
    ///
    /// # Errors
    /// The kernel's, with the path; [`io::ErrorKind::PermissionDenied`] where others may write to the folder.
    pub(super) fn take(directory: &Path, name: &str) -> Result<Attempt, (PathBuf, io::Error)> {
        Self::keep(directory).map_err(|error| (directory.to_owned(), error))?;
        let path = directory.join(name);
        Self::try_take(&path).map_err(|error| (path, error))
    }

    fn keep(directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if fs::metadata(directory)?.mode() & 0o022 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write to this folder"));
        }
        Ok(())
    }

    fn try_take(path: &Path) -> io::Result<Attempt> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text)?;
                    return Ok(Attempt::Taken(text.trim().parse().ok()));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Who had it before may have removed the file between our opening and our locking it.
            let named = match fs::metadata(path) {
                Ok(named) => (named.dev(), named.ino()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let held = file.metadata()?;
            if named == (held.dev(), held.ino()) {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Attempt::Held(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is unlocked: afterwards it may be somebody else's.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicU32, Ordering},
    };

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

    #[test]
    fn a_lock_has_one_holder_who_is_named() {
        let folder = Folder::new("holder");
        let directory = folder.0.join("run");
        let Attempt::Held(lock) = Lock::take(&directory, "x").unwrap() else { panic!("it was free") };
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let own = std::process::id();
        assert!(
            matches!(Lock::take(&directory, "x").unwrap(), Attempt::Taken(Some(holder)) if holder == own)
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
        assert_eq!(fs::read_to_string(folder.0.join("x")).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = Folder::new("open");
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
        let (path, error) = Lock::take(&folder.0, "x").unwrap_err();
        assert_eq!((path, error.kind()), (folder.0.clone(), io::ErrorKind::PermissionDenied));
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
