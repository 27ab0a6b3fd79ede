//! Transactions, conflicts, the barrier and the guard, without tables.

use std::time::Duration;

use super::{
    Conflict, DesiredState, HeldBack, Outcome, Phase, Progress, Refusal, RegisterError, RemovalGuard,
    ServiceStatus,
};
use crate::{
    model::{Backend, Frontend, Protocol, Service, ServiceName},
    source::{Changes, CommitError, ObjectName, OwnerName, Precedence, Revision},
};

const NOW: Duration = Duration::ZERO;

fn frontend(port: u16) -> Frontend {
    Frontend::new("203.0.113.1".parse().unwrap(), port, Protocol::Tcp).unwrap()
}

/// A service on these ports of one address, with so many backends.
fn service(name: &str, ports: &[u16], backends: u16) -> Service {
    let backend = |port| Backend::new("192.0.2.1".parse().unwrap(), 1000 + port).unwrap();
    Service::builder(name)
        .frontends(ports.iter().copied().map(frontend))
        .backends((0..backends).map(backend))
        .build()
        .unwrap()
}

fn upserts(services: impl IntoIterator<Item = Service>) -> Changes {
    Changes { upserts: services.into_iter().collect(), ..Changes::default() }
}

fn picture(services: impl IntoIterator<Item = Service>) -> Changes {
    Changes { full_picture: true, ..upserts(services) }
}

fn removal(name: &str) -> Changes {
    Changes { removals: vec![ServiceName::new(name).unwrap()], ..Changes::default() }
}

struct World {
    state: DesiredState,
}

impl World {
    fn new() -> Self {
        Self::guarded(RemovalGuard::off())
    }

    fn guarded(guard: RemovalGuard) -> Self {
        Self { state: DesiredState::new(guard) }
    }

    fn owner(&mut self, name: &str, precedence: i32) -> OwnerName {
        let owner = self.state.register(name, Precedence::new(precedence)).unwrap();
        self.state.synced(&owner, NOW);
        owner
    }

    fn commit(&mut self, owner: &OwnerName, changes: Changes) -> Revision {
        self.state.commit(owner, changes, NOW).unwrap()
    }

    /// Puts everything into tables that have room for all but `refused`.
    fn apply_but(&mut self, refused: &str) {
        while let Some(work) = self.state.take() {
            let outcome = if work.name.as_str() == refused && work.service.is_some() {
                Outcome::Refused(Refusal::NoRoom { table: "slots", needed: 9, free: 0, capacity: 8 })
            } else {
                Outcome::Applied
            };
            self.state.settle(work, outcome);
        }
    }

    fn apply(&mut self) {
        self.apply_but("");
    }

    fn status(&self, owner: &str, name: &str) -> ServiceStatus {
        self.state.status_of(owner, name).unwrap()
    }

    fn phase(&self, owner: &str, name: &str) -> Phase {
        self.status(owner, name).phase
    }

    /// The owner and name of who has a port.
    fn winner(&self, port: u16) -> Option<String> {
        let id = self.state.claims.winner(&frontend(port))?;
        let object = self.state.objects.get(id.0)?;
        Some(format!("{}/{}", self.state.owners[object.owner].name, object.name))
    }
}

fn other(owner: &str, service: &str) -> ObjectName {
    ObjectName::new(OwnerName::new(owner).unwrap(), ServiceName::new(service).unwrap())
}

#[test]
fn precedence_decides_a_conflict_and_both_are_told() {
    // Who wins by precedence, then by name, in whichever order they come.
    for (first, second, winner) in [
        (("a", 1), ("b", 2), "b"),
        (("a", 2), ("b", 1), "a"),
        (("b", 1), ("a", 2), "a"),
        (("a", 5), ("b", 5), "a"),
        (("b", 5), ("a", 5), "a"),
    ] {
        let mut world = World::new();
        let loser = if winner == first.0 { second.0 } else { first.0 };
        for (name, precedence) in [first, second] {
            let owner = world.owner(name, precedence);
            world.commit(&owner, upserts([service("web", &[80], 1)]));
            world.apply();
        }
        assert_eq!(world.winner(80), Some(format!("{winner}/web")), "{first:?} {second:?}");
        let conflict = |with, won| vec![Conflict { frontend: frontend(80), with: other(with, "web"), won }];
        let status = world.status(winner, "web");
        assert_eq!((status.phase, status.conflicts), (Phase::Applied, conflict(loser, true)));
        let status = world.status(loser, "web");
        assert_eq!((status.phase, status.conflicts), (Phase::Conflict, conflict(winner, false)));

        let winner = OwnerName::new(winner).unwrap();
        let revision = world.commit(&winner, removal("web"));
        world.apply();
        assert_eq!(world.winner(80), Some(format!("{loser}/web")));
        let status = world.status(loser, "web");
        assert_eq!((status.phase, status.conflicts), (Phase::Applied, vec![]));
        assert_eq!(world.state.progress(revision), Progress::Applied);
    }
}

