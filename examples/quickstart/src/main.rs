//! Forebay in half a minute: `cargo run --release --bin quickstart`.
//!
//! As root: network namespaces for a client, a balancer and three backends; the real programs in the kernel; real HTTP
//! and UDP over IPv4 and IPv6 through virtual addresses that a YAML file names; a backend taken away by editing that
//! file while long downloads run; and everything taken down again. Without root the same file in memory, with generated
//! frames.
//!
//! The last line says `N requests, M failed`. The exit code is 1 unless nothing failed and the programs' own counters
//! account for every packet that the client sent; 130 after Ctrl-C; 141 where nobody reads the output any more.
//!
//! | file | does |
//! | --- | --- |
//! | `config.rs` | writes and edits the YAML, and hands it to a controller |
//! | `kernel.rs` | the run with real traffic |
//! | `memory.rs` | the run in memory |
//! | `load.rs` | clients |
//! | `tally.rs` | who answered how often, and the last lines |
//! | `output.rs` | lines for people |
#![forbid(unsafe_code)]

mod config;
mod kernel;
mod load;
mod memory;
mod output;
mod tally;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use clap::Parser;

use tally::Summary;

/// Forebay on real traffic in half a minute. Needs root for the real thing; without, it runs in memory.
#[derive(Parser)]
#[command(name = "quickstart")]
pub struct Arguments {
    /// HTTP requests, and as many UDP datagrams, half of them over IPv6: 1000 to 100000
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1000..=100_000))]
    requests: u32,
    /// Attach to XDP in native mode, and not to tcx alone, which is what is chosen for veth by itself
    #[arg(long)]
    xdp: bool,
    /// Run in memory, also as root
    #[arg(long)]
    memory: bool,
    /// For the tests alone
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

/// A fault that the run makes itself, once, so that tests see it found: each must end the run with 1, and be told.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sabotage {
    /// The client reaches a backend directly, past the services.
    Elsewhere,
    /// A backend refuses connections.
    Refuse,
    /// The backend that drained is made active again, and not taken away. Not in memory, where nobody asks after it.
    Return,
}

impl Arguments {
    fn is_sabotaged_by(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }
}

/// Set by Ctrl-C, and where the run failed; everything that waits looks at it.
#[derive(Clone, Default)]
pub struct Interrupt {
    pressed: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
}

impl Interrupt {
    /// Whether everybody is to stop.
    pub fn is_set(&self) -> bool {
        self.is_pressed() || self.given_up.load(Ordering::Relaxed)
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Has everybody stop: something failed, and the rest is not worth waiting for.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// An error, once Ctrl-C was pressed.
    pub fn check(&self) -> Result<()> {
        if self.is_pressed() { anyhow::bail!("interrupted: everything was taken down again") } else { Ok(()) }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    let handler = ctrlc::set_handler(move || flag.pressed.store(true, Ordering::Relaxed))
        .context("cannot catch Ctrl-C");
    let printed = || {
        let summary = run(&arguments, &interrupt)?;
        summary.print()?;
        Ok(summary.is_good())
    };
    match handler.and_then(|()| printed()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // As a shell tells of SIGPIPE.
        Err(error) if error.is::<output::Closed>() => ExitCode::from(141),
        Err(error) => {
            output::complain(format_args!("quickstart: {error:#}"));
            // As a shell tells of SIGINT.
            ExitCode::from(if interrupt.is_pressed() { 130 } else { 1 })
        }
    }
}

fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Summary> {
    let missing = match dataplane_testkit::net::capabilities() {
        Err(missing) => Some(missing.to_string()),
        Ok(()) => None,
    };
    match missing {
        _ if arguments.memory => say!("In memory, with generated frames, as asked for.")?,
        None => return kernel::run(arguments, interrupt),
        Some(reason) => {
            say!("In memory, with generated frames, because the kernel can't be used: {reason}.")?;
            say!("As root this runs real traffic: sudo target/release/quickstart\n")?;
        }
    }
    memory::run(arguments, interrupt)
}
