//! The conformance suite over the tables in memory, and over tables that fail on purpose.

use std::sync::Arc;

use dataplane_core::{memory::MemoryTables, tables::Capacity};
use dataplane_testkit::{conformance, faulty::FaultyStore, witness::Witness};

fn memory() -> Arc<MemoryTables> {
    Arc::new(MemoryTables::new(Capacity::small()))
}

#[test]
fn memory_tables_conform() {
    conformance::run(&conformance::all(), || memory());
}

#[test]
fn a_controller_gets_there_although_one_write_in_ten_fails() {
    for seed in 1..=20 {
        conformance::run(&conformance::control(), || Arc::new(FaultyStore::new(memory(), 10, seed)));
    }
}

#[test]
fn readers_resolve_after_each_write_of_the_suite() {
    conformance::run(&conformance::control(), || Arc::new(Witness::new(memory())));
    for seed in 1..=3 {
        conformance::run(&conformance::control(), || {
            Arc::new(FaultyStore::new(Arc::new(Witness::new(memory())), 10, seed))
        });
    }
}
