//! What the collector costs while it goes round a conntrack full of flows that live.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dataplane_core::{
    Controller, NextWake,
    abi::{BackendRef, FlowV4, TupleV4},
    pipeline::Seen,
    tables::{Capacity, Store},
    wire::{Be16, Ipv4Address},
};
use dataplane_ebpf::EbpfDataplane;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{profile::Profile, sample::quantile};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Collection {
    /// Entries in conntrack.
    pub entries: u32,
    /// Slices that looked at entries.
    pub slices: usize,
    /// Entries seen, the same ones in every round.
    pub scanned: u64,
    /// Microseconds that half of the slices took at most.
    pub p50: f64,
    /// Microseconds that 99 of 100 slices took at most.
    pub p99: f64,
    /// Microseconds that the longest slice took, with whatever else ran on its CPU.
    pub longest: f64,
    /// How much of one CPU the collector's thread took, in percent.
    pub cpu_percent: f64,
}

/// Fills a conntrack and collects, one slice when each is due, as the thread of a controller does.
///
/// # Errors
/// What the kernel refuses.
pub fn measure(profile: &Profile) -> Result<Collection> {
    let entries = profile.collected;
    // An LRU evicts before it is full to the last entry.
    let capacity = Capacity { conntrack: entries * 2, ..Capacity::small() };
    let plane = EbpfDataplane::builder().unpinned().capacity(capacity).open()?;
    let tables = plane.tables();
    fill(&*tables, entries)?;
    let controller = Controller::builder(tables.clone()).build()?;
    let (start, busy) = (Instant::now(), thread_time());
    let mut slices = Vec::new();
    while start.elapsed() < profile.collect_time {
        let (before, begin) = (controller.collected().scanned, Instant::now());
        let wake = controller.collect(controller.now());
        let took = begin.elapsed();
        if controller.collected().scanned != before {
            slices.push(took.as_secs_f64() * 1e6);
        }
        if let NextWake::At(time) = wake {
            thread::sleep(time.saturating_sub(controller.now()));
        }
    }
    let (whole, busy) = (start.elapsed(), thread_time() - busy);
    let collected = controller.collected();
    ensure!(collected.expired == 0, "{} flows that live were taken out", collected.expired);
    ensure!(!slices.is_empty(), "the collector looked at nothing");
    slices.sort_by(f64::total_cmp);
    Ok(Collection {
        entries: tables.conntrack_v4().fill()?,
        slices: slices.len(),
        scanned: collected.scanned,
        p50: quantile(&slices, 0.5),
        p99: quantile(&slices, 0.99),
        longest: quantile(&slices, 1.0),
        cpu_percent: busy.as_secs_f64() / whole.as_secs_f64() * 100.0,
    })
}

/// Puts so many entries of connections in that live for hours.
fn fill(tables: &dyn Store, entries: u32) -> Result<()> {
    let now = tables.now();
    let entry = |number: u32| {
        let tuple = TupleV4 {
            source: Ipv4Address::from(std::net::Ipv4Addr::from(0x0a00_0000 + (number >> 14))),
            destination: Ipv4Address::from(std::net::Ipv4Addr::new(203, 0, 113, 10)),
            source_port: Be16::new(1024 + (number & 0x3fff) as u16),
            destination_port: Be16::new(80),
            protocol: 6,
            ..TupleV4::default()
        };
        let flow = FlowV4 {
            state: Seen(Seen::REPLIED | Seen::CONFIRMED).word(tuple.tag()),
            backend: BackendRef::new(0, 1),
            last_seen: now.0,
            tail_tag: tuple.tag(),
            ..FlowV4::default()
        };
        (tuple, flow)
    };
    let all: Vec<_> = (0..entries).map(entry).collect();
    Ok(tables.conntrack_v4().insert_batch(&all)?)
}

/// How long this thread has run on a CPU.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
