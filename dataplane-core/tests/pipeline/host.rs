//! A host with clients on one side and backends on the other.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dataplane_core::{
    abi::{BackendRef, FLOW_REPLY, LIST_AFFINITY, ServiceCounters},
    memory::{MemoryTables, Outcome, SimulatedInterface, Simulator, Target},
    pipeline::{Hook, Tick, Verdict},
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    fill::{FilledService, Filler},
    frames::{Dissected, Frame},
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// The interfaces towards clients and towards backends, and who is a neighbour there.
pub const FRONT: u32 = 2;
pub const BACK: u32 = 3;
pub const FRONT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// Who talks in a story, in either family.
#[derive(Clone, Copy)]
pub struct Cast {
    pub client: &'static str,
    pub service: &'static str,
    pub backend: &'static str,
    pub other_backend: &'static str,
}

pub const V4: Cast = Cast {
    client: "192.0.2.7:40000",
    service: "203.0.113.10:80",
    backend: "198.51.100.2:8080",
    other_backend: "198.51.100.3:8080",
};
pub const V6: Cast = Cast {
    client: "[2001:db8:1::7]:40000",
    service: "[2001:db8:cafe::10]:80",
    backend: "[2001:db8:2::2]:8080",
    other_backend: "[2001:db8:2::3]:8080",
};

pub struct Host {
    pub simulator: Simulator,
    filler: Filler,
    now: Duration,
}

impl Host {
    pub fn new() -> Self {
        Self::with(MemoryTables::new(Capacity::small()))
    }

    pub fn with(tables: MemoryTables) -> Self {
        let mut simulator = Simulator::new(Arc::new(tables));
        simulator.add_interface(SimulatedInterface::new(FRONT, FRONT_MAC)).unwrap();
        simulator.add_interface(SimulatedInterface::new(BACK, BACK_MAC)).unwrap();
        let routes = simulator.routes_mut();
        for (prefix, interface) in [
            ("192.0.2.0/24", FRONT),
            ("2001:db8:1::/64", FRONT),
            ("198.51.100.0/24", BACK),
            ("2001:db8:2::/64", BACK),
        ] {
            routes.insert(prefix.parse().unwrap(), Target::Link(interface));
        }
        for cast in [V4, V6] {
            routes.insert_neighbor(FRONT, address(cast.client), CLIENT_MAC);
            routes.insert_neighbor(BACK, address(cast.backend), BACKEND_MAC);
            routes.insert_neighbor(BACK, address(cast.other_backend), BACKEND_MAC);
        }
        simulator.set_random(Some(0));
        simulator.set_choice(Some(0));
        let mut host = Self { simulator, filler: Filler::default(), now: Duration::ZERO };
        host.pass(Duration::from_secs(1000));
        host
    }

    /// What the lists that are written from now on say of how flows are treated.
    pub fn list_flags(&mut self, flags: u16) {
        self.filler.list_flags = flags;
    }

    /// Lists that are written from now on have clients remembered for so long.
    pub fn affinity(&mut self, timeout: Duration) {
        self.filler.list_flags |= LIST_AFFINITY;
        self.filler.affinity = Tick::ticks_of_milliseconds(timeout.as_millis() as u64);
    }

    pub fn backend(&mut self, address: &str) -> BackendRef {
        self.filler.backend(&**self.simulator.tables(), address.parse().unwrap(), false).unwrap()
    }

    pub fn local_backend(&mut self, address: &str) -> BackendRef {
        self.filler.backend(&**self.simulator.tables(), address.parse().unwrap(), true).unwrap()
    }

    pub fn service(&mut self, address: &str, protocol: u8, list: &[BackendRef]) -> FilledService {
        let store = &**self.simulator.tables();
        self.filler.service(store, address.parse().unwrap(), protocol, list).unwrap()
    }

    /// A service with one backend.
    pub fn serve(&mut self, cast: Cast, protocol: u8) -> FilledService {
        let backend = self.backend(cast.backend);
        self.service(cast.service, protocol, &[backend])
    }

    pub fn point(&mut self, service: FilledService, list: &[BackendRef]) {
        self.filler.point(&**self.simulator.tables(), service, list).unwrap();
    }

    pub fn point_by_maglev(&mut self, service: FilledService, list: &[BackendRef], table: &[u16], seed: u64) {
        let store = &**self.simulator.tables();
        self.filler.point_by_maglev(store, service, list, table, seed).unwrap();
    }

    /// Marks a backend that no list sends new flows.
    pub fn drain(&mut self, backend: BackendRef, cast: Cast) {
        let v6 = address(cast.backend).is_ipv6();
        self.filler.drain_backend(&**self.simulator.tables(), backend, v6).unwrap();
    }

    pub fn remove(&mut self, backend: BackendRef, cast: Cast) {
        let v6 = address(cast.backend).is_ipv6();
        self.filler.remove_backend(&**self.simulator.tables(), backend, v6).unwrap();
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.simulator.set_time(self.now);
    }

