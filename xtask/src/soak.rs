//! Real traffic while everything changes, for minutes: `cargo xtask soak`.
//!
//! It runs the soak of the normal tests (`dataplane-ebpf/tests/traffic/soak`), for longer.

use anyhow::Result;

use crate::{machine, process};

/// The tests: one for each way of attaching.
const TESTS: [&str; 2] =
    ["soak::tcx_serves_while_everything_changes", "soak::xdp_serves_while_everything_changes"];

#[derive(clap::Args)]
pub struct Arguments {
    /// How long, half of it at tcx and half at XDP
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// What determines the changes; without it each run has its own, and prints it
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    machine::can_run_kernel_tests().map_err(anyhow::Error::msg)?;
    let seconds = arguments.minutes * 60 / TESTS.len() as u64;
    let mut cargo = process::cargo();
    cargo.args(["test", "--package", "dataplane-ebpf", "--test", "traffic", "--", "--exact", "--nocapture"]);
    cargo.args(TESTS).env("FOREBAY_SOAK_SECONDS", seconds.to_string()).env("FOREBAY_REQUIRE_KERNEL", "1");
    if let Some(seed) = arguments.seed {
        cargo.env("FOREBAY_TEST_SEED", seed.to_string());
    }
    process::run(&mut cargo)
}
