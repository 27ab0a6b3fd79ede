//! A flag for threads that go on until they are told to end.

use std::sync::atomic::{AtomicBool, Ordering};

/// Raises a flag when it is dropped: threads that go on until then end also where a test fails, and the scope that they
/// run in does not wait for ever.
///
/// ```
/// use std::{sync::atomic::{AtomicBool, Ordering}, thread};
/// use dataplane_testkit::Raise;
///
/// let done = AtomicBool::new(false);
/// thread::scope(|scope| {
///     let _at_the_end = Raise(&done);
///     scope.spawn(|| while !done.load(Ordering::Relaxed) { thread::yield_now() });
///     // What may fail.
/// });
/// ```
#[derive(Debug)]
#[must_use = "dropping this raises the flag"]
pub struct Raise<'a>(pub &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
