//! The contract between a dataplane and whatever gives it orders: files, an API server, a routing daemon, a program.
//!
//! A source says what it wants by transactions through its [`SourceHandle`]. The rules:
//!
//! - **Ownership.** A source owns the objects that it committed, and no others: names are its own, and it cannot
//!   change or remove what another owner committed. Two owners may claim one frontend: that is a conflict, shown in
//!   the status of both, and decided by [`Precedence`], then by the owners' names.
//! - **Transactions.** A [`Transaction`] is a difference (upserts and removals) or a full picture. It is taken as a
//!   whole or refused as a whole, and gives a [`Revision`] that can be waited for.
//! - **The initial-sync barrier.** Nothing of an owner goes because it was not mentioned, until the source says
//!   [`SourceHandle::synced`]: its first full picture stands. What is removed by name goes at once.
//! - **Reconnecting.** A source that lost sight of its world commits a full picture when it sees it again; the
//!   difference is computed here, so that a missed deletion heals.
//! - **Leaving.** When a source ends, what it said last goes on to serve. If a source of the same name comes back, it
//!   begins unsynced, and what it does not mention goes when it says that it is synced.

mod handle;
mod inbox;
mod owner;
mod revision;
mod stop;
mod transaction;

pub use handle::SourceHandle;
pub use inbox::{Changes, CommitError, Inbox};
pub use owner::{ObjectName, OwnerName, Precedence};
pub use revision::Revision;
pub use stop::StopToken;
pub use transaction::Transaction;

/// Why a source cannot go on.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A control source: turns one outside world into desired state.
///
/// The trait is object-safe and needs no runtime. A source that is asynchronous brings its own, inside `run`.
///
/// ```
/// use dataplane_core::{
///     model::Service,
///     source::{ControlSource, SourceError, SourceHandle, StopToken},
/// };
///
/// /// Wants the same services for ever.
/// struct Constant(Vec<Service>);
///
/// impl ControlSource for Constant {
///     fn name(&self) -> &str {
///         "constant"
///     }
///
///     fn run(self: Box<Self>, handle: SourceHandle, stop: StopToken) -> Result<(), SourceError> {
///         handle.replace(self.0)?;
///         handle.synced();
///         stop.wait_forever();
///         Ok(())
///     }
/// }
/// ```
pub trait ControlSource: Send + 'static {
    /// The name of the owner of its objects: fixed, and unique in a controller.
    fn name(&self) -> &str;

    /// Runs until it is told to stop.
    ///
    /// It commits its first full picture, says that it is synced, and then commits what changes. It returns soon
    /// after `stop` is set. A bad object of its world it reports itself, and goes on with the others.
    ///
    /// # Errors
    /// What makes it impossible to go on. Its last state keeps serving.
    fn run(self: Box<Self>, handle: SourceHandle, stop: StopToken) -> Result<(), SourceError>;
}
