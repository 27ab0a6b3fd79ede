//! Waits until what a path means may have changed, and has come to rest.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::{Condvar, Mutex};

use crate::{load::is_document, trail::Trail};

/// How often the trail is followed again where it changes while watches are set.
const ATTEMPTS: usize = 5;

/// How changes are gathered before they are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Nothing may have changed for this long.
    pub(crate) quiet: Duration,
    /// Not longer than this after the first change, even if there is no rest.
    pub(crate) longest: Duration,
    /// So often it is looked even if nothing was heard.
    pub(crate) recheck: Duration,
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Something changed.
    Changed,
    /// Nothing was heard for [`Pace::recheck`].
    Recheck,
    /// [`Stopper::stop`] was called.
    Stopped,
}

/// What tells that it is time to read again.
pub(crate) trait Ears {
    /// Listens to all that now decides what the path means. Whatever changes after this returned ends the next
    /// [`Ears::wait`].
    ///
    /// # Errors
    /// Where something cannot be listened to. Until that works again, changes there are only seen by looking
    /// ([`Wake::Recheck`]).
    fn cover(&mut self) -> notify::Result<()>;

    /// Waits. Sleeps until there is something to do.
    fn wait(&mut self, pace: Pace) -> Wake;
}

/// Watches what a path means.
pub(crate) struct Watch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    /// What is watched, and which inode that was.
    watched: BTreeMap<PathBuf, Inode>,
}

type Inode = (u64, u64);

/// What the thread that hears of changes and the one that waits for them share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    trail: Trail,
    burst: Option<Burst>,
}

/// Changes that were not read yet.
struct Burst {
    first: Instant,
    last: Instant,
    /// Files that were written to and not closed yet.
    writing: HashSet<PathBuf>,
}

impl Watch {
    /// Begins to watch. Nothing is seen before [`Ears::cover`].
    ///
    /// # Errors
    /// Where the system has no more instances of inotify to give (`fs.inotify.max_user_instances`).
    pub(crate) fn new(path: &Path) -> notify::Result<Self> {
        let shared = Arc::new(Shared::default());
        let listener = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            listener.hear(&event, Instant::now());
        })?;
        Ok(Self { path: path.to_owned(), watcher, shared, watched: BTreeMap::new() })
    }

    /// What ends the waiting.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(Arc::downgrade(&self.shared))
    }

    fn set_watches(&mut self, trail: &Trail) -> notify::Result<()> {
        let gone: Vec<_> =
            self.watched.keys().filter(|path| !trail.watched.contains(*path)).cloned().collect();
        for path in gone {
            self.unwatch(&path);
        }
        let mut result = Ok(());
        for path in &trail.watched {
            let Some(inode) = inode(path) else { continue };
            if self.watched.get(path) == Some(&inode) {
                continue;
            }
            self.unwatch(path);
            match self.watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), inode);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    fn unwatch(&mut self, path: &Path) {
        if self.watched.remove(path).is_some()
            && let Err(error) = self.watcher.unwatch(path)
        {
            // The kernel takes a watch back itself when its folder is deleted.
            tracing::trace!(path = %path.display(), %error, "watch was gone already");
        }
    }
}

impl Ears for Watch {
    /// Fails with the first watch that could not be set; the others are set.
    fn cover(&mut self) -> notify::Result<()> {
        let mut trail = Trail::follow(&self.path)?;
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            self.shared.state.lock().trail = trail.clone();
            result = self.set_watches(&trail);
            // Links may have been switched before their folder was watched.
            let now = Trail::follow(&self.path)?;
            if now == trail {
                break;
            }
            trail = now;
        }
        result
    }

    fn wait(&mut self, pace: Pace) -> Wake {
        let recheck_at = Instant::now() + pace.recheck;
        let mut state = self.shared.state.lock();
        loop {
            if state.stopped {
                return Wake::Stopped;
            }
            let now = Instant::now();
            let until = match &state.burst {
                None if now >= recheck_at => return Wake::Recheck,
                None => recheck_at,
                Some(burst) => burst.due(pace),
            };
            if state.burst.is_some() && now >= until {
                state.burst = None;
                return Wake::Changed;
            }
            self.shared.wake.wait_until(&mut state, until);
        }
    }
}

