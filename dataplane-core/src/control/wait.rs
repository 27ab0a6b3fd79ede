//! Waiting until a revision is in the tables.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::controller::Shared;
use crate::{
    source::Revision,
    state::{DesiredState, Phase, Progress, ServiceStatus},
};

/// Why a revision is not, or not wholly, in the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It took too long. It goes on: the status says how far it is.
    #[error("revision {revision} was not applied in time: see the status of the services that are pending")]
    Timeout {
        /// The revision.
        revision: Revision,
    },
    /// No commit gave this revision.
    #[error("there is no revision {revision} yet: it is not one that this controller gave")]
    Unknown {
        /// The revision.
        revision: Revision,
    },
    /// All was tried, and not all of it is in the tables.
    #[error("revision {revision} is not in the tables because of {services} services{}", explain(.example))]
    Incomplete {
        /// The revision.
        revision: Revision,
        /// How many services were refused, lost a frontend or are held back.
        services: u32,
        /// One of them.
        example: Option<Box<ServiceStatus>>,
    },
}

fn explain(example: &Option<Box<ServiceStatus>>) -> String {
    let Some(status) = example else {
        return String::new();
    };
    let why = match &status.phase {
        Phase::Refused(refusal) => refusal.to_string(),
        Phase::Conflict => match status.conflicts.iter().find(|conflict| !conflict.won) {
            Some(conflict) => format!("{} serves {}", conflict.frontend, conflict.with),
            None => "another service had its frontend".to_owned(),
        },
        Phase::HeldBack => "what it removes is so much that it waits to be confirmed".to_owned(),
        other => format!("{other:?}"),
    };
    format!(", among them {} of {}: {why}", status.service, status.owner)
}

/// How far a revision is; `None` while something of it is pending.
pub(super) fn outcome(desired: &DesiredState, revision: Revision) -> Option<Result<(), WaitError>> {
    match desired.progress(revision) {
        Progress::Pending => None,
        Progress::Applied => Some(Ok(())),
        Progress::Unknown => Some(Err(WaitError::Unknown { revision })),
        Progress::Incomplete { services } => {
            let example = desired.obstacle(revision).map(Box::new);
            Some(Err(WaitError::Incomplete { revision, services, example }))
        }
    }
}

/// A revision on its way into the tables: a future that needs no runtime, only somebody who steps the controller.
#[must_use = "a future does nothing unless it is polled"]
pub struct Applied {
    shared: Arc<Shared>,
    revision: Revision,
    ticket: Option<u64>,
}

impl Applied {
    pub(super) fn new(shared: Arc<Shared>, revision: Revision) -> Self {
        Self { shared, revision, ticket: None }
    }
}

impl Future for Applied {
    type Output = Result<(), WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = Arc::clone(&self.shared);
        // The waker is left while the state is locked, so that no change comes between looking and leaving it.
        let desired = shared.desired.lock();
        if let Some(outcome) = outcome(&desired, self.revision) {
            return Poll::Ready(outcome);
        }
        let ticket = shared.wakers.leave(self.ticket, self.revision, context.waker());
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.wakers.take_back(ticket);
        }
    }
}

impl std::fmt::Debug for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applied").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// Those who wait in futures.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: HashMap<u64, (Revision, Waker)>,
}

impl Wakers {
    fn leave(&self, ticket: Option<u64>, revision: Revision, waker: &Waker) -> u64 {
        let mut waiting = self.0.lock();
        let ticket = ticket.unwrap_or_else(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(ticket, (revision, waker.clone()));
        ticket
    }

    fn take_back(&self, ticket: u64) {
        self.0.lock().wakers.remove(&ticket);
    }

    /// Wakes those whose revision is no longer pending.
    pub fn wake(&self, desired: &Mutex<DesiredState>) {
        let ready: Vec<Waker> = {
            let desired = desired.lock();
            let mut waiting = self.0.lock();
            let is_ready = |revision| desired.progress(revision) != Progress::Pending;
            waiting
                .wakers
                .extract_if(|_, (revision, _)| is_ready(*revision))
                .map(|(_, (_, waker))| waker)
                .collect()
        };
        for waker in ready {
            waker.wake();
        }
    }
}
