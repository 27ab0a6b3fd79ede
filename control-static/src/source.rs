//! The control source: applies what stands in files, now and whenever it changes.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dataplane_core::source::{ControlSource, Revision, SourceError, SourceHandle, StopToken};

use crate::{
    load::{self, Loaded, Stamp},
    status::{Rejected, StaticStatus},
    watch::{Ears, Pace, Wake, Watch},
};

/// What a [`StaticSource`] did with what it read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A picture was applied.
    Applied {
        /// How many different pictures have been applied with this one.
        generation: u64,
        /// Its revision.
        revision: Revision,
        /// How many services it has.
        services: usize,
    },
    /// What stands in the files is wrong. What was applied last goes on serving.
    Rejected(Arc<Rejected>),
    /// What stands in the files is again what was applied last.
    Restored,
}

type OnNotice = Box<dyn FnMut(&Notice) + Send>;

/// A control source that applies a file, or all documents of a folder, and each change of them.
///
/// Each good state is one transaction: a full picture. A bad one changes nothing: what was applied last goes on
/// serving, a warning is logged, and [`StaticSource::status`] and [`StaticSource::on_notice`] tell of it. A file
/// that is empty or gone is a bad state too, never an order to remove everything; `services: []` is one.
///
/// The removal of most of what serves may be held back by the controller, unless a document says
/// `removals: confirmed`, or all of them together say `services: []`.
///
/// Changes are heard through inotify: writing in place, renaming over, switching a link as Kubernetes does in the
/// volume of a ConfigMap, deleting and coming back. They are read when the writer closed the file and nothing
/// changed for a moment. A writer that keeps a file open for long may be read half-way: rename a complete file over
/// the old one.
pub struct StaticSource {
    path: PathBuf,
    name: String,
    pace: Pace,
    status: StaticStatus,
    on_notice: Option<OnNotice>,
}

impl StaticSource {
    /// A source for a file or a folder, which need not be there yet. It owns its objects by the name `static`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: "static".to_owned(),
            pace: Pace {
                quiet: Duration::from_millis(100),
                longest: Duration::from_secs(2),
                recheck: Duration::from_secs(30),
            },
            status: StaticStatus::default(),
            on_notice: None,
        }
    }

    /// The same source, that owns its objects by this name. Two sources of one controller need two names.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same source, that reads a change when nothing else changed for `quiet` (100 ms by default), and
    /// `longest` after it (2 s by default) at the latest.
    #[must_use]
    pub fn debounced(mut self, quiet: Duration, longest: Duration) -> Self {
        self.pace.quiet = quiet;
        self.pace.longest = longest.max(quiet);
        self
    }

    /// The same source, that looks at the files' times and sizes so often (30 s by default) even where it hears of
    /// no change: on network file systems inotify does not see what other hosts write.
    #[must_use]
    pub fn rechecked(mut self, every: Duration) -> Self {
        self.pace.recheck = every.max(Duration::from_millis(10));
        self
    }

    /// The same source, that calls `notice` on its own thread, after each reading that changed how it stands.
    #[must_use]
    pub fn on_notice(mut self, notice: impl FnMut(&Notice) + Send + 'static) -> Self {
        self.on_notice = Some(Box::new(notice));
        self
    }

    /// Tells how the source stands. Take it before the source is run.
    pub fn status(&self) -> StaticStatus {
        self.status.clone()
    }
}

impl fmt::Debug for StaticSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticSource")
            .field("path", &self.path)
            .field("name", &self.name)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

/// Why a source cannot run.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot watch {path}: {error}; where the limit of inotify instances or watches is reached, raise \
     fs.inotify.max_user_instances or fs.inotify.max_user_watches"
)]
pub struct WatchError {
    path: String,
    error: notify::Error,
}

impl ControlSource for StaticSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(self: Box<Self>, handle: SourceHandle, stop: StopToken) -> Result<(), SourceError> {
        let mut watch = Watch::new(&self.path)
            .map_err(|error| WatchError { path: self.path.display().to_string(), error })?;
        let stopper = watch.stopper();
        stop.on_stop(move || stopper.stop());
        Run { source: *self, handle, applied: None, looked_at: None }.follow(&mut watch);
        Ok(())
    }
}

