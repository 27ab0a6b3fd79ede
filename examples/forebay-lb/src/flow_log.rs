//! The flow log: what happens to flows and packets, as lines of JSON on standard output. `docs/bare-metal.md` explains them.
//!
//! A thread of its own reads events and writes lines, and waits as long as whoever reads them is slow. Meanwhile the kernel's
//! ring fills, and what finds it full is counted: nobody else waits.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use dataplane_core::event::{Closed, Dropped, Event, EventLosses, FlowIdentity, Opened};
use dataplane_ebpf::EventReader;
use serde::Serialize;

use crate::failure::{Failure, explain};

/// So often it looks for losses, and whether it is to end.
const GLANCE: Duration = Duration::from_millis(250);

/// So many bytes are written at once, at the most and one line.
const BATCH: usize = 64 << 10;

/// At the end the reader has so long to take what is left.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that writes.
pub struct FlowLog {
    end: Arc<AtomicBool>,
    ended: Receiver<Infallible>,
}

impl FlowLog {
    /// Writes what happens from now on.
    ///
    /// # Errors
    /// [`Failure::System`] where there is no thread to be had.
    pub fn start(reader: EventReader) -> Result<Self, Failure> {
        let end = Arc::new(AtomicBool::new(false));
        let (tell, ended) = mpsc::channel();
        let is_over = Arc::clone(&end);
        let write = move || {
            if let Err(error) = write(&reader, &is_over) {
                tracing::warn!("flows are logged no more: {}", explain(&error));
            }
            // Who waits for it is told by this.
            drop(tell);
        };
        let started = thread::Builder::new().name("flow-log".into()).spawn(write);
        started.map_err(|source| Failure::System { operation: "start the flow log's thread", source })?;
        Ok(Self { end, ended })
    }

    /// Writes what is left, unless nobody takes it.
    pub fn end(self) {
        self.end.store(true, Ordering::Release);
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(PATIENCE) {
            tracing::warn!("whoever reads the flow log is too slow: the last of it is lost");
        }
    }
}

/// Writes lines until it is to end, or nobody takes them.
fn write(reader: &EventReader, is_over: &AtomicBool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (mut lines, mut told, mut looked) = (Vec::new(), EventLosses::default(), Instant::now());
    loop {
        // Asked first: what came before it was set is read below.
        let last = is_over.load(Ordering::Acquire);
        let mut wait = if last { Duration::ZERO } else { GLANCE };
        while let Some(event) = next(reader, wait) {
            if let Some(line) = Line::of(&event, wall_time(reader.age(&event))) {
                write_line(&mut lines, &line)?;
            }
            if lines.len() > BATCH {
                break;
            }
            wait = Duration::ZERO;
        }
        let is_empty = lines.is_empty();
        if last || looked.elapsed() >= GLANCE {
            looked = Instant::now();
            match reader.losses() {
                Ok(losses) if losses != told => {
                    told = losses;
                    let EventLosses { lost, withheld, .. } = losses;
                    write_line(&mut lines, &Line::Lost { time: wall_time(Duration::ZERO), lost, withheld })?;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("{}", explain(&error)),
            }
        }
        out.write_all(&lines)?;
        out.flush()?;
        lines.clear();
        if last && is_empty {
            return Ok(());
        }
    }
}

/// The next event that can be read.
fn next(reader: &EventReader, wait: Duration) -> Option<Event> {
    match reader.next(wait) {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!("{}", explain(&error));
            None
        }
    }
}

fn write_line(lines: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, line)?;
    lines.push(b'\n');
    Ok(())
}

/// Seconds since 1970, of a moment so long ago; to a millisecond.
fn wall_time(age: Duration) -> f64 {
    let moment = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1e3).round() / 1e3
}

/// A line. Every field of its kind is always there; what does not apply is `null`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Opened {
        time: f64,
        #[serde(flatten)]
        flow: Flow,
        hook: &'static str,
        interface: u32,
    },
    Closed {
        time: f64,
        #[serde(flatten)]
        flow: Flow,
        reason: &'static str,
        answered: bool,
        idle: f64,
    },
    Dropped {
        time: f64,
        protocol: String,
        source: SocketAddr,
        destination: SocketAddr,
        zone: u16,
        reason: &'static str,
        answered: bool,
        hook: &'static str,
        interface: u32,
    },
    Lost {
        time: f64,
        lost: u64,
        withheld: u64,
    },
}

/// The fields that the opened and the closed flow have in common.
#[derive(Debug, Serialize)]
struct Flow {
    protocol: String,
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
    masquerade: Option<SocketAddr>,
    local: bool,
    zone: u16,
    frontend_index: u32,
    backend_index: u32,
    backend_generation: u32,
}

impl Line {
    /// `None` for a kind of event that has no line.
    fn of(event: &Event, time: f64) -> Option<Self> {
        Some(match *event {
            Event::Opened(Opened { hook, interface, flow, .. }) => {
                Self::Opened { time, flow: flow.into(), hook: hook.name(), interface }
            }
            Event::Closed(Closed { idle, reason, answered, flow, .. }) => Self::Closed {
                time,
                flow: flow.into(),
                reason: reason.name(),
                answered,
                idle: (idle.as_secs_f64() * 10.0).round() / 10.0,
            },
            Event::Dropped(dropped) => Self::of_drop(&dropped, time),
            _ => return None,
        })
    }

    fn of_drop(dropped: &Dropped, time: f64) -> Self {
        let Dropped { hook, interface, zone, protocol, source, destination, reason, answered, .. } = *dropped;
        Self::Dropped {
            time,
            protocol: dropped.protocol_name().map_or_else(|| protocol.to_string(), str::to_owned),
            source,
            destination,
            zone,
            reason: reason.name(),
            answered,
            hook: hook.name(),
            interface,
        }
    }
}

impl From<FlowIdentity> for Flow {
    fn from(flow: FlowIdentity) -> Self {
        Self {
            protocol: flow.protocol.to_string(),
            client: flow.client,
            frontend: flow.frontend,
            backend: flow.backend,
            masquerade: flow.masquerade,
            local: flow.local,
            zone: flow.zone,
            frontend_index: flow.frontend_index,
            backend_index: flow.backend_ref.index(),
            backend_generation: flow.backend_ref.generation(),
        }
    }
}
