//! Packets against changes, on several threads: none sees half of one list of backends and half of another.
//!
//! A thousand services, each with two lists of backends of its own, which are swapped in batches by a controller while
//! packets open flows. An address tells whose a backend is. That the test can see what it looks for is shown by a reader
//! that copies a service's word in two pieces, as a `memcpy` may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{MemoryPacket, MemoryTables, environment::MemoryEnvironment, simulator::World};
use crate::{
    Controller,
    abi::{
        AffinityEntry, BackendRef, FLOW_REPLY, FragmentRecord, InterfaceEntry, SLOT_LINE_WORDS,
        ServiceCounters, ServiceRef, ServiceWord, Setting,
    },
    model::{self, Frontend, Protocol, Service},
    pipeline::{
        Backend, Budget, Environment, EventRecord, EventSink, Hook, NextHop, Route, RouteQuery, Routes,
        Steps, Tick, Verdict, VerdictNumber, Workspaces, process,
    },
    source::{Precedence, SourceHandle},
    tables::{Capacity, Family, InsertError, Lookup, Place, Store, V4, V6},
    wire::MacAddress,
};

const SERVICES: u16 = 1_000;
const READERS: u32 = 2;
const FIRST_PORT: u16 = 1_000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PATIENCE: Duration = Duration::from_secs(30);

/// Service `number` with its even or its odd list, of one to three backends, whose addresses name it.
fn service(number: u16, odd: bool) -> Service {
    let [high, low] = number.to_be_bytes();
    let backends = (0..=number % 3).map(|place| {
        let which = 1 + 2 * place as u8 + u8::from(odd);
        // On this host, so that no route is needed.
        model::Backend::new([10, high, low, which].into(), 8080).unwrap().local()
    });
    let frontend = Frontend::new([203, 0, 113, 10].into(), FIRST_PORT + number, Protocol::Tcp).unwrap();
    let service = Service::builder(&format!("service-{number}")).frontend(frontend).backends(backends);
    service.masquerade(model::Masquerade::Never).build().unwrap()
}

/// Whether a packet for service `number` that came to this address is with one of its own backends.
fn is_own(number: u16, address: [u8; 4]) -> bool {
    let [network, high, low, which] = address;
    network == 10 && u16::from_be_bytes([high, low]) == number && (1..=6).contains(&which)
}

/// The first packet of a connection to service `number`, by the book, but for its checksums.
fn syn(number: u16, client: u32) -> [u8; 54] {
    let mut frame = [0; 54];
    frame[..6].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..30].copy_from_slice(&(0xc612_0000 + (client >> 14)).to_be_bytes());
    frame[30..34].copy_from_slice(&[203, 0, 113, 10]);
    frame[34..36].copy_from_slice(&(1 + (client & 0x3fff) as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&(FIRST_PORT + number).to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 2]);
    frame
}

/// Swaps the lists of all services at once, and waits until they are in the tables; where there is no room, the
/// controller goes on by itself once a grace period has made some.
fn swap(control: &Controller, agent: &SourceHandle, odd: bool) {
    let services = (0..SERVICES).map(|number| service(number, odd));
    let revision = agent.transaction().upserts(services).commit().unwrap();
    let begin = Instant::now();
    while let Err(error) = control.wait_applied(revision, PATIENCE) {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        thread::yield_now();
    }
}

/// What readers saw.
struct Race {
    opened: u32,
    changed: u32,
    /// Services that sent a packet to a backend of another, by what the packets showed, and by what conntrack shows.
    strayed: Vec<u16>,
    flows: Vec<u16>,
}

