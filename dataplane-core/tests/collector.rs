//! The collector, on tables in memory: flows that are over go, no other does.
#![allow(clippy::unwrap_used, reason = "a test: a panic is its failure")]

use std::{cell::Cell, net::SocketAddr, sync::Arc, time::Duration};

use dataplane_core::{
    Controller, NextWake, SourceHandle,
    abi::{FLOW_REPLY, FlowV4, StateWord, TupleV4},
    memory::{MemoryTables, Outcome, SimulatedInterface, Simulator, Target},
    model::{Backend, Frontend, Masquerade, NatPorts, Protocol, Service},
    pipeline::{DropReason, Hook, Seen, Timeouts, Verdict},
    source::Precedence,
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    conformance::settle,
    faulty::FaultyStore,
    frames::{Dissected, Frame, flags},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: &str = "192.0.2.7";
const ONE: &str = "198.51.100.2:8080";
const OTHER: &str = "198.51.100.6:8080";

/// A host with one interface, everything a hop away, and a controller that is stepped by hand.
struct Host {
    simulator: Simulator,
    control: Controller,
    agent: SourceHandle,
    now: Duration,
}

impl Host {
    fn new() -> Self {
        Self::with(|store| Controller::new(store).unwrap())
    }

    fn with(control: impl FnOnce(Arc<dyn Store>) -> Controller) -> Self {
        let mut simulator = Simulator::new(Arc::new(MemoryTables::new(Capacity::small())));
        simulator.add_interface(SimulatedInterface::new(2, MAC)).unwrap();
        simulator.routes_mut().insert("0.0.0.0/0".parse().unwrap(), Target::Link(2));
        let control = control(simulator.tables().clone());
        let agent = control.register("agent", Precedence::default()).unwrap();
        agent.synced();
        let mut host = Self { simulator, control, agent, now: Duration::ZERO };
        host.pass(Duration::from_secs(1000));
        host
    }

    /// Lets time pass, and the controller do all that is due.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.simulator.set_time(self.now);
        settle(&self.control, self.now);
    }

    /// Has the collector go round so many times from now on, all at this moment of the packets' clock.
    fn collect(&mut self, rounds: u64) {
        let until = self.control.collected().rounds + rounds;
        let mut now = self.now;
        for _ in 0..10_000 {
            match self.control.collect(now) {
                _ if self.control.collected().rounds >= until => return,
                NextWake::At(time) => now = now.max(time),
                other => panic!("{other:?}"),
            }
        }
        panic!("the collector does not come round: {:?}", self.control.collected());
    }

    /// Commits a service, which the controller has not seen yet.
    fn commit(&self, service: Service) {
        self.agent.transaction().upsert(service).commit().unwrap();
    }

    fn serve(&mut self, name: &str, port: u16, backends: &[&str]) {
        self.commit(service(name, port, backends.iter().copied().map(backend)));
        self.pass(Duration::ZERO);
    }

    /// A frame that comes in.
    fn arrives(&self, frame: Frame) -> Outcome {
        self.simulator.run(Hook::Ingress, 2, &frame.link(MAC, [2, 0, 0, 0, 0, 9]).build())
    }

    /// Where a client's datagram goes.
    fn ask(&self, client_port: u16, port: u16) -> SocketAddr {
        let frame = Frame::udp(
            format!("{CLIENT}:{client_port}").parse().unwrap(),
            format!("203.0.113.10:{port}").parse().unwrap(),
        );
        let out = self.arrives(frame);
        assert_eq!(out.verdict, Verdict::Forward);
        Dissected::of(&out.frame).unwrap().destination
    }

    /// Whether a backend's answer is translated back.
    fn answer(&self, backend: &str, client_port: u16) -> bool {
        let frame = Frame::udp(backend.parse().unwrap(), format!("{CLIENT}:{client_port}").parse().unwrap());
        let out = self.arrives(frame);
        out.verdict == Verdict::Forward
    }

    fn entries(&self) -> u32 {
        let tables = self.simulator.tables();
        tables.conntrack_v4().fill().unwrap() + tables.opening_v4().fill().unwrap()
    }

    /// The only connection's entry of one direction. It is not confirmed.
    fn half(&self, replies: bool) -> (TupleV4, FlowV4) {
        let mut entries = self.simulator.tables().opening_v4().entries().map(Result::unwrap);
        entries.find(|(_, flow)| (flow.flags & FLOW_REPLY != 0) == replies).unwrap()
    }

    fn is_condemned(&self, replies: bool) -> bool {
        Seen::from(self.half(replies).1.state).is_condemned()
    }
}

