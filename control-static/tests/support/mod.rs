//! A controller's end that only remembers, and a source that runs against it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use control_static::{Standing, StaticSource, StaticStatus};
use dataplane_core::{
    model::Service,
    source::{
        Changes, CommitError, ControlSource, Inbox, OwnerName, Revision, SourceError, SourceHandle, StopToken,
    },
};
use parking_lot::Mutex;

/// Longer than any step takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Remembers what was committed, as a controller would.
#[derive(Default)]
pub struct Recorder(Mutex<Record>);

#[derive(Clone, Default)]
pub struct Record {
    pub services: BTreeMap<String, Service>,
    pub revision: Revision,
    pub commits: u64,
    pub synced: bool,
    /// Whether the last commit stood up for its removals.
    pub confirmed: bool,
}

impl Recorder {
    pub fn now(&self) -> Record {
        self.0.lock().clone()
    }
}

impl Inbox for Recorder {
    fn commit(&self, _: &OwnerName, changes: Changes) -> Result<Revision, CommitError> {
        let mut record = self.0.lock();
        assert!(changes.full_picture, "every state is a full picture");
        record.services =
            changes.upserts.into_iter().map(|service| (service.name().to_string(), service)).collect();
        record.commits += 1;
        record.confirmed = changes.confirmed;
        record.revision = record.revision.next();
        Ok(record.revision)
    }

    fn synced(&self, _: &OwnerName) -> Revision {
        let mut record = self.0.lock();
        assert!(record.commits > 0, "a picture stands before its source is synced");
        record.synced = true;
        record.revision
    }

    fn confirm(&self, _: &OwnerName) -> Revision {
        self.0.lock().revision
    }

    fn release(&self, _: &OwnerName) {}
}

/// A source that runs on a thread of its own, until it is dropped.
pub struct Running {
    pub recorder: Arc<Recorder>,
    pub status: StaticStatus,
    stop: StopToken,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
}

impl Running {
    pub fn start(path: &Path) -> Self {
        Self::run(
            StaticSource::new(path).debounced(Duration::from_millis(20), PATIENCE).rechecked(PATIENCE * 10),
        )
    }

    pub fn run(source: StaticSource) -> Self {
        let recorder = Arc::new(Recorder::default());
        let status = source.status();
        let stop = StopToken::new();
        let handle = SourceHandle::new(OwnerName::new(source.name()).unwrap(), recorder.clone());
        let token = stop.clone();
        let thread = thread::spawn(move || Box::new(source).run(handle, token));
        Self { recorder, status, stop, thread: Some(thread) }
    }

    /// Waits until the source stands as wanted.
    pub fn wait(&self, what: &str, enough: impl FnMut(&Standing) -> bool) -> Standing {
        let standing = self.status.wait_for(PATIENCE, enough);
        standing.unwrap_or_else(|| panic!("{what} did not happen: {:?}", self.status.now()))
    }

    /// Waits until the services of these names are applied, and nothing is wrong.
    pub fn wait_services(&self, names: &[&str]) -> Standing {
        self.wait(&format!("{names:?}"), |standing| {
            let record = self.recorder.now();
            standing.rejected.is_none()
                && standing.generation > 0
                && record.synced
                && record.services.keys().map(String::as_str).eq(names.iter().copied())
        })
    }

    /// Waits until what stands in the files is rejected with this in the message.
    pub fn wait_rejected(&self, says: &str) -> Standing {
        self.wait(says, |standing| {
            standing.rejected.as_ref().is_some_and(|rejected| rejected.to_string().contains(says))
        })
    }

    pub fn services(&self) -> Vec<String> {
        self.recorder.now().services.into_keys().collect()
    }

    /// Stops, and tells how long that took.
    pub fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
        begun.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the source panicked");
        }
    }
}

/// A document of services with these names, each with addresses of its own.
pub fn document(names: &[&str]) -> String {
    if names.is_empty() {
        return "services: []\n".to_owned();
    }
    let mut text = "services:\n".to_owned();
    for name in names {
        // A name's own address: FNV-1a is more than enough for a handful.
        let hash = name
            .bytes()
            .fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
        let [a, b, c, _] = hash.to_be_bytes();
        text +=
            &format!("- name: {name}\n  address: 10.{a}.{b}.{c}\n  port: 80\n  backends: [192.0.2.1:80]\n");
    }
    text
}
