//! One step after the other: take what changed, plan it, carry it out, and release what nobody sees any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{
    Usage,
    apply::{Job, apply, backends, write_backend},
    backoff::Backoff,
    ledger::{Departure, Ledger, NOBODY},
    limbo::{Limbo, Release},
    plan,
};
use crate::{
    compile::Rows,
    model::{Choice, Frontend, IpFamily, Service},
    source::Revision,
    state::{DesiredState, Failure, Outcome, Refusal, ServiceId, Work},
    tables::{Cause, Store, TableError},
};

/// When a [`step`](crate::Controller::step) is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextWake {
    /// At once: there is more to do.
    Now,
    /// At that time, or when something is committed.
    At(Duration),
    /// When something is committed.
    OnChange,
}

impl NextWake {
    /// The earlier of two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::Now, _) | (_, Self::Now) => Self::Now,
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (wake, Self::OnChange) | (Self::OnChange, wake) => wake,
        }
    }
}

/// How much a step does, and how long things wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Services in one step.
    pub services: usize,
    /// Backends of the services in one step, times their weights, and places of their Maglev tables; a step takes one
    /// service at least.
    pub entries: usize,
    /// What Maglev tables are made with.
    pub maglev_seed: u64,
    /// How long what was unlinked waits for more, to share a grace period with it.
    pub grace_delay: Duration,
    pub backoff: Backoff,
}

impl Default for Settings {
    fn default() -> Self {
        let grace_delay = Duration::from_millis(100);
        Self { services: 1024, entries: 1 << 18, maglev_seed: 0, grace_delay, backoff: Backoff::default() }
    }
}

/// Things released in one step.
const RELEASES: usize = 4096;

/// How often a service for which there is no room is tried before it is refused, if more may become free. What is in
/// limbo is free after two grace periods. Each commit that names the service has as many attempts: what made room for
/// it may have been unlinked by that very commit.
const PATIENCE: u32 = 3;

/// Refused services tried again when something was released.
const SECOND_CHANCES: usize = 64;

/// The half of the controller that writes to the tables.
pub(crate) struct Engine {
    store: Arc<dyn Store>,
    settings: Settings,
    ledger: Ledger,
    limbo: Limbo,
    retries: Retries,
    refused: Refused,
    /// Backends that left frontends, since this was last taken.
    departed: Vec<Departure>,
    found: Found,
}

/// What becomes of what stood in the tables at the beginning and nobody named.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// It stays until every source is synced, and until what they said by then was taken: so many services were queued.
    Waits { queued: Option<u64> },
    /// It would be most of what serves: it stays until somebody confirms.
    HeldBack,
    /// It is taken out, a slice at a time; after failures not before that time.
    Goes { attempts: u32, not_before: Duration },
    /// It is gone.
    Gone,
}

/// What a step has done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Whether somebody may wait for it.
    pub finished: bool,
}

/// What writing a service costs, of [`Settings::entries`].
fn entries_of(service: &Service) -> usize {
    let weights: usize = service.backends().iter().map(|backend| usize::from(backend.weight().get())).sum();
    match service.choice() {
        Choice::Random => weights,
        Choice::Maglev(size) => service.backends().len() + usize::from(size.get()),
    }
}

