//! Records of events as bytes: what they mean, and that no other bytes mean anything.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::time::Duration;

use dataplane_core::{
    abi::ABI_VERSION,
    event::{Closed, Dropped, Event, EventError, EventOptions, Opened},
    model::Protocol,
    pipeline::{CloseReason, DropReason, Hook},
};
use proptest::prelude::*;

const TIME: u64 = 0x0102_0304_0506_0708;

/// The head of a record, field by field.
fn head(kind: u8, family: u8, hook: u8, reason: u8, protocol: u8, flags: u8) -> Vec<u8> {
    let mut bytes = TIME.to_ne_bytes().to_vec();
    bytes.extend(u16::try_from(ABI_VERSION).unwrap().to_ne_bytes());
    bytes.extend([kind, family, hook, reason, protocol, flags]);
    bytes
}

fn addresses(family: u8, last: &[u8]) -> Vec<u8> {
    let address = |last: u8| match family {
        4 => vec![192, 0, 2, last],
        _ => vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
    };
    last.iter().flat_map(|&last| address(last)).collect()
}

fn text(family: u8, last: u8, port: u16) -> String {
    if family == 4 { format!("192.0.2.{last}:{port}") } else { format!("[2001:db8::{last:x}]:{port}") }
}

fn drop_record(family: u8, reason: u8, protocol: u8) -> Vec<u8> {
    let mut bytes = head(1, family, 1, reason, protocol, 0);
    bytes.extend(addresses(family, &[7, 8]));
    bytes.extend([0x9c, 0x40, 0, 80]);
    bytes.extend(3u32.to_ne_bytes());
    bytes.extend(5u16.to_ne_bytes());
    bytes.extend([0; 6]);
    bytes
}

