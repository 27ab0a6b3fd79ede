//! Where transactions go.

use crate::{
    model::{Frontend, Service, ServiceName},
    source::{OwnerName, Revision},
};

/// What a [`SourceHandle`](super::SourceHandle) writes to. The controller is one; a test of a source may bring
/// another.
pub trait Inbox: Send + Sync + 'static {
    /// Takes the changes as a whole, or refuses them as a whole.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed.
    fn commit(&self, owner: &OwnerName, changes: Changes) -> Result<Revision, CommitError>;

    /// The owner's first full picture stands.
    fn synced(&self, owner: &OwnerName) -> Revision;

    /// Lets through what is held back of the owner's removals.
    fn confirm(&self, owner: &OwnerName) -> Revision;

    /// The owner's handle is gone.
    fn release(&self, owner: &OwnerName);
}

/// What one transaction changes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Changes {
    /// Services that are new or changed.
    pub upserts: Vec<Service>,
    /// Services that go. One that is not there is passed over.
    pub removals: Vec<ServiceName>,
    /// Whether `upserts` are all that there is: others of the owner go.
    pub full_picture: bool,
    /// Whether somebody stands up for the removals, however many they are.
    pub confirmed: bool,
}

/// Why a transaction was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Two services of one owner claim one frontend.
    #[error("services {first} and {second} both claim {frontend}: take it from one of them")]
    FrontendTwice {
        /// The frontend.
        frontend: Frontend,
        /// Who has it, or named it first.
        first: ServiceName,
        /// Who wants it too.
        second: ServiceName,
    },
    /// The owner is not registered.
    #[error("there is no owner {owner}: register it first")]
    NotRegistered {
        /// The owner.
        owner: OwnerName,
    },
    /// A transaction names one service twice.
    #[error("the transaction names service {service} twice: name it once, as it is to be")]
    ServiceTwice {
        /// The service.
        service: ServiceName,
    },
}
