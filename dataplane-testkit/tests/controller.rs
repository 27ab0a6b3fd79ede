//! The controller seen from outside: threads, futures, sources, and what a change costs.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use dataplane_core::{
    ControlSource, Controller, NextWake, Revision, Running, SourceHandle, WaitError,
    abi::BackendV4,
    control::{Applied, ControllerBuilder, RunningSource},
    memory::MemoryTables,
    model::{Backend, Frontend, Protocol, Service, Weight},
    pipeline::Tick,
    source::{Precedence, SourceError, StopToken},
    state::{Phase, RegisterError, RemovalGuard},
    tables::{Capacity, Cause, Operation, Store, TableError, Tables},
};
use dataplane_testkit::{
    conformance::settle,
    faulty::{FAULT, FaultyStore},
    witness::Witness,
};
use zerocopy::{FromBytes, IntoBytes};

/// Long enough for any machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

fn tables() -> Arc<dyn Store> {
    Arc::new(MemoryTables::new(Capacity::small()))
}

fn service(n: u32, hosts: &[u8]) -> Service {
    let address = std::net::Ipv4Addr::from(0xcb00_0000 + n).into();
    let backends = hosts.iter().map(|&host| Backend::new([192, 0, 2, host].into(), 8080).unwrap());
    Service::builder(&format!("s{n}"))
        .frontend(Frontend::new(address, 80, Protocol::Tcp).unwrap())
        .backends(backends)
        .build()
        .unwrap()
}

#[test]
fn handles_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<Controller>();
    anywhere::<ControllerBuilder>();
    anywhere::<SourceHandle>();
    anywhere::<Applied>();
    anywhere::<Running>();
    anywhere::<RunningSource>();
    anywhere::<StopToken>();
    anywhere::<Arc<dyn Store>>();
    anywhere::<WaitError>();
}

#[test]
fn a_thread_applies_what_is_committed() {
    let control = Controller::new(tables()).unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    let running = control.spawn().unwrap();
    for round in 1..50u8 {
        let revision = agent.transaction().upsert(service(1, &[round])).commit().unwrap();
        control.wait_applied(revision, PATIENCE).unwrap();
        assert_eq!(control.status_of("agent", "s1").unwrap().phase, Phase::Applied);
    }
    drop(running);
    let revision = agent.transaction().upsert(service(1, &[77])).commit().unwrap();
    let timeout = control.wait_applied(revision, Duration::from_millis(1));
    assert_eq!(timeout, Err(WaitError::Timeout { revision }));
    // Somebody else may go on.
    let _running = control.spawn().unwrap();
    control.wait_applied(revision, PATIENCE).unwrap();
}