#[test]
fn a_loser_keeps_what_is_its_own_and_takes_over_what_is_left() {
    let mut world = World::new();
    let (a, b, c) = (world.owner("a", 3), world.owner("b", 2), world.owner("c", 1));
    let revision = world.commit(&c, upserts([service("web", &[80, 81, 82], 1)]));
    world.apply();
    assert_eq!(world.state.progress(revision), Progress::Applied);
    world.commit(&b, upserts([service("web", &[80, 81], 1)]));
    world.commit(&a, upserts([service("web", &[80], 1)]));
    world.apply();
    assert_eq!([80, 81, 82].map(|port| world.winner(port).unwrap()), ["a/web", "b/web", "c/web"]);
    // Losers have no quarrel with each other.
    let with: Vec<_> = world.status("c", "web").conflicts.into_iter().map(|c| (c.frontend, c.with)).collect();
    assert_eq!(with, [(frontend(80), other("a", "web")), (frontend(81), other("b", "web"))]);

    world.commit(&a, removal("web"));
    world.apply();
    assert_eq!([80, 81, 82].map(|port| world.winner(port).unwrap()), ["b/web", "b/web", "c/web"]);
    world.commit(&b, removal("web"));
    world.apply();
    assert_eq!([80, 81, 82].map(|port| world.winner(port).unwrap()), ["c/web"; 3]);
    assert_eq!(world.phase("c", "web"), Phase::Applied);
}

#[test]
fn one_owner_cannot_claim_a_frontend_twice() {
    let mut world = World::new();
    let a = world.owner("a", 0);
    world.commit(&a, upserts([service("web", &[80], 1)]));
    let before = world.state.status();
    let twice = |changes, world: &mut World| world.state.commit(&a, changes, NOW).unwrap_err();
    let refused = twice(upserts([service("other", &[81, 80], 1)]), &mut world);
    let names = ["web", "other"].map(|name| ServiceName::new(name).unwrap());
    let [first, second] = names.clone();
    assert_eq!(refused, CommitError::FrontendTwice { frontend: frontend(80), first, second });
    let refused = twice(picture([service("x", &[90], 1), service("y", &[90], 1)]), &mut world);
    assert!(matches!(refused, CommitError::FrontendTwice { .. }), "{refused}");
    let refused = twice(upserts([service("x", &[90], 1), service("x", &[91], 1)]), &mut world);
    assert!(matches!(refused, CommitError::ServiceTwice { .. }), "{refused}");
    assert_eq!(world.state.status(), before);

    // Handing it over, swapping and renaming are no such thing.
    world.commit(&a, upserts([service("web", &[81], 1), service("other", &[80], 1)]));
    world.commit(&a, upserts([service("web", &[80], 1), service("other", &[81], 1)]));
    let [web, _] = names;
    world.commit(&a, Changes { removals: vec![web], ..upserts([service("new", &[80], 1)]) });
    world.commit(&a, picture([service("newer", &[80, 81], 1)]));
    assert_eq!(world.winner(80), Some("a/newer".to_owned()));
}

#[test]
fn nothing_goes_by_absence_before_the_owner_is_synced() {
    let mut world = World::new();
    let a = world.state.register("a", Precedence::default()).unwrap();
    world.commit(&a, picture([service("one", &[1], 1), service("two", &[2], 1), service("three", &[3], 1)]));
    world.commit(&a, picture([service("one", &[1], 1)]));
    world.commit(&a, removal("three"));
    world.apply();
    assert_eq!(world.phase("a", "two"), Phase::Applied);
    assert_eq!(world.state.status_of("a", "three"), None);
    let revision = world.state.synced(&a, NOW);
    assert_eq!(world.phase("a", "two"), Phase::Removing);
    assert_eq!(world.state.progress(revision), Progress::Pending);
    world.apply();
    assert_eq!(world.state.progress(revision), Progress::Applied);
    assert_eq!(world.state.status().len(), 1);
    assert_eq!(world.state.synced(&a, NOW), revision);
    world.commit(&a, picture([]));
    world.apply();
    assert_eq!(world.state.status(), []);
}

