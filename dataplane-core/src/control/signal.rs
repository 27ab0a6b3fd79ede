//! Waking the thread that steps.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Counts what happened, so that nothing is missed between looking and going to sleep.
#[derive(Debug, Default)]
pub(super) struct Signal {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    raised: u64,
    /// How many had been raised when the last step began.
    seen: u64,
}

impl Signal {
    pub fn raise(&self) {
        let mut counts = self.counts.lock();
        counts.raised = counts.raised.wrapping_add(1);
        drop(counts);
        self.changed.notify_all();
    }

    /// How often it was raised.
    pub fn count(&self) -> u64 {
        self.counts.lock().raised
    }

    /// A step looks at everything that has happened up to now.
    pub fn look(&self) {
        let mut counts = self.counts.lock();
        counts.seen = counts.raised;
    }

    /// How often it had been raised when the last step began.
    pub fn seen(&self) -> u64 {
        self.counts.lock().seen
    }

    /// Waits until something has happened beyond `seen`, but not for longer than `timeout`.
    pub fn wait(&self, seen: u64, timeout: Option<Duration>) {
        let mut counts = self.counts.lock();
        let nothing_new = |counts: &mut Counts| counts.raised == seen;
        match timeout {
            Some(timeout) => {
                self.changed.wait_while_for(&mut counts, nothing_new, timeout);
            }
            None => self.changed.wait_while(&mut counts, nothing_new),
        }
    }
}
