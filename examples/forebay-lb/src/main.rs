//! A load balancer for bare metal: `forebay-lb --config FILE`.
//!
//! It loads the programs, attaches them to the uplinks that its file names, follows files of services while they are
//! edited, serves its status on the loopback, and takes everything off again when it is told to end.
//! `docs/bare-metal.md` says how to set it up.
//!
//! | file | does |
//! | --- | --- |
//! | `config.rs` | reads the daemon's own file |
//! | `daemon.rs` | opens, follows, ends |
//! | `watch.rs` | looks around every second |
//! | `flow_log.rs` | writes what happens to flows |
//! | `status/` | the status: its shape, and how it is put together |
//! | `http.rs` | serves it |
//! | `notify.rs` | tells systemd |
//! | `failure.rs` | what can go wrong, in words and exit codes |
#![forbid(unsafe_code)]

mod config;
mod daemon;
mod failure;
mod flow_log;
mod http;
mod notify;
mod status;
mod watch;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use control_static::Picture;
use tracing_subscriber::{EnvFilter, fmt::time::SystemTime};

use config::Config;
use failure::Failure;

const AFTER_HELP: &str = "\
Signals:
  TERM, INT   take everything off and end; with --keep, only end
  USR1        let through removals that are held back (see the status)

Exit codes:
  0  ended as told, or the files are good
  1  something else failed: the message says what
  2  the command line is wrong
  3  the configuration or the services are wrong
  4  no privileges, or this kernel can't
  5  an uplink is missing or can't be one
  6  somebody else is there: on an uplink, at the status address, or in the pin directory
  7  the pin directory can't be used, or what is pinned there does not fit

FOREBAY_LOG sets what is logged: error, warn, info (the default), debug, trace.";

/// Balances services over backends by eBPF programs on this machine's network cards.
#[derive(Parser)]
#[command(name = "forebay-lb", version, after_help = AFTER_HELP)]
struct Arguments {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/forebay/forebay-lb.yaml")]
    config: PathBuf,
    /// Only look whether the configuration and the services are good; touches nothing, and needs no privileges
    #[arg(long)]
    check: bool,
    /// Pin tables and programs in this directory of a bpffs, so that they outlive the process; instead of `pins:`
    #[arg(long, value_name = "DIR")]
    pins: Option<PathBuf>,
    /// Leave everything attached when told to end: packets are balanced on, and the next run takes over
    #[arg(long)]
    keep: bool,
    /// Write a line of JSON to standard output for each flow that is opened or closed, and each packet that is dropped
    #[arg(long)]
    log_flows: bool,
    /// Only take off what an earlier run left attached
    #[arg(long, conflicts_with_all = ["check", "keep", "log_flows"])]
    remove: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whether anybody reads it or not.
            drop(writeln!(
                io::stderr(),
                "forebay-lb: {}",
                failure::explain(&failure) + failure::hint(&failure)
            ));
            ExitCode::from(failure.code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut config = Config::load(&arguments.config).map_err(Failure::Configuration)?;
    if arguments.pins.is_some() {
        config.pins.clone_from(&arguments.pins);
    }
    if arguments.remove {
        return daemon::remove(&config);
    }
    if arguments.keep && config.pins.is_none() {
        return Err(Failure::NoPins { option: "--keep" });
    }
    let picture = control_static::load(&config.services).map_err(Failure::Services)?;
    if arguments.check {
        // Nobody reads it: the exit code says the same.
        drop(writeln!(io::stdout(), "{}", summary(&config, &picture)));
        return Ok(());
    }
    drop(picture);
    daemon::run(&config, arguments.keep, arguments.log_flows)
}

fn summary(config: &Config, picture: &Picture) -> String {
    let services = picture.services();
    let frontends: usize = services.iter().map(|service| service.frontends().len()).sum();
    let backends: usize = services.iter().map(|service| service.backends().len()).sum();
    let uplinks: Vec<_> = config.uplinks.iter().map(|uplink| uplink.name()).collect();
    format!(
        "good: {} services with {frontends} frontends and {backends} backends in {}, on {}",
        services.len(),
        config.services.display(),
        uplinks.join(", ")
    )
}

/// Logs to standard error. Where that is no terminal, whoever collects it knows the time.
fn log() {
    let filter = EnvFilter::try_from_env("FOREBAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    if io::stderr().is_terminal() {
        lines.with_timer(SystemTime).init();
    } else {
        lines.without_time().init();
    }
}
