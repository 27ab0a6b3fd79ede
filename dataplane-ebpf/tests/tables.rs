//! The kernel's tables against plain maps of the standard library, and against aya's own view of them.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use common::small;
use dataplane_core::{
    abi::{
        FlowV4, ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, StateWord, TupleV4, counter_index,
        map,
    },
    pipeline::{DropReason, Hook, PassReason, Verdict},
    tables::{Capacity, Cause, HashTable, Operation, Store, TableError},
    wire::Be16,
};
use dataplane_ebpf::{EbpfDataplane, KernelTables};
use dataplane_testkit::{Raise, net::wait_for, require_kernel};

fn key(number: u32) -> ServiceKeyV4 {
    ServiceKeyV4 {
        address: Ipv4Addr::from(0x0a00_0000 | number >> 16).into(),
        port: Be16::new(number as u16),
        protocol: 6,
        scope: 0,
    }
}

fn value(number: u32) -> ServiceRef {
    ServiceRef::new(number, !number)
}

/// Tables of a dataplane with batch commands, and of one without.
fn both(capacity: Capacity) -> [(EbpfDataplane, &'static str); 2] {
    let builder = small().capacity(capacity);
    [(builder.clone().open().unwrap(), "batches"), (builder.without_batches().open().unwrap(), "one by one")]
}

fn listed(table: &dyn HashTable<ServiceKeyV4, ServiceRef>) -> HashMap<ServiceKeyV4, ServiceRef> {
    let mut entries = HashMap::new();
    for entry in table.entries() {
        let (key, value) = entry.unwrap();
        assert_eq!(entries.insert(key, value), None, "an entry was listed twice");
    }
    entries
}

#[test]
fn entries_are_put_in_replaced_and_taken_out() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables = plane.tables();
    let table = tables.services_v4();
    assert_eq!((table.name(), table.capacity()), ("services_v4", Capacity::small().frontend_entries()));
    assert_eq!(table.get(&key(1)), Ok(None));
    assert_eq!(table.remove(&key(1)), Ok(false));
    table.insert(&key(1), &value(1)).unwrap();
    table.insert(&key(1), &value(2)).unwrap();
    assert_eq!(table.get(&key(1)), Ok(Some(value(2))));
    assert_eq!(table.fill(), Ok(1));
    assert_eq!(table.remove(&key(1)), Ok(true));
    assert_eq!(table.fill(), Ok(0));

    let six = ServiceKeyV6 {
        address: "2001:db8::1".parse::<Ipv6Addr>().unwrap().into(),
        port: Be16::new(80),
        protocol: 17,
        scope: 0,
    };
    tables.services_v6().insert(&six, &value(6)).unwrap();
    assert_eq!(tables.services_v6().get(&six), Ok(Some(value(6))));
    assert_eq!(tables.services_v4().fill(), Ok(0));
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    require_kernel!();
    let capacity = Capacity::small().frontend_entries();
    for (plane, how) in both(Capacity::small()) {
        let tables = plane.tables();
        let table = tables.services_v4();
        let entries: Vec<_> = (0..capacity + 10).map(|number| (key(number), value(number))).collect();
        let error = table.insert_batch(&entries).unwrap_err();
        assert_eq!(error.done, capacity as usize, "{how}");
        assert_eq!(error.error.cause, Cause::Full { capacity }, "{how}");
        let inside: HashMap<_, _> = entries[..capacity as usize].iter().copied().collect();
        assert_eq!(listed(table), inside, "{how}");

        let full = TableError::new("services_v4", Operation::Insert, Cause::Full { capacity });
        assert_eq!(table.insert(&key(u32::MAX), &value(0)), Err(full), "{how}");
        assert_eq!(listed(table), inside, "{how}");
        // A value may still be replaced, and whoever leaves makes room.
        table.insert(&key(3), &value(33)).unwrap();
        assert_eq!(table.remove(&key(0)), Ok(true));
        table.insert(&key(u32::MAX), &value(0)).unwrap();
        assert_eq!(table.fill(), Ok(capacity), "{how}");
    }
}

#[test]
fn batches_are_as_many_single_operations() {
    require_kernel!();
    let capacity = Capacity { frontends: 30_000, ..Capacity::small() };
    for (plane, how) in both(capacity) {
        let tables = plane.tables();
        let table = tables.services_v4();
        assert_eq!(listed(table), HashMap::new());
        table.insert_batch(&[]).unwrap();
        table.remove_batch(&[]).unwrap();
        // More than one system call's worth.
        let entries: Vec<_> = (0..20_000).map(|number| (key(number), value(number))).collect();
        table.insert_batch(&entries).unwrap();
        assert_eq!(listed(table), entries.iter().copied().collect(), "{how}");

        // Every third is missing: at the ends, in rows, and across the borders of system calls.
        let goes = |number: &u32| number % 3 != 1;
        let gone: Vec<_> = (0..20_000).filter(goes).chain(30_000..30_100).map(key).collect();
        table.remove_batch(&gone).unwrap();
        table.remove_batch(&gone).unwrap();
        let left = (0..20_000).filter(|number| !goes(number)).map(|number| (key(number), value(number)));
        assert_eq!(listed(table), left.collect(), "{how}");
        assert_eq!(table.fill(), Ok(6_667), "{how}");
    }
}

