//! The programs on frames that a test hands them.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::net::SocketAddr;

use common::{Host, small};
use dataplane_core::{
    abi::{InterfaceEntry, TestInput},
    pipeline::{Hook, PassReason, Verdict},
    tables::Store,
};
use dataplane_ebpf::{Error, testing::TestDataplane};
use dataplane_testkit::{
    fill::Filler,
    frames::{Frame, flags},
    require_kernel,
};

/// An ARP request, which is nobody's business.
fn arp(destination: [u8; 6]) -> Vec<u8> {
    let mut frame = [&destination[..], &[2, 0, 0, 0, 0, 1], &[0x08, 0x06]].concat();
    frame.resize(60, 0xaa);
    frame
}

const XDP_PASS: u32 = 2;
/// TC_ACT_UNSPEC and TCX_NEXT: -1.
const NEXT: u32 = u32::MAX;

#[test]
fn a_frame_runs_through_each_program() {
    require_kernel!();
    let host = Host::new("runs");
    let test = host.host.run(|| TestDataplane::open(small())).unwrap();
    let mac = host.uplink.mac().unwrap();
    let index = host.uplink.index();
    test.set_interface(&InterfaceEntry { index, mac, ..InterfaceEntry::default() }).unwrap();
    let tables = test.plane().tables();
    for (hook, returned) in [(Hook::Xdp, XDP_PASS), (Hook::Ingress, NEXT), (Hook::Egress, NEXT)] {
        test.set(TestInput::Now, 1 << 40).unwrap();
        test.set(TestInput::Verdict, 0).unwrap();
        let outcome = host.host.run(|| test.run(hook, &arp(mac), index)).unwrap();
        assert_eq!((outcome.returned, outcome.frame), (returned, arp(mac)), "{hook:?}");
        let verdict = Verdict::Pass(PassReason::NotIp);
        assert_eq!(test.get(TestInput::Verdict), 1 << 32 | u64::from(verdict.number()), "{hook:?}");
        assert_eq!(tables.counters().verdict(hook, verdict), Ok(1));

        let outcome = host.host.run(|| test.repeat(hook, &arp(mac), index, 1_000)).unwrap();
        assert!(outcome.duration.as_nanos() < 100_000, "{:?}", outcome.duration);
        assert_eq!(tables.counters().verdict(hook, verdict), Ok(1_001));
    }
    // Which interface it was is seen by the program: this one is not for the address of ours.
    let other = arp([2, 0, 0, 0, 0, 77]);
    host.host.run(|| test.run(Hook::Xdp, &other, index)).unwrap();
    assert_eq!(
        test.get(TestInput::Verdict),
        1 << 32 | u64::from(Verdict::Pass(PassReason::NotForHost).number())
    );
}

/// An IP header that says length 0 is that of a packet of more than 65,535 bytes where the kernel will split it, and
/// nonsense elsewhere. RFC 2675 does not matter here: nothing of it is on the wire.
#[test]
fn length_0_is_read_where_the_kernel_will_split_the_packet() {
    require_kernel!();
    let host = Host::new("big");
    host.address();
    host.uplink.add_address("2001:db8::1/64".parse().unwrap()).unwrap();
    let test = host.host.run(|| TestDataplane::open(small())).unwrap();
    let (mac, index) = (host.uplink.mac().unwrap(), host.uplink.index());
    let tables = test.plane().tables();
    let mut filler = Filler::default();
    for (client, service, backend, length_at) in [
        ("192.0.2.2:40000", "203.0.113.10:80", "192.0.2.3:8080", 14 + 2),
        ("[2001:db8::2]:40000", "[2001:db8::10]:80", "[2001:db8::3]:8080", 14 + 4),
    ] {
        let service: SocketAddr = service.parse().unwrap();
        let backend = filler.backend(&*tables, backend.parse().unwrap(), true).unwrap();
        let filled = filler.service(&*tables, service, 6, &[backend]).unwrap();
        let frame = Frame::tcp(client.parse().unwrap(), service, flags::ACK).payload(&[7; 1000]);
        let mut frame = frame.link(mac, [2, 0, 0, 0, 0, 1]).build();
        frame[length_at..length_at + 2].fill(0);
        for (gso_size, verdict) in [(500, Verdict::Deliver), (0, Verdict::Pass(PassReason::Malformed))] {
            let run = || test.plane().run_segmented("forebay_ingress", &frame, index, 1, gso_size);
            host.host.run(run).unwrap();
            let seen = test.get(TestInput::Verdict);
            assert_eq!(seen, 1 << 32 | u64::from(verdict.number()), "{service}, segments of {gso_size}");
        }
        let counters = tables.counters().service(filled.index).unwrap();
        assert_eq!((counters.packets, counters.bytes), (1, frame.len() as u64 - 14), "{service}");
    }
}