#[test]
fn an_owner_that_comes_back_says_again_what_it_wants() {
    let mut world = World::new();
    let a = world.owner("a", 0);
    world.commit(&a, upserts([service("one", &[1], 1), service("old", &[2, 3], 1)]));
    world.apply();
    let taken = world.state.register("a", Precedence::default());
    assert_eq!(taken, Err(RegisterError::Taken { owner: a.clone() }));
    world.state.release(&a);
    let a = world.state.register("a", Precedence::new(7)).unwrap();
    // Renamed while it was away: the new name may take its frontend at once, the rest waits for the barrier.
    world.commit(&a, upserts([service("new", &[2], 1), service("one", &[1], 1)]));
    world.apply();
    assert_eq!(world.winner(2), Some("a/new".to_owned()));
    assert_eq!(world.winner(3), Some("a/old".to_owned()));
    assert_eq!(world.phase("a", "old"), Phase::Conflict);
    world.state.synced(&a, NOW);
    world.apply();
    assert_eq!(world.winner(3), None);
    let names: Vec<String> = world.state.status().iter().map(|status| status.service.to_string()).collect();
    assert_eq!(names, ["one", "new"]);
}

#[test]
fn who_is_refused_yields_until_there_is_room() {
    let mut world = World::new();
    let (low, high) = (world.owner("low", 1), world.owner("high", 2));
    world.commit(&low, upserts([service("small", &[80], 1)]));
    world.apply();
    let revision = world.commit(&high, upserts([service("large", &[80, 81], 1)]));
    world.apply_but("large");
    assert!(matches!(world.phase("high", "large"), Phase::Refused(Refusal::NoRoom { .. })));
    assert_eq!(world.state.progress(revision), Progress::Incomplete { services: 1 });
    assert_eq!(world.state.obstacle(revision).unwrap().service.as_str(), "large");
    assert_eq!(world.winner(80), Some("low/small".to_owned()));
    assert_eq!(world.phase("low", "small"), Phase::Applied);

    let id = world.state.claims.winner(&frontend(81)).unwrap();
    world.state.again(id);
    world.apply();
    assert_eq!(world.winner(80), Some("high/large".to_owned()));
    assert_eq!(world.phase("low", "small"), Phase::Conflict);
    assert_eq!(world.state.progress(revision), Progress::Applied);
}

#[test]
fn a_mass_removal_is_held_back_until_it_is_confirmed() {
    let mut world = World::guarded(RemovalGuard::new(50, Duration::from_secs(60)).at_least(4));
    let a = world.owner("a", 0);
    let all = || (1..=10).map(|n| service(&format!("s{n}"), &[n], 2));
    world.commit(&a, picture(all()));
    world.apply();
    // An empty picture, as a broken source sends it, with one new service in it.
    let revision = world.commit(&a, picture([service("new", &[99], 1)]));
    world.apply();
    assert_eq!(world.phase("a", "new"), Phase::Applied);
    let held = world.status("a", "s1");
    assert_eq!((held.phase, held.held_back), (Phase::HeldBack, Some(HeldBack::Removal)));
    assert_eq!(held.desired.as_deref(), Some(&service("s1", &[1], 2)), "it serves as before");
    assert_eq!(world.winner(1), Some("a/s1".to_owned()));
    assert_eq!(world.state.progress(revision), Progress::Incomplete { services: 10 });
    // What the source says again is not held back any longer.
    world.commit(&a, upserts([service("s1", &[1], 2)]));
    world.apply();
    assert_eq!(world.phase("a", "s1"), Phase::Applied);
    assert_eq!(world.state.progress(revision), Progress::Incomplete { services: 9 });
    // A frontend of what is held back can be taken by what is not.
    world.commit(&a, upserts([service("instead", &[2], 1)]));
    world.apply();
    assert_eq!(world.winner(2), Some("a/instead".to_owned()));

    let confirmed = world.state.confirm(&a);
    assert_eq!(world.state.progress(revision), Progress::Pending);
    world.apply();
    assert_eq!(world.state.progress(revision), Progress::Applied);
    assert_eq!(world.state.progress(confirmed), Progress::Applied);
    assert_eq!(world.state.status().len(), 3);
    assert_eq!(world.state.confirm(&a), confirmed);
}

#[test]
fn what_is_held_back_yields_its_frontends_and_takes_them_back_when_it_is_confirmed() {
    let mut world = World::guarded(RemovalGuard::new(50, Duration::from_secs(60)).at_least(4));
    let (a, b) = (world.owner("a", 2), world.owner("b", 1));
    world.commit(&a, upserts([service("web", &[80], 10)]));
    world.commit(&b, upserts([service("web", &[80], 1)]));
    world.apply();
    assert_eq!(world.winner(80), Some("a/web".to_owned()));
    assert_eq!(world.phase("b", "web"), Phase::Conflict);
    // It may be about to go: who is not gets the frontend at once, before anything is written.
    let shrunk = world.commit(&a, upserts([service("web", &[80], 1)]));
    assert_eq!(world.winner(80), Some("b/web".to_owned()));
    assert!(world.state.has_work());
    world.apply();
    assert_eq!(world.phase("a", "web"), Phase::HeldBack);
    assert_eq!(world.phase("b", "web"), Phase::Applied);
    assert_eq!(world.state.progress(shrunk), Progress::Incomplete { services: 1 });
    // It stays, and has its precedence again.
    world.state.confirm(&a);
    assert_eq!(world.winner(80), Some("a/web".to_owned()));
    world.apply();
    assert_eq!(world.phase("a", "web"), Phase::Applied);
    assert_eq!(world.phase("b", "web"), Phase::Conflict);
    assert_eq!(world.state.progress(shrunk), Progress::Applied);
}

