//! Chores of this repository: `cargo xtask` lists them.
//!
//! One file per chore. Beside them stand the helpers that several chores need: [`repo`] (paths), [`process`] (running
//! other programs), [`toolchain`] (compilers for the BPF target) and [`packages`] (what to install).
#![forbid(unsafe_code)]

mod bench;
mod budget;
mod check_programs;
mod cpio;
mod debian_kernel;
mod guest;
mod kernels;
mod lint_programs;
mod machine;
mod mutation;
mod packages;
mod process;
mod programs;
mod repo;
mod rustc_wrapper;
mod setup;
mod soak;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Chores of this repository",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run every test, after installing what they need; list what this machine can't run, and why
    Test(test::Arguments),
    /// Install what the other chores need, after saying what (Debian packages when root, bpf-linker through cargo)
    Setup(setup::Arguments),
    /// Build the kernel programs and write the object that is committed
    BuildPrograms(programs::Arguments),
    /// Run clippy over the kernel programs, with warnings as errors
    LintPrograms,
    /// Rebuild the kernel programs and compare them with the committed object, byte for byte
    CheckPrograms(check_programs::Arguments),
    /// Load every program on this kernel and on Debian's 6.1 and 6.12 in virtual machines, under the verifier's budget
    Kernels(kernels::Arguments),
    /// Measure, beside the floors and baselines of this machine, and write a table under target/bench
    Bench(bench::Arguments),
    /// Break the pipeline and the programs line by line, and require that a test notices each time
    Mutation(mutation::Arguments),
    /// Send real traffic for minutes while services and backends change 200 times a second, and require that nothing fails
    Soak(soak::Arguments),
}

fn main() -> ExitCode {
    if let Some(status) = rustc_wrapper::run_if_called_by_cargo() {
        return status;
    }
    let result = match Arguments::parse().chore {
        Chore::Setup(arguments) => setup::run(&arguments),
        Chore::BuildPrograms(arguments) => programs::run(&arguments),
        Chore::CheckPrograms(arguments) => check_programs::run(&arguments),
        Chore::LintPrograms => lint_programs::run(),
        Chore::Kernels(arguments) => kernels::run(&arguments),
        Chore::Mutation(arguments) => mutation::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Soak(arguments) => soak::run(&arguments),
        Chore::Test(arguments) => test::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
