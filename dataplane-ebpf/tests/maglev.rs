//! Maglev across hosts: two dataplanes that were told of the same services in another order, in other words, and after
//! another past, send every flow to the same backend; and when one of the backends goes, hardly any flow of the others
//! goes elsewhere.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::Host;
use dataplane_core::{
    Controller, SourceHandle,
    abi::{InterfaceEntry, TestInput},
    model::{Backend, Choice, Frontend, MaglevSize, Masquerade, Protocol, Service, Weight},
    pipeline::{Hook, Verdict},
    source::Precedence,
    state::{Phase, RemovalGuard},
    tables::Capacity,
};
use dataplane_ebpf::{EbpfDataplane, testing::TestDataplane};
use dataplane_testkit::{
    conformance::settle,
    frames::{Dissected, Frame, flags},
    require_kernel,
};

const SEED: u64 = 0x5eed;
const BACKENDS: u16 = 10;
/// So many of each front.
const FLOWS: u16 = 1000;

/// Virtual addresses; TCP and UDP lead to the same backends.
const FRONTS: [&str; 2] = ["203.0.113.10:80", "[2001:db8:cafe::10]:80"];

/// A balancer, with everything of its own.
struct Balancer {
    host: Host,
    plane: TestDataplane,
    control: Controller,
    source: SourceHandle,
    now: Duration,
}

impl Balancer {
    fn new(name: &str, seed: u64) -> Self {
        let host = Host::new(name);
        let capacity = Capacity {
            frontends: 64,
            slots: 1 << 14,
            backends: 64,
            conntrack: 1 << 15,
            opening: 1 << 15,
            nat: 8,
            affinity: 8,
            fragments: 8,
        };
        let builder = EbpfDataplane::builder().unpinned().capacity(capacity);
        let plane = host.host.run(|| TestDataplane::open(builder)).unwrap();
        let (mac, index) = (host.uplink.mac().unwrap(), host.uplink.index());
        plane.set_interface(&InterfaceEntry { index, mac, ..InterfaceEntry::default() }).unwrap();
        plane.set(TestInput::Now, 1 << 40).unwrap();
        let control = Controller::builder(plane.plane().tables())
            .removal_guard(RemovalGuard::off())
            .maglev_seed(seed)
            .build()
            .unwrap();
        let source = control.register("test", Precedence::new(1)).unwrap();
        source.synced();
        Self { host, plane, control, source, now: Duration::ZERO }
    }

    fn serve(&mut self, services: impl IntoIterator<Item = Service>) {
        self.source.transaction().upserts(services).commit().unwrap();
        self.now = settle(&self.control, self.now);
        let statuses = self.control.status();
        assert!(statuses.iter().all(|status| status.phase == Phase::Applied), "{statuses:?}");
    }

    /// Where a client's packet is sent, with dice of this balancer's own.
    fn backend_of(&self, client: SocketAddr, front: SocketAddr, protocol: Protocol) -> SocketAddr {
        let frame = match protocol {
            Protocol::Udp => Frame::udp(client, front),
            _ => Frame::tcp(client, front, flags::SYN),
        };
        let (mac, index) = (self.host.uplink.mac().unwrap(), self.host.uplink.index());
        let frame = frame.link(mac, [2, 0, 0, 0, 0, 1]).build();
        self.plane.set(TestInput::Random, u64::from(mac[5]) << 24 | u64::from(client.port())).unwrap();
        let outcome = self.plane.run(Hook::Ingress, &frame, index).unwrap();
        let verdict = 1 << 32 | u64::from(Verdict::Deliver.number());
        assert_eq!(self.plane.get(TestInput::Verdict), verdict, "{client} to {front}");
        Dissected::of(&outcome.frame).unwrap().destination
    }

    /// The backends of all flows.
    fn backends_of_all(&self) -> Vec<SocketAddr> {
        // Test runs take the namespace from the thread.
        self.host.host.run(|| {
            let mut backends = Vec::new();
            for front in FRONTS {
                let front: SocketAddr = front.parse().unwrap();
                let client: IpAddr =
                    if front.is_ipv4() { "192.0.2.7" } else { "2001:db8:1::7" }.parse().unwrap();
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    backends.extend(
                        (0..FLOWS)
                            .map(|n| self.backend_of(SocketAddr::new(client, 20_000 + n), front, protocol)),
                    );
                }
            }
            backends
        })
    }
}