fn backend(address: &str) -> Backend {
    let address: SocketAddr = address.parse().unwrap();
    Backend::new(address.ip(), address.port()).unwrap()
}

/// A service of UDP at the virtual address.
fn service(name: &str, port: u16, backends: impl IntoIterator<Item = Backend>) -> Service {
    let frontend = Frontend::new("203.0.113.10".parse().unwrap(), port, Protocol::Udp).unwrap();
    let service = Service::builder(name).frontend(frontend).backends(backends);
    service.masquerade(Masquerade::Never).build().unwrap()
}

#[test]
fn a_flow_goes_two_rounds_after_its_time() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.ask(1, 53);
    host.pass(Duration::from_secs(59));
    host.collect(3);
    assert_eq!(host.entries(), 2, "its time is not over");
    host.pass(Duration::from_secs(2));
    host.collect(1);
    assert_eq!(host.entries(), 2, "it is condemned");
    host.collect(1);
    assert_eq!(host.entries(), 0);
    assert_eq!((host.control.collected().expired, host.control.collected().failures), (2, 0));
}

/// Whoever claimed it takes it out at once, unless the kernel refuses that: then nobody else would.
#[test]
fn an_entry_that_was_left_dying_goes_in_two_rounds_and_one_that_is_being_replaced_lives() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.ask(1, 53);
    let (tuple, flow) = host.half(false);
    let with = |bits: u32| {
        let state = StateWord::new(flow.state.seen() | bits, flow.state.tag());
        FlowV4 { state, ..flow }
    };
    let put = |host: &Host, flow| host.simulator.tables().opening_v4().insert(&tuple, &flow).unwrap();
    put(&host, with(Seen::DYING));
    host.collect(1);
    assert_eq!(host.entries(), 2, "a packet may be at it");
    // It was: what stands there now is another flow, which may die in turn.
    put(&host, flow);
    host.collect(1);
    put(&host, with(Seen::DYING));
    host.collect(1);
    assert_eq!(host.entries(), 2);
    host.collect(1);
    assert_eq!((host.entries(), host.control.collected().expired), (1, 1));
    // The next packet finds the way clear.
    assert_eq!(host.ask(1, 53), ONE.parse().unwrap());
    assert_eq!(host.entries(), 2);
}

#[test]
fn established_tcp_outlives_idle_udp() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    let web = Frontend::new("203.0.113.10".parse().unwrap(), 80, Protocol::Tcp).unwrap();
    let backend = Backend::new("198.51.100.2".parse().unwrap(), 80).unwrap();
    let web = Service::builder("web").frontend(web).backend(backend);
    let web = web.masquerade(Masquerade::Never).build().unwrap();
    host.agent.transaction().upsert(web).commit().unwrap();
    host.pass(Duration::ZERO);
    host.ask(1, 53);
    let (client, vip, backend) = ("192.0.2.7:9", "203.0.113.10:80", "198.51.100.2:80");
    for (from, to, seen) in
        [(client, vip, flags::SYN), (backend, client, flags::SYN | flags::ACK), (client, vip, flags::ACK)]
    {
        let frame = Frame::tcp(from.parse().unwrap(), to.parse().unwrap(), seen);
        host.arrives(frame);
    }
    assert_eq!(host.entries(), 4);
    host.pass(Duration::from_secs(5 * 3600));
    host.collect(2);
    assert_eq!(host.entries(), 2, "of UDP nothing is left");
    host.pass(Duration::from_secs(2 * 3600));
    host.collect(2);
    assert_eq!(host.entries(), 0);
}

/// FIELD-NOTES, 7: UDP must not stick to a backend that left its service.
#[test]
fn a_backend_that_leaves_one_of_two_services_loses_that_ones_flows_only() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    assert_eq!((host.ask(1, 53), host.ask(2, 514)), (ONE.parse().unwrap(), ONE.parse().unwrap()));
    host.serve("dns", 53, &[OTHER]);
    // It goes on without a pause, both ways; the other service's does so, too.
    for _ in 0..3 {
        host.pass(Duration::from_secs(2));
        host.ask(1, 53);
        assert!(host.answer(ONE, 2));
        host.answer(ONE, 1);
        host.ask(2, 514);
        host.collect(2);
    }
    assert_eq!(host.ask(1, 53), OTHER.parse().unwrap());
    assert_eq!(host.ask(2, 514), ONE.parse().unwrap());
    assert!(host.answer(ONE, 2) && host.answer(OTHER, 1));
    assert_eq!(host.entries(), 4);
    assert_eq!((host.control.collected().revoked, host.control.collected().expired), (2, 0));
}

