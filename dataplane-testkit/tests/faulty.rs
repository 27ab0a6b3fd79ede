//! Tables that fail on purpose fail as often as they say, where their seed says, before or after the write.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::sync::Arc;

use dataplane_core::{
    abi::{ServiceKeyV4, ServiceRef},
    memory::MemoryTables,
    tables::{Capacity, Cause, Operation, Store},
    wire::Be16,
};
use dataplane_testkit::faulty::{FAULT, FaultyStore};

fn faulty(one_in: u32, seed: u64) -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryTables::new(Capacity::small())), one_in, seed)
}

fn key(n: u16) -> ServiceKeyV4 {
    let address = std::net::Ipv4Addr::new(203, 0, 113, 10).into();
    ServiceKeyV4 { address, port: Be16::new(n), protocol: 6, scope: 0 }
}

/// Which of so many stores fail.
fn failures(store: &FaultyStore, writes: u64) -> Vec<u64> {
    (0..writes).filter(|&n| store.slots().store(8, &[n]).is_err()).collect()
}

#[test]
fn as_many_writes_fail_as_it_says() {
    const WRITES: u64 = 20_000;
    for one_in in [2, 10, 100] {
        let store = faulty(one_in, 7);
        let failed = failures(&store, WRITES).len() as u64;
        let expected = WRITES / u64::from(one_in);
        // Some six standard deviations of the binomial distribution.
        let spread = 6 * expected.isqrt();
        assert!(failed.abs_diff(expected) < spread, "{failed} of {WRITES} at one in {one_in}");
        assert_eq!((store.writes(), store.failures()), (WRITES, failed));
    }
}

#[test]
fn all_fail_or_none() {
    assert_eq!(failures(&faulty(1, 7), 100).len(), 100);
    let store = faulty(0, 7);
    assert_eq!(failures(&store, 1000), []);
    assert_eq!((store.writes(), store.failures()), (1000, 0));
    store.fail_one_in(1);
    assert_eq!(failures(&store, 10).len(), 10);
    store.heal();
    assert_eq!(failures(&store, 1000), []);
}

#[test]
fn the_seed_decides_which() {
    let of = |seed| failures(&faulty(10, seed), 500);
    assert_eq!(of(1), of(1));
    let distinct: std::collections::BTreeSet<_> = (0..20).map(of).collect();
    assert_eq!(distinct.len(), 20);
    // SplitMix64 of seed 0 begins so, by its authors' program; of these, the multiples of 10 fail.
    let numbers: [u64; 4] =
        [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
    let expected: Vec<u64> = (0..4).filter(|&n| numbers[n as usize].is_multiple_of(10)).collect();
    assert_eq!(failures(&faulty(10, 0), 4), expected);
}

#[test]
fn half_of_the_failures_happened_all_the_same() {
    let store = faulty(1, 3);
    let happened = (1..=1000u64).filter(|&n| {
        store.slots().store(8, &[n]).unwrap_err();
        store.slots().load(8, 0) == Some(n)
    });
    let happened = happened.count();
    assert!((400..600).contains(&happened), "{happened} of 1000");
}

#[test]
fn a_failure_says_what_failed_and_reads_never_fail() {
    let store = faulty(1, 3);
    let errors = [
        (store.services_v4().insert(&key(1), &ServiceRef(1)).unwrap_err(), "services_v4", Operation::Insert),
        (store.services_v4().remove(&key(1)).unwrap_err(), "services_v4", Operation::Remove),
        (store.backends_v6().store(0, &[1]).unwrap_err(), "backends_v6", Operation::Store),
        (store.counters().clear_service(0).unwrap_err(), "service_counters", Operation::Store),
        (store.synchronize().unwrap_err(), "grace", Operation::Synchronize),
    ];
    for (error, table, operation) in errors {
        assert_eq!(
            (error.table, error.operation, error.cause),
            (table, operation, Cause::System { errno: FAULT })
        );
    }
    store.services_v4().get(&key(1)).unwrap();
    store.services_v4().fill().unwrap();
    store.counters().service(0).unwrap();
    assert_eq!(store.services_v4().entries().filter(Result::is_err).count(), 0);
}

#[test]
fn a_batch_that_is_taken_up_where_it_failed_gets_through() {
    let entries: Vec<_> = (1..=60).map(|n| (key(n), ServiceRef(n.into()))).collect();
    for seed in 0..50 {
        let store = faulty(4, seed);
        let mut from = 0;
        while let Err(failed) = store.services_v4().insert_batch(&entries[from..]) {
            assert_eq!(failed.error.operation, Operation::InsertBatch);
            // What is said to be done is done; the next one may be.
            from += failed.done;
            let fill = store.services_v4().fill().unwrap() as usize;
            assert!(fill == from || fill == from + 1, "{fill} entries, {from} said to be done");
        }
        assert_eq!(store.services_v4().fill(), Ok(60));
        assert!(entries.iter().all(|(key, value)| store.services_v4().get(key) == Ok(Some(*value))));
        assert!(store.failures() > 0 && store.writes() == 60 + store.failures());

        let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        let mut from = 0;
        while let Err(failed) = store.services_v4().remove_batch(&keys[from..]) {
            from += failed.done;
        }
        assert_eq!(store.services_v4().fill(), Ok(0));
    }
}