#[test]
fn waiting_says_why_it_is_in_vain() {
    let control =
        Controller::builder(tables()).removal_guard(RemovalGuard::default().at_least(1)).build().unwrap();
    let agent = control.register("agent", Precedence::new(1)).unwrap();
    agent.synced();
    let future = Revision::ZERO.next().next().next().next();
    assert_eq!(control.wait_applied(future, Duration::ZERO), Err(WaitError::Unknown { revision: future }));

    let first = agent.replace([service(1, &[1]), service(2, &[1])]).unwrap();
    settle(&control, Duration::ZERO);
    assert_eq!(control.wait_applied(first, Duration::ZERO), Ok(()));
    let held = agent.replace([]).unwrap();
    settle(&control, Duration::ZERO);
    let error = control.wait_applied(held, Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("of 2 services") && error.contains("waits to be confirmed"), "{error}");
    let confirmed = agent.confirm();
    settle(&control, Duration::ZERO);
    assert_eq!(control.wait_applied(held, Duration::ZERO), Ok(()));
    assert_eq!(control.wait_applied(confirmed, Duration::ZERO), Ok(()));

    let rival = control.register("rival", Precedence::new(0)).unwrap();
    agent.transaction().upsert(service(1, &[1])).commit().unwrap();
    let lost = rival.transaction().upsert(service(1, &[2])).commit().unwrap();
    settle(&control, Duration::ZERO);
    let error = control.wait_applied(lost, Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("203.0.0.1:80/tcp serves s1 of agent"), "{error}");

    let huge = (0..65u8).map(|host| Backend::new([198, 51, 100, host].into(), 1).unwrap());
    let frontend = Frontend::new("203.0.113.99".parse().unwrap(), 80, Protocol::Tcp).unwrap();
    let huge = Service::builder("huge").frontend(frontend).backends(huge).build().unwrap();
    let refused = agent.transaction().upsert(huge).commit().unwrap();
    settle(&control, Duration::ZERO);
    let error = control.wait_applied(refused, Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("table backends_v4 has no room"), "{error}");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_future_needs_no_runtime() {
    let control = Controller::new(tables()).unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    let revision = agent.transaction().upsert(service(1, &[1])).commit().unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut applied = pin!(control.applied(revision));
    assert_eq!(applied.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(applied.as_mut().poll(&mut context), Poll::Pending);
    let given_up = control.applied(revision);
    drop(given_up);
    settle(&control, Duration::ZERO);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(applied.as_mut().poll(&mut context), Poll::Ready(Ok(())));
}

/// Takes its time with grace periods, and notes whether the revision was applied before the first began.
struct SlowGrace {
    inner: Arc<MemoryTables>,
    graces: AtomicU64,
}

impl Store for SlowGrace {
    fn tables(&self) -> Tables<'_> {
        self.inner.tables()
    }

    fn synchronize(&self) -> Result<(), TableError> {
        self.graces.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn now(&self) -> Tick {
        self.inner.now()
    }
}

#[test]
fn many_changes_share_a_grace_period_and_nobody_waits_for_it() {
    let inner = Arc::new(MemoryTables::new(Capacity { slots: 1 << 12, ..Capacity::small() }));
    let store = Arc::new(SlowGrace { inner, graces: AtomicU64::new(0) });
    let control = Controller::builder(store.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    let mut now = Duration::ZERO;
    // One that it began with.
    assert_eq!(store.graces.swap(0, Ordering::Relaxed), 1);
    agent.replace((0..20).map(|n| service(n, &[1, 2]))).unwrap();
    now = settle(&control, now);
    assert_eq!(store.graces.load(Ordering::Relaxed), 0);
    for host in 3..13 {
        let revision = agent.replace((0..20).map(|n| service(n, &[host]))).unwrap();
        now += Duration::from_millis(1);
        control.step(now);
        assert_eq!(control.wait_applied(revision, Duration::ZERO), Ok(()));
    }
    assert_eq!(store.graces.load(Ordering::Relaxed), 0);
    settle(&control, now);
    // One for the lists, one more for the places of the backends.
    assert_eq!(store.graces.load(Ordering::Relaxed), 2);
    assert_eq!(control.usage().backends_v4, 1);
}

#[test]
fn a_failure_is_told_with_table_and_errno_and_stops_no_other_service() {
    let store = Arc::new(FaultyStore::new(tables(), 0, 0));
    let control = Controller::new(store.clone()).unwrap();
    store.fail_one_in(1);
    let agent = control.register("agent", Precedence::default()).unwrap();
    let revision = agent.transaction().upsert(service(1, &[1])).commit().unwrap();
    let NextWake::At(retry) = control.step(Duration::ZERO) else { panic!("a retry has a time") };
    assert_eq!(retry, Duration::from_millis(10));
    let status = control.status_of("agent", "s1").unwrap();
    let failure = status.failure.unwrap();
    assert_eq!((status.phase, failure.attempts, failure.retry_at), (Phase::Pending, 1, retry));
    assert_eq!(failure.error.table, "backends_v4");
    assert!(failure.error.to_string().contains(&format!("os error {FAULT}")), "{}", failure.error);
    // Twice as long after the second failure; and nothing is tried before.
    let writes = store.writes();
    assert_eq!(control.step(retry / 2), NextWake::At(retry));
    assert_eq!(store.writes(), writes);
    assert_eq!(control.step(retry), NextWake::At(3 * retry));
    store.heal();
    let other = agent.transaction().upsert(service(2, &[2])).commit().unwrap();
    control.step(retry);
    assert_eq!(control.wait_applied(other, Duration::ZERO), Ok(()));
    assert!(control.wait_applied(revision, Duration::ZERO).is_err());
    settle(&control, 3 * retry);
    assert_eq!(control.wait_applied(revision, Duration::ZERO), Ok(()));
    assert_eq!(control.status_of("agent", "s1").unwrap().failure, None);
}

/// Wants one service, and comes to an end when it is told to.
struct Constant {
    ended: Arc<AtomicBool>,
    fails: bool,
}

impl ControlSource for Constant {
    fn name(&self) -> &str {
        "constant"
    }

    fn run(self: Box<Self>, handle: SourceHandle, stop: StopToken) -> Result<(), SourceError> {
        handle.replace([service(7, &[1])])?;
        handle.synced();
        if self.fails {
            return Err("the world has ended".into());
        }
        stop.wait_forever();
        self.ended.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_source_runs_and_stops_and_comes_back() {
    let control = Controller::new(tables()).unwrap();
    let _running = control.spawn().unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let source = |fails| Box::new(Constant { ended: ended.clone(), fails });
    let running = control.run_source(source(false), Precedence::default()).unwrap();
    let taken = control.run_source(source(false), Precedence::default());
    assert!(matches!(taken, Err(RegisterError::Taken { .. })), "{taken:?}");
    running.stop().unwrap();
    assert!(ended.load(Ordering::Relaxed));
    // What it said last stays; and another of its name may come.
    assert!(control.status_of("constant", "s7").is_some());
    let running = control.run_source(source(true), Precedence::default()).unwrap();
    assert_eq!(running.stop().unwrap_err().to_string(), "the world has ended");
}

#[test]
fn one_change_among_many_touches_no_other_service() {
    const SERVICES: u32 = 20_000;
    let capacity = Capacity {
        frontends: 1 << 16,
        slots: 1 << 20,
        backends: 1 << 12,
        conntrack: 8,
        opening: 8,
        nat: 8,
        affinity: 8,
        fragments: 8,
    };
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryTables::new(capacity)), 0, 0));
    let control = Controller::new(store.clone()).unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace((0..SERVICES).map(|n| service(n, &[(n % 200) as u8, 201]))).unwrap();
    settle(&control, Duration::ZERO);
    let cost = |change: &dyn Fn()| {
        let before = store.writes();
        change();
        control.step(Duration::ZERO);
        store.writes() - before
    };
    let upsert = |hosts: &[u8]| {
        agent.transaction().upsert(service(77, hosts)).commit().unwrap();
    };
    // A list and a word; with a backend that nobody had, that too.
    assert_eq!(cost(&|| upsert(&[5, 6])), 2);
    assert_eq!(cost(&|| upsert(&[5, 250])), 3);
    // The same once more, in another order: nothing.
    assert_eq!(cost(&|| upsert(&[250, 5])), 0);
    // The same picture once more, but for the one that was changed: its list and its word.
    let picture = || {
        agent.replace((0..SERVICES).map(|n| service(n, &[(n % 200) as u8, 201]))).unwrap();
        while control.step(Duration::ZERO) == NextWake::Now {}
    };
    assert_eq!(cost(&picture), 2);
    assert_eq!(cost(&picture), 0);
    // Its entry in the hash, its address's, and its word.
    let remove = || {
        agent.transaction().remove(service(78, &[]).name()).commit().unwrap();
    };
    assert_eq!(cost(&remove), 3);
}

/// Needs almost all lines of the slot table and almost all backends: a second one fits only where the first was.
fn large(port: u16) -> Service {
    large_from(port, 0)
}

/// The same, with other backends for another `first`.
fn large_from(port: u16, first: u8) -> Service {
    let backends = (first..first + 60).map(|host| {
        let weight = Weight::new(if host == first { 1 } else { 16 }).unwrap();
        Backend::new([192, 0, port as u8, host].into(), 8080).unwrap().with_weight(weight)
    });
    let frontend = Frontend::new("203.0.113.9".parse().unwrap(), port, Protocol::Tcp).unwrap();
    Service::builder(&format!("large{port}")).frontend(frontend).backends(backends).build().unwrap()
}

#[test]
fn room_that_is_about_to_be_free_is_waited_for() {
    let control = Controller::builder(tables()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    let mut now = Duration::ZERO;
    for port in 1..10 {
        let revision = agent.replace([large(port)]).unwrap();
        now = settle(&control, now);
        assert_eq!(control.wait_applied(revision, Duration::ZERO), Ok(()), "port {port}");
    }
}

/// Steps to the end; whoever looks in between is never told that the revision is incomplete.
fn is_applied_in_the_end(control: &Controller, revision: Revision, mut now: Duration) -> Duration {
    loop {
        let wake = control.step(now);
        match control.wait_applied(revision, Duration::ZERO) {
            Ok(()) => return now,
            Err(WaitError::Timeout { .. }) => {}
            Err(error) => panic!("it was given up before what makes room for it was free: {error}"),
        }
        match wake {
            NextWake::Now => {}
            NextWake::At(time) => now = now.max(time),
            other => panic!("{other:?}: nobody goes on"),
        }
    }
}

#[test]
fn each_commit_of_a_service_has_its_own_time_to_find_room() {
    let control = Controller::builder(tables()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large(1)]).unwrap();
    let mut now = settle(&control, Duration::ZERO);
    for _ in 0..5 {
        let refused = agent.transaction().upsert(large(2)).commit().unwrap();
        now = settle(&control, now);
        let error = control.wait_applied(refused, Duration::ZERO).unwrap_err();
        assert!(matches!(error, WaitError::Incomplete { services: 1, .. }), "{error}");
    }
    let revision = agent.transaction().remove(large(1).name()).upsert(large(2)).commit().unwrap();
    is_applied_in_the_end(&control, revision, now);
}

#[test]
fn a_commit_that_changes_nothing_renews_the_time_to_find_room() {
    let store = Arc::new(FaultyStore::new(tables(), 0, 0));
    let control = Controller::builder(store.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large(1), service(1, &[1])]).unwrap();
    let mut now = settle(&control, Duration::ZERO);
    // What was removed waits for a grace period that does not come, and so does the large one.
    agent.transaction().remove(service(1, &[]).name()).commit().unwrap();
    control.step(now);
    store.fail_one_in(1);
    for first in [2, 1, 0] {
        let postponed = agent.transaction().upsert(large_from(2, first)).commit().unwrap();
        now += Duration::from_millis(1);
        control.step(now);
        let error = control.wait_applied(postponed, Duration::ZERO).unwrap_err();
        assert_eq!(error, WaitError::Timeout { revision: postponed });
    }
    store.heal();
    let revision = agent.transaction().remove(large(1).name()).upsert(large(2)).commit().unwrap();
    is_applied_in_the_end(&control, revision, now);
}

/// Where the backend with this host number stands, and its generation.
fn place_of(tables: &dyn Store, third: u8, host: u8) -> Vec<(u32, u32)> {
    let array = tables.backends_v4();
    let rows = (0..array.capacity()).map(|index| {
        let words = [array.load(index, 0).unwrap(), array.load(index, 1).unwrap()];
        (index, BackendV4::read_from_bytes(words.as_bytes()).unwrap())
    });
    rows.filter(|(_, row)| {
        row.generation != 0 && row.address == std::net::Ipv4Addr::new(192, 0, third, host).into()
    })
    .map(|(index, row)| (index, row.generation))
    .collect()
}

#[test]
fn a_backend_that_changes_hands_keeps_its_place_however_long_the_transaction_takes() {
    // The one that gives comes before the one that takes, and behind it; and others stand between them.
    for giver_is_first in [true, false] {
        let tables = tables();
        let control = Controller::builder(tables.clone())
            .removal_guard(RemovalGuard::off())
            .services_per_step(1)
            .build()
            .unwrap();
        let agent = control.register("agent", Precedence::default()).unwrap();
        agent.synced();
        agent.replace([service(1, &[7, 1]), service(2, &[3]), service(3, &[2])]).unwrap();
        let mut now = settle(&control, Duration::ZERO);
        let place = place_of(&*tables, 2, 7);
        assert_eq!(place.len(), 1);

        let mut services = [service(1, &[1]), service(2, &[4]), service(3, &[2, 7])];
        if !giver_is_first {
            services.reverse();
        }
        let revision = agent.replace(services).unwrap();
        let mut steps = 0;
        while control.wait_applied(revision, Duration::ZERO).is_err() {
            // Grace periods are due between one step and the next.
            now += Duration::from_secs(5);
            control.step(now);
            assert_eq!(place_of(&*tables, 2, 7), place, "the giver first: {giver_is_first}");
            steps += 1;
        }
        assert_eq!(steps, 3, "each service has its own step");
        settle(&control, now);
        assert_eq!(place_of(&*tables, 2, 7), place, "the giver first: {giver_is_first}");
        // Nobody keeps it when it goes.
        agent.replace([]).unwrap();
        settle(&control, now);
        assert_eq!(place_of(&*tables, 2, 7), []);
    }
}

#[test]
fn a_backend_keeps_its_place_while_who_takes_it_waits_for_room() {
    let tables = tables();
    let control = Controller::builder(tables.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    // Two pictures that share 20 backends, and whose lists have no room beside each other.
    let heir = Service::builder("heir")
        .frontend(Frontend::new("203.0.113.9".parse().unwrap(), 99, Protocol::Tcp).unwrap())
        .backends(large_from(1, 40).backends().iter().cloned())
        .build()
        .unwrap();
    agent.replace([large_from(1, 0)]).unwrap();
    let now = settle(&control, Duration::ZERO);
    let places: Vec<_> = (40..60).map(|host| place_of(&*tables, 1, host)).collect();
    assert!(places.iter().all(|place| place.len() == 1), "{places:?}");

    let revision = agent.replace([heir]).unwrap();
    control.step(now);
    let unready = control.wait_applied(revision, Duration::ZERO);
    assert_eq!(unready, Err(WaitError::Timeout { revision }), "there is no room yet");
    let now = is_applied_in_the_end(&control, revision, now);
    settle(&control, now);
    let after: Vec<_> = (40..60).map(|host| place_of(&*tables, 1, host)).collect();
    assert_eq!(after, places);
    assert_eq!(control.usage().backends_v4, 60);
}

#[test]
fn who_is_refused_for_good_keeps_no_backend_of_others() {
    let tables = tables();
    let control = Controller::builder(tables.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large_from(1, 0), service(1, &[7])]).unwrap();
    let now = settle(&control, Duration::ZERO);
    let heir = Service::builder("heir")
        .frontend(Frontend::new("203.0.113.9".parse().unwrap(), 99, Protocol::Tcp).unwrap())
        .backends(large_from(1, 40).backends().iter().cloned())
        .backend(Backend::new([192, 0, 2, 7].into(), 8080).unwrap())
        .build()
        .unwrap();
    let revision = agent.replace([large_from(1, 0), heir]).unwrap();
    settle(&control, now);
    let refused = control.wait_applied(revision, Duration::ZERO);
    assert!(matches!(refused, Err(WaitError::Incomplete { .. })), "{refused:?}");
    assert_eq!(place_of(&*tables, 2, 7), []);
    assert_eq!(control.usage().backends_v4, 60);
}

#[test]
fn who_needs_room_does_not_wait_for_others_to_share_a_grace_period() {
    let control = Controller::builder(tables())
        .removal_guard(RemovalGuard::off())
        .grace_delay(Duration::from_secs(3600))
        .build()
        .unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large(1)]).unwrap();
    while control.step(Duration::ZERO) == NextWake::Now {}
    let revision = agent.replace([large(2)]).unwrap();
    // No time passes.
    while control.step(Duration::ZERO) == NextWake::Now {}
    assert_eq!(control.wait_applied(revision, Duration::ZERO), Ok(()));
}