    /// What a client sends, through XDP and, where that leaves it, ingress.
    pub fn client_sends(&self, frame: &Frame) -> Outcome {
        self.simulator.receive(FRONT, &towards_front(frame))
    }

    /// What a backend sends, likewise.
    pub fn backend_sends(&self, frame: &Frame) -> Outcome {
        self.simulator.receive(BACK, &frame.clone().link(BACK_MAC, BACKEND_MAC).build())
    }

    /// What a client sends, at one hook.
    pub fn at(&self, hook: Hook, frame: &Frame) -> Outcome {
        self.simulator.run(hook, FRONT, &towards_front(frame))
    }

    pub fn counters(&self, service: FilledService) -> ServiceCounters {
        self.simulator.tables().counters().service(service.index).unwrap()
    }

    /// How many entries of connections there are, of both families: confirmed, and not confirmed.
    pub fn places(&self) -> [u32; 2] {
        let tables = self.simulator.tables();
        let confirmed = tables.conntrack_v4().fill().unwrap() + tables.conntrack_v6().fill().unwrap();
        [confirmed, tables.opening_v4().fill().unwrap() + tables.opening_v6().fill().unwrap()]
    }

    /// How many entries of connections there are, of both families, in either place.
    pub fn entries(&self) -> u32 {
        self.places().into_iter().sum()
    }

    /// Evicts one half of every connection.
    pub fn evict(&self, replies: bool) {
        let tables = self.simulator.tables();
        for table in [tables.conntrack_v4(), tables.opening_v4()] {
            for (tuple, flow) in table.entries().map(Result::unwrap) {
                if (flow.flags & FLOW_REPLY != 0) == replies {
                    assert!(table.remove(&tuple).unwrap());
                }
            }
        }
        for table in [tables.conntrack_v6(), tables.opening_v6()] {
            for (tuple, flow) in table.entries().map(Result::unwrap) {
                if (flow.flags & FLOW_REPLY != 0) == replies {
                    assert!(table.remove(&tuple).unwrap());
                }
            }
        }
    }
}

pub fn towards_front(frame: &Frame) -> Vec<u8> {
    frame.clone().link(FRONT_MAC, CLIENT_MAC).build()
}

pub fn address(socket: &str) -> IpAddr {
    socket.parse::<std::net::SocketAddr>().unwrap().ip()
}

/// A TCP packet.
pub fn tcp(source: &str, destination: &str, flags: u8) -> Frame {
    Frame::tcp(source.parse().unwrap(), destination.parse().unwrap(), flags).payload(b"says this")
}

/// A UDP datagram.
pub fn udp(source: &str, destination: &str) -> Frame {
    Frame::udp(source.parse().unwrap(), destination.parse().unwrap()).payload(b"says this")
}

/// The same frame as it must come out: translated and forwarded, nothing else changed.
#[track_caller]
pub fn assert_forwarded(outcome: &Outcome, sent: &Frame, source: &str, destination: &str) {
    assert_eq!(outcome.verdict, Verdict::Forward);
    let front = address(destination) == address(V4.client) || address(destination) == address(V6.client);
    let (interface, mac, neighbor) =
        if front { (FRONT, FRONT_MAC, CLIENT_MAC) } else { (BACK, BACK_MAC, BACKEND_MAC) };
    let hop = outcome.sent.unwrap();
    assert_eq!((hop.interface, hop.resolved), (interface, true));
    let seen = Dissected::of(&outcome.frame).unwrap();
    assert_eq!(seen.link, (neighbor, mac));
    assert_eq!(seen.hop_limit, sent.hop_limit - 1);
    assert_translated(&seen, sent, source, destination);
}

/// The same frame with another tuple: nothing else above the link layer changed but hop limit and checksums, which hold.
#[track_caller]
pub fn assert_translated(seen: &Dissected, sent: &Frame, source: &str, destination: &str) {
    assert_eq!(
        (seen.source, seen.destination),
        (source.parse().unwrap(), destination.parse().unwrap()),
        "translated to"
    );
    assert!(seen.checksums_hold(), "{seen:?}");
    let was = Dissected::of(&sent.build()).unwrap();
    assert_eq!(seen.has_transport_checksum(), was.has_transport_checksum());
    assert_eq!(seen.protocol, was.protocol);
    assert_eq!(without_checksum(seen), without_checksum(&was), "what follows the ports");
}

fn without_checksum(seen: &Dissected) -> Vec<u8> {
    // Behind the ports: at 16 of a TCP header, at 6 of a UDP one.
    let at = if seen.protocol == TCP { 12 } else { 2 };
    [&seen.rest[..at], &seen.rest[at + 2..]].concat()
}

/// The frame has this verdict and nobody touched it.
#[track_caller]
pub fn assert_untouched(outcome: &Outcome, bytes: &[u8], verdict: Verdict) {
    assert_eq!(outcome.verdict, verdict);
    assert_eq!(&outcome.frame[..], bytes);
    assert_eq!(outcome.sent, None);
}