/// A source at work.
struct Run {
    source: StaticSource,
    handle: SourceHandle,
    /// The digest of what was applied last.
    applied: Option<u64>,
    /// The files as they were at the last reading.
    looked_at: Option<Stamp>,
}

impl Run {
    /// Reads, now and whenever something was heard or looks changed, until it is stopped.
    fn follow(&mut self, ears: &mut impl Ears) {
        loop {
            // Watched first and read then: what changes in between is read again, never missed.
            let covered = ears.cover();
            self.watched(covered);
            self.read();
            loop {
                match ears.wait(self.source.pace) {
                    Wake::Stopped => return,
                    Wake::Recheck if !self.looks_changed() => {}
                    Wake::Changed | Wake::Recheck => break,
                }
            }
        }
    }

    fn path(&self) -> &Path {
        &self.source.path
    }

    fn looks_changed(&self) -> bool {
        self.looked_at.as_ref() != Some(&load::stamp(self.path()))
    }

    /// Tells where changes cannot be heard.
    fn watched(&self, result: notify::Result<()>) {
        let unwatched: Option<Arc<str>> = result.err().map(|error| error.to_string().into());
        if let Some(error) = &unwatched {
            let path = self.path().display();
            tracing::warn!(%path, %error, "cannot watch all of it: some changes are seen late");
        }
        self.source.status.update(|standing| standing.unwatched = unwatched);
    }

    fn read(&mut self) {
        let Loaded { picture, digest, stamp } = load::read(self.path());
        self.looked_at = Some(stamp);
        let picture = match picture {
            Err(errors) => return self.rejected(Rejected::Documents(errors)),
            Ok(_) if digest.is_some() && digest == self.applied => return self.unchanged(),
            Ok(picture) => picture,
        };
        let confirmed = picture.confirms_removals();
        let services = picture.services().len();
        let transaction = self.handle.transaction().full_picture().upserts(picture.into_services());
        let transaction = if confirmed { transaction.confirm_removals() } else { transaction };
        match transaction.commit() {
            Ok(revision) => {
                self.applied = digest;
                self.handle.synced();
                self.applied(revision, services);
            }
            Err(error) => self.rejected(Rejected::Commit(error)),
        }
    }

    fn applied(&mut self, revision: Revision, services: usize) {
        let mut generation = 0;
        self.source.status.update(|standing| {
            standing.readings += 1;
            standing.generation += 1;
            standing.revision = Some(revision);
            standing.services = services;
            standing.rejected = None;
            generation = standing.generation;
        });
        tracing::info!(path = %self.path().display(), generation, %revision, services, "applied");
        self.notify(&Notice::Applied { generation, revision, services });
    }

    fn unchanged(&mut self) {
        let mut was_rejected = false;
        self.source.status.update(|standing| {
            standing.readings += 1;
            was_rejected = standing.rejected.take().is_some();
        });
        if was_rejected {
            tracing::info!(path = %self.path().display(), "back to what was applied last");
            self.notify(&Notice::Restored);
        }
    }

    fn rejected(&mut self, rejected: Rejected) {
        let rejected = Arc::new(rejected);
        let mut generation = 0;
        self.source.status.update(|standing| {
            standing.readings += 1;
            standing.rejected = Some(Arc::clone(&rejected));
            generation = standing.generation;
        });
        let serving =
            if generation == 0 { "nothing was applied yet" } else { "what was applied last keeps serving" };
        tracing::warn!(path = %self.path().display(), generation, %rejected, "{serving}");
        self.notify(&Notice::Rejected(rejected));
    }