#[test]
fn of_very_many_revisions_that_wait_for_one_service_the_oldest_are_overtaken() {
    let control = Controller::new(tables()).unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    let commit = |n: u32| agent.transaction().upsert(service(1, &[(n % 2) as u8])).commit().unwrap();
    let revisions: Vec<Revision> = (0..4097).map(commit).collect();
    let outcome = |n: usize| control.wait_applied(revisions[n], Duration::ZERO);
    // Nobody stepped; the memory that it takes is bounded.
    assert_eq!(outcome(0), Ok(()));
    assert_eq!(outcome(1), Err(WaitError::Timeout { revision: revisions[1] }));
    assert_eq!(outcome(4096), Err(WaitError::Timeout { revision: revisions[4096] }));
    settle(&control, Duration::ZERO);
    assert_eq!((outcome(1), outcome(4096)), (Ok(()), Ok(())));
}

/// No grace period can be had as often as it is told.
struct Refusing {
    inner: Arc<MemoryTables>,
    refusals: AtomicU64,
}

impl Store for Refusing {
    fn tables(&self) -> Tables<'_> {
        self.inner.tables()
    }

    fn synchronize(&self) -> Result<(), TableError> {
        let left =
            self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(TableError::new("grace", Operation::Synchronize, Cause::System { errno: FAULT })),
            Err(_) => Ok(()),
        }
    }

    fn now(&self) -> Tick {
        self.inner.now()
    }
}