impl Engine {
    /// Goes on from what stands in the tables.
    ///
    /// # Errors
    /// [`TableError`] where they can't be read.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Result<Self, TableError> {
        let ledger = Ledger::find(&*store, settings.maglev_seed)?;
        let (limbo, retries, refused) = (Limbo::default(), Retries::default(), Refused::default());
        let found = Found::Waits { queued: None };
        Ok(Self { store, settings, ledger, limbo, retries, refused, departed: Vec::new(), found })
    }

    /// Whether what was found and not named is held back, because it is most of what served.
    pub fn holds_found_back(&self) -> bool {
        matches!(self.found, Found::HeldBack)
    }

    pub fn usage(&self) -> Usage {
        Usage { limbo: self.in_limbo() as u32, ..self.ledger.usage() }
    }

    /// How many things wait for a grace period or for their release.
    fn in_limbo(&self) -> usize {
        self.limbo.len() + self.ledger.unheld.len()
    }

    /// Puts a bounded number of changed services into the tables.
    pub fn program(&mut self, desired: &Mutex<DesiredState>, now: Duration) -> Done {
        self.sweep(desired, now);
        let batch = self.take(&mut desired.lock(), now);
        let mut done = Done { finished: false };
        if batch.is_empty() {
            return done;
        }
        self.ledger.begin_batch();
        let mut works: Vec<Work> = Vec::with_capacity(batch.len());
        let mut jobs: Vec<Job> = Vec::with_capacity(batch.len());
        let mut refused = Vec::new();
        for work in batch {
            match self.ledger.prepare(work.id, work.service.as_deref(), &work.frontends, &work.gone) {
                Ok((rows, footprint)) => {
                    jobs.push(Job::new(work.id, plan(rows, &footprint)));
                    works.push(work);
                }
                Err(refusal) => refused.push((work, refusal)),
            }
        }
        for (work, _) in &refused {
            jobs.push(self.make_room(work, desired));
        }
        apply(&mut jobs, &mut self.ledger, &*self.store);
        for release in self.ledger.unlinked.drain(..) {
            self.limbo.add(release, now);
        }

        let mut desired = desired.lock();
        for (job, (work, refusal)) in jobs.drain(works.len()..).zip(refused) {
            let outcome = self.refuse(&job, &work, refusal, now);
            done.finished |= desired.settle(work, outcome);
        }
        for (job, work) in jobs.into_iter().zip(works) {
            let outcome = self.judge(&job, now);
            done.finished |= desired.settle(work, outcome);
        }
        done
    }

    /// Takes a slice of what was found and not named out of the tables, once every source has spoken.
    fn sweep(&mut self, desired: &Mutex<DesiredState>, now: Duration) {
        let desired = desired.lock();
        match self.found {
            Found::Gone => return,
            Found::Goes { not_before, .. } if now < not_before => return,
            Found::Goes { .. } => {}
            Found::HeldBack if desired.is_found_confirmed() => {}
            Found::HeldBack => return,
            Found::Waits { .. } if !desired.was_synced() => return,
            Found::Waits { queued } => {
                let queued = queued.unwrap_or(desired.traffic().queued);
                self.found = Found::Waits { queued: Some(queued) };
                if desired.traffic().taken < queued {
                    return;
                }
                let (serving, lost) = self.ledger.found_serving();
                if desired.holds_back(serving, lost) && !desired.is_found_confirmed() {
                    tracing::warn!(
                        serving,
                        lost,
                        "most of what stood in the tables was not named: it is held back"
                    );
                    self.found = Found::HeldBack;
                    return;
                }
            }
        }
        self.ledger.unheld.see(desired.traffic());
        let claimed = |frontend: &Frontend| desired.is_claimed(frontend);
        let frontends = self.ledger.take_unclaimed(self.settings.services, claimed);
        drop(desired);
        if frontends.is_empty() {
            self.found = Found::Gone;
            self.ledger.let_found_go();
            return;
        }
        let mut jobs = [Job::new(NOBODY, plan(Rows::default(), &self.ledger.footprint_of(&frontends)))];
        apply(&mut jobs, &mut self.ledger, &*self.store);
        for release in self.ledger.unlinked.drain(..) {
            self.limbo.add(release, now);
        }
        let [job] = jobs;
        let attempts = match (job.error, self.found) {
            (None, _) => 0,
            (Some(error), found) => {
                let before = if let Found::Goes { attempts, .. } = found { attempts } else { 0 };
                if before == 0 {
                    tracing::warn!(%error, "what nobody named could not be taken out; it will be tried again");
                }
                self.ledger.put_back_unclaimed(frontends);
                before.saturating_add(1)
            }
        };
        let wait = if attempts > 0 { self.settings.backoff.after(attempts) } else { Duration::ZERO };
        self.found = Found::Goes { attempts, not_before: now + wait };
    }

    /// When the sweep goes on by itself.
    fn next_sweep(&self, desired: &DesiredState) -> Option<NextWake> {
        match self.found {
            Found::Waits { .. } => desired.was_synced().then_some(NextWake::Now),
            Found::HeldBack => desired.is_found_confirmed().then_some(NextWake::Now),
            Found::Goes { attempts: 0, .. } => Some(NextWake::Now),
            Found::Goes { not_before, .. } => Some(NextWake::At(not_before)),
            Found::Gone => None,
        }
    }

    /// Takes what changed, and what is to be tried again, all at one moment.
    fn take(&mut self, desired: &mut DesiredState, now: Duration) -> Vec<Work> {
        while let Some(id) = self.retries.due(now) {
            desired.again(id);
        }
        let mut batch = Vec::new();
        let mut entries = 0;
        while batch.len() < self.settings.services && entries < self.settings.entries {
            let Some(work) = desired.take() else {
                break;
            };
            entries += work.service.as_deref().map_or(0, entries_of);
            batch.push(work);
        }
        self.ledger.unheld.see(desired.traffic());
        batch
    }

    /// Takes the frontends out that serve for a service that is gone, and that nobody but this one claims, for which
    /// there is no room: what they hold may be the room that it needs.
    fn make_room(&mut self, work: &Work, desired: &Mutex<DesiredState>) -> Job {
        let kept = desired.lock().keeps_if_refused(work.id, &work.frontends);
        Job::new(work.id, plan(Rows::default(), &self.ledger.orphans(work.id, &kept)))
    }

    /// There is no room for a service. It is not refused before what is in limbo now had time to become free.
    fn refuse(&mut self, job: &Job, work: &Work, refusal: Refusal, now: Duration) -> Outcome {
        if job.error.is_some() {
            // What was to be taken out for it is still there.
            self.retries.failed(job.id, now, self.settings.backoff);
        } else {
            self.retries.suspend(job.id);
        }
        self.limbo.hurry();
        if self.refused.attempts(work) <= PATIENCE && (self.in_limbo() > 0 || job.error.is_some()) {
            return Outcome::Postponed;
        }
        tracing::warn!(service = %work.name, %refusal, "a service was refused");
        self.ledger.give_up(work.id);
        Outcome::Refused(refusal)
    }

    fn judge(&mut self, job: &Job, now: Duration) -> Outcome {
        let Some(error) = job.error else {
            self.retries.succeeded(job.id);
            self.refused.waiting.remove(&job.id);
            return Outcome::Applied;
        };
        self.refused.waiting.remove(&job.id);
        let (attempts, retry_at) = self.retries.failed(job.id, now, self.settings.backoff);
        if attempts == 1 {
            tracing::warn!(%error, "a service could not be written to the tables; it will be tried again");
        }
        if matches!(error.cause, Cause::Full { .. }) {
            return Outcome::Refused(Refusal::Table(error));
        }
        Outcome::Failed(Failure { error, attempts, retry_at })
    }

    /// Backends that left frontends while others hold them: these frontends' flows to them are to go.
    pub fn take_departed(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.departed)
    }

    /// Whether a backend that left a frontend is away from it still.
    pub fn is_departed(&self, departure: &Departure) -> bool {
        self.ledger.is_departed(departure)
    }

    /// Waits for a grace period if one is due, and releases a bounded number of things whose grace period is over.
    pub fn release(&mut self, desired: &Mutex<DesiredState>, now: Duration) {
        let traffic = desired.lock().traffic();
        self.ledger.unheld.see(traffic);
        let delay = self.settings.grace_delay * if traffic.is_waiting() { 4 } else { 1 };
        if self.limbo.grace_due(delay).is_some_and(|due| due <= now) {
            match self.store.synchronize() {
                Ok(()) => self.limbo.grace_was_given(),
                Err(error) => {
                    tracing::warn!(%error, "no grace period; what was unlinked is not reused yet");
                    self.limbo.grace_was_refused(now, |attempts| self.settings.backoff.after(attempts));
                }
            }
        }
        if self.limbo.retry_due().is_some_and(|due| due <= now) {
            self.limbo.retry();
        }
        let mut budget = RELEASES;
        let mut freed = false;
        let waited = self.in_limbo() > 0;
        while budget > 0
            && let Some(release) = self.limbo.next()
        {
            let (cost, frees) = self.release_one(release, now);
            budget = budget.saturating_sub(cost);
            freed |= frees;
        }
        while budget > 0
            && let Some((family, index)) = self.ledger.next_unheld(traffic)
        {
            self.clear_generation(family, index, now);
            budget -= 1;
        }
        if freed || (waited && self.in_limbo() == 0) {
            self.refused.chances = self.refused.waiting.len();
        }
        if self.refused.chances > 0 {
            let mut desired = desired.lock();
            for id in (0..SECOND_CHANCES).map_while(|_| self.refused.next()) {
                desired.again(id);
            }
        }
    }

    /// Releases one thing; tells how many that were, and whether room became free.
    fn release_one(&mut self, release: Release, now: Duration) -> (usize, bool) {
        match release {
            Release::List(list) => {
                let mut lost = Vec::new();
                let held = self.ledger.free_list(list, |release| lost.push(release));
                for release in lost {
                    self.release_one(release, now);
                }
                (held + 1, true)
            }
            Release::Holder(family, index) => {
                if let Some(release) = self.ledger.let_go(family, index, false) {
                    self.release_one(release, now);
                }
                (1, false)
            }
            Release::Selection(family, index) => {
                // It may be gone by now, or have got another holder that sends it new flows.
                if self.ledger.is_held(family, index) {
                    let written = write_backend(family, index, &mut self.ledger, &*self.store);
                    self.succeeded(written, release, now);
                }
                (1, false)
            }
            Release::Generation(family, index) => {
                self.clear_generation(family, index, now);
                (1, false)
            }
            Release::Departure(departure) => {
                if self.ledger.is_departed(&departure) {
                    self.departed.push(departure);
                }
                (1, false)
            }
            Release::FrontendIndex(index) => {
                let cleared = self.store.counters().clear_service(index);
                let frees = self.succeeded(cleared, release, now);
                if frees {
                    self.ledger.free_frontend_index(index);
                }
                (1, frees)
            }
            Release::BackendIndex(family, index) => {
                self.ledger.free_backend_index(family, index);
                (1, true)
            }
        }
    }

    /// Clears the generation of a backend that nobody holds. A packet may have read it a moment ago and be reading the
    /// rest: only after another grace period its place is free.
    fn clear_generation(&mut self, family: IpFamily, index: u32, now: Duration) {
        let cleared = backends(family, &*self.store).store(index, &[0]);
        if self.succeeded(cleared, Release::Generation(family, index), now) {
            self.limbo.add(Release::BackendIndex(family, index), now);
        }
    }

    fn succeeded(&mut self, result: Result<(), TableError>, release: Release, now: Duration) -> bool {
        match result {
            Ok(()) => {
                self.limbo.released();
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a release failed; it will be tried again");
                self.limbo.failed(release, now, |attempts| self.settings.backoff.after(attempts));
                false
            }
        }
    }

    /// When there is something to do again.
    pub fn next_wake(&self, desired: &Mutex<DesiredState>) -> NextWake {
        // Who is unheld is released now, or else there is work.
        if self.limbo.has_next()
            || self.ledger.unheld.len() > 0
            || self.refused.chances > 0
            || desired.lock().has_work()
        {
            return NextWake::Now;
        }
        let sweep = self.next_sweep(&desired.lock()).unwrap_or(NextWake::OnChange);
        let times =
            [self.retries.next(), self.limbo.grace_due(self.settings.grace_delay), self.limbo.retry_due()];
        times.into_iter().flatten().min().map_or(NextWake::OnChange, NextWake::At).earlier(sweep)
    }
}

