//! Why the daemon can't start or go on: in words that say what to do, and as an exit code.

use std::{error::Error, io, net::SocketAddr, path::PathBuf};

use control_static::Errors;
use dataplane_core::{ControllerError, source::SourceError, state::RegisterError};
use dataplane_ebpf::{Error as Open, HookName};

/// Why it can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon's own file.
    #[error("the configuration is wrong; nothing was started:\n{0}")]
    Configuration(Errors),

    /// The services.
    #[error("the services are wrong; nothing was started:\n{0}")]
    Services(Errors),

    /// Nobody can be served status there.
    #[error("cannot serve status at {address}{}", advice(source))]
    Status {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },

    /// The dataplane.
    #[error(transparent)]
    Dataplane(#[from] Open),

    /// There is nothing that could be kept or removed.
    #[error("{option} needs a pin directory: name one by `pins:` in the configuration, or by --pins")]
    NoPins {
        /// What was asked for.
        option: &'static str,
    },

    /// Another dataplane works on an uplink.
    #[error(
        "another dataplane has its program on {interface} already ({hook}, id {program_id}): end that one first \
         (`systemctl stop forebay-lb`, or see `bpftool net`), or give this one other uplinks"
    )]
    Occupied {
        /// The uplink.
        interface: String,
        /// Where the other one's program stands.
        hook: HookName,
        /// The other one's program.
        program_id: u32,
    },

    /// The files can't be followed.
    #[error("cannot follow {path}: {error}")]
    Source {
        /// The file or folder of services.
        path: PathBuf,
        /// Why.
        error: SourceError,
    },

    /// A part of the daemon has ended by itself.
    #[error(
        "the thread {thread} has ended, which is a mistake in this program: what it said before is above; packets are \
         balanced on as the files said last where --keep says so, and starting it again goes on from there"
    )]
    Broken {
        /// Which.
        thread: &'static str,
    },

    /// What is in the tables can't be gone on from.
    #[error(transparent)]
    Control(#[from] ControllerError),

    /// The source can't register.
    #[error(transparent)]
    Register(#[from] RegisterError),

    /// The operating system refuses something that it nearly always gives.
    #[error("cannot {operation}")]
    System {
        /// What.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// The exit code, as `docs/bare-metal.md` and `--help` tell it. 2 is clap's, for a wrong command line.
    pub fn code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::Services(_) | Self::NoPins { .. } => 3,
            Self::Dataplane(error) => match error {
                Open::CapacityZero { .. } | Open::CapacityTooSmall { .. } | Open::Map { .. } => 3,
                Open::NoPrivilege { .. }
                | Open::NoBpf { .. }
                | Open::NoBtf { .. }
                | Open::MissingFeature { .. } => 4,
                Open::InterfaceMissing { .. }
                | Open::InterfaceVanished { .. }
                | Open::InterfaceNotEthernet { .. }
                | Open::InterfaceTwice { .. }
                | Open::InterfaceSlotTaken { .. } => 5,
                Open::XdpTaken { .. } | Open::FilterTaken { .. } | Open::PinsHeld { .. } => 6,
                Open::PinsNotOnBpffs { .. }
                | Open::UntrustedPins { .. }
                | Open::PinDirectory { .. }
                | Open::Pin { .. } => 7,
                _ => 1,
            },
            Self::Occupied { .. } => 6,
            Self::Status { source, .. } if source.kind() == io::ErrorKind::AddrInUse => 6,
            _ => 1,
        }
    }
}

/// What a person can do about a failure, beyond what it says itself.
pub fn hint(failure: &Failure) -> &'static str {
    match failure {
        Failure::Dataplane(Open::Pin { .. }) => {
            "; `forebay-lb --remove`, with the same configuration, takes off what is pinned and ends its connections"
        }
        _ => "",
    }
}

/// An error with all that lies behind it, in one line.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        behind = error.source();
    }
    text
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            " because somebody listens there: another forebay-lb, most likely; end that one, or name another address by \
             `status:`"
        }
        io::ErrorKind::AddrNotAvailable => " because the loopback has no such address: `ip link set lo up`",
        io::ErrorKind::PermissionDenied => ": name a port from 1024 on by `status:`",
        _ => "",
    }
}
