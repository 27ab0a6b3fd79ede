//! What every [`Store`] must do: one suite for the tables in memory, those in the kernel, and those that fail on
//! purpose.
//!
//! ```
//! use std::sync::Arc;
//! use dataplane_core::{memory::MemoryTables, tables::Capacity};
//! use dataplane_testkit::conformance;
//!
//! conformance::run(&conformance::all(), || Arc::new(MemoryTables::new(Capacity::small())));
//! ```

mod control;
mod flows;
mod hash;
mod words;

use std::{sync::Arc, time::Duration};

use dataplane_core::{Controller, NextWake, tables::Store};

/// One check. It gets tables of its own, empty, of [`Capacity::small`](dataplane_core::tables::Capacity::small).
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it asks.
    pub name: &'static str,
    /// Asks it.
    ///
    /// It panics where the tables do otherwise.
    pub run: fn(Arc<dyn Store>),
}

/// Checks of the tables alone: no write may fail that has no reason to.
pub fn tables() -> Vec<Case> {
    [hash::CASES, flows::CASES, words::CASES].concat()
}

/// Checks of a controller on these tables: writes may fail, if only for a while.
pub fn control() -> Vec<Case> {
    control::CASES.to_vec()
}

/// All checks.
pub fn all() -> Vec<Case> {
    [tables(), control()].concat()
}

/// Runs checks, each on tables that `make` makes.
///
/// # Panics
/// Where the tables do otherwise; the name of the check is printed before it.
pub fn run(cases: &[Case], make: impl Fn() -> Arc<dyn Store>) {
    for case in cases {
        eprintln!("conformance: {}", case.name);
        (case.run)(make());
    }
}

/// Steps a controller until it has nothing more to do, on a clock that jumps to the next time when something is due.
/// Returns the time then.
///
/// # Panics
/// Where it does not come to rest in 20,000 steps.
pub fn settle(controller: &Controller, mut now: Duration) -> Duration {
    for _ in 0..20_000 {
        match controller.step(now) {
            NextWake::Now => {}
            NextWake::At(time) => now = now.max(time),
            NextWake::OnChange => return now,
            other => panic!("a wake that is not known here: {other:?}"),
        }
    }
    panic!("the controller does not come to rest: {:?}", controller.status());
}