/// Entries that stay are listed once each while others come and go. A listing counts as raced where entries came and went
/// while it ran; so many must be.
#[test]
fn a_listing_sees_what_stays() {
    require_kernel!();
    const RACED: u32 = 5;
    for (plane, how) in both(Capacity { frontends: 4_096, ..Capacity::small() }) {
        let tables = plane.tables();
        let staying: HashMap<_, _> = (0..1_000).map(|number| (key(number), value(number))).collect();
        tables.services_v4().insert_batch(&staying.clone().into_iter().collect::<Vec<_>>()).unwrap();
        // Even: the entry that comes and goes is not there. Odd: it is.
        let (steps, done) = (AtomicU32::new(0), AtomicBool::new(false));
        let (mut raced, mut met) = (0, 0);
        thread::scope(|scope| {
            let _stop = Raise(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let number = 1_000_000 + steps.load(Ordering::Relaxed);
                    tables.services_v4().insert(&key(number), &value(number)).unwrap();
                    steps.fetch_add(1, Ordering::SeqCst);
                    tables.services_v4().remove(&key(number)).unwrap();
                    steps.fetch_add(1, Ordering::SeqCst);
                }
            });
            wait_for(Duration::from_secs(30), "listings while entries come and go", || {
                let before = steps.load(Ordering::SeqCst);
                let mut seen = HashMap::new();
                for entry in tables.services_v4().entries() {
                    let (key, value) = entry.unwrap();
                    // Half of one entry and half of another would be neither's.
                    assert_eq!((value.tag(), key.protocol), (!value.index(), 6), "{how}: {key:?}");
                    *seen.entry((key, value)).or_insert(0) += 1;
                }
                // At least one entry came and one went in between.
                raced += u32::from(steps.load(Ordering::SeqCst) >= before + 2);
                met += u32::from(seen.keys().any(|(key, _)| !staying.contains_key(key)));
                if how == "batches" {
                    for (key, value) in &staying {
                        assert_eq!(seen.get(&(*key, *value)), Some(&1), "{how}: {key:?}");
                    }
                }
                raced >= RACED && met >= RACED
            })
            .unwrap_or_else(|error| panic!("{error}: {how}, {} steps", steps.load(Ordering::SeqCst)));
        });
        println!("{how}: {raced} listings were raced, {met} met an entry that was there for a while");
    }
}

#[test]
fn conntrack_makes_room_for_the_new() {
    require_kernel!();
    for (plane, how) in both(Capacity::small()) {
        let tables = plane.tables();
        let table = tables.conntrack_v4();
        let capacity = table.capacity();
        let tuple = |number: u32| TupleV4 {
            source: Ipv4Addr::from(number).into(),
            destination: Ipv4Addr::new(192, 0, 2, 1).into(),
            source_port: Be16::new(1),
            destination_port: Be16::new(80),
            scope: 0,
            zone: 0,
            protocol: 6,
            reserved: 0,
        };
        let flow =
            |number: u32| FlowV4 { state: StateWord::new(1, number), tail_tag: number, ..FlowV4::default() };
        let entries: Vec<_> = (0..3 * capacity).map(|number| (tuple(number), flow(number))).collect();
        table.insert_batch(&entries).unwrap();
        let fill = table.fill().unwrap();
        assert!(fill > 0 && fill <= capacity, "{how}: {fill} of {capacity}");
        // The newest is there, and what is listed is whole.
        let last = 3 * capacity - 1;
        assert_eq!(table.get(&tuple(last)), Ok(Some(flow(last))), "{how}");
        for entry in table.entries() {
            let (tuple, flow) = entry.unwrap();
            assert_eq!(flow.tail_tag, u32::from(Ipv4Addr::from(tuple.source)), "{how}");
        }
    }
}

fn view(fd: Option<BorrowedFd<'_>>) -> Map {
    Map::from_map_data(MapData::from_fd(fd.unwrap().try_clone_to_owned().unwrap()).unwrap()).unwrap()
}

