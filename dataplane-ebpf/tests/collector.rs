//! The collector in the kernel: its looks race packets, and no flow is lost that lives.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Host, INGRESS, small};
use dataplane_core::{
    Controller,
    abi::{InterfaceEntry, TestInput, TupleV4},
    pipeline::{Fate, Revoked, Seen, Tick, Timeouts},
    tables::{Capacity, Moment, ScanPosition, Store, Suspect, Tuple as _},
    wire::Be16,
};
use dataplane_ebpf::{KernelTables, testing::TestDataplane};
use dataplane_testkit::{
    fill::Filler,
    frames::{Dissected, Frame},
    require_kernel,
};

const CLIENTS: u16 = 64;
const STEPS: u32 = 60;

/// A host whose programs balance UDP to a backend of its own, on a clock that stands until it is set.
struct World {
    host: Host,
    test: TestDataplane,
    filler: Filler,
    mac: [u8; 6],
}

impl World {
    fn new(label: &str) -> Self {
        let host = Host::new(label);
        host.address();
        // Each time that a service's list is exchanged takes some.
        let capacity = Capacity { slots: 1 << 16, ..Capacity::small() };
        let test = host.host.run(|| TestDataplane::open(small().capacity(capacity))).unwrap();
        let (mac, index) = (host.uplink.mac().unwrap(), host.uplink.index());
        test.set_interface(&InterfaceEntry { index, mac, ..InterfaceEntry::default() }).unwrap();
        Self { host, test, filler: Filler::default(), mac }
    }

    fn set_time(&self, ticks: u32) {
        self.test.set(TestInput::Now, u64::from(ticks) << 27).unwrap();
    }

    /// Where a client's datagram goes.
    fn ask(&self, port: u16) -> SocketAddr {
        let frame = Frame::udp(format!("192.0.2.2:{port}").parse().unwrap(), SERVICE.parse().unwrap());
        let frame = frame.link(self.mac, [2, 0, 0, 0, 0, 1]).build();
        let run = || self.test.plane().run_named(INGRESS, &frame, self.host.uplink.index(), 1);
        let out = self.host.host.run(run).unwrap();
        Dissected::of(&out.frame).unwrap().destination
    }
}

const SERVICE: &str = "203.0.113.10:53";
const FIRST: &str = "192.0.2.3:5353";
const SECOND: &str = "192.0.2.4:5353";

/// Every IPv4 entry there is: none of them is confirmed.
fn tuples(tables: &KernelTables) -> Vec<TupleV4> {
    let (mut position, mut entries) = (Some(ScanPosition::default()), Vec::new());
    while let Some(from) = position {
        position = tables.half_open_v4().scan(from, &mut entries).unwrap();
    }
    entries.into_iter().map(|(tuple, _)| tuple).collect()
}

fn look(tables: &KernelTables, tuples: &[TupleV4], now: u32) -> Vec<Fate> {
    let suspects: Vec<Suspect<TupleV4>> =
        tuples.iter().map(|&tuple| Suspect { tuple, revoked: Revoked::default() }).collect();
    let mut fates = Vec::new();
    let mut at = Moment::of(tables);
    at.now = Tick(now);
    tables.half_open_v4().collect(&suspects, &at, &mut fates).unwrap();
    assert_eq!(fates.len(), suspects.len());
    fates
}

/// Flows have a packet each a moment before their time is over, by the clock of packets; the collector's is ahead when it
/// looks for the first time, and condemns whom it meets before the packet. By its second look each of them had one.
#[test]
fn a_flow_that_has_packets_in_time_outlives_every_look() {
    require_kernel!();
    let mut world = World::new("collector");
    let tables = world.test.plane().tables();
    let first = world.filler.backend(&*tables, FIRST.parse().unwrap(), true).unwrap();
    let second = world.filler.backend(&*tables, SECOND.parse().unwrap(), true).unwrap();
    let service = world.filler.service(&*tables, SERVICE.parse().unwrap(), 17, &[first]).unwrap();
    let life = Tick::ticks_of_milliseconds(Timeouts::default().udp);
    let start = 1 << 20;
    world.set_time(start);
    for port in 1..=CLIENTS {
        assert_eq!(world.ask(port), FIRST.parse().unwrap());
    }
    // Whoever is lost will be found here.
    world.filler.point(&*tables, service, &[second]).unwrap();

    let (steps, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let time_of = |step: u32| start + step * (life - 1);
    let (condemned, removed) = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let (mut condemned, mut removed) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                let tuples = tuples(&tables);
                let step = steps.load(Ordering::SeqCst);
                let fates = look(&tables, &tuples, time_of(step) + 3);
                condemned += fates.iter().filter(|&&fate| fate == Fate::Condemned).count();
                removed += fates.iter().filter(|&&fate| fate == Fate::Removed).count();
                // Until each had a packet that came after this look.
                while steps.load(Ordering::SeqCst) < step + 2 && !over.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                let fates = look(&tables, &tuples, time_of(steps.load(Ordering::SeqCst)));
                removed += fates.iter().filter(|&&fate| fate == Fate::Removed).count();
            }
            (condemned, removed)
        });
        for step in 1..=STEPS {
            world.set_time(time_of(step));
            steps.store(step, Ordering::SeqCst);
            for port in 1..=CLIENTS {
                assert_eq!(world.ask(port), FIRST.parse().unwrap(), "client {port} in step {step}");
            }
        }
        over.store(true, Ordering::SeqCst);
        collector.join().unwrap()
    });
    assert_eq!(removed, 0);
    assert!(condemned > 0, "the collector never met a flow before its packet");
    assert_eq!(tuples(&tables).len(), 2 * usize::from(CLIENTS));
}

