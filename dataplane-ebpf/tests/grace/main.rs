//! A grace period of the kernel's tables is over when every program has ended that ran when it was asked for.
//!
//! The oracle is a program of this test that runs for a quarter of a second, and says so in a word that it shares with
//! user space when it begins and before it ends. Test runs hold the same RCU read-side lock as XDP and tc
//! (`bpf_test_run` in net/bpf/test_run.c).
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

#[path = "../common/bpf.rs"]
mod bpf;
#[path = "../common/mod.rs"]
mod common;
mod program;

use std::{thread, time::Duration};

use common::{kernel, small};
use dataplane_core::{
    abi::{TestInput, map},
    tables::Store,
};
use dataplane_ebpf::testing::TestDataplane;
use dataplane_testkit::{net::wait_for, require_kernel};
use program::{BEGUN, ENDED, LongProgram};

/// The instruction `may_goto`, without which the verifier lets nothing run for so long.
fn has_may_goto() -> Result<(), &'static str> {
    if kernel::is_at_least(6, 9) { Ok(()) } else { Err("before Linux 6.9 there is no may_goto") }
}

#[test]
fn a_grace_period_waits_for_a_program_that_runs() {
    require_kernel!(has_may_goto());
    let test = TestDataplane::open(small()).unwrap();
    let tables = test.plane().tables();
    let place = TestInput::Verdict;
    let program = LongProgram::load(tables.map_fd(map::TEST_INPUTS).unwrap(), place as u8).unwrap();
    let mut met = 0;
    // On a busy machine the program may have ended before this thread comes to ask: such a round shows nothing.
    for _ in 0..40 {
        test.set(place, 0).unwrap();
        thread::scope(|scope| {
            let run = scope.spawn(|| program.run());
            wait_for(Duration::from_secs(20), "the program runs", || test.get(place) != 0).unwrap();
            let before = test.get(place);
            tables.synchronize().unwrap();
            let after = test.get(place);
            run.join().unwrap().unwrap();
            if before == BEGUN {
                met += 1;
                assert_eq!(after, ENDED, "the grace period did not wait for the program");
            }
        });
        if met == 3 {
            return;
        }
    }
    panic!("of 40 grace periods {met} began while the program ran");
}
