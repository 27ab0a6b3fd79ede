//! Events out of the kernel: read, waited for, lost and counted.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{Host, INGRESS, small};
use dataplane_core::{
    abi::{InterfaceEntry, TestInput},
    event::{Dropped, Event, EventLosses, EventOptions, Opened},
    pipeline::{DropReason, Hook},
    tables::Store as _,
};
use dataplane_ebpf::{Builder, EbpfDataplane, EventReader, PinDir, testing::TestDataplane};
use dataplane_testkit::{fill::Filler, frames::Frame, pins::PinFolder, require_kernel};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const SERVICE: &str = "203.0.113.10:53";
const SERVICE_V6: &str = "[2001:db8:cafe::10]:53";
const EMPTY: &str = "203.0.113.10:54";

/// A host that balances UDP to a backend of its own, and its clients.
struct World {
    host: Host,
    filler: Filler,
}

impl World {
    fn new(label: &str) -> Self {
        let host = Host::new(label);
        host.address();
        Self { host, filler: Filler::default() }
    }

    fn open(&self, builder: Builder) -> EbpfDataplane {
        self.host.open(builder).unwrap()
    }

    /// Three services, one of them without a backend.
    fn fill(&mut self, plane: &EbpfDataplane) {
        let (mac, index) = (self.host.uplink.mac().unwrap(), self.host.uplink.index());
        let tables = plane.tables();
        let words: [u64; 2] =
            zerocopy::transmute!(InterfaceEntry { index, mac, ..InterfaceEntry::default() });
        tables.interfaces().store(index, &words).unwrap();
        let backend = self.filler.backend(&*tables, "192.0.2.3:5353".parse().unwrap(), true).unwrap();
        let six = self.filler.backend(&*tables, "[2001:db8:1::3]:5353".parse().unwrap(), true).unwrap();
        for (service, list) in [(SERVICE, &[backend][..]), (SERVICE_V6, &[six]), (EMPTY, &[])] {
            self.filler.service(&*tables, service.parse().unwrap(), 17, list).unwrap();
        }
    }

    /// A client's datagram arrives.
    fn send(&self, plane: &EbpfDataplane, port: u16, to: &str) {
        let client = if to.starts_with('[') { "[2001:db8:1::2]" } else { "192.0.2.2" };
        let frame = Frame::udp(format!("{client}:{port}").parse().unwrap(), to.parse().unwrap());
        let frame = frame.link(self.host.uplink.mac().unwrap(), [2, 0, 0, 0, 0, 1]).build();
        let run = || plane.run_named(INGRESS, &frame, self.host.uplink.index(), 1).unwrap();
        self.host.host.run(run);
    }
}

/// All that can be read without waiting.
fn read(reader: &EventReader) -> Vec<Event> {
    std::iter::from_fn(|| reader.next(Duration::ZERO).unwrap()).collect()
}

/// Holds what was not told against what must not have been. `cargo xtask mutation` looks for the line that it prints.
#[track_caller]
fn assert_losses(reader: &EventReader, lost: u64, withheld: u64) {
    let (losses, expected) = (reader.losses().unwrap(), EventLosses::new(lost, withheld));
    if losses != expected {
        println!("UNTOLD: {losses:?}, and it should be {expected:?}");
        panic!("losses are miscounted");
    }
}

/// Each CPU has an account of its own.
fn stay_on_one_cpu() {
    let allowed = sched_getaffinity(None).unwrap();
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).unwrap();
}

#[test]
fn nobody_can_read_what_was_not_wanted() {
    require_kernel!();
    let mut world = World::new("off");
    let plane = world.open(small());
    world.fill(&plane);
    world.send(&plane, 1, SERVICE);
    assert!(plane.events().is_none());
}