/// Rounds in which each client comes back, at the most.
const ROUNDS: u32 = 400;

/// The time of each flow is over in both looks, and its client comes back while the second is taken: the packet opens the
/// flow anew, or the collector was first. Whatever stands once the packet has passed stands after the look, too.
#[test]
fn a_flow_that_is_opened_anew_outlives_the_look_at_the_old_one() {
    require_kernel!();
    let mut world = World::new("anew");
    let tables = world.test.plane().tables();
    let first = world.filler.backend(&*tables, FIRST.parse().unwrap(), true).unwrap();
    let second = world.filler.backend(&*tables, SECOND.parse().unwrap(), true).unwrap();
    let service = world.filler.service(&*tables, SERVICE.parse().unwrap(), 17, &[first]).unwrap();
    let life = Tick::ticks_of_milliseconds(Timeouts::default().udp);
    let [client, virtual_address] =
        ["192.0.2.2", "203.0.113.10"].map(|text| text.parse::<Ipv4Addr>().unwrap());
    let tuple_of = |port| TupleV4::new(client.into(), virtual_address.into(), port, Be16::new(53), 17);
    // How often the collector had the flow, and how often the packet.
    let (mut removed, mut kept) = (0, 0);
    for round in 1..=ROUNDS {
        let (begin, end) = (round * 2 * (life + 1), round * 2 * (life + 1) + life + 1);
        world.filler.point(&*tables, service, &[first]).unwrap();
        world.set_time(begin);
        for port in 1..=CLIENTS {
            assert_eq!(world.ask(port), FIRST.parse().unwrap(), "client {port} in round {round}");
        }
        world.set_time(end);
        let old: Vec<TupleV4> = (1..=CLIENTS).map(|port| tuple_of(Be16::new(port))).collect();
        assert_eq!(look(&tables, &old, end), [Fate::Condemned; CLIENTS as usize]);
        world.filler.point(&*tables, service, &[second]).unwrap();

        let turn = AtomicU32::new(0);
        let (asker, tables_of) = (&world, &tables);
        let (fates, stands) = thread::scope(|scope| {
            let collector = scope.spawn(|| {
                let mut fates = Vec::new();
                for (tuple, port) in old.iter().zip(1..) {
                    while turn.load(Ordering::SeqCst) < port {
                        std::hint::spin_loop();
                    }
                    fates.extend(look(tables_of, &[*tuple], end));
                }
                fates
            });
            let come_back = |port: u16| {
                turn.store(port.into(), Ordering::SeqCst);
                assert_eq!(asker.ask(port), SECOND.parse().unwrap(), "client {port} in round {round}");
                let found = tables_of.opening_v4().get(&tuple_of(Be16::new(port))).unwrap();
                found.is_some_and(|flow| flow.backend == second && !Seen::from(flow.state).is_dying())
            };
            let stands: Vec<bool> = (1..=CLIENTS).map(come_back).collect();
            (collector.join().unwrap(), stands)
        });
        world.filler.point(&*tables, service, &[first]).unwrap();
        for (port, stands) in (1..=CLIENTS).zip(&stands) {
            let went = world.ask(port);
            assert!(!stands || went == SECOND.parse().unwrap(), "client {port} in round {round}: {went}");
        }
        let removals = fates.iter().filter(|&&fate| fate == Fate::Removed).count();
        removed += removals;
        kept += fates.len() - removals;
        if removed > 100 && kept > 100 {
            return;
        }
    }
    panic!("the collector was first {removed} times, and packets {kept} times");
}

/// On the kernel's own clock, by the controller's thread.
#[test]
fn a_controllers_thread_clears_the_table_of_what_is_over() {
    require_kernel!();
    let mut world = World::new("cleared");
    let timeouts = Timeouts { udp: 0, ..Timeouts::default() };
    let plane = world.host.open(small().timeouts(timeouts)).unwrap();
    let tables = plane.tables();
    let backend = world.filler.backend(&*tables, FIRST.parse().unwrap(), true).unwrap();
    world.filler.service(&*tables, SERVICE.parse().unwrap(), 17, &[backend]).unwrap();
    for port in 1..=CLIENTS {
        let frame = Frame::udp(format!("192.0.2.2:{port}").parse().unwrap(), SERVICE.parse().unwrap());
        let frame = frame.link(world.mac, [2, 0, 0, 0, 0, 1]).build();
        let run = || plane.run_named(INGRESS, &frame, world.host.uplink.index(), 1);
        world.host.host.run(run).unwrap();
    }
    assert_eq!(tables.opening_v4().fill().unwrap(), 2 * u32::from(CLIENTS));
    let control = Controller::builder(tables.clone()).collect_interval(Duration::ZERO).build().unwrap();
    let _running = control.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while tables.opening_v4().fill().unwrap() > 0 {
        assert!(Instant::now() < deadline, "{:?}", control.collected());
        thread::sleep(Duration::from_millis(50));
    }
    let done = control.collected();
    assert_eq!((done.expired, done.failures), (2 * u64::from(CLIENTS), 0), "{done:?}");
}
