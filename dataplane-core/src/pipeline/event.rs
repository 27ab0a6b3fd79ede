//! What the pipeline tells of: packets that it drops, flows that it opens and closes.

use super::{
    Action, AnswerReason, Direction, Packet, Seen, Tick, VerdictNumber, verdict::reasons,
    workspace::Workspace,
};
use crate::{
    abi::{
        DropRecordV4, DropRecordV6, EVENT_ANSWERED, EVENT_CLOSED, EVENT_DROPPED, EVENT_LOCAL,
        EVENT_MASQUERADED, EVENT_NO_HOOK, EVENT_OPENED, EventHead, FlowRecordV4, FlowRecordV6, FlowV4,
        FlowV6, TupleV4, TupleV6,
    },
    tables::{Family, Flow, Tuple, V4, V6},
};

reasons! {
    /// Why a flow was closed.
    CloseReason {
        /// Both sides sent a FIN.
        Finished = 1 "finished",
        /// One side reset it.
        Reset = 2 "reset",
        /// It had no packet for as long as its time-out.
        TimedOut = 3 "timed-out",
        /// Its virtual address, port and protocol are served no more.
        FrontendGone = 4 "frontend-gone",
        /// Its backend is gone, or left its service.
        BackendGone = 5 "backend-gone",
        /// Its client was still connecting to a backend that takes no new flows, and was sent to another one.
        BackendDraining = 6 "backend-draining",
        /// Nobody had confirmed it, or its time was over, and its port for source NAT was given to another flow.
        PortTaken = 7 "port-taken",
    }
}

impl Seen {
    /// Why a flow that ends has ended: how it was closed, or else `otherwise`.
    #[inline(always)]
    pub(super) const fn ending(self, otherwise: CloseReason) -> CloseReason {
        if !self.is_closed() {
            otherwise
        } else if self.0 & Self::RESET != 0 {
            CloseReason::Reset
        } else {
            CloseReason::Finished
        }
    }
}

/// Where events go.
pub trait EventSink {
    /// Tells of an event: `write` fills its record, all bytes of which are 0, with the time in nanoseconds. It is called only
    /// where events are wanted and there is room; in the kernel a constant says whether they are, so that the verifier takes
    /// all of it out where not. Nothing waits: what finds no room is counted as lost.
    ///
    /// It is written where it stays: on a program's stack there is no room for it.
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64));
}

/// A record of [`abi`](crate::abi).
pub trait EventRecord:
    zerocopy::FromZeros + zerocopy::IntoBytes + zerocopy::Immutable + Copy + 'static
{
    /// Whether each CPU tells only so many in a second: of what strangers cause at the rate of their packets, without a
    /// trace in any table.
    const LIMITED: bool;
}

/// The record of a packet that was dropped.
pub trait DropRecord<F: Family>: EventRecord {
    /// Writes that of the packet of a tuple.
    fn write(&mut self, head: EventHead, tuple: &F::Tuple, interface: u32);
}

/// The record of a flow that was opened or closed.
pub trait FlowRecord<F: Family>: EventRecord {
    /// Writes that of the flow of which this half, `flow`, stands under `tuple`. Which one it is, is known when the caller is
    /// compiled.
    fn write(&mut self, head: EventHead, half: Direction, tuple: &F::Tuple, flow: &F::Flow);
    /// Notes the interface by which it came.
    fn set_interface(&mut self, interface: u32);
    /// Notes for how many ticks it had no packet.
    fn set_idle(&mut self, ticks: u32);
}

/// Tells of a packet that got this verdict, if that drops it.
///
/// Where it arrived is asked only then: in the kernel that takes loads, one behind the other, which a packet that goes on would
/// wait for.
#[inline(always)]
pub(super) fn tell_dropped<F, P, E>(verdict: VerdictNumber, packet: &P, work: &Workspace<F>, sink: &E)
where
    F: Family,
    P: Packet,
    E: EventSink,
{
    // An echo request is not dropped where it becomes its own reply.
    let echo = verdict.get() == AnswerReason::Echo as u8;
    if matches!(verdict.action(), Action::Drop | Action::Answer) && !echo {
        let tuple = &work.headers.tuple;
        sink.emit(|record: &mut F::DropRecord, time| {
            let hook = packet.hook() as u8;
            let head = EventHead::new(time, EVENT_DROPPED, hook, verdict.get(), tuple.protocol());
            record.write(head, tuple, packet.interface());
        });
    }
}