/// As many as the ring holds are told, in their order, and the others are counted. What is read makes room.
#[test]
fn a_full_ring_loses_what_comes_and_counts_it() {
    require_kernel!();
    for (service, room) in [(SERVICE, 56), (SERVICE_V6, 34)] {
        let mut world = World::new("full");
        let plane = world.open(small().events(EventOptions::default().with_ring_bytes(4096)));
        world.fill(&plane);
        let reader = plane.events().unwrap();
        (1..=100).for_each(|port| world.send(&plane, port, service));
        assert_losses(&reader, 100 - room, 0);
        let events = read(&reader);
        let ports: Vec<u64> = events
            .iter()
            .map(|event| match event {
                Event::Opened(Opened { flow, hook, interface, .. }) => {
                    assert_eq!((*hook, *interface), (Hook::Ingress, world.host.uplink.index()));
                    assert_eq!((flow.frontend, flow.local), (service.parse().unwrap(), true));
                    flow.client.port().into()
                }
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(ports, (1..=room).collect::<Vec<_>>());
        let age = reader.age(&events[0]);
        assert!(age < Duration::from_secs(60), "{age:?}");
        world.send(&plane, 101, service);
        assert_eq!(read(&reader).len(), 1);
        assert_losses(&reader, 100 - room, 0);
    }
}

/// A flood of drops leaves room: each CPU tells of so many in a second, and the verdicts are counted all the same.
#[test]
fn drops_beyond_the_limit_are_withheld_and_counted() {
    require_kernel!();
    stay_on_one_cpu();
    let mut world = World::new("limit");
    let builder = small().events(EventOptions::default().with_drops_a_second(3));
    let test = world.host.host.run(|| TestDataplane::open(builder)).unwrap();
    world.fill(test.plane());
    let reader = test.plane().events().unwrap();
    test.set(TestInput::Now, 1 << 40).unwrap();
    (1..=10).for_each(|port| world.send(test.plane(), port, EMPTY));
    assert_losses(&reader, 0, 7);
    let events = read(&reader);
    assert_eq!(events.len(), 3);
    for event in events {
        let Event::Dropped(Dropped { time, reason, destination, interface, .. }) = event else {
            panic!("{event}")
        };
        assert_eq!((time, reason), (Duration::from_nanos(1 << 40), DropReason::NoBackend));
        assert_eq!((destination, interface), (EMPTY.parse().unwrap(), world.host.uplink.index()));
    }
    // A flow is told of whatever is dropped.
    world.send(test.plane(), 11, SERVICE);
    assert_eq!(read(&reader).len(), 1);
    test.set(TestInput::Now, (1 << 40) + 2_000_000_000).unwrap();
    (1..=10).for_each(|port| world.send(test.plane(), port, EMPTY));
    assert_losses(&reader, 0, 14);
    assert_eq!(read(&reader).len(), 3);
}

#[test]
fn who_waits_is_woken_and_waits_no_longer_than_it_said() {
    require_kernel!();
    let mut world = World::new("wait");
    let plane = world.open(small().events(EventOptions::default()));
    world.fill(&plane);
    let reader = plane.events().unwrap();
    let begun = Instant::now();
    assert_eq!(reader.next(Duration::from_millis(30)).unwrap(), None);
    let waited = begun.elapsed();
    assert!((Duration::from_millis(30)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let waiting = reader.clone();
        scope.spawn(move || {
            for _ in 0..20 {
                tell.send(waiting.next(Duration::from_secs(60)).unwrap().map(|event| event.name())).unwrap();
            }
        });
        // Each only after the one before was read: the reader sleeps in between.
        for port in 1..=20 {
            world.send(&plane, port, SERVICE);
            assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(Some("opened")));
        }
    });
}

/// Events are of one load of the programs: who takes over has a ring of its own, or none.
#[test]
fn who_takes_over_says_anew_what_is_wanted() {
    require_kernel!();
    let folder = PinFolder::new("events");
    let mut world = World::new("pinned");
    let pinned = || small().pins(PinDir::new(folder.edge()).unwrap());
    let first = world.open(pinned().events(EventOptions::default()));
    world.fill(&first);
    let old = first.events().unwrap();
    world.send(&first, 1, SERVICE);
    assert_eq!(read(&old).len(), 1);
    drop(first);
    let second = world.open(pinned());
    assert!(second.is_adopted() && second.events().is_none());
    world.send(&second, 2, SERVICE);
    drop(second);
    let third = world.open(pinned().events(EventOptions::default()));
    world.send(&third, 2, SERVICE);
    let new = third.events().unwrap();
    assert_eq!(read(&new), [], "it is open already");
    world.send(&third, 3, SERVICE);
    assert_eq!((read(&new).len(), read(&old).len()), (1, 0));
    third.detach().unwrap();
}
