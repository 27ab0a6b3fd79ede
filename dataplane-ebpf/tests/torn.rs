//! A packet never believes a value that is being changed under it: the kernel's programs, run over and over on one CPU,
//! while another CPU changes the very words that they read as fast as it can.
//!
//! The frames are such that each packet is left untouched whatever it reads, and that half a value, or another key's,
//! gives a verdict that no whole value of its own gives. So one system call runs a hundred thousand packets, and the programs' own
//! counters judge every one of them. That this finds a torn load is shown by `cargo xtask mutation`: loads in two pieces
//! and tags that are not compared must fail here. What is found is told in a line that begins with `TORN`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod common;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Host, small};
use dataplane_core::{
    abi::{
        FLOW_LOCAL, FlowV4, FlowV6, InterfaceEntry, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord,
        TestInput, TupleV4, TupleV6,
    },
    pipeline::{Hook, LeaveReason, PassReason, Seen, Tick, Verdict},
    tables::Store,
    wire::Be16,
};
use dataplane_ebpf::testing::TestDataplane;
use dataplane_testkit::{
    Raise,
    fill::Filler,
    frames::{Frame, flags},
    require_kernel,
};
use parking_lot::Mutex;
use rustix::{
    process::nice,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

const TCP: u8 = 6;
const NOW: u64 = 1 << 40;
const RUNS: u32 = 100_000;
/// Each verdict that must be seen, so many times: then both sides were at it at once.
const ENOUGH: u64 = 10;
/// An element is recycled under a packet mostly where an interrupt stops the packet in between: so often one comes.
const INTERRUPT: Duration = Duration::from_micros(20);
/// So many rounds of packets follow once enough was seen, so that what is rare shows too.
const ROUNDS: u32 = 20;
/// The longest that a test goes on until it has seen enough.
const PATIENCE: Duration = Duration::from_secs(60);

/// Client, service, another service, backend.
const CASTS: [[&str; 4]; 2] = [
    ["192.0.2.7:40000", "203.0.113.10:80", "203.0.113.11:80", "198.51.100.2:8080"],
    ["[2001:db8:1::7]:40000", "[2001:db8:cafe::10]:80", "[2001:db8:cafe::11]:80", "[2001:db8:2::2]:8080"],
];

/// Programs with a clock that stands still, and an interface that they take to be an uplink.
struct Stage {
    host: Host,
    test: TestDataplane,
    mac: [u8; 6],
}

impl Stage {
    fn new() -> Self {
        let host = Host::new("torn");
        let test = host.host.run(|| TestDataplane::open(small())).unwrap();
        let mac = host.uplink.mac().unwrap();
        let index = host.uplink.index();
        test.set_interface(&InterfaceEntry { index, mac, ..InterfaceEntry::default() }).unwrap();
        test.set(TestInput::Now, NOW).unwrap();
        Self { host, test, mac }
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.test.plane().tables().counters().verdict(Hook::Xdp, verdict).unwrap()
    }

    /// Runs the frame once, and demands this verdict.
    fn expect(&self, frame: Frame, verdict: Verdict, what: &str) {
        let frame = frame.link(self.mac, [2, 0, 0, 0, 0, 9]).build();
        self.host.host.run(|| self.test.run(Hook::Xdp, &frame, self.host.uplink.index())).unwrap();
        let number = self.test.get(TestInput::Verdict);
        let got = Verdict::all().find(|verdict| u64::from(verdict.number()) | 1 << 32 == number);
        if got != Some(verdict) {
            println!("TORN: {what} gives {got:?}, not {verdict}");
            panic!("a packet believed what it must not, or not what it must");
        }
    }

    /// Runs the frame at XDP while another thread changes tables, until each of the `expected` verdicts was seen often
    /// enough. No other verdict may be.
    fn race(&self, frame: Frame, expected: [Verdict; 2], change: impl Fn() + Sync) {
        let (index, frame) = (self.host.uplink.index(), frame.link(self.mac, [2, 0, 0, 0, 0, 9]).build());
        let before: Vec<_> = Verdict::all().map(|verdict| self.count(verdict)).collect();
        let since = || -> Vec<(Verdict, u64)> {
            let counts = Verdict::all().zip(&before);
            counts.map(|(verdict, before)| (verdict, self.count(verdict) - before)).collect()
        };
        // Each side needs a CPU of its own all the time, whoever else wants one: what is rare shows only then.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        go_before_others();
        let (begin, mut runs, mut rounds_left) = (Instant::now(), 0, ROUNDS);
        let (done, changes) = (AtomicBool::new(false), AtomicU64::new(0));
        let seen = thread::scope(|scope| {
            let stop = Raise(&done);
            scope.spawn(|| {
                go_before_others();
                while !done.load(Ordering::Relaxed) {
                    change();
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
            let interrupts = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
            let often = Timespec { tv_sec: 0, tv_nsec: INTERRUPT.as_nanos() as i64 };
            let often = Itimerspec { it_interval: often, it_value: often };
            loop {
                // Here, that is on the CPU where the packets are about to run.
                timerfd_settime(&interrupts, TimerfdTimerFlags::empty(), &often).unwrap();
                let outcome =
                    self.host.host.run(|| self.test.repeat(Hook::Xdp, &frame, index, RUNS)).unwrap();
                assert_eq!(outcome.frame, frame, "the packet was changed");
                runs += u64::from(RUNS);
                let seen = since();
                let wrong = seen.iter().any(|(verdict, count)| *count > 0 && !expected.contains(verdict));
                let often = seen.iter().filter(|(_, count)| *count >= ENOUGH).count();
                rounds_left -= u32::from(often == expected.len() && rounds_left > 0);
                if wrong || rounds_left == 0 || begin.elapsed() > PATIENCE {
                    drop(stop);
                    return seen;
                }
            }
        });
        let (took, changes) = (begin.elapsed(), changes.into_inner());
        let told: Vec<_> =
            seen.iter().filter(|(_, count)| *count > 0).map(|(v, n)| format!("{n} {v}")).collect();
        let told = format!("{runs} packets and {changes} changes in {took:.1?}: {}", told.join(", "));
        if seen.iter().any(|(verdict, count)| *count > 0 && !expected.contains(verdict)) {
            println!("TORN: {told}");
            panic!("a packet believed half a value, or another's");
        }
        assert_eq!(seen.iter().map(|(_, count)| count).sum::<u64>(), runs, "{told}");
        assert_eq!(rounds_left, 0, "nothing was raced: {told}");
        println!("{told}");
    }
}

/// Has the scheduler run this thread before all that are not as urgent.
fn go_before_others() {
    nice(-20).unwrap();
}

/// The index of a service's word is given to another service and back. The other one has no backends, so that a packet
/// which takes the other's list for its own is dropped.
#[test]
fn the_word_of_a_service_is_read_as_a_whole() {
    require_kernel!();
    for [client, own, other, backend] in CASTS {
        let stage = Stage::new();
        let tables = stage.test.plane().tables();
        let mut filler = Filler::default();
        // On this host, so that XDP leaves it to tc.
        let backend = filler.backend(&*tables, backend.parse().unwrap(), true).unwrap();
        let own_service = filler.service(&*tables, own.parse().unwrap(), TCP, &[backend]).unwrap();
        let other_service = filler.service(&*tables, other.parse().unwrap(), TCP, &[]).unwrap();
        let words = [own_service, other_service]
            .map(|service| tables.service_words().load(service.index, 0).unwrap());
        let halves = words.map(|word| (ServiceWord(word).base(), ServiceWord(word).tag()));
        assert!(halves[0].0 != halves[1].0 && halves[0].1 != halves[1].1);

        let frame = Frame::tcp(client.parse().unwrap(), own.parse().unwrap(), flags::SYN);
        let expected = [Verdict::Leave(LeaveReason::Local), Verdict::Pass(PassReason::NoService)];
        stage.race(frame.clone(), expected, || {
            for _ in 0..1_000 {
                for word in words {
                    tables.service_words().store(own_service.index, &[word]).unwrap();
                }
            }
        });
        // What a torn word would look like is what the race looks for.
        let torn = ServiceWord::new(halves[1].0, halves[0].1);
        tables.service_words().store(own_service.index, &[torn.0]).unwrap();
        let fresh = Frame { source: SocketAddr::new(frame.source.ip(), 1), ..frame };
        stage.expect(fresh, Verdict::Leave(LeaveReason::Answer), "a word of two halves");
    }
}

/// A connection's entry is replaced time and again by one that says the same, and the element that it leaves is filled
/// with another connection's at once. The other's backend is not on this host, so that the packet, which carries a tag,
/// is left for another reason where it believes the other's entry. There is no service: where a packet finds nothing
/// that it may believe it passes.
macro_rules! recycled {
    ($test:ident, $cast:literal, $address:ty, $key:ident, $tuple:ident, $flow:ident, $services:ident, $conntrack:ident) => {
        #[test]
        fn $test() {
            require_kernel!();
            let stage = Stage::new();
            let tables = stage.test.plane().tables();
            let [client, service, _, backend] =
                CASTS[$cast].map(|address| address.parse::<SocketAddr>().unwrap());
            let at = |address: SocketAddr| address.ip().to_string().parse::<$address>().unwrap().into();
            let port = |address: SocketAddr| Be16::new(address.port());
            // The frontend has its word still, or no flow would be believed.
            let key = $key { address: at(service), port: port(service), protocol: TCP, scope: 0 };
            tables.service_words().store(0, &[ServiceWord::new(1, key.tag()).0]).unwrap();
            let reference = Filler::default().backend(&*tables, backend, true).unwrap();
            let entry = |client_port: u16, flags: u16| {
                let tuple = $tuple {
                    source: at(client),
                    destination: at(service),
                    source_port: Be16::new(client_port),
                    destination_port: port(service),
                    protocol: TCP,
                    ..$tuple::default()
                };
                let flow = $flow {
                    state: Seen(Seen::REPLIED | Seen::CONFIRMED).word(tuple.tag()),
                    backend: reference,
                    source: at(client),
                    destination: at(backend),
                    source_port: Be16::new(client_port),
                    destination_port: port(backend),
                    last_seen: Tick::from_nanoseconds(NOW).0,
                    flags,
                    tail_tag: tuple.tag(),
                    ..$flow::default()
                };
                (tuple, flow)
            };
            let (own, other) = (entry(client.port(), FLOW_LOCAL), entry(client.port() + 1, 0));
            // One that opens: others look a second time where they find nothing, and hardly ever fail twice.
            let frame = |client_port| {
                let client = SocketAddr::new(client.ip(), client_port);
                Frame { tags: vec![(0x8100, 5)], ..Frame::tcp(client, service, flags::SYN) }
            };
            let conntrack = tables.$conntrack();
            let (local, none) = (Verdict::Leave(LeaveReason::Local), Verdict::Pass(PassReason::NoService));

            // A whole value that is another key's.
            let ((tuple, flow), (_, not_ours)) = (own, other);
            let values = [
                ("its own", flow, local),
                ("another's state", $flow { state: not_ours.state, ..flow }, none),
                ("another's end", $flow { tail_tag: not_ours.tail_tag, ..flow }, none),
                ("another's", not_ours, none),
            ];
            for (what, value, verdict) in values {
                conntrack.insert(&tuple, &value).unwrap();
                stage.expect(frame(client.port()), verdict, what);
            }
            for (tag, verdict) in [(key.tag() ^ 1, none), (key.tag(), Verdict::Leave(LeaveReason::Answer))] {
                tables.$services().insert(&key, &ServiceRef::new(0, tag)).unwrap();
                stage.expect(frame(client.port() + 2), verdict, "a reference");
            }
            tables.$services().remove(&key).unwrap();

            // And one that is changing.
            let batch: Vec<_> = [own, other].into_iter().cycle().take(4_000).collect();
            conntrack.insert_batch(&batch[..2]).unwrap();
            stage.race(frame(client.port()), [local, none], || conntrack.insert_batch(&batch).unwrap());
            // The other's entry, once it is believed, is what the race looks for.
            stage.expect(frame(client.port() + 1), Verdict::Leave(LeaveReason::Tagged), "the other's own");
        }
    };
}

recycled!(
    an_entry_of_ipv4_conntrack_that_was_recycled_is_not_believed,
    0,
    Ipv4Addr,
    ServiceKeyV4,
    TupleV4,
    FlowV4,
    services_v4,
    conntrack_v4
);
recycled!(
    an_entry_of_ipv6_conntrack_that_was_recycled_is_not_believed,
    1,
    Ipv6Addr,
    ServiceKeyV6,
    TupleV6,
    FlowV6,
    services_v6,
    conntrack_v6
);
