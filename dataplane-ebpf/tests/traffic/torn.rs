//! A packet never sees half of one list of backends and half of another.
//!
//! A thousand services, each with two lists of backends of its own, which are swapped in batches while packets open flows.
//! Whatever is chosen must be a backend of the very service: addresses tell whose each backend is. Tables have little
//! room to spare, so that lists, backends and their places are used again and again.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use dataplane_core::{
    Controller,
    abi::{FLOW_REPLY, SLOT_LINE_WORDS, ServiceKeyV4, ServiceWord},
    model::{Backend, Frontend, Masquerade, Protocol, Service},
    pipeline::Hook,
    source::{Precedence, SourceHandle},
    tables::{Capacity, Store},
    wire::Be16,
};
use dataplane_ebpf::{EbpfDataplane, Uplink, XdpMode};
use dataplane_testkit::{
    Raise,
    frames::{Dissected, Frame, flags},
    net::{AddressPlan, LoadBalancerTopology, Route, wait_for},
    require_kernel,
};

use crate::world::PATIENCE;

/// The longest that lists are swapped until enough was seen.
const RACE: Duration = Duration::from_secs(120);

const SERVICES: u16 = 1_000;
const FIRST_PORT: u16 = 1_000;

/// Where service `number` is.
fn frontend(number: u16) -> SocketAddr {
    SocketAddr::new(AddressPlan::vip(0).v4.into(), FIRST_PORT + number)
}

/// A backend of service `number`: its address says so.
fn backend(number: u16, which: u8) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, high, low, which).into(), 8080)
}

/// Service `number` with its even or its odd list, of one to three backends.
fn service(number: u16, odd: bool) -> Service {
    let backends = (0..1 + number % 3).map(|place| {
        let which = 1 + 2 * u8::try_from(place).unwrap() + u8::from(odd);
        let address = backend(number, which);
        Backend::new(address.ip(), address.port()).unwrap()
    });
    let address = frontend(number);
    Service::builder(&format!("service-{number}"))
        .frontend(Frontend::new(address.ip(), address.port(), Protocol::Tcp).unwrap())
        .backends(backends)
        .masquerade(Masquerade::Never)
        .build()
        .unwrap()
}

/// Whose the backend is that a packet for a frontend came to.
fn is_own(to: SocketAddr, new_to: SocketAddr) -> bool {
    let number = to.port() - FIRST_PORT;
    let IpAddr::V4(ip) = new_to.ip() else { return false };
    let [network, high, low, which] = ip.octets();
    network == 10
        && u16::from_be_bytes([high, low]) == number
        && (1..=6).contains(&which)
        && new_to.port() == 8080
}

struct Torn {
    net: LoadBalancerTopology,
    plane: EbpfDataplane,
    mac: [u8; 6],
}

impl Torn {
    fn new() -> Self {
        let net = LoadBalancerTopology::builder(1).build().unwrap();
        // A way to all backends, so that packets are translated.
        let backends = "10.0.0.0/8".parse().unwrap();
        net.balancer.add_route(&Route::to(backends).via(net.backends[0].addresses.v4.into())).unwrap();
        // 2000 backends stand at a time, 2000 more while they are replaced, and those that wait for a grace period.
        let capacity = Capacity {
            frontends: 1_024,
            slots: 4_000 * SLOT_LINE_WORDS,
            backends: 8_000,
            conntrack: 1 << 16,
            opening: 1 << 16,
            nat: 8,
            affinity: 8,
            fragments: 8,
        };
        let plane = net.balancer.run(|| {
            let uplink = Uplink::named("to-client").xdp(XdpMode::Off);
            EbpfDataplane::builder().unpinned().capacity(capacity).uplink(uplink).open().unwrap()
        });
        let mac = net.client_side.mac().unwrap();
        Self { net, plane, mac }
    }

    /// Opens a flow to a service from a client of its own, and returns where the packet went.
    fn open(&self, number: u16, client: u32) -> SocketAddr {
        let source = SocketAddr::new(
            Ipv4Addr::from_bits(0xc612_0000 + (client >> 14)).into(),
            1 + (client & 0x3fff) as u16,
        );
        let frame =
            Frame::tcp(source, frontend(number), flags::SYN).link(self.mac, [2, 0, 0, 0, 0, 9]).build();
        let outcome = self.plane.run(Hook::Ingress, &frame, self.net.client_side.index(), 1).unwrap();
        Dissected::of(&outcome.frame).unwrap().destination
    }

