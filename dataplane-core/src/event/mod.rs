//! Events: packets dropped, flows opened and closed, as the programs tell of them.
//!
//! They are off unless somebody asks for them, and then told through a ring that somebody has to read. What finds the ring full
//! is lost and counted ([`EventLosses`]): nothing waits, and no packet fares differently.
//!
//! - A **drop** is told of with each packet that gets such a verdict, answered ones too, up to
//!   [`EventOptions::drops_a_second`] on each CPU; the counters of verdicts have all of them. So a flood of packets that
//!   are dropped leaves room for the rest.
//! - A flow is **opened** by the packet whose entries stand, on one CPU of those that race.
//! - It is **closed** when its client's entry is taken out: by the collector, one to three rounds after its time was over, or
//!   earlier by a packet that needs its place or its port. Of an entry that a full conntrack table evicted, no close is told.
//!   A flow that dies with the dataplane is not closed either.
//!
//! Times are those of the kernel's monotonic clock, some milliseconds coarse. [`Event::parse`] reads a record of
//! [`abi`](crate::abi), whatever bytes it is given.

mod error;
mod parse;

use std::{fmt, net::SocketAddr, time::Duration};

pub use self::error::EventError;
use crate::{
    abi::{BackendRef, DEFAULT_DROP_EVENTS_A_SECOND},
    model::Protocol,
    pipeline::{CloseReason, DropReason, Hook},
    wire::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP},
};

/// Which events are wanted, and how much room there is for those that nobody has read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventOptions {
    ring_bytes: u32,
    drops_a_second: u32,
}

impl Default for EventOptions {
    /// A ring of 1 MiB, some 14,000 flows of IPv4, and 1,000 drops a second.
    fn default() -> Self {
        Self { ring_bytes: 1 << 20, drops_a_second: DEFAULT_DROP_EVENTS_A_SECOND }
    }
}

impl EventOptions {
    /// The smallest ring: the kernel takes whole pages.
    pub const SMALLEST_RING: u32 = 4096;
    /// The largest ring.
    pub const LARGEST_RING: u32 = 1 << 30;

    /// Gives the ring so many bytes: a power of two of 4,096 to 2^30, to which other numbers are raised or lowered. A record
    /// takes 48 to 120 of them.
    #[must_use]
    pub fn with_ring_bytes(mut self, bytes: u32) -> Self {
        self.ring_bytes = bytes.clamp(Self::SMALLEST_RING, Self::LARGEST_RING).next_power_of_two();
        self
    }

    /// Lets each CPU tell of so many drops a second; 0: of none.
    #[must_use]
    pub fn with_drops_a_second(mut self, drops: u32) -> Self {
        self.drops_a_second = drops;
        self
    }

    /// How large the ring is.
    pub fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    /// How many drops each CPU tells of in a second.
    pub fn drops_a_second(&self) -> u32 {
        self.drops_a_second
    }
}

/// Events that nobody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventLosses {
    /// The ring was full.
    pub lost: u64,
    /// Drops beyond those that a CPU may tell of in a second. They are counted as all drops are.
    pub withheld: u64,
}

impl EventLosses {
    /// So many of each.
    pub fn new(lost: u64, withheld: u64) -> Self {
        Self { lost, withheld }
    }
}

/// Something that happened to a packet or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A packet was dropped.
    Dropped(Dropped),
    /// A flow was opened.
    Opened(Opened),
    /// A flow was closed.
    Closed(Closed),
}

/// A packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// When, on the kernel's monotonic clock.
    pub time: Duration,
    /// Where.
    pub hook: Hook,
    /// Index of the interface where it arrived, or at [`Hook::Egress`] by which it was to leave.
    pub interface: u32,
    /// The zone of that interface.
    pub zone: u16,
    /// The transport protocol's number; of an ICMP error about a flow, that of the flow.
    pub protocol: u8,
    /// Who sent it; of an ICMP error about a flow, the flow's source as seen here.
    pub source: SocketAddr,
    /// Whom it was for.
    pub destination: SocketAddr,
    /// Why.
    pub reason: DropReason,
    /// Whether whoever sent it was told.
    pub answered: bool,
}

/// A flow was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// When, on the kernel's monotonic clock.
    pub time: Duration,
    /// Where its first packet was.
    pub hook: Hook,
    /// Index of the interface where that arrived.
    pub interface: u32,
    /// Which flow.
    pub flow: FlowIdentity,
}

/// A flow was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// When its entry went, on the kernel's monotonic clock. Less [`idle`](Self::idle) it is when its last packet came.
    pub time: Duration,
    /// How long before that its last packet was noted, which is done once a second.
    pub idle: Duration,
    /// Why.
    pub reason: CloseReason,
    /// Whether the backend had answered.
    pub answered: bool,
    /// Which flow.
    pub flow: FlowIdentity,
}

/// Which flow it is: the same of the opened and the closed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FlowIdentity {
    /// Its protocol.
    pub protocol: Protocol,
    /// The zone of the interface where the client's packets arrive.
    pub zone: u16,
    /// Who opened it.
    pub client: SocketAddr,
    /// The virtual address and port that the client asked for.
    pub frontend: SocketAddr,
    /// Who serves it.
    pub backend: SocketAddr,
    /// What the backend sees as the client, where its source is translated.
    pub masquerade: Option<SocketAddr>,
    /// Whether the backend is on this host.
    pub local: bool,
    /// The frontend's index in the tables.
    pub frontend_index: u32,
    /// The backend's index in the table of its family, and its generation.
    pub backend_ref: BackendRef,
}

impl Event {
    /// What kind of event it is, in one word: `dropped`, `opened` or `closed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dropped(_) => "dropped",
            Self::Opened(_) => "opened",
            Self::Closed(_) => "closed",
        }
    }

    /// When it happened, on the kernel's monotonic clock.
    pub fn time(&self) -> Duration {
        match self {
            Self::Dropped(dropped) => dropped.time,
            Self::Opened(opened) => opened.time,
            Self::Closed(closed) => closed.time,
        }
    }
}

impl Dropped {
    /// The protocol's name, where it is one that has ever to do with services.
    pub fn protocol_name(&self) -> Option<&'static str> {
        match self.protocol {
            PROTOCOL_TCP => Some("tcp"),
            PROTOCOL_UDP => Some("udp"),
            PROTOCOL_ICMP => Some("icmp"),
            PROTOCOL_ICMPV6 => Some("icmpv6"),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped(event) => event.fmt(f),
            Self::Opened(event) => event.fmt(f),
            Self::Closed(event) => event.fmt(f),
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, interface, source, destination, reason, answered, .. } = self;
        match self.protocol_name() {
            Some(name) => write!(f, "dropped {name}")?,
            None => write!(f, "dropped protocol {}", self.protocol)?,
        }
        let told = if *answered { ", and told so" } else { "" };
        write!(
            f,
            " {source} > {destination} at {} of interface {interface}: {}{told}",
            hook.name(),
            reason.name()
        )
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "opened {} at {} of interface {}", self.flow, self.hook.name(), self.interface)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, reason, answered, flow, .. } = self;
        let never = if *answered { "" } else { ", never answered" };
        write!(f, "closed {flow}: {}{never}, idle for {:.1} s", reason.name(), idle.as_secs_f64())
    }
}

impl fmt::Display for FlowIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, client, frontend, backend, masquerade, local, .. } = self;
        write!(f, "{protocol} {client} > {frontend} to {backend}")?;
        if let Some(masquerade) = masquerade {
            write!(f, " as {masquerade}")?;
        }
        if *local { f.write_str(" on this host") } else { Ok(()) }
    }
}