/// Tells of the flow in the workspace, which was opened.
#[inline(always)]
pub(super) fn tell_opened<F, P, E>(packet: &P, work: &Workspace<F>, sink: &E)
where
    F: Family,
    P: Packet,
    E: EventSink,
{
    let tuple = &work.headers.tuple;
    sink.emit(|record: &mut F::FlowRecord, time| {
        let head = EventHead::new(time, EVENT_OPENED, packet.hook() as u8, 0, tuple.protocol());
        record.write(head, Direction::Original, tuple, &work.flow);
        record.set_interface(packet.interface());
    });
}

/// Tells of a flow that was closed at `now`; this half of it, `flow`, stood under `tuple`. The reason is how packets closed it,
/// if they did, else `otherwise`.
#[inline(always)]
pub(super) fn tell_closed<F, E>(
    otherwise: CloseReason,
    half: Direction,
    tuple: &F::Tuple,
    flow: &F::Flow,
    now: Tick,
    sink: &E,
) where
    F: Family,
    E: EventSink,
{
    let seen = Seen::from(flow.state());
    sink.emit(|record: &mut F::FlowRecord, time| {
        let reason = seen.ending(otherwise) as u8;
        let mut head = EventHead::new(time, EVENT_CLOSED, EVENT_NO_HOOK, reason, tuple.protocol());
        if seen.0 & Seen::REPLIED != 0 {
            head.flags = EVENT_ANSWERED;
        }
        record.write(head, half, tuple, flow);
        record.set_idle(now.since(flow.last_seen()));
    });
}

macro_rules! records {
    ($family:ty, $number:literal, $tuple:ident, $flow_value:ident, $drop:ident, $flow:ident) => {
        impl EventRecord for $drop {
            const LIMITED: bool = true;
        }

        impl EventRecord for $flow {
            const LIMITED: bool = false;
        }

        impl DropRecord<$family> for $drop {
            #[inline(always)]
            fn write(&mut self, head: EventHead, tuple: &$tuple, interface: u32) {
                self.head = EventHead { family: $number, ..head };
                self.source = tuple.source;
                self.destination = tuple.destination;
                self.source_port = tuple.source_port;
                self.destination_port = tuple.destination_port;
                self.interface = interface;
                self.zone = tuple.zone;
            }
        }

        impl FlowRecord<$family> for $flow {
            #[inline(always)]
            fn write(&mut self, head: EventHead, half: Direction, tuple: &$tuple, flow: &$flow_value) {
                let masqueraded = if flow.is_masqueraded() { EVENT_MASQUERADED } else { 0 };
                let local = if flow.is_local() { EVENT_LOCAL } else { 0 };
                self.head = EventHead { family: $number, flags: head.flags | masqueraded | local, ..head };
                match half {
                    Direction::Original => {
                        (self.client, self.client_port) = (tuple.source, tuple.source_port);
                        (self.frontend, self.frontend_port) = (tuple.destination, tuple.destination_port);
                        (self.backend, self.backend_port) = (flow.destination, flow.destination_port);
                        (self.source, self.source_port) = (flow.source, flow.source_port);
                    }
                    // What translation makes of a reply is what the client sees.
                    Direction::Reply => {
                        (self.client, self.client_port) = (flow.destination, flow.destination_port);
                        (self.frontend, self.frontend_port) = (flow.source, flow.source_port);
                        (self.backend, self.backend_port) = (tuple.source, tuple.source_port);
                        (self.source, self.source_port) = (tuple.destination, tuple.destination_port);
                    }
                }
                self.backend_ref = flow.backend;
                self.frontend_index = flow.frontend;
                self.zone = tuple.zone;
            }

            #[inline(always)]
            fn set_interface(&mut self, interface: u32) {
                self.interface = interface;
            }

            #[inline(always)]
            fn set_idle(&mut self, ticks: u32) {
                self.idle = ticks;
            }
        }
    };
}

records!(V4, 4, TupleV4, FlowV4, DropRecordV4, FlowRecordV4);
records!(V6, 6, TupleV6, FlowV6, DropRecordV6, FlowRecordV6);
