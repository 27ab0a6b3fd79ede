//! Telling a source to stop.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

/// Tells the holder of a clone to stop. Once stopped it stays so.
#[derive(Clone, Default)]
pub struct StopToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    callbacks: Vec<Box<dyn FnOnce() + Send>>,
}

impl StopToken {
    /// A token that nobody has stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells all holders to stop, and runs their callbacks.
    pub fn stop(&self) {
        let callbacks = {
            let mut state = self.0.state.lock();
            state.stopped = true;
            std::mem::take(&mut state.callbacks)
        };
        self.0.changed.notify_all();
        for callback in callbacks {
            callback();
        }
    }

    /// Whether it is time to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.state.lock().stopped
    }

    /// Waits until it is time to stop, but not for longer than `timeout`; tells whether it is.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while_for(&mut state, |state| !state.stopped, timeout);
        state.stopped
    }

    /// Waits until it is time to stop.
    pub fn wait_forever(&self) {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while(&mut state, |state| !state.stopped);
    }

    /// Runs `callback` when it is time to stop, on the thread that says so; at once where it is time already. This
    /// is how a source wakes a channel or a runtime of its own.
    pub fn on_stop(&self, callback: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.0.state.lock();
            if !state.stopped {
                state.callbacks.push(Box::new(callback));
                return;
            }
        }
        callback();
    }
}

impl fmt::Debug for StopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopToken").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn everyone_hears_of_it_once() {
        let token = StopToken::new();
        let calls = Arc::new(AtomicU32::new(0));
        let count = |calls: &Arc<AtomicU32>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        token.on_stop(count(&calls));
        assert!(!token.wait(Duration::ZERO));
        let waiter = std::thread::spawn({
            let token = token.clone();
            move || token.wait_forever()
        });
        token.stop();
        token.stop();
        waiter.join().unwrap();
        assert!(token.is_stopped() && token.wait(Duration::from_secs(60)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        token.on_stop(count(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
