//! The controller itself.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    Applied, Running, RunningSource, WaitError,
    signal::Signal,
    wait::{Wakers, outcome},
};
use crate::{
    collect::{Collected, Collector, NatUsage},
    reconcile::{Engine, NextWake, Settings, Usage},
    source::{
        Changes, CommitError, ControlSource, Inbox, OwnerName, Precedence, Revision, SourceHandle, StopToken,
    },
    state::{DesiredState, RegisterError, RemovalGuard, ServiceStatus},
    tables::{Claimed, Store, TableError},
};

/// Takes what sources want and keeps the tables to it. Clones are the same controller.
///
/// It starts no thread and does no I/O but on the tables: in [`Controller::step`], and when it is made.
///
/// Tables that are not empty it goes on with. What another run wrote serves on, and nothing of it goes before every source
/// that is registered is synced; so all of them are to be registered before the first one is. What a source says that is
/// there already costs no write: frontends keep their counters, backends their flows. Then what nobody named goes, unless
/// it is most of what served: that is held back, as by the [guard](RemovalGuard), until somebody confirms.
///
/// Only one controller at a time has tables; it has them until the last clone, source and thread of it is dropped.
#[derive(Clone)]
pub struct Controller {
    pub(super) shared: Arc<Shared>,
}

/// From one round of the collector to the next.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);

/// Tells a time that never goes back.
pub(super) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

pub(super) struct Shared {
    pub desired: Mutex<DesiredState>,
    pub engine: Mutex<Engine>,
    pub collector: Mutex<Collector>,
    pub finished: Condvar,
    pub wakers: Wakers,
    pub changed: Signal,
    pub clock: Clock,
    /// Given back last.
    _claimed: Claimed,
}

/// Why there is no controller of these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Another one has them.
    #[error(
        "another controller of this process writes to these tables: drop it first, with its sources and its threads"
    )]
    Claimed,
    /// They can't be read, or what a killed program left there can't be mended.
    #[error("cannot go on from what is in the tables")]
    Table(#[from] TableError),
}

/// Settings of a controller.
#[must_use]
pub struct ControllerBuilder {
    store: Arc<dyn Store>,
    guard: RemovalGuard,
    settings: Settings,
    collect_interval: Duration,
    clock: Option<Clock>,
}

impl ControllerBuilder {
    /// When so much is removed that it is held back until it is confirmed.
    pub fn removal_guard(mut self, guard: RemovalGuard) -> Self {
        self.guard = guard;
        self
    }

    /// How long what was unlinked waits for more before a grace period is waited for: 100 ms by default. While it
    /// waits it takes room in the tables; while the grace period lasts, changes wait.
    pub fn grace_delay(mut self, delay: Duration) -> Self {
        self.settings.grace_delay = delay;
        self
    }

    /// How many services one step writes: 1024 by default, 1 at least.
    pub fn services_per_step(mut self, services: usize) -> Self {
        self.settings.services = services.max(1);
        self
    }

    /// What Maglev tables, and the hashes that find places in them, are made with: 0 by default. Hosts that shall choose
    /// the same backends must have the same seed. Who knows it can find flows that go to a backend
    /// of their choice.
    pub fn maglev_seed(mut self, seed: u64) -> Self {
        self.settings.maglev_seed = seed;
        self
    }

    /// From the beginning of one round of the collector to that of the next: 5 s by default, 1 s at least. An entry whose
    /// time is over is gone two rounds later at the latest.
    pub fn collect_interval(mut self, interval: Duration) -> Self {
        self.collect_interval = interval;
        self
    }

    /// What time it is, since any beginning: for the guard against mass removal and for threads. By default the time
    /// since the controller was made.
    pub fn clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Makes the controller. Cost: linear in the tables' capacities, and a grace period: in the kernel some 10 ms for empty
    /// tables of the default size, some 100 ms for others.
    ///
    /// # Errors
    /// [`ControllerError`]. What serves goes on to.
    pub fn build(self) -> Result<Controller, ControllerError> {
        let Self { store, guard, settings, collect_interval, clock } = self;
        let claimed = Claimed::new(&store).ok_or(ControllerError::Claimed)?;
        let clock = clock.unwrap_or_else(|| {
            let start = Instant::now();
            Arc::new(move || start.elapsed())
        });
        Ok(Controller {
            shared: Arc::new(Shared {
                desired: Mutex::new(DesiredState::new(guard)),
                collector: Mutex::new(Collector::new(store.clone(), collect_interval)),
                engine: Mutex::new(Engine::new(store, settings)?),
                finished: Condvar::new(),
                wakers: Wakers::default(),
                changed: Signal::default(),
                clock,
                _claimed: claimed,
            }),
        })
    }
}

impl Controller {
    /// A controller of these tables, with the default settings.
    ///
    /// # Errors
    /// As [`ControllerBuilder::build`].
    pub fn new(store: Arc<dyn Store>) -> Result<Self, ControllerError> {
        Self::builder(store).build()
    }

    /// A controller of these tables.
    pub fn builder(store: Arc<dyn Store>) -> ControllerBuilder {
        ControllerBuilder {
            store,
            guard: RemovalGuard::default(),
            settings: Settings::default(),
            collect_interval: COLLECT_INTERVAL,
            clock: None,
        }
    }

    /// Adds a source, or lets one of this name come back.
    ///
    /// # Errors
    /// [`RegisterError::Taken`] while the handle of a source of this name lives.
    pub fn register(&self, name: &str, precedence: Precedence) -> Result<SourceHandle, RegisterError> {
        let owner = self.shared.desired.lock().register(name, precedence)?;
        self.shared.changed.raise();
        Ok(SourceHandle::new(owner, self.shared.clone()))
    }