impl Burst {
    /// When the changes are to be read.
    fn due(&self, pace: Pace) -> Instant {
        let longest = self.first + pace.longest;
        if self.writing.is_empty() { longest.min(self.last + pace.quiet) } else { longest }
    }
}

impl Shared {
    /// Notes an event. Wakes the waiting thread only where it has to wait less long than it thinks.
    fn hear(&self, event: &notify::Result<notify::Event>, now: Instant) {
        let mut state = self.state.lock();
        let State { trail, burst, .. } = &mut *state;
        let event = match event {
            Ok(event) if event.need_rescan() || event.paths.is_empty() => None,
            Ok(event) if event.paths.iter().any(|path| trail.concerns(path)) && concerns(event.kind) => {
                Some(event)
            }
            Ok(_) => return,
            // Something may have been missed.
            Err(_) => None,
        };
        let begun = burst.is_none();
        let burst = burst.get_or_insert_with(|| Burst { first: now, last: now, writing: HashSet::new() });
        burst.last = now;
        let was_writing = !burst.writing.is_empty();
        if let Some(event) = event {
            for path in &event.paths {
                if matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) {
                    burst.writing.insert(path.clone());
                } else if !matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_))) {
                    // It was closed, or it is another file that has this name now.
                    burst.writing.remove(path);
                }
            }
        }
        if begun || (was_writing && burst.writing.is_empty()) {
            self.wake.notify_all();
        }
    }
}

impl Trail {
    fn concerns(&self, path: &Path) -> bool {
        self.entries.contains(path)
            || self.watched.contains(path)
            || (self.folder.is_some() && path.parent() == self.folder.as_deref() && is_document(path))
    }
}

/// Whether events of a kind change what is read. Our own reading gives events too: those must not count.
fn concerns(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Ends the waiting of a [`Watch`], from any thread.
pub(crate) struct Stopper(Weak<Shared>);

impl Stopper {
    pub(crate) fn stop(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.state.lock().stopped = true;
            shared.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread};

    use super::*;

    const PATIENT: Pace = Pace {
        quiet: Duration::from_millis(20),
        longest: Duration::from_secs(60),
        recheck: Duration::from_secs(60),
    };

    fn watch(path: &Path) -> Watch {
        let mut watch = Watch::new(path).unwrap();
        watch.cover().unwrap();
        watch
    }

    #[test]
    fn what_was_written_is_read_when_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, "").unwrap();
        let mut watch = watch(&path);
        let shared = Arc::clone(&watch.shared);
        thread::scope(|scope| {
            let mut file = fs::File::create(&path).unwrap();
            file.write_all(b"services:").unwrap();
            let waiting = scope.spawn(|| watch.wait(PATIENT));
            // The file is still open: the burst is not over, however quiet it is.
            let heard = Instant::now() + Duration::from_secs(10);
            while shared.state.lock().burst.as_ref().is_none_or(|burst| burst.writing.is_empty()) {
                assert!(Instant::now() < heard, "the write was not heard");
                thread::yield_now();
            }
            thread::sleep(PATIENT.quiet * 3);
            assert!(!waiting.is_finished());
            drop(file);
            assert_eq!(waiting.join().unwrap(), Wake::Changed);
        });
    }

    #[test]
    fn a_burst_is_read_after_the_longest_wait_though_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, "").unwrap();
        let mut watch = watch(&path);
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"services:").unwrap();
        let pace = Pace { longest: Duration::from_millis(50), ..PATIENT };
        assert_eq!(watch.wait(pace), Wake::Changed);
    }

    #[test]
    fn reading_and_other_files_are_not_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, "").unwrap();
        let mut watch = watch(&path);
        fs::read(&path).unwrap();
        fs::read_dir(folder.path()).unwrap().count();
        fs::write(folder.path().join("b.yaml"), "").unwrap();
        fs::write(folder.path().join(".a.yaml.swp"), "").unwrap();
        let pace = Pace { recheck: Duration::from_millis(300), ..PATIENT };
        assert_eq!(watch.wait(pace), Wake::Recheck);
    }

    #[test]
    fn waiting_ends_at_once_when_it_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        let stopper = watch.stopper();
        let begun = Instant::now();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.wait(PATIENT));
            stopper.stop();
            assert_eq!(waiting.join().unwrap(), Wake::Stopped);
        });
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(watch);
        stopper.stop();
    }
}