/// A packet whose next stage is not there is nobody's, and goes on as it came. IPv4 has no next stage.
#[test]
fn a_stage_that_is_missing_passes_packets_on() {
    require_kernel!();
    let host = Host::new("stages");
    let mut test = host.host.run(|| TestDataplane::open(small())).unwrap();
    let (mac, index) = (host.uplink.mac().unwrap(), host.uplink.index());
    test.set_interface(&InterfaceEntry { index, mac, ..InterfaceEntry::default() }).unwrap();
    let v6 = ("[2001:db8::2]:40000", "[2001:db8::10]:80");
    let v4 = ("192.0.2.2:40000", "203.0.113.10:80");
    for (there, (client, service), verdict) in [
        (true, v6, Verdict::Pass(PassReason::NoService)),
        (false, v6, Verdict::Pass(PassReason::NoProgram)),
        (false, v4, Verdict::Pass(PassReason::NoService)),
    ] {
        let frame = Frame::tcp(client.parse().unwrap(), service.parse().unwrap(), flags::SYN);
        let frame = frame.link(mac, [2, 0, 0, 0, 0, 1]).build();
        for (hook, returned) in [(Hook::Xdp, XDP_PASS), (Hook::Ingress, NEXT), (Hook::Egress, NEXT)] {
            if !there {
                test.remove_stages(hook).unwrap();
            }
            let count = || test.plane().tables().counters().verdict(hook, verdict).unwrap();
            let before = count();
            let outcome = host.host.run(|| test.run(hook, &frame, index)).unwrap();
            assert_eq!((outcome.returned, &outcome.frame), (returned, &frame), "{hook:?} {client}");
            assert_eq!(
                test.get(TestInput::Verdict),
                1 << 32 | u64::from(verdict.number()),
                "{hook:?} {client}"
            );
            assert_eq!(count(), before + 1, "{hook:?} {client}");
        }
    }
}

#[test]
fn a_run_that_the_kernel_refuses_is_an_error() {
    require_kernel!();
    let test = TestDataplane::open(small()).unwrap();
    for hook in Hook::ALL {
        let result = test.run(hook, &[0; 13], 1);
        assert!(matches!(&result, Err(Error::TestRun { length: 13, .. })), "{hook:?}: {result:?}");
        // There is no such interface.
        let result = test.run(hook, &arp([0; 6]), 999_999_999);
        assert_eq!(result.unwrap_err().errno(), Some(libc::ENODEV), "{hook:?}");
    }
}

/// Programs that people load keep to the clock, whatever stands in the inputs of tests.
#[test]
fn only_a_test_makes_programs_deterministic() {
    require_kernel!();
    let plane = small().open().unwrap();
    plane.run(Hook::Ingress, &arp([2, 0, 0, 0, 0, 1]), 1, 1).unwrap();
    let words: Vec<u64> = {
        let fd = plane.tables().map_fd("test_inputs").unwrap().try_clone_to_owned().unwrap();
        let map = aya::maps::Map::from_map_data(aya::maps::MapData::from_fd(fd).unwrap()).unwrap();
        let array: aya::maps::Array<_, u64> = map.try_into().unwrap();
        array.iter().map(Result::unwrap).collect()
    };
    assert!(!words.is_empty() && words.iter().all(|&word| word == 0), "{words:?}");
}
