//! What the reconciler takes, and what it says about it afterwards.

use std::sync::Arc;

use super::{DesiredState, Failure, Refusal, ServiceId, desired::Settled, progress::Open};
use crate::{
    model::{Frontend, Service, ServiceName},
    source::Revision,
};

/// A service whose rows may differ from what the tables hold.
#[derive(Debug)]
pub(crate) struct Work {
    pub id: ServiceId,
    pub name: ServiceName,
    /// As it is to be. `None`: nothing of it is to be in the tables.
    pub service: Option<Arc<Service>>,
    /// Those of its frontends that it has.
    pub frontends: Vec<Frontend>,
    /// Those that it ceased to claim and nobody else claims.
    pub gone: Vec<Frontend>,
    dropped: Vec<Frontend>,
    waiting: Vec<Revision>,
    lost_some: bool,
}

impl Traffic {
    /// Whether there is anything to take.
    pub fn is_waiting(self) -> bool {
        self.taken < self.queued
    }
}

impl Work {
    /// The newest commit that waits for it; none where it is tried again and whoever waited was told.
    pub fn newest(&self) -> Option<Revision> {
        self.waiting.iter().max().copied()
    }
}

/// How many services went into the queue since the beginning, and how many came out. First in, first out: once as many
/// were taken as had been queued at some moment, nothing is in the queue that was there at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub queued: u64,
    pub taken: u64,
}

/// What became of a service that was taken.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The tables hold it as it was taken.
    Applied,
    /// An operation failed; it will be tried again.
    Failed(Failure),
    /// There is no room for it now; it will be tried again once more is free.
    Postponed,
    /// There is no room for it.
    Refused(Refusal),
}

impl DesiredState {
    /// Takes the service that waits longest.
    pub(crate) fn take(&mut self) -> Option<Work> {
        loop {
            let id = self.queue.pop_front()?;
            let Some(object) = self.objects.get_mut(id.0) else {
                continue;
            };
            object.queued = false;
            let (name, service) = (object.name.clone(), object.service.clone());
            let dropped = std::mem::take(&mut object.dropped);
            let waiting = object.open.as_deref_mut().map(|open| std::mem::take(&mut open.waiting));
            let claimed = service.as_deref().map_or(&[][..], Service::frontends);
            let mut frontends = Vec::with_capacity(claimed.len());
            frontends.extend(claimed.iter().filter(|frontend| self.would_win(id, frontend)));
            let gone =
                dropped.iter().filter(|frontend| self.claims.winner(frontend).is_none()).copied().collect();
            let lost_some = frontends.len() < claimed.len();
            let waiting = waiting.unwrap_or_default();
            return Some(Work { id, name, service, frontends, gone, dropped, waiting, lost_some });
        }
    }

    /// Whether there is anything to take.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How many services went into the queue, and how many came out.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { queued: self.queued, taken: self.queued - self.queue.len() as u64 }
    }

    /// Puts a service into the queue again.
    pub(crate) fn again(&mut self, id: ServiceId) {
        self.enqueue(id);
    }

    /// Hears what became of a service that was taken. Tells whether a revision has nothing to wait for any more.
    pub(crate) fn settle(&mut self, work: Work, outcome: Outcome) -> bool {
        let Work { id, service, frontends, mut dropped, mut waiting, lost_some, .. } = work;
        let Some(object) = self.objects.get_mut(id.0) else {
            return false;
        };
        let mut finished = false;
        if !object.queued
            && let Some(open) = object.open.as_deref_mut()
        {
            // Whoever came meanwhile asked for what it was already.
            waiting.append(&mut open.waiting);
        }
        match outcome {
            Outcome::Applied => {
                object.failure = None;
                let was_refused = object.is_refused();
                object.settled = if object.queued { Settled::NotYet } else { Settled::Applied };
                let forgotten = !object.queued && object.service.is_none();
                if lost_some && service.is_some() {
                    finished = self.get_stuck(id, waiting);
                } else {
                    for revision in waiting {
                        finished |= self.revisions.close(revision, Open::Waiting);
                    }
                    self.close(id, Open::Stuck);
                    self.drop_empty_list(id);
                }
                if forgotten {
                    self.forget(id);
                } else if was_refused {
                    self.is_refused_no_more(id, &frontends);
                }
            }
            Outcome::Failed(failure) => {
                object.failure = Some(Box::new(failure));
                let was_refused = object.is_refused();
                object.settled = Settled::NotYet;
                put_back(&mut object.dropped, &mut dropped);
                self.put_back_waiting(id, waiting);
                if was_refused {
                    self.is_refused_no_more(id, &frontends);
                }
            }
            Outcome::Postponed => {
                put_back(&mut object.dropped, &mut dropped);
                self.put_back_waiting(id, waiting);
            }
            Outcome::Refused(refusal) => {
                object.failure = None;
                put_back(&mut object.dropped, &mut dropped);
                if object.queued {
                    self.put_back_waiting(id, waiting);
                } else {
                    object.settled = Settled::Refused(Box::new(refusal));
                    finished = self.get_stuck(id, waiting);
                    self.elect_all(id);
                }
            }
        }
        finished
    }

    /// There was room for a service after all. It has taken frontends, some of them perhaps from one that was refused too
    /// and is not any more either: then who is to have them takes them back.
    fn is_refused_no_more(&mut self, id: ServiceId, taken: &[Frontend]) {
        self.elect_all(id);
        for frontend in taken {
            if let Some(winner) = self.claims.winner(frontend).filter(|&winner| winner != id) {
                self.enqueue(winner);
                self.enqueue(id);
            }
        }
    }

    /// Those of the frontends that this service would have even if it were refused, because nobody else can have them.
    pub(crate) fn keeps_if_refused(&self, id: ServiceId, frontends: &[Frontend]) -> Vec<Frontend> {
        frontends.iter().filter(|frontend| self.would_keep(id, frontend)).copied().collect()
    }

    fn get_stuck(&mut self, id: ServiceId, waiting: Vec<Revision>) -> bool {
        let mut finished = false;
        for revision in waiting {
            self.open(id, Open::Stuck, revision);
            finished |= self.revisions.close(revision, Open::Waiting);
        }
        finished
    }

    fn put_back_waiting(&mut self, id: ServiceId, mut waiting: Vec<Revision>) {
        if waiting.is_empty() {
            return;
        }
        if let Some(object) = self.objects.get_mut(id.0) {
            let open = object.open.get_or_insert_default();
            waiting.append(&mut open.waiting);
            open.waiting = waiting;
        }
    }

    fn drop_empty_list(&mut self, id: ServiceId) {
        if let Some(object) = self.objects.get_mut(id.0)
            && object.open.as_deref().is_some_and(|open| open.waiting.is_empty() && open.stuck.is_empty())
        {
            object.open = None;
        }
    }

    fn forget(&mut self, id: ServiceId) {
        if let Some(object) = self.objects.remove(id.0) {
            let services = &mut self.owners[object.owner].services;
            services.remove(&object.name);
            // A place that many have left is not kept for them.
            if services.capacity() > 64 && services.len() < services.capacity() / 8 {
                services.shrink_to_fit();
            }
        }
    }
}

fn put_back(to: &mut Vec<Frontend>, from: &mut Vec<Frontend>) {
    if !from.is_empty() {
        to.append(from);
        to.sort_unstable();
        to.dedup();
    }
}
