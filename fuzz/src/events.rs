//! Records of events: any bytes are an event or an error, and what is an event is the same bytes when it is written anew.

use std::net::{IpAddr, SocketAddr};

use dataplane_core::{
    abi::{
        ABI_VERSION, DropRecordV4, DropRecordV6, EVENT_ANSWERED, EVENT_CLOSED, EVENT_DROPPED, EVENT_LOCAL,
        EVENT_MASQUERADED, EVENT_NO_HOOK, EVENT_OPENED, EventHead, FlowRecordV4, FlowRecordV6,
    },
    event::{Closed, Dropped, Event, EventError, FlowIdentity, Opened},
    pipeline::Verdict,
    wire::Be16,
};
use zerocopy::IntoBytes as _;

/// Reads bytes as a record, and as one of this version, and checks what must hold.
///
/// # Panics
/// Where something does not hold.
pub fn read(bytes: &[u8]) {
    check(bytes);
    let mut ours = bytes.to_vec();
    if let Some(version) = ours.get_mut(8..10) {
        version.copy_from_slice(&(ABI_VERSION as u16).to_ne_bytes());
        check(&ours);
    }
}

fn check(bytes: &[u8]) {
    match Event::parse(bytes) {
        Err(error) => {
            assert!(error.to_string().starts_with("an event record "), "{error}");
            if let EventError::Length { length, wanted } = error {
                assert!(length == bytes.len() && length != wanted);
            }
        }
        Ok(event) => {
            assert!(event.to_string().starts_with(event.name()), "{event}");
            assert_eq!(write(&event), bytes, "{event:?}");
        }
    }
}

/// The record of an event.
pub fn write(event: &Event) -> Vec<u8> {
    match event {
        Event::Dropped(dropped) => write_dropped(dropped),
        Event::Opened(Opened { time, hook, interface, flow, .. }) => {
            let head = EventHead::new(time.as_nanos() as u64, EVENT_OPENED, *hook as u8, 0, 0);
            write_flow(head, flow, *interface, 0)
        }
        Event::Closed(Closed { time, idle, reason, answered, flow, .. }) => {
            let head = EventHead::new(time.as_nanos() as u64, EVENT_CLOSED, EVENT_NO_HOOK, *reason as u8, 0);
            let flags = if *answered { EVENT_ANSWERED } else { 0 };
            write_flow(EventHead { flags, ..head }, flow, 0, (idle.as_nanos() >> 27) as u32)
        }
        other => panic!("how is {other:?} written?"),
    }
}

fn write_dropped(dropped: &Dropped) -> Vec<u8> {
    let Dropped { time, hook, interface, zone, protocol, source, destination, reason, answered, .. } =
        *dropped;
    let verdict = match reason.answered().filter(|_| answered) {
        Some(answer) => Verdict::Answer(answer),
        None => Verdict::Drop(reason),
    };
    let head = EventHead::new(time.as_nanos() as u64, EVENT_DROPPED, hook as u8, verdict.number(), protocol);
    let (source_port, destination_port) = (port(source), port(destination));
    let reserved = [0; 6];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => DropRecordV4 {
            head: EventHead { family: 4, ..head },
            source: from.into(),
            destination: to.into(),
            source_port,
            destination_port,
            interface,
            zone,
            reserved,
        }
        .as_bytes()
        .to_vec(),
        (IpAddr::V6(from), IpAddr::V6(to)) => DropRecordV6 {
            head: EventHead { family: 6, ..head },
            source: from.into(),
            destination: to.into(),
            source_port,
            destination_port,
            interface,
            zone,
            reserved,
        }
        .as_bytes()
        .to_vec(),
        _ => panic!("{dropped} is of two families"),
    }
}

fn write_flow(head: EventHead, flow: &FlowIdentity, interface: u32, idle: u32) -> Vec<u8> {
    let source = flow.masquerade.unwrap_or(flow.client);
    let masqueraded = if flow.masquerade.is_some() { EVENT_MASQUERADED } else { 0 };
    let local = if flow.local { EVENT_LOCAL } else { 0 };
    let head =
        EventHead { protocol: flow.protocol.number(), flags: head.flags | masqueraded | local, ..head };
    macro_rules! record {
        ($record:ident, $family:literal, $client:expr, $frontend:expr, $backend:expr, $source:expr) => {
            $record {
                head: EventHead { family: $family, ..head },
                backend_ref: flow.backend_ref,
                client: $client.into(),
                frontend: $frontend.into(),
                backend: $backend.into(),
                source: $source.into(),
                client_port: port(flow.client),
                frontend_port: port(flow.frontend),
                backend_port: port(flow.backend),
                source_port: port(source),
                frontend_index: flow.frontend_index,
                interface,
                idle,
                zone: flow.zone,
                reserved: 0,
            }
            .as_bytes()
            .to_vec()
        };
    }
    match (flow.client.ip(), flow.frontend.ip(), flow.backend.ip(), source.ip()) {
        (IpAddr::V4(client), IpAddr::V4(frontend), IpAddr::V4(backend), IpAddr::V4(source)) => {
            record!(FlowRecordV4, 4, client, frontend, backend, source)
        }
        (IpAddr::V6(client), IpAddr::V6(frontend), IpAddr::V6(backend), IpAddr::V6(source)) => {
            record!(FlowRecordV6, 6, client, frontend, backend, source)
        }
        _ => panic!("{flow} is of two families"),
    }
}

fn port(address: SocketAddr) -> Be16 {
    Be16::new(address.port())
}
