//! The conformance suite, which the tables in memory pass too, over the kernel's tables: with batch commands, without,
//! and with writes that fail.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::sync::Arc;

use dataplane_core::tables::{Capacity, Store};
use dataplane_ebpf::{Builder, EbpfDataplane};
use dataplane_testkit::{conformance, faulty::FaultyStore, require_kernel};

fn small() -> Builder {
    EbpfDataplane::builder().unpinned().capacity(Capacity::small())
}

/// The tables stay as long as somebody holds them; the programs are not needed here.
fn tables(builder: Builder) -> Arc<dyn Store> {
    builder.open().unwrap().tables()
}

#[test]
fn kernel_tables_conform() {
    require_kernel!();
    conformance::run(&conformance::all(), || tables(small()));
}

#[test]
fn kernel_tables_without_batches_conform() {
    require_kernel!();
    conformance::run(&conformance::all(), || tables(small().without_batches()));
}

#[test]
fn a_controller_gets_over_failing_writes_to_the_kernel() {
    require_kernel!();
    conformance::run(&conformance::control(), || Arc::new(FaultyStore::new(tables(small()), 10, 7)));
}
