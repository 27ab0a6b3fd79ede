//! From bytes to events.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Closed, Dropped, Event, EventError, FlowIdentity, Opened};
use crate::{
    abi::{
        ABI_VERSION, DropRecordV4, DropRecordV6, EVENT_ANSWERED, EVENT_CLOSED, EVENT_DROPPED, EVENT_LOCAL,
        EVENT_MASQUERADED, EVENT_NO_HOOK, EVENT_OPENED, EventHead, FlowRecordV4, FlowRecordV6,
    },
    model::Protocol,
    pipeline::{AnswerReason, CloseReason, DropReason, Hook, Tick},
    wire::{Be16, PROTOCOL_TCP, PROTOCOL_UDP},
};

impl Event {
    /// Reads a record. Any bytes of any length are an event or an error.
    ///
    /// # Errors
    /// [`EventError`]: what is wrong first. A record that the programs of this build made is never one.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        let length = bytes.len();
        let (head, _) = EventHead::read_from_prefix(bytes).map_err(|_| EventError::NoHead { length })?;
        if u64::from(head.version) != ABI_VERSION {
            return Err(EventError::Version { version: head.version });
        }
        match (head.kind, head.family) {
            (EVENT_DROPPED, 4) => whole::<DropRecordV4>(bytes)?.event(),
            (EVENT_DROPPED, 6) => whole::<DropRecordV6>(bytes)?.event(),
            (EVENT_OPENED | EVENT_CLOSED, 4) => whole::<FlowRecordV4>(bytes)?.event(),
            (EVENT_OPENED | EVENT_CLOSED, 6) => whole::<FlowRecordV6>(bytes)?.event(),
            (EVENT_DROPPED | EVENT_OPENED | EVENT_CLOSED, family) => Err(EventError::Family { family }),
            (kind, _) => Err(EventError::Kind { kind }),
        }
    }
}

fn whole<R: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Result<R, EventError> {
    let (length, wanted) = (bytes.len(), size_of::<R>());
    R::read_from_bytes(bytes).map_err(|_| EventError::Length { length, wanted })
}

macro_rules! events {
    ($drop:ident, $flow:ident) => {
        impl $drop {
            fn event(&self) -> Result<Event, EventError> {
                let head = &self.head;
                if self.reserved != [0; 6] {
                    return Err(EventError::NotZero { field: "reserved" });
                }
                if head.flags != 0 {
                    return Err(EventError::Flags { flags: head.flags });
                }
                let (reason, answered) = drop_reason(head.reason)?;
                Ok(Event::Dropped(Dropped {
                    time: Duration::from_nanos(head.time),
                    hook: hook(head.hook)?,
                    interface: self.interface,
                    zone: self.zone,
                    protocol: head.protocol,
                    source: socket(self.source, self.source_port),
                    destination: socket(self.destination, self.destination_port),
                    reason,
                    answered,
                }))
            }
        }

        impl $flow {
            fn event(&self) -> Result<Event, EventError> {
                let EventHead { time, kind, hook: number, reason, protocol, flags, .. } = self.head;
                if self.reserved != 0 {
                    return Err(EventError::NotZero { field: "reserved" });
                }
                let protocol = match protocol {
                    PROTOCOL_TCP => Protocol::Tcp,
                    PROTOCOL_UDP => Protocol::Udp,
                    protocol => return Err(EventError::Protocol { protocol }),
                };
                let of_both = EVENT_MASQUERADED | EVENT_LOCAL;
                let known = if kind == EVENT_CLOSED { of_both | EVENT_ANSWERED } else { of_both };
                if flags & !known != 0 {
                    return Err(EventError::Flags { flags });
                }
                let source = socket(self.source, self.source_port);
                let client = socket(self.client, self.client_port);
                let masqueraded = flags & EVENT_MASQUERADED != 0;
                if !masqueraded && source != client {
                    return Err(EventError::NotZero { field: "source" });
                }
                let flow = FlowIdentity {
                    protocol,
                    zone: self.zone,
                    client,
                    frontend: socket(self.frontend, self.frontend_port),
                    backend: socket(self.backend, self.backend_port),
                    masquerade: masqueraded.then_some(source),
                    local: flags & EVENT_LOCAL != 0,
                    frontend_index: self.frontend_index,
                    backend_ref: self.backend_ref,
                };
                let time = Duration::from_nanos(time);
                if kind == EVENT_OPENED {
                    let hook = hook(number)?;
                    if reason != 0 {
                        return Err(EventError::Reason { reason });
                    }
                    if self.idle != 0 {
                        return Err(EventError::NotZero { field: "idle" });
                    }
                    return Ok(Event::Opened(Opened { time, hook, interface: self.interface, flow }));
                }
                if number != EVENT_NO_HOOK {
                    return Err(EventError::Hook { hook: number });
                }
                if self.interface != 0 {
                    return Err(EventError::NotZero { field: "interface" });
                }
                let reason = CloseReason::from_number(reason).ok_or(EventError::Reason { reason })?;
                let (idle, answered) = (Tick::span(self.idle), flags & EVENT_ANSWERED != 0);
                Ok(Event::Closed(Closed { time, idle, reason, answered, flow }))
            }
        }
    };
}

events!(DropRecordV4, FlowRecordV4);
events!(DropRecordV6, FlowRecordV6);

fn socket(address: impl Into<IpAddr>, port: Be16) -> SocketAddr {
    SocketAddr::new(address.into(), port.get())
}

fn hook(number: u8) -> Result<Hook, EventError> {
    let found = Hook::ALL.into_iter().find(|hook| *hook as u8 == number);
    found.ok_or(EventError::Hook { hook: number })
}

/// Why a packet was dropped, and whether it was answered.
fn drop_reason(number: u8) -> Result<(DropReason, bool), EventError> {
    let answer = AnswerReason::from_number(number).filter(|reason| *reason != AnswerReason::Echo);
    let answered = answer.map(|reason| (reason.dropped(), true));
    let silent = || DropReason::from_number(number).map(|reason| (reason, false));
    answered.or_else(silent).ok_or(EventError::Reason { reason: number })
}