/// Lets the readers end, also where a swap panics: the scope would wait for them for ever.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens flows on several threads while all services change, until `swaps` are done or `enough` have strayed.
fn race(
    swaps: u32,
    enough: usize,
    run: impl Fn(&mut MemoryPacket, MemoryEnvironment<'_>) -> Verdict + Sync,
) -> Race {
    // Room for two pictures and what waits for a grace period: places are used again and again.
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
    let tables = Arc::new(MemoryTables::new(capacity));
    let control = Controller::new(tables.clone()).unwrap();
    let _running = control.spawn().unwrap();
    let agent = control.register("test", Precedence::new(10)).unwrap();
    agent.synced();
    swap(&control, &agent, false);

    let (done, clients, strays, world) =
        (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0), World::default());
    let read = || {
        let (mut strayed, mut changed, mut last) = (Vec::new(), 0, 0);
        while !done.load(Ordering::Relaxed) {
            let client = clients.fetch_add(1, Ordering::Relaxed);
            let number = (client % u32::from(SERVICES)) as u16;
            let mut packet = MemoryPacket::new(&syn(number, client), Hook::Ingress, 2, MacAddress::new(MAC));
            let environment = MemoryEnvironment {
                tables: &tables,
                world: &world,
                random: client.wrapping_mul(0x9e37_79b9),
                choice: None,
            };
            let guard = tables.enter();
            let verdict = run(&mut packet, environment);
            drop(guard);
            let address: [u8; 4] = packet.bytes[30..34].try_into().unwrap();
            if verdict != Verdict::Deliver || !is_own(number, address) {
                strayed.push(number);
                strays.fetch_add(1, Ordering::Relaxed);
            }
            changed += u32::from(address[3] % 2 != last);
            last = address[3] % 2;
        }
        (strayed, changed)
    };
    let seen: Vec<(Vec<u16>, u32)> = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        let finish = Finish(&done);
        for turn in 0..swaps {
            swap(&control, &agent, turn % 2 == 0);
            if strays.load(Ordering::Relaxed) as usize >= enough {
                break;
            }
        }
        drop(finish);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let flows = tables.opening_v4().entries().map(Result::unwrap).filter_map(|(tuple, flow)| {
        let reply = flow.flags & FLOW_REPLY != 0;
        let (port, backend) =
            if reply { (flow.source_port, tuple.source) } else { (tuple.destination_port, flow.destination) };
        let number = port.get() - FIRST_PORT;
        (!is_own(number, std::net::Ipv4Addr::from(backend).octets())).then_some(number)
    });
    Race {
        opened: clients.load(Ordering::Relaxed),
        changed: seen.iter().map(|(_, changed)| changed).sum(),
        flows: flows.collect(),
        strayed: seen.into_iter().flat_map(|(strayed, _)| strayed).collect(),
    }
}

#[test]
fn a_service_gets_its_own_backends_while_a_thousand_are_swapped() {
    const SWAPS: u32 = 30;
    let race = race(SWAPS, usize::MAX, |packet, environment| {
        process(packet, &environment, &mut Workspaces::default())
    });
    assert_eq!((race.strayed, race.flows), (vec![], vec![]));
    assert!(race.opened > 1_000 && race.changed >= SWAPS, "{} flows, {} changes", race.opened, race.changed);
}

#[test]
fn a_reader_of_torn_words_is_found_out() {
    let race = race(1_000, 100, |packet, environment| {
        process(packet, &Torn(environment), &mut Workspaces::default())
    });
    assert!(!race.strayed.is_empty() && !race.flows.is_empty(), "{} flows", race.opened);
}

/// The environment of a packet, but for the service's word, which is copied in two pieces.
struct Torn<'a>(MemoryEnvironment<'a>);

impl Torn<'_> {
    /// The lowest byte first, and the rest when it suits.
    fn copy(read: impl Fn() -> Option<ServiceWord>) -> Option<ServiceWord> {
        const FIRST: u64 = 0xff;
        let first = read()?.0 & FIRST;
        thread::yield_now();
        Some(ServiceWord(first | read()?.0 & !FIRST))
    }
}