#[test]
fn a_backend_that_comes_back_in_time_keeps_its_flows() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    // Both changes are in the tables before the grace period of the first is over.
    host.commit(service("dns", 53, [backend(OTHER)]));
    host.control.step(host.now);
    host.commit(service("dns", 53, [backend(ONE)]));
    host.control.step(host.now);
    host.pass(Duration::from_secs(1));
    host.collect(2);
    assert_eq!((host.ask(1, 53), host.control.collected().revoked), (ONE.parse().unwrap(), 0));
}

#[test]
fn a_backend_that_comes_back_before_the_collector_comes_keeps_its_flows() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    host.serve("dns", 53, &[OTHER]);
    host.pass(Duration::from_secs(1));
    host.serve("dns", 53, &[ONE]);
    host.collect(2);
    assert_eq!((host.ask(1, 53), host.control.collected().revoked), (ONE.parse().unwrap(), 0));
}

#[test]
fn a_backend_that_comes_back_between_two_rounds_keeps_its_new_flows() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    host.serve("dns", 53, &[OTHER]);
    host.pass(Duration::from_secs(1));
    host.collect(1);
    // It found some, and would look once more.
    assert_eq!(host.control.collected().revoked, 2);
    host.serve("dns", 53, &[ONE]);
    assert_eq!(host.ask(1, 53), ONE.parse().unwrap());
    host.serve("dns", 53, &[ONE, OTHER]);
    for _ in 0..3 {
        host.pass(Duration::from_secs(1));
        host.collect(2);
        assert_eq!(host.ask(1, 53), ONE.parse().unwrap());
    }
    assert_eq!(host.control.collected().revoked, 2);
}

#[test]
fn the_next_frontend_of_an_index_keeps_its_flows() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    host.serve("dns", 53, &[OTHER]);
    host.pass(Duration::from_secs(1));
    host.agent.transaction().remove(&"dns".parse().unwrap()).commit().unwrap();
    host.pass(Duration::from_secs(1));
    host.serve("ntp", 123, &[ONE]);
    host.ask(2, 123);
    host.collect(2);
    assert_eq!(host.control.collected().revoked, 0);
    assert!(host.answer(ONE, 2));
}

#[test]
fn a_draining_backend_that_leaves_a_shared_service_loses_its_flows_there() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    let draining = vec![backend(OTHER), backend(ONE).draining()];
    for (backends, expected) in [(draining, ONE), (vec![backend(OTHER)], OTHER)] {
        host.commit(service("dns", 53, backends));
        host.pass(Duration::from_secs(1));
        host.collect(2);
        assert_eq!(host.ask(1, 53), expected.parse().unwrap());
    }
}

/// Between two timed rounds there may be others, which only look for what is revoked.
#[test]
fn a_round_for_the_sake_of_a_revoked_flow_brings_no_other_nearer_its_end() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(2, 514);
    host.pass(Duration::from_secs(61));
    host.ask(1, 53);
    host.serve("dns", 53, &[OTHER]);
    host.collect(2);
    let done = host.control.collected();
    assert_eq!((done.rounds, done.revoked, done.expired, host.entries()), (2, 2, 0, 2));
    host.collect(1);
    assert_eq!((host.control.collected().expired, host.entries()), (2, 0));
}

/// A packet on its way while a slice removes its connection brings a half back, behind that slice.
#[test]
fn a_revoked_flow_that_comes_back_within_the_round_goes_in_the_next() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    host.serve("dns", 53, &[OTHER]);
    let (tuple, flow) = host.half(true);
    for _ in 0..100 {
        if host.entries() > 0 {
            host.control.collect(host.now);
            host.now += Duration::from_millis(10);
        }
    }
    assert_eq!((host.entries(), host.control.collected().rounds), (0, 0), "the round is not over");
    host.simulator.tables().opening_v4().insert(&tuple, &flow).unwrap();
    host.pass(Duration::from_secs(2));
    assert!(host.answer(ONE, 1));
    assert_eq!(host.entries(), 2, "the answer brings the other half back");
    host.collect(2);
    assert_eq!((host.entries(), host.control.collected().revoked), (0, 4));
}