#[test]
fn words_are_those_of_the_kernel() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables = plane.tables();
    let backends = tables.backends_v6();
    assert_eq!((backends.name(), backends.width(), backends.capacity()), ("backends_v6", 4, 64));
    backends.store(63, &[1, 2, 3, 4]).unwrap();
    // Over several elements.
    backends.store(1, &[5, 6, 7, 8, 9, 10]).unwrap();
    let seen: Array<_, [u64; 4]> = view(tables.map_fd(map::BACKENDS_V6)).try_into().unwrap();
    assert_eq!(seen.get(&63, 0).unwrap(), [1, 2, 3, 4]);
    assert_eq!(seen.get(&1, 0).unwrap(), [5, 6, 7, 8]);
    assert_eq!(seen.get(&2, 0).unwrap(), [9, 10, 0, 0]);
    let mut seen = seen;
    seen.set(7, [11, 12, 13, 14], 0).unwrap();
    assert_eq!((0..4).map(|word| backends.load(7, word).unwrap()).collect::<Vec<_>>(), [11, 12, 13, 14]);

    // Beyond the end nothing is stored and nothing is there.
    let error = backends.store(63, &[0; 5]).unwrap_err();
    assert_eq!(error.cause, Cause::OutOfRange { index: 63, capacity: 64 });
    assert!(backends.store(64, &[0]).is_err() && backends.store(u32::MAX, &[0]).is_err());
    assert_eq!(backends.load(63, 0), Some(1));
    assert_eq!(
        (backends.load(64, 0), backends.load(0, 4), backends.load(u32::MAX, u32::MAX)),
        (None, None, None)
    );
}

/// Under the names that the kernel has, of which it keeps 15 bytes.
#[test]
fn every_table_can_be_had_by_name() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables = plane.tables();
    for name in [
        map::SERVICES_V4,
        map::SERVICES_V6,
        map::SERVICE_WORDS,
        map::SLOTS,
        map::BACKENDS_V4,
        map::BACKENDS_V6,
        map::CONNTRACK_V4,
        map::CONNTRACK_V6,
        map::CONFIG,
        map::INTERFACES,
        map::COUNTERS,
        map::SERVICE_COUNTERS,
        map::SUSPECTS_V4,
        map::SUSPECTS_V6,
        map::COLLECTOR,
        map::TEST_INPUTS,
    ] {
        let fd = tables.map_fd(name).unwrap_or_else(|| panic!("there is no {name}"));
        let info = MapData::from_fd(fd.try_clone_to_owned().unwrap()).unwrap().info().unwrap();
        assert_eq!(info.name_as_str(), Some(&name[..name.len().min(15)]));
    }
    assert!(tables.map_fd("no_such_table").is_none());
}

#[test]
fn counters_are_sums_over_cpus() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables = plane.tables();
    let counters = tables.counters();
    let cpus = aya::util::nr_cpus().unwrap();
    let values =
        |first: u64| PerCpuValues::try_from((0..cpus as u64).map(|cpu| first + cpu).collect::<Vec<_>>());
    let sum = |first: u64| (0..cpus as u64).map(|cpu| first + cpu).sum::<u64>();

    let mut verdicts: PerCpuArray<_, u64> = view(tables.map_fd(map::COUNTERS)).try_into().unwrap();
    let drop = Verdict::Drop(DropReason::NoBackend);
    verdicts.set(counter_index(Hook::Egress, drop.into()), values(100).unwrap(), 0).unwrap();
    assert_eq!(counters.verdict(Hook::Egress, drop), Ok(sum(100)));
    assert_eq!(counters.verdict(Hook::Ingress, drop), Ok(0));
    assert_eq!(counters.verdict(Hook::Egress, Verdict::Pass(PassReason::NotIp)), Ok(0));

    let mut services: PerCpuArray<_, [u64; 6]> =
        view(tables.map_fd(map::SERVICE_COUNTERS)).try_into().unwrap();
    let each = (0..cpus as u64).map(|cpu| [1 + cpu, 2, 3, 4, 5, 6]).collect::<Vec<_>>();
    services.set(127, PerCpuValues::try_from(each).unwrap(), 0).unwrap();
    let cpus = cpus as u64;
    let expected = ServiceCounters {
        packets: sum(1),
        bytes: 2 * cpus,
        reply_packets: 3 * cpus,
        reply_bytes: 4 * cpus,
        flows: 5 * cpus,
        drops: 6 * cpus,
    };
    assert_eq!(counters.service(127), Ok(expected));
    counters.clear_service(127).unwrap();
    assert_eq!(counters.service(127), Ok(ServiceCounters::default()));
    let out = Cause::OutOfRange { index: 128, capacity: 128 };
    assert_eq!(counters.service(128).unwrap_err().cause, out);
    assert_eq!(counters.clear_service(128).unwrap_err().cause, out);
}

#[test]
fn a_grace_period_passes() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables: std::sync::Arc<KernelTables> = plane.tables();
    for _ in 0..3 {
        tables.synchronize().unwrap();
    }
}

#[test]
fn tables_outlive_their_dataplane() {
    require_kernel!();
    let plane = small().open().unwrap();
    let tables = plane.tables();
    drop(plane);
    tables.services_v4().insert(&key(1), &value(1)).unwrap();
    tables.slots().store(0, &[1]).unwrap();
    assert_eq!(tables.services_v4().get(&key(1)), Ok(Some(value(1))));
    tables.synchronize().unwrap();
}