/// Local ones: no route is asked for.
fn backend(n: u16, six: bool) -> Backend {
    let address = if six { format!("2001:db8:2::{n:x}") } else { format!("198.51.100.{n}") };
    let weight = Weight::new(if n == 3 { 2 } else { 1 }).unwrap();
    Backend::new(address.parse().unwrap(), 8080).unwrap().local().with_weight(weight)
}

fn service(name: &str, front: &str, choice: Choice, backends: impl IntoIterator<Item = u16>) -> Service {
    let front: SocketAddr = front.parse().unwrap();
    let frontend = |protocol| Frontend::new(front.ip(), front.port(), protocol).unwrap();
    Service::builder(name)
        .frontends([Protocol::Tcp, Protocol::Udp].map(frontend))
        .backends(backends.into_iter().map(|n| backend(n, front.is_ipv6())))
        .choice(choice)
        .masquerade(Masquerade::Never)
        .build()
        .unwrap()
}

fn maglev() -> Choice {
    Choice::Maglev(MaglevSize::new(4099).unwrap())
}

fn web(backends: impl IntoIterator<Item = u16> + Clone) -> [Service; 2] {
    [service("four", FRONTS[0], maglev(), backends.clone()), service("six", FRONTS[1], maglev(), backends)]
}

#[test]
fn hosts_agree_on_every_flow_and_a_backend_that_goes_moves_hardly_any() {
    require_kernel!();
    let mut one = Balancer::new("maglev one", SEED);
    one.serve(web(0..BACKENDS));

    // Others came first here, and are gone or have another place; services and backends come the other way round.
    let mut other = Balancer::new("maglev other", SEED);
    let stranger =
        |n: u16| service(&format!("other{n}"), &format!("203.0.113.{n}:443"), Choice::Random, [7, 20, 4]);
    other.serve((20..25).map(stranger));
    for choice in [Choice::Random, maglev()] {
        other.serve([service("four", FRONTS[0], choice, [5, 11, 9])]);
    }
    let [four, six] = web((0..BACKENDS).rev());
    other.serve([six]);
    other.serve([four]);

    let before = one.backends_of_all();
    assert_eq!(before, other.backends_of_all());
    // Eleven shares, one of which has two; 2000 flows of a family, and five standard deviations of a share of 182.
    for six in [false, true] {
        for n in 0..BACKENDS {
            let address = backend(n, six).socket_address();
            let count = before.iter().filter(|&&chosen| chosen == address).count();
            let bounds = if n == 3 { 277..=450 } else { 117..=246 };
            assert!(bounds.contains(&count), "{address} has {count} flows");
        }
    }

    // Flows that are known stay where they are, and those of who went go to others.
    one.serve(web((0..BACKENDS).filter(|&n| n != 4)));
    let gone = [false, true].map(|six| backend(4, six).socket_address());
    let after = one.backends_of_all();
    for (before, after) in before.iter().zip(&after) {
        assert!(!gone.contains(after) && (before == after || gone.contains(before)), "{before}, {after}");
    }

    // Where no flow is known, hardly any of the others goes elsewhere than before.
    let mut fresh = Balancer::new("maglev fresh", SEED);
    fresh.serve(web((0..BACKENDS).filter(|&n| n != 4).rev()));
    let anew = fresh.backends_of_all();
    let stays = before.iter().zip(&anew).filter(|(before, _)| !gone.contains(before));
    let moved = stays.filter(|(before, anew)| before != anew).count();
    println!("{moved} of {} flows moved beside those of who went", before.len());
    assert!(moved <= before.len() / 20, "{moved}");
}

#[test]
fn another_seed_is_another_choice() {
    require_kernel!();
    let mut hosts = [("maglev seed", SEED), ("maglev other seed", SEED + 1)]
        .map(|(name, seed)| Balancer::new(name, seed));
    let [one, other] = hosts.each_mut().map(|host| {
        host.serve(web(0..BACKENDS));
        host.backends_of_all()
    });
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    // By chance some 11 %.
    assert!(same < one.len() / 4, "{same} of {} flows", one.len());
}
