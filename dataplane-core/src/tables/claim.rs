//! Who may write to tables.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::Store;

/// One for each set of tables: a controller has it while it writes to them, so that no other one does at the same time.
///
/// It holds within a process. Tables that several processes can open are locked by other means: a pin directory is.
#[derive(Debug, Default)]
pub struct Claim(AtomicBool);

/// Tables that nobody else has claimed while this lives.
pub(crate) struct Claimed(Arc<dyn Store>);

impl Claimed {
    /// Claims tables; `None` where somebody has.
    pub fn new(store: &Arc<dyn Store>) -> Option<Self> {
        let was = store.tables().claim.0.swap(true, Ordering::Acquire);
        (!was).then(|| Self(store.clone()))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.0.tables().claim.0.store(false, Ordering::Release);
    }
}
