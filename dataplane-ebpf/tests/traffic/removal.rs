//! What connections feel of backends that go, come and drain.
//!
//! What is promised: a connection to a backend that stays never fails; one to a backend that is removed may be cut; once
//! a removal is applied, no new connection reaches that backend; one that drains keeps its connections and gets no new
//! ones.

use std::{
    io::ErrorKind,
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_testkit::{
    Raise,
    net::{
        http::{self, HttpError},
        wait_for,
    },
    require_kernel,
};

use crate::world::{Front, Hooks, PATIENCE, World};

const CLIENTS: usize = 8;
const ROUNDS: usize = 10;

/// A request that a removal can cut began no longer than this before it: each is answered sooner.
const PROMPT: Duration = Duration::from_millis(300);
/// How long all backends stand, between two removals: most requests are nobody's to cut.
const QUIET: Duration = Duration::from_millis(600);

/// A request of a client: when it began and ended, and who answered.
#[derive(Clone, Debug)]
struct Request {
    begin: Instant,
    end: Instant,
    who: Result<String, String>,
}

fn connect_over_and_over(front: Front, stop: &AtomicBool, done: &AtomicU64) -> Vec<Request> {
    let mut requests = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let who = front.ask();
        requests.push(Request { begin, end: Instant::now(), who });
        done.fetch_add(1, Ordering::Relaxed);
    }
    requests
}

fn check_removal(hooks: Hooks, front: Front) {
    let world = World::new(hooks);
    let [all, without] = [vec![0, 1, 2], vec![0, 2]]
        .map(|numbers| numbers.into_iter().map(|number| world.backend(front, number)).collect::<Vec<_>>());
    world.balance(front, all.clone());

    let (stop, done, requests) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    // From a removal's commit until it is applied, until the backend is put back.
    let mut absences: Vec<[Instant; 3]> = Vec::new();
    thread::scope(|scope| {
        let _stop = Raise(&stop);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mine = world.net.client.run(|| connect_over_and_over(front, &stop, &done));
                requests.lock().unwrap().extend(mine);
            });
        }
        let some_more = |least: Duration| {
            let (begin, target) = (Instant::now(), done.load(Ordering::Relaxed) + 5 * CLIENTS as u64);
            let more = || done.load(Ordering::Relaxed) >= target && begin.elapsed() >= least;
            wait_for(PATIENCE, "clients go on", more).unwrap();
        };
        for _ in 0..ROUNDS {
            some_more(QUIET);
            let commit = Instant::now();
            world.balance(front, without.clone());
            let applied = Instant::now();
            some_more(Duration::ZERO);
            absences.push([commit, applied, Instant::now()]);
            world.balance(front, all.clone());
        }
        some_more(QUIET);
    });
    let requests = requests.into_inner().unwrap();

    // Only a connection that was begun before a removal was applied, and was still open at its commit, can be cut. One that
    // is lost hangs for long, and is over after some removal or other: when it began is what counts.
    let excused = |begin: Instant, end: Instant| {
        absences
            .iter()
            .any(|[commit, applied, _]| begin < *applied && end > *commit && *commit < begin + PROMPT)
    };
    for request in requests.iter().filter(|request| request.who.is_err()) {
        assert!(excused(request.begin, request.end), "{request:?} of {}", requests.len());
    }
    let noticed = requests.iter().filter(|request| !excused(request.begin, request.begin + PATIENCE)).count();
    assert!(noticed * 4 > requests.len(), "only {noticed} of {} could not be lost unseen", requests.len());
    let answered =
        |name: &str| requests.iter().filter(|request| request.who.as_deref() == Ok(name)).count() as u64;
    for stayed in [0, 2] {
        let accepted = world.web[stayed].connections();
        assert_eq!(accepted, answered(&format!("backend{stayed}")), "connections to a backend that stayed");
        assert!(accepted > 0);
    }
    assert!(answered("backend1") > 0);
    for request in requests.iter().filter(|request| request.who.as_deref() == Ok("backend1")) {
        let absent =
            absences.iter().any(|[_, applied, back]| request.begin > *applied && request.end < *back);
        assert!(!absent, "{request:?} reached a backend that was removed");
    }
}

#[test]
fn tcx_cuts_no_connection_to_a_backend_that_stays() {
    require_kernel!();
    check_removal(Hooks::Tcx, Front::TCP_V4);
}

#[test]
fn xdp_cuts_no_connection_to_a_backend_that_stays() {
    require_kernel!();
    check_removal(Hooks::Xdp, Front::TCP_V6);
}

fn check_draining(hooks: Hooks, front: Front) {
    const LENGTH: u64 = 400_000;
    const RATE: u64 = 500_000;
    let world = World::new(hooks);
    world.balance(front, (0..3).map(|number| world.backend(front, number)));
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        let download = scope.spawn(|| {
            world.net.client.run(|| {
                http::download_with(front.virtual_address(), LENGTH, Some(RATE), PATIENCE, |bytes| {
                    read.store(bytes, Ordering::Relaxed);
                    ControlFlow::Continue(())
                })
            })
        });
        wait_for(PATIENCE, "the download runs", || read.load(Ordering::Relaxed) > 0).unwrap();
        let serving: Vec<usize> = (0..3).filter(|number| world.web[*number].connections() == 1).collect();
        let [serving] = serving.as_slice() else {
            panic!("one backend serves the download, not {serving:?}")
        };
        let backends = (0..3).map(|number| {
            let backend = world.backend(front, number);
            if number == *serving { backend.draining() } else { backend }
        });
        world.balance(front, backends);
        let before = read.load(Ordering::Relaxed);
        assert!(before < LENGTH, "the download was over before the backend drained");

        let who = world.ask(front, 40);
        assert!(!who.contains(&format!("backend{serving}")), "{who:?}");
        // Everybody drains: those who come anew are refused, the download goes on.
        world.balance(front, (0..3).map(|number| world.backend(front, number).draining()));
        let refused = world.net.client.run(|| http::get(front.virtual_address(), "/name", PATIENCE));
        let Err(HttpError::Connect { source, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(source.kind(), ErrorKind::ConnectionRefused);

        assert_eq!(download.join().unwrap().unwrap().bytes, LENGTH);
        assert_eq!(world.web[*serving].connections(), 1);
    });
}

#[test]
fn tcx_lets_a_draining_backend_finish() {
    require_kernel!();
    check_draining(Hooks::Tcx, Front::TCP_V6);
}

#[test]
fn xdp_lets_a_draining_backend_finish() {
    require_kernel!();
    check_draining(Hooks::Xdp, Front::TCP_V4);
}