#[test]
fn rounds_begin_a_second_apart_at_the_least() {
    let host =
        Host::with(|store| Controller::builder(store).collect_interval(Duration::ZERO).build().unwrap());
    let begin = host.now;
    let mut now = begin;
    while host.control.collected().rounds == 0 {
        let NextWake::At(time) = host.control.collect(now) else { panic!("the round is not over") };
        now = now.max(time);
    }
    assert!(now >= begin + Duration::from_secs(1), "{:?} later", now - begin);
    host.control.collect(now - Duration::from_millis(1));
    assert_eq!(host.control.collected().rounds, 1);
    host.control.collect(now);
    host.control.collect(now + Duration::from_secs(1));
    assert_eq!(host.control.collected().rounds, 1, "but then the second one begins");
}

#[test]
fn a_slice_that_was_refused_holds_up_no_other_table_and_is_tried_again_an_interval_later() {
    let faulty = Cell::new(None);
    let mut host = Host::with(|store| {
        let store = Arc::new(FaultyStore::new(store, 0, 1));
        faulty.set(Some(store.clone()));
        Controller::new(store).unwrap()
    });
    let faulty = faulty.take().unwrap();
    host.serve("dns", 53, &[ONE]);
    host.serve("log", 514, &[ONE]);
    host.ask(1, 53);
    // There is something that is to go at once.
    host.serve("dns", 53, &[OTHER]);
    faulty.fail_one_in(1);
    let step = |at| match host.control.collect(at) {
        NextWake::At(time) => time,
        other => panic!("{other:?}"),
    };
    let (mut last, mut steps) = (host.now, 0);
    // Each table of each family has its slice, the one that is refused as well.
    let time = loop {
        let next = step(last);
        steps += 1;
        if next >= host.now + Duration::from_secs(5) {
            break next;
        }
        last = next;
    };
    assert_eq!((steps, host.control.collected().failures, host.control.collected().rounds), (6, 6, 0));
    for milliseconds in (100..5_000).step_by(10) {
        assert_eq!(step(host.now + Duration::from_millis(milliseconds)), time);
    }
    faulty.heal();
    host.now = time;
    host.collect(2);
    assert_eq!((host.entries(), host.control.collected().failures), (0, 6));
}

#[test]
fn a_flow_that_lives_on_is_condemned_anew_before_it_goes() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.ask(1, 53);
    host.pass(Duration::from_secs(61));
    host.collect(1);
    assert_eq!([false, true].map(|replies| host.is_condemned(replies)), [true, true]);
    let longer = Timeouts { udp: 120_000, ..Timeouts::default() };
    host.simulator.tables().set_timeouts(&longer);
    host.collect(1);
    assert_eq!([false, true].map(|replies| host.is_condemned(replies)), [false, false]);
    host.pass(Duration::from_secs(60));
    host.collect(1);
    assert_eq!((host.entries(), host.control.collected().expired), (2, 0), "it was condemned, not removed");
    host.collect(1);
    assert_eq!((host.entries(), host.control.collected().expired), (0, 2));
}

#[test]
fn that_one_half_is_condemned_is_not_said_of_the_other() {
    let mut host = Host::new();
    host.serve("dns", 53, &[ONE]);
    host.ask(1, 53);
    let (tuple, mut flow) = host.half(false);
    flow.state = StateWord::new(flow.state.seen() | Seen::CONDEMNED, flow.state.tag());
    host.simulator.tables().opening_v4().insert(&tuple, &flow).unwrap();
    host.pass(Duration::from_secs(2));
    let before = host.half(true).1.last_seen;
    host.ask(1, 53);
    assert_ne!(host.half(true).1.last_seen, before, "the packet refreshed both");
    assert!(!host.is_condemned(true));
}