    /// Every flow's frontend and backend.
    fn flows(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let at = |address: dataplane_core::wire::Ipv4Address, port: Be16| {
            SocketAddr::new(Ipv4Addr::from(address).into(), port.get())
        };
        let entries = self.plane.tables();
        let entries = entries.opening_v4().entries().map(Result::unwrap);
        entries
            .map(|(tuple, flow)| {
                if flow.flags & FLOW_REPLY == 0 {
                    (
                        at(tuple.destination, tuple.destination_port),
                        at(flow.destination, flow.destination_port),
                    )
                } else {
                    (at(flow.source, flow.source_port), at(tuple.source, tuple.source_port))
                }
            })
            .collect()
    }
}

/// All services, with one or the other list, by the public API; waits until they are in the tables. Where there is no
/// room the controller goes on by itself, once a grace period has made some.
fn swap(control: &Controller, agent: &SourceHandle, odd: bool) {
    let services = (0..SERVICES).map(|number| service(number, odd));
    let revision = agent.transaction().upserts(services).confirm_removals().commit().unwrap();
    let applied = || control.wait_applied(revision, PATIENCE).is_ok();
    wait_for(PATIENCE, "a thousand services in the tables", applied).unwrap();
}

#[test]
fn a_service_gets_its_own_backends_while_thousands_are_swapped() {
    require_kernel!();
    const SWAPS: usize = 12;
    const OPENED: u32 = 1_000;
    let torn = Torn::new();
    let control = Controller::new(torn.plane.tables()).unwrap();
    let _running = control.spawn().unwrap();
    let agent = control.register("test", Precedence::new(10)).unwrap();
    agent.synced();
    swap(&control, &agent, false);

    let done = AtomicBool::new(false);
    // Flows, and how often one came to another kind of list than the one before.
    let (opened, changed) = (AtomicU32::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            torn.net.balancer.run(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let opened = opened.fetch_add(1, Ordering::Relaxed);
                    let number = (opened % u32::from(SERVICES)) as u16;
                    let to = torn.open(number, opened);
                    assert!(
                        is_own(frontend(number), to),
                        "flow {opened} for {} went to {to}",
                        frontend(number)
                    );
                    // Whose list it was, the even or the odd one.
                    let IpAddr::V4(ip) = to.ip() else { unreachable!() };
                    changed.fetch_add(usize::from(ip.octets()[3] % 2 != last), Ordering::Relaxed);
                    last = ip.octets()[3] % 2;
                }
            });
        });
        let stop = Raise(&done);
        let raced = || opened.load(Ordering::Relaxed) > OPENED && changed.load(Ordering::Relaxed) >= SWAPS;
        let begin = Instant::now();
        // On, until both were at it at once, however the machine shares out its time.
        let mut turn = 0;
        while turn < SWAPS || !raced() && !reader.is_finished() && begin.elapsed() < RACE {
            swap(&control, &agent, turn % 2 == 0);
            turn += 1;
        }
        drop(stop);
        reader.join().unwrap();
        assert!(raced(), "{opened:?} flows, {changed:?} changes in {turn} turns: nothing was raced");
    });
    let opened = opened.into_inner();

    let flows = torn.flows();
    assert!(flows.len() > OPENED as usize, "{}", flows.len());
    for (to, new_to) in flows {
        assert!(is_own(to, new_to), "a flow for {to} goes to {new_to}");
    }

    // The same check finds a list that is not the service's own: that is what it would see of a torn word.
    let tables = torn.plane.tables();
    let [one, other] = [0, 1].map(|number| {
        let address = frontend(number);
        let IpAddr::V4(ip) = address.ip() else { unreachable!() };
        let (port, protocol) = (Be16::new(address.port()), Protocol::Tcp.number());
        let key = ServiceKeyV4 { address: ip.into(), port, protocol, scope: 0 };
        tables.services_v4().get(&key).unwrap().unwrap()
    });
    let base = ServiceWord(tables.service_words().load(other.index(), 0).unwrap()).base();
    tables.service_words().store(one.index(), &[ServiceWord::new(base, one.tag()).0]).unwrap();
    let to = torn.net.balancer.run(|| torn.open(0, opened));
    assert!(!is_own(frontend(0), to));
    assert!(torn.flows().into_iter().any(|(to, new_to)| !is_own(to, new_to)));
}
