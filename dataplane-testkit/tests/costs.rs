//! What control costs, in time and memory. Figures are printed; only generous limits are asserted, and only when asked:
//! `cargo test --release -p dataplane-testkit --test costs -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::{sync::Arc, time::Duration};

use dataplane_core::{
    Controller, NextWake, SourceHandle,
    memory::MemoryTables,
    model::{Backend, Frontend, Protocol, Service},
    source::Precedence,
    state::RemovalGuard,
    tables::Capacity,
};

const SERVICES: u32 = 100_000;

fn service(n: u32, shift: u32) -> Service {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
    let host = |k: u32| std::net::Ipv4Addr::from(0xc000_0200 + (n * 7 + k + shift) % 20_000).into();
    Service::builder(&format!("namespace-{}/service-{n}:http", n % 50))
        .frontend(Frontend::new(address, 80, Protocol::Tcp).unwrap())
        .backends((0..3).map(|k| Backend::new(host(k), 8080).unwrap()))
        .build()
        .unwrap()
}

/// Steps until everything is in the tables; grace periods are left out.
fn apply(control: &Controller, now: Duration) {
    while control.step(now) == NextWake::Now {}
}

/// Time on a processor of this thread: what others do on the machine does not count.
struct Stopwatch(Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Self::now())
    }

    fn elapsed(&self) -> Duration {
        Self::now() - self.0
    }

    fn now() -> Duration {
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
    }
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn world() -> (Controller, SourceHandle) {
    let capacity = Capacity { frontends: 1 << 17, slots: 1 << 21, backends: 1 << 16, conntrack: 8 };
    let tables = Arc::new(MemoryTables::new(capacity));
    let control = Controller::builder(tables).removal_guard(RemovalGuard::off()).build();
    let agent = control.register("agent", Precedence::default()).unwrap();
    agent.synced();
    (control, agent)
}

#[test]
#[ignore = "a measurement"]
fn full_sync_and_single_changes() {
    let (control, agent) = world();
    let picture: Vec<Service> = (0..SERVICES).map(|n| service(n, 0)).collect();
    let before = resident();
    let start = Stopwatch::start();
    agent.replace(picture).unwrap();
    let committed = start.elapsed();
    apply(&control, Duration::ZERO);
    let total = start.elapsed();
    let memory = resident() - before;
    let each = |time: Duration| time.as_nanos() as u64 / u64::from(SERVICES);
    println!("full sync: {} ns per service, {} of them the commit", each(total), each(committed));
    println!(
        "memory added by it, the table of frontends in RAM included: {} bytes per service",
        memory / u64::from(SERVICES)
    );

    let picture: Vec<Service> = (0..SERVICES).map(|n| service(n, 0)).collect();
    let start = Stopwatch::start();
    agent.replace(picture).unwrap();
    apply(&control, Duration::ZERO);
    println!("the same picture again: {} ns per service", each(start.elapsed()));

    const CHANGES: u32 = 5000;
    let start = Stopwatch::start();
    for n in 0..CHANGES {
        let revision = agent.transaction().upsert(service(n * 37 % SERVICES, 1 + n)).commit().unwrap();
        control.step(Duration::ZERO);
        control.wait_applied(revision, Duration::ZERO).unwrap();
    }
    println!("one change among {SERVICES}: {} ns", (start.elapsed() / CHANGES).as_nanos());

    let start = Stopwatch::start();
    agent.replace([]).unwrap();
    apply(&control, Duration::ZERO);
    println!("removal of everything: {} ns per service", each(start.elapsed()));
    assert!(total < Duration::from_secs(10));
}