#[test]
fn emptying_services_and_small_steps_count_as_removals_and_a_word_lets_them_through() {
    let mut world = World::guarded(RemovalGuard::new(50, Duration::from_secs(60)).at_least(4));
    let a = world.owner("a", 0);
    world.commit(&a, picture((1..=4).map(|n| service(&format!("s{n}"), &[n], 2))));
    world.apply();
    for n in 1..=2 {
        world.commit(&a, upserts([service(&format!("s{n}"), &[n], 0)]));
    }
    world.commit(&a, upserts([service("s3", &[3], 1)]));
    world.apply();
    assert_eq!(world.phase("a", "s2"), Phase::Applied);
    let held = world.status("a", "s3");
    assert_eq!(held.phase, Phase::HeldBack);
    assert_eq!(held.held_back, Some(HeldBack::Change(service("s3", &[3], 1).into())));
    // Replacing is no loss, and neither is what somebody stands up for.
    world.commit(&a, Changes { confirmed: true, ..picture([service("s4", &[4], 2)]) });
    world.apply();
    assert_eq!(world.state.status().len(), 1);
}

#[test]
fn synced_is_guarded_too() {
    let mut world = World::guarded(RemovalGuard::default().at_least(4));
    let a = world.owner("a", 0);
    world.commit(&a, picture((1..=4).map(|n| service(&format!("s{n}"), &[n], 2))));
    world.apply();
    world.state.release(&a);
    let a = world.state.register("a", Precedence::default()).unwrap();
    world.state.synced(&a, NOW);
    world.apply();
    assert_eq!(world.phase("a", "s4"), Phase::HeldBack);
}

#[test]
fn unchanged_services_are_not_touched() {
    let mut world = World::new();
    let a = world.owner("a", 0);
    let all = || (1..=10).map(|n| service(&format!("s{n}"), &[n], 2));
    world.commit(&a, picture(all()));
    world.apply();
    let revision = world.commit(&a, picture(all()));
    assert!(!world.state.has_work());
    assert_eq!(world.state.progress(revision), Progress::Applied);
    assert_eq!(world.state.progress(revision.next()), Progress::Unknown);
}

#[test]
fn a_revision_waits_for_its_own_services_only() {
    let mut world = World::new();
    let a = world.owner("a", 0);
    let first = world.commit(&a, upserts([service("one", &[1], 1)]));
    let second = world.commit(&a, upserts([service("two", &[2], 1)]));
    // The same again while it is on its way: it waits for that.
    let third = world.commit(&a, upserts([service("two", &[2], 1)]));
    let one = world.state.take().unwrap();
    let two = world.state.take().unwrap();
    let fourth = world.commit(&a, upserts([service("two", &[2], 1)]));
    let fifth = world.commit(&a, upserts([service("two", &[2], 2)]));
    world.state.settle(two, Outcome::Applied);
    let progress = |world: &World| [first, second, third, fourth, fifth].map(|r| world.state.progress(r));
    use Progress::{Applied, Pending};
    assert_eq!(progress(&world), [Pending, Applied, Applied, Pending, Pending]);
    world.state.settle(one, Outcome::Applied);
    world.apply();
    assert_eq!(progress(&world), [Applied; 5]);
}

#[test]
fn nothing_is_left_of_what_is_removed() {
    let mut world = World::new();
    let (a, b) = (world.owner("a", 0), world.owner("b", 1));
    for round in 0..50u16 {
        let (low, high) = (1 + round % 7, 3 + round % 5);
        world.commit(&a, picture((1..10).map(|n| service(&format!("s{n}"), &[n + low], n))));
        world.commit(&b, picture((1..10).map(|n| service(&format!("s{n}"), &[n + high], n))));
        world.apply_but(if round % 3 == 0 { "s4" } else { "" });
    }
    for owner in [&a, &b] {
        world.commit(owner, picture([]));
    }
    world.apply();
    assert_eq!(world.state.objects.len(), 0);
    assert_eq!(world.state.claims.len(), 0);
    assert_eq!(world.state.revisions.len(), 0);
    assert!(world.state.owners.iter().all(|owner| owner.services.is_empty() && owner.serving == 0));
}