macro_rules! torn {
    ($family:ty) => {
        impl<'a> Lookup<$family> for Torn<'a> {
            type Entry = <MemoryEnvironment<'a> as Lookup<$family>>::Entry;
            type Affinity = <MemoryEnvironment<'a> as Lookup<$family>>::Affinity;

            fn service(&self, key: &<$family as Family>::ServiceKey) -> Option<ServiceRef> {
                Lookup::<$family>::service(&self.0, key)
            }

            fn service_word(&self, index: u32) -> Option<ServiceWord> {
                Self::copy(|| Lookup::<$family>::service_word(&self.0, index))
            }

            fn slot(&self, index: u32) -> Option<u64> {
                Lookup::<$family>::slot(&self.0, index)
            }

            fn backend(&self, backend: BackendRef) -> Option<Backend<$family>> {
                Lookup::<$family>::backend(&self.0, backend)
            }

            fn flow(&self, place: Place, tuple: &<$family as Family>::Tuple) -> Option<Self::Entry> {
                Lookup::<$family>::flow(&self.0, place, tuple)
            }

            fn insert_flow(
                &self,
                place: Place,
                tuple: &<$family as Family>::Tuple,
                flow: &<$family as Family>::Flow,
            ) -> Result<(), InsertError> {
                Lookup::<$family>::insert_flow(&self.0, place, tuple, flow)
            }

            fn remove_flow(&self, place: Place, tuple: &<$family as Family>::Tuple) {
                Lookup::<$family>::remove_flow(&self.0, place, tuple);
            }

            fn affinity(&self, key: &<$family as Family>::AffinityKey) -> Option<Self::Affinity> {
                Lookup::<$family>::affinity(&self.0, key)
            }

            fn insert_affinity(
                &self,
                key: &<$family as Family>::AffinityKey,
                entry: &AffinityEntry,
            ) -> Result<(), InsertError> {
                Lookup::<$family>::insert_affinity(&self.0, key, entry)
            }

            fn remove_affinity(&self, key: &<$family as Family>::AffinityKey) {
                Lookup::<$family>::remove_affinity(&self.0, key);
            }

            fn fragment(&self, key: &<$family as Family>::FragmentKey) -> Option<FragmentRecord> {
                Lookup::<$family>::fragment(&self.0, key)
            }

            fn note_fragment(&self, key: &<$family as Family>::FragmentKey, record: &FragmentRecord) {
                Lookup::<$family>::note_fragment(&self.0, key, record);
            }

            fn masquerade_address(&self, interface: u32) -> Option<<$family as Family>::Address> {
                Lookup::<$family>::masquerade_address(&self.0, interface)
            }

            fn is_bound(&self, tuple: &<$family as Family>::Tuple) -> bool {
                Lookup::<$family>::is_bound(&self.0, tuple)
            }
        }

        impl Routes<$family> for Torn<'_> {
            fn route(&self, query: &RouteQuery<$family>, hop: &mut NextHop) -> Route {
                self.0.route(query, hop)
            }
        }
    };
}

torn!(V4);
torn!(V6);

impl EventSink for Torn<'_> {
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        self.0.emit(write);
    }
}

impl Environment for Torn<'_> {
    fn now(&self) -> Tick {
        self.0.now()
    }

    fn random(&self) -> u32 {
        self.0.random()
    }

    fn choice_seed(&self) -> u64 {
        self.0.choice_seed()
    }

    fn setting(&self, setting: Setting) -> u32 {
        self.0.setting(setting)
    }

    fn interface(&self, index: u32) -> Option<InterfaceEntry> {
        self.0.interface(index)
    }

    fn take_answer(&self, take: impl FnOnce(&mut Budget) -> bool) -> bool {
        self.0.take_answer(take)
    }

    fn repeat<S: Steps>(&self, times: u32, steps: &mut S) {
        self.0.repeat(times, steps);
    }

    fn count(&self, hook: Hook, verdict: VerdictNumber) {
        self.0.count(hook, verdict);
    }

    fn count_service(&self, index: u32, add: impl FnOnce(&mut ServiceCounters)) {
        self.0.count_service(index, add);
    }
}