    /// Registers a source and runs it on a thread of its own.
    ///
    /// # Errors
    /// [`RegisterError::Taken`] while a source of this name is registered; [`RegisterError::Thread`].
    pub fn run_source(
        &self,
        source: Box<dyn ControlSource>,
        precedence: Precedence,
    ) -> Result<RunningSource, RegisterError> {
        let handle = self.register(source.name(), precedence)?;
        RunningSource::start(source, handle, StopToken::new())
            .map_err(|error| RegisterError::Thread { error: error.kind() })
    }

    /// Does a bounded amount of work: writes what was committed to the tables, up to 1024 services; then, where one is
    /// due, waits for one grace period, and releases what was unlinked before it. `now` must never go back.
    ///
    /// Whoever waits for a revision is told before the grace period begins.
    pub fn step(&self, now: Duration) -> NextWake {
        self.shared.changed.look();
        let done = self.shared.engine.lock().program(&self.shared.desired, now);
        // Without the lock: whoever is woken may call us.
        if done.finished {
            self.shared.finished.notify_all();
            self.shared.wakers.wake(&self.shared.desired);
        }
        let mut engine = self.shared.engine.lock();
        engine.release(&self.shared.desired, now);
        let departed = engine.take_departed();
        if !departed.is_empty() {
            let mut collector = self.shared.collector.lock();
            departed.into_iter().for_each(|departure| collector.revoke(departure));
        }
        engine.next_wake(&self.shared.desired)
    }

    /// Takes entries of flows that are over out of conntrack: one slice of a round, if one is due, of some hundreds of
    /// entries. Who does not [`spawn`](Self::spawn) calls it beside [`step`](Self::step), after it and when the time comes
    /// that it returns. `now` must never go back.
    pub fn collect(&self, now: Duration) -> NextWake {
        // No backend comes back while the slice lasts.
        let engine = self.shared.engine.lock();
        let mut collector = self.shared.collector.lock();
        collector.spare(|departure| engine.is_departed(departure));
        collector.step(now)
    }

    /// What the collector has done so far.
    pub fn collected(&self) -> Collected {
        self.shared.collector.lock().done()
    }

    /// How many ports source NAT has lent on each address of this host, as of the collector's last whole round: every
    /// address that ever lent one, IPv4 first. Cost: linear in the addresses.
    pub fn nat_usage(&self) -> Vec<NatUsage> {
        self.shared.collector.lock().nat_usage()
    }

    /// Steps and collects on one thread that sleeps until there is something to do. Dropping what this returns ends it.
    ///
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn spawn(&self) -> std::io::Result<Running> {
        Running::start(self.clone())
    }

    /// Waits until something was committed since the last step began, but not for longer than `timeout`. For those who
    /// step on a thread of their own.
    pub fn wait_for_change(&self, timeout: Duration) {
        let changed = &self.shared.changed;
        changed.wait(changed.seen(), Some(timeout));
    }

    /// The time on this controller's clock.
    pub fn now(&self) -> Duration {
        (self.shared.clock)()
    }

    /// Waits until everything that a commit changed is in the tables. Somebody else must step.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_applied(&self, revision: Revision, timeout: Duration) -> Result<(), WaitError> {
        let mut desired = self.shared.desired.lock();
        self.shared.finished.wait_while_for(
            &mut desired,
            |desired| outcome(desired, revision).is_none(),
            timeout,
        );
        outcome(&desired, revision).unwrap_or(Err(WaitError::Timeout { revision }))
    }

    /// The same as a future.
    pub fn applied(&self, revision: Revision) -> Applied {
        Applied::new(self.shared.clone(), revision)
    }

    /// Lets through what is held back of an owner, because it removes so much.
    pub fn confirm(&self, owner: &OwnerName) -> Revision {
        self.shared.confirm(owner)
    }

    /// The status of all services. Cost: linear in them.
    pub fn status(&self) -> Vec<ServiceStatus> {
        self.shared.desired.lock().status()
    }

    /// The status of one service.
    pub fn status_of(&self, owner: &str, service: &str) -> Option<ServiceStatus> {
        self.shared.desired.lock().status_of(owner, service)
    }

    /// Whether what stood in the tables at the beginning and was not named is held back, because it is most of what served:
    /// until somebody [confirms](Self::confirm). [`Usage::unclaimed`] says how many frontends that are.
    pub fn holds_unclaimed_back(&self) -> bool {
        self.shared.engine.lock().holds_found_back()
    }

    /// How much of the tables is taken.
    pub fn usage(&self) -> Usage {
        self.shared.engine.lock().usage()
    }
}

impl Inbox for Shared {
    fn commit(&self, owner: &OwnerName, changes: Changes) -> Result<Revision, CommitError> {
        let now = (self.clock)();
        let revision = self.desired.lock().commit(owner, changes, now)?;
        self.changed.raise();
        Ok(revision)
    }

    fn synced(&self, owner: &OwnerName) -> Revision {
        let now = (self.clock)();
        let revision = self.desired.lock().synced(owner, now);
        self.changed.raise();
        revision
    }

    fn confirm(&self, owner: &OwnerName) -> Revision {
        let revision = self.desired.lock().confirm(owner);
        self.changed.raise();
        revision
    }

    fn release(&self, owner: &OwnerName) {
        self.desired.lock().release(owner);
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("revision", &self.shared.desired.lock().revision())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ControllerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerBuilder").field("guard", &self.guard).finish_non_exhaustive()
    }
}
