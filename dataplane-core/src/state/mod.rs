//! Desired state: what all owners want, merged, with who wins what, and how far each object has come.
//!
//! [`DesiredState`] takes transactions and gives revisions. It is a plain value: no I/O, no threads, and the time is
//! an argument. The reconciler takes from it what has changed, one service after the other, and tells it what became
//! of that.
//!
//! Cost: a commit is linear in what it names, a full picture in what the owner has. Nothing is linear in the whole.

mod claims;
mod commit;
mod desired;
mod guard;
mod progress;
mod status;
#[cfg(test)]
mod tests;
mod work;

pub use desired::{DesiredState, RegisterError};
pub use guard::RemovalGuard;
pub use progress::Progress;
pub use status::{Conflict, Failure, HeldBack, Phase, Refusal, ServiceStatus};
pub(crate) use work::{Outcome, Traffic, Work};

/// A service's place in the desired state. It may be given to another once the tables hold nothing of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceId(pub u32);