/// Services for which there was no room.
#[derive(Debug, Default)]
struct Refused {
    waiting: BTreeMap<ServiceId, Patience>,
    /// How many of them are to be tried again since something was released.
    chances: usize,
    /// Who was tried last.
    last: Option<ServiceId>,
}

/// How often a service was tried for the newest commit that named it.
#[derive(Debug, Default)]
struct Patience {
    newest: Option<Revision>,
    attempts: u32,
}

impl Refused {
    /// Counts an attempt, from one again where somebody has committed the service since the last.
    fn attempts(&mut self, work: &Work) -> u32 {
        let patience = self.waiting.entry(work.id).or_default();
        if work.newest() > patience.newest {
            *patience = Patience { newest: work.newest(), attempts: 0 };
        }
        patience.attempts = patience.attempts.saturating_add(1);
        patience.attempts
    }

    /// The next one in turn that is to be tried again.
    fn next(&mut self) -> Option<ServiceId> {
        self.chances = self.chances.checked_sub(1)?;
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((behind, Bound::Unbounded)).next();
        let next = next.or_else(|| self.waiting.first_key_value()).map(|(&id, _)| id);
        if next.is_none() {
            self.chances = 0;
        }
        self.last = next;
        next
    }
}

/// Services that are to be tried again at a certain time.
#[derive(Debug, Default)]
struct Retries {
    due: BTreeSet<(Duration, ServiceId)>,
    of: HashMap<ServiceId, (u32, Duration)>,
}

impl Retries {
    fn failed(&mut self, id: ServiceId, now: Duration, backoff: Backoff) -> (u32, Duration) {
        let (attempts, due) = self.of.entry(id).or_default();
        self.due.remove(&(*due, id));
        *attempts = attempts.saturating_add(1);
        *due = now + backoff.after(*attempts);
        self.due.insert((*due, id));
        (*attempts, *due)
    }

    fn succeeded(&mut self, id: ServiceId) {
        if let Some((_, due)) = self.of.remove(&id) {
            self.due.remove(&(due, id));
        }
    }

    /// Nothing is to be tried again before the next failure.
    fn suspend(&mut self, id: ServiceId) {
        if let Some((_, due)) = self.of.get(&id) {
            self.due.remove(&(*due, id));
        }
    }

    /// A service whose time has come.
    fn due(&mut self, now: Duration) -> Option<ServiceId> {
        let &(due, id) = self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, id));
        Some(id)
    }

    fn next(&self) -> Option<Duration> {
        self.due.first().map(|&(due, _)| due)
    }
}