    fn notify(&mut self, notice: &Notice) {
        if let Some(on_notice) = &mut self.source.on_notice {
            on_notice(notice);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use dataplane_core::source::{Changes, CommitError, Inbox, OwnerName};
    use parking_lot::Mutex;

    use super::*;

    /// Remembers the names of the services of each commit.
    #[derive(Default)]
    struct Names {
        committed: Mutex<Vec<Vec<String>>>,
        /// The next commit is refused.
        refuses: AtomicBool,
    }

    impl Inbox for Names {
        fn commit(&self, owner: &OwnerName, changes: Changes) -> Result<Revision, CommitError> {
            if self.refuses.swap(false, Ordering::Relaxed) {
                return Err(CommitError::NotRegistered { owner: owner.clone() });
            }
            let names = changes.upserts.iter().map(|service| service.name().to_string());
            self.committed.lock().push(names.collect());
            Ok(Revision::ZERO.next())
        }

        fn synced(&self, _: &OwnerName) -> Revision {
            Revision::ZERO
        }

        fn confirm(&self, _: &OwnerName) -> Revision {
            Revision::ZERO
        }

        fn release(&self, _: &OwnerName) {}
    }

    /// Hears nothing, ever. What happens while it waits is written down beforehand, with why the waiting ends.
    struct Deaf<'t> {
        turns: VecDeque<Box<dyn FnOnce() -> Wake + 't>>,
        covered: u32,
    }

    impl Ears for Deaf<'_> {
        fn cover(&mut self) -> notify::Result<()> {
            self.covered += 1;
            Ok(())
        }

        fn wait(&mut self, _: Pace) -> Wake {
            self.turns.pop_front().map_or(Wake::Stopped, |turn| turn())
        }
    }

    fn document(name: &str) -> String {
        format!("services:\n- {{name: {name}, address: 203.0.113.10, port: 80, backends: []}}\n")
    }

    #[test]
    fn a_change_that_nobody_heard_is_found_by_looking_and_looking_alone_reads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, document("old")).unwrap();
        let source = StaticSource::new(&path);
        let status = source.status();
        let names = Arc::new(Names::default());
        let handle = SourceHandle::new(OwnerName::new("static").unwrap(), names.clone());
        let readings = || status.now().readings;
        let turns: [Box<dyn FnOnce() -> Wake>; 5] = [
            Box::new(|| {
                assert_eq!(readings(), 1);
                Wake::Recheck
            }),
            Box::new(|| {
                assert_eq!(readings(), 1, "nothing looks changed");
                fs::write(&path, document("newer")).unwrap();
                Wake::Recheck
            }),
            Box::new(|| {
                assert_eq!(readings(), 2, "its size is another");
                // The same size: another file of this name, or another time.
                fs::write(folder.path().join("b"), document("other")).unwrap();
                fs::rename(folder.path().join("b"), &path).unwrap();
                Wake::Recheck
            }),
            Box::new(|| {
                assert_eq!(readings(), 3, "its inode is another");
                fs::remove_file(&path).unwrap();
                Wake::Recheck
            }),
            Box::new(|| {
                assert_eq!(readings(), 4, "it is gone");
                Wake::Stopped
            }),
        ];
        let mut ears = Deaf { turns: turns.into(), covered: 0 };
        let mut run = Run { source, handle, applied: None, looked_at: None };
        run.follow(&mut ears);
        assert_eq!((ears.turns.len(), ears.covered), (0, 4), "each reading comes after new watches");
        assert_eq!(*names.committed.lock(), [["old"], ["newer"], ["other"]]);
        assert!(status.now().rejected.is_some());
    }

    #[test]
    fn what_was_refused_is_committed_at_the_next_reading_though_the_file_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, document("web")).unwrap();
        let source = StaticSource::new(&path);
        let status = source.status();
        let names = Arc::new(Names { refuses: AtomicBool::new(true), ..Names::default() });
        let handle = SourceHandle::new(OwnerName::new("static").unwrap(), names.clone());
        let mut run = Run { source, handle, applied: None, looked_at: None };
        run.read();
        let refused = status.now();
        assert!(matches!(refused.rejected.as_deref(), Some(Rejected::Commit(_))), "{:?}", refused.rejected);
        assert_eq!((refused.generation, names.committed.lock().len()), (0, 0));
        run.read();
        let taken = status.now();
        assert_eq!((taken.generation, taken.readings, taken.services), (1, 2, 1));
        assert!(taken.rejected.is_none());
        // And a third reading has nothing to commit.
        run.read();
        assert_eq!((status.now().generation, status.now().readings), (1, 3));
        assert_eq!(*names.committed.lock(), [["web"]]);
    }
}
