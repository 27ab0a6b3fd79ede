//! The programs on frames that a test hands them.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use common::{Host, small};
use dataplane_core::{
    abi::{InterfaceEntry, TestInput},
    pipeline::{Hook, PassReason, Verdict},
    tables::Store,
};
use dataplane_ebpf::{Error, testing::TestDataplane};
use dataplane_testkit::require_kernel;

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
