//! One change of what an owner wants, taken as a whole.

use super::{Changes, CommitError, Revision, SourceHandle};
use crate::model::{Service, ServiceName};

/// Changes in the making. Dropped without [`Transaction::commit`] it changes nothing.
#[derive(Debug)]
#[must_use = "a transaction changes nothing until it is committed"]
pub struct Transaction<'a> {
    handle: &'a SourceHandle,
    changes: Changes,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(handle: &'a SourceHandle) -> Self {
        Self { handle, changes: Changes::default() }
    }

    /// Adds a service, or replaces the one of its name.
    pub fn upsert(mut self, service: Service) -> Self {
        self.changes.upserts.push(service);
        self
    }

    /// Adds services, or replaces those of their names.
    pub fn upserts(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        self.changes.upserts.extend(services);
        self
    }

    /// Removes a service. If there is none of this name, nothing happens.
    pub fn remove(mut self, name: &ServiceName) -> Self {
        self.changes.removals.push(name.clone());
        self
    }

    /// Says that the upserts are all that there is: the owner's other services go, as soon as it is synced.
    pub fn full_picture(mut self) -> Self {
        self.changes.full_picture = true;
        self
    }

    /// Says that the removals are meant, however many they are: the guard against mass removal lets them through.
    pub fn confirm_removals(mut self) -> Self {
        self.changes.confirmed = true;
        self
    }

    /// Hands the changes over. They are in the tables once the revision is applied.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed.
    pub fn commit(self) -> Result<Revision, CommitError> {
        self.handle.commit(self.changes)
    }
}
