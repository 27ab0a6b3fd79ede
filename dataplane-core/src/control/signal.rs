//! Waking the thread that steps.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Counts what happened, so that nothing is missed between looking and going to sleep.
#[derive(Debug, Default)]
pub(super) struct Signal {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    pub fn raise(&self) {
        let mut count = self.count.lock();
        *count = count.wrapping_add(1);
        drop(count);
        self.changed.notify_all();
    }

    pub fn count(&self) -> u64 {
        *self.count.lock()
    }

    /// Waits until something has happened since `seen`, but not for longer than `timeout`.
    pub fn wait(&self, seen: u64, timeout: Option<Duration>) {
        let mut count = self.count.lock();
        match timeout {
            Some(timeout) => {
                self.changed.wait_while_for(&mut count, |count| *count == seen, timeout);
            }
            None => self.changed.wait_while(&mut count, |count| *count == seen),
        }
    }
}