/// Steps without any time passing, for as long as there is something to do.
fn step_at(control: &Controller, now: Duration) -> NextWake {
    for _ in 0..1000 {
        match control.step(now) {
            NextWake::Now => {}
            wake => return wake,
        }
    }
    panic!("it does not come to rest at {now:?}");
}

#[test]
fn a_grace_period_that_cannot_be_had_is_asked_for_twice_as_late_each_time() {
    let inner = Arc::new(MemoryTables::new(Capacity::small()));
    let store = Arc::new(Refusing { inner, refusals: AtomicU64::new(0) });
    let control = Controller::builder(store.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    let mut now = Duration::ZERO;
    // The second time as the first: a grace period that was given makes up for those that were not.
    for _ in 0..2 {
        agent.replace([service(1, &[1])]).unwrap();
        now = settle(&control, now);
        agent.replace([]).unwrap();
        store.refusals.store(4, Ordering::Relaxed);
        let NextWake::At(due) = step_at(&control, now) else { panic!("a grace period has a time") };
        now = due;
        for milliseconds in [10, 20, 40, 80] {
            let next = now + Duration::from_millis(milliseconds);
            assert_eq!(step_at(&control, now), NextWake::At(next));
            now = next;
        }
        assert_eq!(store.refusals.load(Ordering::Relaxed), 0);
        assert_eq!(control.usage().backends_v4, 1, "nothing is free without a grace period");
        now = settle(&control, now);
        assert_eq!(control.usage().backends_v4, 0);
    }
}

#[test]
fn who_is_refused_is_not_tried_again_by_the_clock() {
    let store = Arc::new(FaultyStore::new(tables(), 0, 0));
    let control = Controller::builder(store.clone()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large(1)]).unwrap();
    let now = settle(&control, Duration::ZERO);
    // It fails first, when there is room for it; then it grows, and there is none.
    store.fail_one_in(1);
    let small = Service::builder(large(2).name().as_str()).frontends(large(2).frontends().to_vec()).build();
    agent.transaction().upsert(small.unwrap()).commit().unwrap();
    let retry = step_at(&control, now);
    assert_eq!(retry, NextWake::At(now + Duration::from_millis(10)));
    store.heal();
    agent.transaction().upsert(large(2)).commit().unwrap();
    assert_eq!(step_at(&control, now), NextWake::OnChange);
    assert!(matches!(control.status_of("agent", "large2").unwrap().phase, Phase::Refused(_)));
}