fn flow_record(family: u8, closed: bool, flags: u8) -> Vec<u8> {
    let mut bytes =
        if closed { head(3, family, 0xff, 2, 6, flags) } else { head(2, family, 0, 0, 17, flags) };
    bytes.extend((9u64 << 32 | 4).to_ne_bytes());
    // The client is seen as itself where its source is not translated.
    let source = if flags & 1 != 0 { 1 } else { 7 };
    bytes.extend(addresses(family, &[7, 8, 9, source]));
    let port = if flags & 1 != 0 { [0xc3, 0x50] } else { [0x9c, 0x40] };
    bytes.extend([[0x9c, 0x40], [0, 80], [0x1f, 0x90], port].concat());
    bytes.extend(11u32.to_ne_bytes());
    bytes.extend((if closed { 0u32 } else { 3 }).to_ne_bytes());
    bytes.extend((if closed { 8u32 } else { 0 }).to_ne_bytes());
    bytes.extend(5u16.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// One record of each kind, in both families.
fn all() -> Vec<Vec<u8>> {
    [4, 6]
        .into_iter()
        .flat_map(|family| {
            [
                drop_record(family, 35, 6),
                drop_record(family, 26, 17),
                flow_record(family, false, 0),
                flow_record(family, false, 3),
                flow_record(family, true, 5),
                flow_record(family, true, 0),
            ]
        })
        .collect()
}

#[test]
fn a_drop_is_read() {
    for family in [4, 6] {
        for (number, protocol, reason, answered, name) in
            [(35, 6, DropReason::TooBig, false, "tcp"), (26, 17, DropReason::NoBackend, true, "udp")]
        {
            let event = Event::parse(&drop_record(family, number, protocol)).unwrap();
            let Event::Dropped(Dropped { time, hook, interface, zone, source, destination, .. }) = event
            else {
                panic!("{event:?}")
            };
            assert_eq!((time, hook), (Duration::from_nanos(TIME), Hook::Ingress));
            assert_eq!((interface, zone, event.name()), (3, 5, "dropped"));
            assert_eq!(source.to_string(), text(family, 7, 40_000));
            assert_eq!(destination.to_string(), text(family, 8, 80));
            let Event::Dropped(dropped) = event else { unreachable!() };
            assert_eq!((dropped.reason, dropped.answered), (reason, answered));
            assert_eq!(dropped.protocol_name(), Some(name));
        }
    }
}

#[test]
fn an_opened_and_a_closed_flow_are_read() {
    for family in [4, 6] {
        let event = Event::parse(&flow_record(family, false, 3)).unwrap();
        let Event::Opened(Opened { time, hook, interface, flow, .. }) = event else { panic!("{event:?}") };
        assert_eq!((time, hook, interface), (Duration::from_nanos(TIME), Hook::Xdp, 3));
        assert_eq!((flow.protocol, flow.zone, flow.local), (Protocol::Udp, 5, true));
        assert_eq!((flow.frontend_index, flow.backend_ref.index()), (11, 4));
        assert_eq!(flow.backend_ref.generation(), 9);
        assert_eq!(flow.client.to_string(), text(family, 7, 40_000));
        assert_eq!(flow.frontend.to_string(), text(family, 8, 80));
        assert_eq!(flow.backend.to_string(), text(family, 9, 8080));
        assert_eq!(flow.masquerade.unwrap().to_string(), text(family, 1, 50_000));

        let event = Event::parse(&flow_record(family, true, 4)).unwrap();
        let Event::Closed(Closed { idle, reason, answered, flow, .. }) = event else { panic!("{event:?}") };
        assert_eq!(idle, Duration::from_nanos(8 << 27));
        assert_eq!((reason, answered), (CloseReason::Reset, true));
        assert_eq!((flow.masquerade, flow.local, flow.protocol), (None, false, Protocol::Tcp));
    }
}

#[test]
fn what_is_cut_off_or_too_long_is_no_event() {
    for record in all() {
        Event::parse(&record).unwrap();
        for length in 0..record.len() {
            let error = Event::parse(&record[..length]).unwrap_err();
            match length {
                0..16 => assert_eq!(error, EventError::NoHead { length }),
                _ => assert_eq!(error, EventError::Length { length, wanted: record.len() }),
            }
        }
        let longer = [&record[..], &[0]].concat();
        let (length, wanted) = (longer.len(), record.len());
        assert_eq!(Event::parse(&longer), Err(EventError::Length { length, wanted }));
    }
}

/// Each byte of the head, and those that mean nothing, with a value that it can't have.
#[test]
fn what_no_program_says_is_told_by_its_field() {
    let drop = drop_record(4, 35, 6);
    let (opened, closed) = (flow_record(4, false, 0), flow_record(4, true, 4));
    let change = |record: &[u8], at: usize, byte: u8| {
        let mut changed = record.to_vec();
        changed[at] = byte;
        Event::parse(&changed).unwrap_err()
    };
    for record in [&drop, &opened, &closed] {
        assert!(matches!(change(record, 8, 0xfe), EventError::Version { .. }));
        assert_eq!(change(record, 10, 4), EventError::Kind { kind: 4 });
        assert_eq!(change(record, 11, 5), EventError::Family { family: 5 });
        assert_eq!(change(record, 12, 3), EventError::Hook { hook: 3 });
        assert_eq!(change(record, 15, 8), EventError::Flags { flags: 8 });
        assert_eq!(change(record, record.len() - 1, 1), EventError::NotZero { field: "reserved" });
    }
    // Passed on, sent on, a ping that was answered.
    for reason in [5, 24, 29, 63] {
        assert_eq!(change(&drop, 13, reason), EventError::Reason { reason });
    }
    assert_eq!(change(&drop, 12, 0xff), EventError::Hook { hook: 0xff });
    assert_eq!(change(&closed, 13, 0), EventError::Reason { reason: 0 });
    assert_eq!(change(&closed, 12, 0), EventError::Hook { hook: 0 });
    assert_eq!(change(&opened, 12, 0xff), EventError::Hook { hook: 0xff });
    assert_eq!(change(&opened, 13, 1), EventError::Reason { reason: 1 });
    assert_eq!(change(&opened, 15, 4), EventError::Flags { flags: 4 });
    assert_eq!(change(&opened, 14, 1), EventError::Protocol { protocol: 1 });
    // Interface of a closed flow, idle time of an opened one, a source that is not the client's.
    assert_eq!(change(&closed, 52, 1), EventError::NotZero { field: "interface" });
    assert_eq!(change(&opened, 56, 1), EventError::NotZero { field: "idle" });
    assert_eq!(change(&opened, 36, 1), EventError::NotZero { field: "source" });
    for error in [change(&drop, 8, 0xfe), change(&closed, 13, 0)] {
        assert!(error.to_string().starts_with("an event record "), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
        drop(Event::parse(&bytes).map(|event| event.to_string()).map_err(|error| error.to_string()));
    }

    /// A record with bytes changed is another event or an error: what is read back differs where the bytes do.
    #[test]
    fn each_byte_of_a_record_matters(which in 0usize..12, at in 0usize..112, bit in 0u8..8) {
        let record = all()[which].clone();
        let mut changed = record.clone();
        let at = at % record.len();
        changed[at] ^= 1 << bit;
        let (before, after) = (Event::parse(&record).unwrap(), Event::parse(&changed));
        prop_assert!(after != Ok(before), "byte {} of {:?}", at, before);
    }
}

#[test]
fn a_ring_has_the_size_that_the_kernel_takes() {
    for (wanted, given) in [
        (0, 4096),
        (4096, 4096),
        (4097, 8192),
        (1 << 20, 1 << 20),
        ((1 << 30) + 1, 1 << 30),
        (u32::MAX, 1 << 30),
    ] {
        assert_eq!(EventOptions::default().with_ring_bytes(wanted).ring_bytes(), given, "{wanted}");
    }
}