/// Ports that are lent are counted by address, a whole round at a time.
#[test]
fn a_round_counts_the_ports_that_each_address_has_lent() {
    let mut host = Host::new();
    let mut other = SimulatedInterface::new(3, MAC);
    other.masquerade_v4 = Some("192.0.2.102".parse().unwrap());
    host.simulator.add_interface(other).unwrap();
    host.simulator.routes_mut().insert("198.51.100.6/32".parse().unwrap(), Target::Link(3));
    let masqueraded = |name, port, to| {
        let frontend = Frontend::new("203.0.113.10".parse().unwrap(), port, Protocol::Udp).unwrap();
        Service::builder(name).frontend(frontend).backend(backend(to)).build().unwrap()
    };
    let mut first = SimulatedInterface::new(2, MAC);
    first.masquerade_v4 = Some("192.0.2.101".parse().unwrap());
    host.simulator.add_interface(first).unwrap();
    host.commit(masqueraded("dns", 53, ONE));
    host.commit(masqueraded("log", 514, OTHER));
    host.pass(Duration::ZERO);
    let usage = |host: &Host| -> Vec<(String, u32, u32)> {
        let usage = host.control.nat_usage().into_iter();
        usage.map(|one| (one.address.to_string(), one.in_use, one.high_water)).collect()
    };
    (1..=5).for_each(|client| _ = host.ask(client, 53));
    (1..=3).for_each(|client| _ = host.ask(client, 514));
    assert_eq!(usage(&host), [], "no round was made");
    host.collect(1);
    let [first, other] = ["192.0.2.101", "192.0.2.102"].map(str::to_owned);
    assert_eq!(usage(&host), [(first.clone(), 5, 5), (other.clone(), 3, 3)]);
    host.pass(Duration::from_secs(40));
    (6..=7).for_each(|client| _ = host.ask(client, 53));
    host.collect(1);
    assert_eq!(usage(&host), [(first.clone(), 7, 7), (other.clone(), 3, 3)]);
    // The first ones' time is over.
    host.pass(Duration::from_secs(30));
    host.collect(2);
    assert_eq!(usage(&host), [(first.clone(), 2, 7), (other.clone(), 0, 3)]);
    host.pass(Duration::from_secs(70));
    host.collect(2);
    assert_eq!(usage(&host), [(first, 0, 7), (other, 0, 3)]);
}

/// Nobody waits for a round's time where ports ran out and flows are over.
#[test]
fn packets_dropped_for_want_of_a_port_wake_the_collector() {
    let mut host = Host::new();
    let mut first = SimulatedInterface::new(2, MAC);
    first.masquerade_v4 = Some("192.0.2.101".parse().unwrap());
    host.simulator.add_interface(first).unwrap();
    host.simulator.tables().set_nat_ports(NatPorts::new(50_000..=50_003).unwrap());
    let frontend = Frontend::new("203.0.113.10".parse().unwrap(), 53, Protocol::Udp).unwrap();
    host.commit(Service::builder("dns").frontend(frontend).backend(backend(ONE)).build().unwrap());
    host.pass(Duration::ZERO);
    (1..=4).for_each(|client| _ = host.ask(client, 53));
    for port in 50_000..=50_003 {
        let answer = Frame::udp(ONE.parse().unwrap(), format!("192.0.2.101:{port}").parse().unwrap());
        assert_eq!(host.arrives(answer).verdict, Verdict::Forward);
    }
    // Each is confirmed, and keeps its port.
    (1..=4).for_each(|client| _ = host.ask(client, 53));
    // The rounds that are due anyway.
    host.collect(1);
    let begin = host.now;
    let next_round = |host: &Host, from: Duration| {
        let rounds = host.control.collected().rounds;
        let mut now = from;
        while host.control.collected().rounds == rounds {
            let NextWake::At(time) = host.control.collect(now) else { panic!("the round is not over") };
            now = now.max(time);
        }
        now
    };
    let begin = next_round(&host, begin);
    let idle = next_round(&host, begin);
    assert!(idle - begin >= Duration::from_secs(4), "{:?}", idle - begin);
    let frame = Frame::udp(format!("{CLIENT}:9").parse().unwrap(), "203.0.113.10:53".parse().unwrap());
    assert_eq!(host.arrives(frame).verdict, Verdict::Drop(DropReason::NatExhausted));
    let woken = next_round(&host, idle);
    assert!(woken - idle <= Duration::from_millis(1_200), "{:?}", woken - idle);
    // What was counted once is not counted again.
    let later = next_round(&host, woken);
    assert!(later - woken >= Duration::from_secs(4), "{:?}", later - woken);
}
