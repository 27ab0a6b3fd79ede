//! Desired against programmed: a pure plan of table operations, and its ordered, idempotent application.
//!
//! [`plan`] compares what a service is to be in the tables ([`Rows`](crate::compile::Rows)) with what may stand there
//! of it ([`Footprint`]), and orders the operations so that every reference resolves at every step:
//!
//! 1. backends, 2. the list in the slot table, 3. the frontends' words, 4. new frontends in the hash;
//! 5. frontends out of the hash, 6. their words cleared;
//! 7. after a grace period: the generations of backends that no list holds, and that no queued service can name, are cleared, and lists and frontends' indexes
//!    may be given out again; 8. after another one: the backends' indexes too.
//!
//! A changed service gets a new list, and its words are switched, each by one atomic store. Nothing that a packet may
//! be reading is ever written to. A service whose operation fails is tried again later; others do not wait for it.
//! An operation that failed may have happened: until it is repeated with success, both what was and what was wanted
//! count as standing, and neither is reused.

mod apply;
mod backoff;
mod engine;
mod ledger;
mod limbo;
mod op;
mod plan;
mod unheld;

pub use engine::NextWake;
pub(crate) use engine::{Engine, Settings};
pub(crate) use ledger::Departure;
pub use ledger::Usage;
pub use op::Op;
pub use plan::{Footprint, FrontendFootprint, Presence, Word, plan};