#[test]
fn room_that_becomes_free_is_for_all_who_were_refused() {
    let control = Controller::builder(tables()).removal_guard(RemovalGuard::off()).build().unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    agent.replace([large(1)]).unwrap();
    let mut now = settle(&control, Duration::ZERO);
    let small = |n: u32| service(n, &[(10 * n) as u8, (10 * n + 1) as u8, (10 * n + 2) as u8]);
    let phases = || [2, 3, 4, 5].map(|n| control.status_of("agent", &format!("s{n}")).unwrap().phase);
    let revision = agent.transaction().upserts([2, 3, 4, 5].map(small)).commit().unwrap();
    now = settle(&control, now);
    let refused = phases().into_iter().filter(|phase| matches!(phase, Phase::Refused(_))).count();
    assert_eq!(refused, 3, "four places are free, and each needs three: {:?}", phases());
    agent.transaction().remove(large(1).name()).commit().unwrap();
    settle(&control, now);
    assert_eq!(phases(), [const { Phase::Applied }; 4]);
    assert_eq!(control.wait_applied(revision, Duration::ZERO), Ok(()));
}

/// The witness panics where a backend's place is another's before a grace period.
#[test]
fn a_place_is_given_to_another_only_after_a_grace_period_of_its_own() {
    let inner = Arc::new(MemoryTables::new(Capacity::small()));
    let store = Arc::new(SlowGrace { inner, graces: AtomicU64::new(0) });
    let control = Controller::builder(Arc::new(Witness::new(store.clone())))
        .removal_guard(RemovalGuard::off())
        .build()
        .unwrap();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    assert_eq!(store.graces.swap(0, Ordering::Relaxed), 1);
    agent.replace([large(1)]).unwrap();
    let now = settle(&control, Duration::ZERO);
    assert_eq!(store.graces.load(Ordering::Relaxed), 0);
    // Its backends need the places of those that go.
    let revision = agent.replace([large(2)]).unwrap();
    is_applied_in_the_end(&control, revision, now);
    assert_eq!(store.graces.load(Ordering::Relaxed), 2, "one for the list, one for the places");
}
