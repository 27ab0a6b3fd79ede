//! What a source says about itself: what it applied last, and why it did not apply what is there now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane_core::source::{CommitError, Revision};
use parking_lot::{Condvar, Mutex};

use crate::errors::Errors;

/// Why what stands in the files is not what serves. What was applied last goes on serving.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The documents are wrong.
    #[error(transparent)]
    Documents(Errors),
    /// The controller refused the picture.
    #[error("the picture was refused: {0}")]
    Commit(CommitError),
}

/// How a source stands at a moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Standing {
    /// How many different pictures were applied. 0: none yet.
    pub generation: u64,
    /// The revision of the last one.
    pub revision: Option<Revision>,
    /// How many services it has.
    pub services: usize,
    /// How often the files were read, with whatever result.
    pub readings: u64,
    /// What was wrong at the last reading. Nothing where what stands in the files is what was applied.
    pub rejected: Option<Arc<Rejected>>,
    /// Why changes may be seen late: a folder could not be watched. They are then looked for at intervals.
    pub unwatched: Option<Arc<str>>,
}

/// Tells how a [`StaticSource`](crate::StaticSource) stands, while it runs and after. Cloning costs a reference
/// count.
#[derive(Clone, Debug, Default)]
pub struct StaticStatus(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl StaticStatus {
    /// How the source stands now.
    pub fn now(&self) -> Standing {
        self.0.standing.lock().clone()
    }

    /// Waits until the source stands as `enough` wants it, and tells how it stands; nothing where `timeout` ran out.
    pub fn wait_for(&self, timeout: Duration, mut enough: impl FnMut(&Standing) -> bool) -> Option<Standing> {
        let deadline = Instant::now() + timeout;
        let mut standing = self.0.standing.lock();
        while !enough(&standing) {
            if self.0.changed.wait_until(&mut standing, deadline).timed_out() {
                return enough(&standing).then(|| standing.clone());
            }
        }
        Some(standing.clone())
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.0.standing.lock());
        self.0.changed.notify_all();
    }
}
