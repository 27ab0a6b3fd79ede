//! A source's end of the line.

use std::{fmt, sync::Arc};

use super::{Changes, CommitError, Inbox, OwnerName, Revision, Transaction};
use crate::model::Service;

/// What a source commits through. There is one for each owner at a time.
///
/// Dropping it changes nothing of what serves; a source of the same name can then register again.
pub struct SourceHandle {
    owner: OwnerName,
    inbox: Arc<dyn Inbox>,
}

impl SourceHandle {
    /// A handle that writes to `inbox`. [`Controller::register`](crate::Controller::register) makes those that count.
    pub fn new(owner: OwnerName, inbox: Arc<dyn Inbox>) -> Self {
        Self { owner, inbox }
    }

    /// Whose handle it is.
    pub fn owner(&self) -> &OwnerName {
        &self.owner
    }

    /// Begins a transaction.
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction::new(self)
    }

    /// Commits a full picture: what is not in it goes, as soon as the source is synced. What is in it unchanged costs
    /// a comparison.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed.
    pub fn replace(&self, picture: impl IntoIterator<Item = Service>) -> Result<Revision, CommitError> {
        self.transaction().upserts(picture).full_picture().commit()
    }

    /// Says that the first full picture stands: what it does not have may go. Saying it again does nothing.
    pub fn synced(&self) -> Revision {
        self.inbox.synced(&self.owner)
    }

    /// Lets through the removals that are held back because they were so many.
    pub fn confirm(&self) -> Revision {
        self.inbox.confirm(&self.owner)
    }

    pub(super) fn commit(&self, changes: Changes) -> Result<Revision, CommitError> {
        self.inbox.commit(&self.owner, changes)
    }
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        self.inbox.release(&self.owner);
    }
}

impl fmt::Debug for SourceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHandle").field("owner", &self.owner).finish_non_exhaustive()
    }
}
