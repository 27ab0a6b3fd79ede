//! Packets that race, one step at a time: what another CPU does between two steps of a packet is said by the test.

mod collector;
mod masquerade;

use std::{cell::Cell, net::Ipv4Addr, sync::Arc};

use super::{SimulatedInterface, Simulator};
use crate::{
    Controller,
    abi::{
        AffinityEntry, AffinityHead, BackendRef, FlowV4, FragmentRecord, InterfaceEntry, ServiceCounters,
        ServiceRef, ServiceWord, Setting, StateWord, TupleV4,
    },
    memory::{
        MemoryPacket, MemoryTables, Target,
        environment::{MemoryAffinity, MemoryEntry, MemoryEnvironment},
    },
    model::{self, Frontend, Protocol, Service},
    pipeline::{
        Backend, Budget, DropReason, Environment, EventRecord, EventSink, Hook, NextHop, Route, RouteQuery,
        Routes, Steps, Tick, Verdict, VerdictNumber, Workspaces, process,
    },
    source::Precedence,
    tables::{AffinityCell, Capacity, Family, Flow, FlowEntry, InsertError, Lookup, Place, Store, Tuple, V4},
    wire::{Be16, MacAddress, TCP_ACK, TCP_FIN, TCP_SYN},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT: [u8; 4] = [192, 0, 2, 7];
const SERVICE: [u8; 4] = [203, 0, 113, 10];
/// The host's own address towards its backends.
const OWN: [u8; 4] = [198, 51, 100, 1];
/// Its port towards them, where it has one.
const PORT: u16 = 50_000;
/// Where the same backends are at another port.
const OTHER_PORT: u16 = 81;
/// What makes the pipeline choose the one backend or the other.
const ONE: u32 = 0;
const OTHER: u32 = u32::MAX;

/// A host with a service of two backends, which are reached through two interfaces.
struct Host(Simulator);

impl Host {
    fn new() -> Self {
        Self::with(model::Affinity::None)
    }

    fn with(affinity: model::Affinity) -> Self {
        Self::of(model::Masquerade::Never, affinity)
    }

    /// A host that has one port for the flows to each backend.
    fn with_a_port() -> Self {
        let host = Self::of(model::Masquerade::Always, model::Affinity::None);
        host.tables().set_nat_ports(model::NatPorts::new(PORT..=PORT).unwrap());
        host
    }

    fn of(masquerade: model::Masquerade, affinity: model::Affinity) -> Self {
        let tables = Arc::new(MemoryTables::new(Capacity::small()));
        let control = Controller::new(tables.clone()).unwrap();
        let agent = control.register("test", Precedence::default()).unwrap();
        agent.synced();
        let frontends =
            [80, OTHER_PORT].map(|port| Frontend::new(SERVICE.into(), port, Protocol::Tcp).unwrap());
        let backends = [3, 4].map(|n| model::Backend::new([198, 51, 100, n].into(), 8080).unwrap());
        let service = Service::builder("web")
            .frontends(frontends)
            .backends(backends)
            .masquerade(masquerade)
            .affinity(affinity);
        let service = service.build().unwrap();
        agent.transaction().upsert(service).commit().unwrap();
        control.step(std::time::Duration::ZERO);

        let mut simulator = Simulator::new(tables);
        simulator.add_interface(SimulatedInterface::new(2, MAC)).unwrap();
        for n in [3, 4] {
            let mut interface = SimulatedInterface::new(n, MAC);
            interface.masquerade_v4 = Some(OWN.into());
            simulator.add_interface(interface).unwrap();
            let backend = Ipv4Addr::new(198, 51, 100, n as u8);
            simulator.routes_mut().insert(format!("{backend}/32").parse().unwrap(), Target::Link(n));
            simulator.routes_mut().insert_neighbor(n, backend.into(), MAC);
        }
        simulator.routes_mut().insert("192.0.2.0/24".parse().unwrap(), Target::Link(2));
        simulator.routes_mut().insert_neighbor(2, Ipv4Addr::from(CLIENT).into(), MAC);
        Self(simulator)
    }

    fn tables(&self) -> &MemoryTables {
        self.0.tables()
    }

    fn packet(&self, hook: Hook, flags: u8) -> MemoryPacket {
        self.packet_from(40_000, hook, flags)
    }

    fn packet_from(&self, port: u16, hook: Hook, flags: u8) -> MemoryPacket {
        MemoryPacket::new(&frame((CLIENT, port), (SERVICE, 80), flags), hook, 2, MacAddress::new(MAC))
    }

    /// What a backend sends to the client.
    fn answer(&self, from: [u8; 4], flags: u8) -> MemoryPacket {
        let frame = frame((from, 8080), (CLIENT, 40_000), flags);
        MemoryPacket::new(&frame, Hook::Ingress, from[3].into(), MacAddress::new(MAC))
    }

    /// What a backend sends to a port of the host's own.
    fn answer_at(&self, from: [u8; 4], port: u16, flags: u8) -> MemoryPacket {
        let frame = frame((from, 8080), (OWN, port), flags);
        MemoryPacket::new(&frame, Hook::Ingress, from[3].into(), MacAddress::new(MAC))
    }

    /// An answer to such a port that nobody disturbs: from where the client gets it, if it does.
    fn answers_at(&self, from: [u8; 4], port: u16, flags: u8) -> Option<[u8; 4]> {
        let (verdict, packet) = self.disturbed(ONE, self.answer_at(from, port, flags), &|_| {});
        (verdict == Verdict::Forward).then(|| packet.bytes[26..30].try_into().unwrap())
    }

    /// An answer that nobody disturbs: from where the client gets it, if it does.
    fn answers(&self, from: [u8; 4], flags: u8) -> Option<[u8; 4]> {
        let mut packet = self.answer(from, flags);
        let verdict = process(&mut packet, &self.environment(ONE), &mut Workspaces::default());
        (verdict == Verdict::Forward).then(|| packet.bytes[26..30].try_into().unwrap())
    }

    /// A packet that chooses so, while another CPU acts.
    fn disturbed(
        &self,
        random: u32,
        mut packet: MemoryPacket,
        rival: &dyn Fn(Step),
    ) -> (Verdict, MemoryPacket) {
        let environment = Rivals { inner: self.environment(random), rival };
        let verdict = process(&mut packet, &environment, &mut Workspaces::default());
        (verdict, packet)
    }

    /// How many entries are confirmed, and how many are not.
    fn places(&self) -> [u32; 2] {
        [self.tables().conntrack_v4().fill().unwrap(), self.tables().opening_v4().fill().unwrap()]
    }

    fn environment(&self, random: u32) -> MemoryEnvironment<'_> {
        MemoryEnvironment { tables: self.tables(), world: &self.0.world, random, choice: Some(random) }
    }

    /// A packet that nobody disturbs, which would choose so; where it comes to.
    fn sends(&self, random: u32, flags: u8) -> [u8; 4] {
        self.sends_from(40_000, random, flags)
    }

    fn sends_from(&self, port: u16, random: u32, flags: u8) -> [u8; 4] {
        let mut packet = self.packet_from(port, Hook::Ingress, flags);
        let verdict = process(&mut packet, &self.environment(random), &mut Workspaces::default());
        assert_eq!(verdict, Verdict::Forward);
        destination(&packet)
    }

    /// A SYN that nobody disturbs, wherever it comes to.
    fn tries_from(&self, port: u16, random: u32) -> (Verdict, MemoryPacket) {
        let mut packet = self.packet_from(port, Hook::Ingress, TCP_SYN);
        // Who looks for a port looks at the first one first, whatever is chosen.
        let environment = MemoryEnvironment {
            tables: self.tables(),
            world: &self.0.world,
            random: ONE,
            choice: Some(random),
        };
        let verdict = process(&mut packet, &environment, &mut Workspaces::default());
        (verdict, packet)
    }

    /// A SYN that chooses `ONE`, while another CPU acts.
    fn opens(&self, hook: Hook, rival: &dyn Fn(Step)) -> (Verdict, MemoryPacket) {
        let mut packet = self.packet(hook, TCP_SYN);
        let environment = Rivals { inner: self.environment(ONE), rival };
        let verdict = process(&mut packet, &environment, &mut Workspaces::default());
        (verdict, packet)
    }

    fn tuple(&self) -> TupleV4 {
        let [client, service] = [CLIENT, SERVICE].map(|address| Ipv4Addr::from(address).into());
        TupleV4::new(client, service, Be16::new(40_000), Be16::new(80), 6)
    }

    /// Who is remembered.
    fn affinities(&self) -> Vec<AffinityEntry> {
        self.tables().affinity_v4().entries().map(|entry| entry.unwrap().1).collect()
    }

    fn entry(&self) -> FlowV4 {
        let tables = self.tables();
        let found = tables.opening_v4().get(&self.tuple()).unwrap();
        found.or(tables.conntrack_v4().get(&self.tuple()).unwrap()).unwrap()
    }

    fn entries(&self) -> u32 {
        self.tables().opening_v4().fill().unwrap() + self.tables().conntrack_v4().fill().unwrap()
    }

    /// The ports that are lent, and to which flows.
    fn reservations(&self) -> Vec<(TupleV4, FlowV4)> {
        self.tables().nat_v4().entries().map(Result::unwrap).collect()
    }

    fn reserved(&self) -> u32 {
        self.tables().nat_v4().fill().unwrap()
    }

    fn flows(&self) -> u64 {
        let service = self.entry().frontend;
        self.tables().counters().service(service).unwrap().flows
    }
}

fn frame(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: u8) -> [u8; 54] {
    let mut frame = [0; 54];
    frame[..6].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..30].copy_from_slice(&source.0);
    frame[30..34].copy_from_slice(&destination.0);
    frame[34..36].copy_from_slice(&source.1.to_be_bytes());
    frame[36..38].copy_from_slice(&destination.1.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, flags]);
    frame
}

fn destination(packet: &MemoryPacket) -> [u8; 4] {
    packet.bytes[30..34].try_into().unwrap()
}

/// Where the backends are that `ONE` and `OTHER` choose.
fn choices() -> [[u8; 4]; 2] {
    let choices = [ONE, OTHER].map(|random| Host::new().sends(random, TCP_SYN));
    assert_ne!(choices[0], choices[1]);
    choices
}

/// What a packet is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    Remove,
    Insert,
    Exchange,
    Remember,
    Condemn,
    Forget,
}

/// Acts before the step `step` of number `at`, counted from 1.
fn before(step: Step, at: u32, act: impl Fn()) -> impl Fn(Step) {
    let count = Cell::new(0);
    move |now| {
        if now == step {
            count.set(count.get() + 1);
            if count.get() == at {
                act();
            }
        }
    }
}

#[test]
fn who_lost_goes_to_the_winners_backend_by_its_way() {
    let [_, other] = choices();
    for hook in [Hook::Ingress, Hook::Xdp] {
        let host = Host::new();
        // Once both halves of the loser are to be written, and once the first one is.
        let rival = before(Step::Insert, if hook == Hook::Xdp { 1 } else { 2 }, || {
            host.sends(OTHER, TCP_SYN);
        });
        let (verdict, packet) = host.opens(hook, &rival);
        assert_eq!((verdict, destination(&packet)), (Verdict::Forward, other));
        assert_eq!(packet.sent.unwrap().interface, other[3].into());
        assert_eq!((host.entries(), host.flows()), (2, 1), "what the loser put in is gone");
    }
}

/// The same backend was chosen: the winner's entry of the replies says the same, and is the winner's.
#[test]
fn an_entry_of_the_replies_that_another_put_in_is_not_taken_out() {
    let [_, other] = choices();
    let host = Host::new();
    let alike = before(Step::Insert, 1, || {
        host.sends(ONE, TCP_SYN);
        assert!(host.tables().opening_v4().remove(&host.tuple()).unwrap());
    });
    let unlike = before(Step::Insert, 2, || {
        host.sends(OTHER, TCP_SYN);
    });
    let (verdict, packet) = host.opens(Hook::Ingress, &|step| {
        alike(step);
        unlike(step);
    });
    assert_eq!((verdict, destination(&packet)), (Verdict::Forward, other));
    assert_eq!(host.entries(), 3, "two of one connection, and the first rival's");
}

#[test]
fn a_winner_whose_backend_is_gone_is_not_followed() {
    let [one, _] = choices();
    let host = Host::new();
    let rival = before(Step::Insert, 2, || {
        host.sends(OTHER, TCP_SYN);
        let backend = host.entry().backend;
        host.tables().backends_v4().store(backend.index(), &[0, 0]).unwrap();
    });
    let (verdict, packet) = host.opens(Hook::Ingress, &rival);
    assert_eq!((verdict, destination(&packet)), (Verdict::Forward, one));
}

/// The element that a packet found is given to another tuple while the packet notes what it saw.
#[test]
fn what_was_seen_is_not_noted_on_an_element_of_another_flow() {
    let host = Host::new();
    host.sends(ONE, TCP_SYN);
    let element = Lookup::<V4>::flow(&host.environment(ONE), Place::Opening, &host.tuple()).unwrap();
    let tag = host.tuple().tag() ^ 1;
    let recycled = host.entry().starting(StateWord::new(0, tag), Tick(7));
    let rival = before(Step::Exchange, 1, || *element.0.value.lock() = recycled);
    let environment = Rivals { inner: host.environment(ONE), rival: &rival };
    let mut packet = host.packet(Hook::Ingress, TCP_FIN);
    assert_eq!(process(&mut packet, &environment, &mut Workspaces::default()), Verdict::Forward);
    assert_eq!(*element.0.value.lock(), recycled);
}

/// A client that is remembered for so many seconds.
fn affinity(seconds: u32) -> model::Affinity {
    model::Affinity::ClientIp { timeout: model::AffinityTimeout::new(seconds).unwrap() }
}

/// The same connection on two CPUs, and two of one client.
#[test]
fn of_connections_that_race_all_come_to_the_backend_of_the_first() {
    let [_, other] = choices();
    for port in [40_000, 40_001] {
        let host = Host::with(affinity(30));
        let rival = before(Step::Remember, 1, || {
            assert_eq!(host.sends_from(port, OTHER, TCP_SYN), other);
        });
        let (verdict, packet) = host.opens(Hook::Ingress, &rival);
        assert_eq!((verdict, destination(&packet)), (Verdict::Forward, other));
        assert_eq!(host.affinities().len(), 1);
        assert_eq!(host.sends_from(40_002, ONE, TCP_SYN), other);
    }
}

/// The client's time was over, and of two CPUs that found it so the other was faster.
#[test]
fn what_another_remembered_anew_is_not_forgotten_for_what_was_before() {
    let [one, other] = choices();
    let host = Host::with(affinity(30));
    assert_eq!(host.sends_from(39_999, ONE, TCP_SYN), one);
    host.tables().set_time(31_000_000_000);
    let rival = before(Step::Condemn, 1, || {
        assert_eq!(host.sends_from(40_001, OTHER, TCP_SYN), other);
    });
    let (verdict, packet) = host.opens(Hook::Ingress, &rival);
    assert_eq!((verdict, destination(&packet)), (Verdict::Forward, other));
    assert_eq!(host.affinities().len(), 1);
}

#[test]
fn who_meets_an_affinity_that_is_being_replaced_is_served_and_leaves_it_alone() {
    let [one, other] = choices();
    let host = Host::with(affinity(30));
    assert_eq!(host.sends_from(39_999, OTHER, TCP_SYN), other);
    host.tables().set_time(31_000_000_000);
    let rival = before(Step::Forget, 1, || {
        assert_eq!(host.sends_from(40_001, OTHER, TCP_SYN), other);
        let [entry] = host.affinities()[..] else { panic!("{:?}", host.affinities()) };
        assert!(entry.head.is_dying() && entry.last_seen == 0);
    });
    let (verdict, packet) = host.opens(Hook::Ingress, &rival);
    assert_eq!((verdict, destination(&packet)), (Verdict::Forward, one));
    assert_eq!(host.sends_from(40_002, OTHER, TCP_SYN), one);
}

/// A connection that its client's next packet confirms, and its backend.
fn half_open(host: &Host) -> [u8; 4] {
    let backend = host.sends(ONE, TCP_SYN);
    assert_eq!(host.answers(backend, TCP_SYN | TCP_ACK), Some(SERVICE));
    assert_eq!(host.places(), [0, 2]);
    backend
}

/// The entries are moved between a packet's look into conntrack and its look into the other table: it finds them in
/// neither.
#[test]
fn who_looks_for_a_connection_while_it_is_moved_finds_it() {
    for at in [1, 2] {
        // Data may come before the connection is confirmed: TCP Fast Open (RFC 7413), or a move that found no room.
        for flags in [TCP_SYN | TCP_ACK, TCP_ACK, TCP_FIN | TCP_ACK] {
            let host = Host::new();
            let backend = half_open(&host);
            let rival = before(Step::Look, at, || assert_eq!(host.sends(OTHER, TCP_ACK), backend));
            let (verdict, packet) = host.disturbed(ONE, host.answer(backend, flags), &rival);
            assert_eq!((verdict, &packet.bytes[26..30]), (Verdict::Forward, &SERVICE[..]), "look {at}");
            assert_eq!((host.places(), host.flows()), ([2, 0], 1), "look {at}");
        }

        let host = Host::new();
        let backend = half_open(&host);
        let rival = before(Step::Look, at, || assert_eq!(host.sends(OTHER, TCP_ACK), backend));
        // It would choose another one.
        let (verdict, packet) = host.disturbed(OTHER, host.packet(Hook::Ingress, TCP_ACK), &rival);
        assert_eq!((verdict, destination(&packet)), (Verdict::Forward, backend), "look {at}");
        assert_eq!((host.places(), host.flows()), ([2, 0], 1), "look {at}");
    }
}

/// What the backend says changes the state while the entries are moved: no half is made again where they were.
#[test]
fn no_half_of_a_connection_stays_behind_when_it_is_moved() {
    for at in [3, 4] {
        let host = Host::new();
        let backend = half_open(&host);
        let rival = before(Step::Look, at, || assert_eq!(host.sends(OTHER, TCP_ACK), backend));
        let (verdict, _) = host.disturbed(ONE, host.answer(backend, TCP_FIN | TCP_ACK), &rival);
        assert_eq!((verdict, host.places()), (Verdict::Forward, [2, 0]), "look {at}");
    }
}

/// At each step of the packet that moves a connection its other packets go as before.
#[test]
fn a_connection_that_is_being_moved_is_there_at_each_step() {
    for (step, count) in [(Step::Look, 4), (Step::Insert, 2), (Step::Exchange, 2), (Step::Remove, 2)] {
        for at in 1..=count {
            let host = Host::new();
            let backend = half_open(&host);
            let came = Cell::new(false);
            let rival = before(step, at, || {
                came.set(true);
                assert_eq!(host.answers(backend, TCP_SYN | TCP_ACK), Some(SERVICE), "{step:?} {at}");
                assert_eq!(host.sends(OTHER, TCP_SYN), backend, "{step:?} {at}");
                assert_eq!(host.answers(backend, TCP_ACK), Some(SERVICE), "{step:?} {at}");
            });
            let (verdict, packet) = host.disturbed(ONE, host.packet(Hook::Ingress, TCP_ACK), &rival);
            assert!(came.get(), "{step:?} {at}");
            assert_eq!((verdict, destination(&packet)), (Verdict::Forward, backend), "{step:?} {at}");
            assert_eq!((host.places(), host.flows()), ([2, 0], 1), "{step:?} {at}");
        }
    }
}

/// Two packets confirm it at once.
#[test]
fn a_connection_is_moved_once() {
    for (step, count) in [(Step::Look, 4), (Step::Insert, 2), (Step::Exchange, 2), (Step::Remove, 2)] {
        for at in 1..=count {
            let host = Host::new();
            let backend = half_open(&host);
            let rival = before(step, at, || assert_eq!(host.sends(OTHER, TCP_ACK), backend));
            let (verdict, packet) = host.disturbed(OTHER, host.packet(Hook::Ingress, TCP_ACK), &rival);
            assert_eq!((verdict, destination(&packet)), (Verdict::Forward, backend), "{step:?} {at}");
            assert_eq!((host.places(), host.flows()), ([2, 0], 1), "{step:?} {at}");
            assert_eq!(host.answers(backend, TCP_ACK), Some(SERVICE));
        }
    }
}

/// Another connection has the same answers, and is moved while this one is opened.
#[test]
fn the_answers_of_a_connection_that_is_moved_stay_its_own() {
    for at in 1..=7 {
        let host = Host::new();
        let backend = half_open(&host);
        let rival = before(Step::Look, at, || assert_eq!(host.sends(ONE, TCP_ACK), backend));
        let inserts = before(Step::Insert, 1, || assert_eq!(host.sends(ONE, TCP_ACK), backend));
        let syn = frame((CLIENT, 40_000), (SERVICE, OTHER_PORT), TCP_SYN);
        let syn = MemoryPacket::new(&syn, Hook::Ingress, 2, MacAddress::new(MAC));
        let (verdict, _) =
            host.disturbed(ONE, syn, &|step| if at == 7 { inserts(step) } else { rival(step) });
        assert_eq!(verdict, Verdict::Drop(DropReason::TupleInUse), "{at}");
        assert_eq!(host.sends(ONE, TCP_ACK), backend);
        assert_eq!((host.places(), host.flows()), ([2, 0], 1), "{at}");
    }
}

/// Who has the one port towards a backend: the clients' ports of flows that send from it, and that of its reservation.
fn holders(host: &Host) -> (Vec<u16>, Option<u16>) {
    let tables = host.tables();
    let flows = tables.opening_v4().entries().chain(tables.conntrack_v4().entries());
    let clients = flows.map(|entry| entry.unwrap().0.source_port.get()).collect();
    let reserved = tables.nat_v4().entries().map(|entry| entry.unwrap().1.destination_port.get()).next();
    (clients, reserved)
}

/// A port changes hands while its flow is opened, goes on, or is answered: at no step do two flows have it.
#[test]
fn a_port_that_is_taken_has_one_flow() {
    let stories = [(false, TCP_SYN), (true, TCP_ACK), (true, TCP_SYN)];
    let steps = [(Step::Look, 8), (Step::Insert, 3), (Step::Exchange, 4), (Step::Remove, 2)];
    let mut outcomes = [0; 3];
    for ((stands, flags), (step, count)) in
        stories.into_iter().flat_map(|story| steps.map(|step| (story, step)))
    {
        for at in 1..=count {
            for (answered, taker_is_first) in [(false, false), (true, false), (false, true)] {
                let host = Host::with_a_port();
                let backend = if stands { Some(host.sends(ONE, TCP_SYN)) } else { None };
                let answer = |flags| {
                    let from = backend.unwrap_or_default();
                    let frame = frame((from, 8080), (OWN, PORT), flags);
                    MemoryPacket::new(&frame, Hook::Ingress, from[3].into(), MacAddress::new(MAC))
                };
                let run =
                    |mut packet| process(&mut packet, &host.environment(ONE), &mut Workspaces::default());
                if stands {
                    assert_eq!(run(answer(TCP_SYN | TCP_ACK)), Verdict::Forward);
                }
                host.tables().set_time(1_200_000_000);
                let (mine, others) =
                    (host.packet(Hook::Ingress, flags), host.packet_from(41_000, Hook::Ingress, TCP_SYN));
                let mine = if answered && stands { answer(TCP_SYN | TCP_ACK) } else { mine };
                let (first, second) = if taker_is_first { (others, mine) } else { (mine, others) };
                let second = Cell::new(Some(second));
                let rival = before(step, at, || {
                    second.take().map(run);
                });
                let story = format!("{flags} {stands} {answered} {taker_is_first} {step:?} {at}");
                let (verdict, _) = host.disturbed(ONE, first, &rival);
                let (clients, reserved) = holders(&host);
                assert!(clients.len() <= 1, "{story}: {clients:?}, {verdict:?}");
                assert_eq!(clients.first().copied(), reserved, "{story}: {verdict:?}");
                match reserved {
                    None => outcomes[0] += 1,
                    Some(40_000) => outcomes[1] += 1,
                    Some(_) => outcomes[2] += 1,
                }
            }
        }
    }
    assert!(outcomes[1] > 0 && outcomes[2] > 0, "{outcomes:?}");
}

/// The environment of a packet, with other CPUs in it, which act before its steps on IPv4's conntrack.
struct Rivals<'a> {
    inner: MemoryEnvironment<'a>,
    rival: &'a dyn Fn(Step),
}

/// An entry of conntrack that others may change.
struct Contended<'a, F: Family> {
    inner: MemoryEntry<F::Flow>,
    rival: &'a dyn Fn(Step),
}

/// An affinity that others may change.
struct ContendedAffinity<'a> {
    inner: MemoryAffinity,
    rival: &'a dyn Fn(Step),
}

impl AffinityCell for ContendedAffinity<'_> {
    fn read(&self, tag: u32) -> Option<AffinityEntry> {
        self.inner.read(tag)
    }

    fn exchange_head(&self, current: AffinityHead, new: AffinityHead) -> bool {
        (self.rival)(Step::Condemn);
        self.inner.exchange_head(current, new)
    }

    fn touch(&self, now: Tick) {
        self.inner.touch(now);
    }
}

impl<F: Family> FlowEntry<F> for Contended<'_, F>
where
    MemoryEntry<F::Flow>: FlowEntry<F>,
{
    fn read(&self, tag: u32, into: &mut F::Flow) -> bool {
        self.inner.read(tag, into)
    }

    fn state(&self) -> StateWord {
        self.inner.state()
    }

    fn exchange_state(&self, current: StateWord, new: StateWord) -> bool {
        (self.rival)(Step::Exchange);
        self.inner.exchange_state(current, new)
    }

    fn last_seen(&self) -> Tick {
        self.inner.last_seen()
    }

    fn touch(&self, now: Tick) {
        self.inner.touch(now);
    }
}

impl<'a, F: Family> Lookup<F> for Rivals<'a>
where
    MemoryEnvironment<'a>: Lookup<F, Entry = MemoryEntry<F::Flow>, Affinity = MemoryAffinity>,
    MemoryEntry<F::Flow>: FlowEntry<F>,
{
    type Entry = Contended<'a, F>;
    type Affinity = ContendedAffinity<'a>;

    fn service(&self, key: &F::ServiceKey) -> Option<ServiceRef> {
        Lookup::<F>::service(&self.inner, key)
    }

    fn service_word(&self, index: u32) -> Option<ServiceWord> {
        Lookup::<F>::service_word(&self.inner, index)
    }

    fn slot(&self, index: u32) -> Option<u64> {
        Lookup::<F>::slot(&self.inner, index)
    }

    fn backend(&self, backend: BackendRef) -> Option<Backend<F>> {
        Lookup::<F>::backend(&self.inner, backend)
    }

    fn flow(&self, place: Place, tuple: &F::Tuple) -> Option<Self::Entry> {
        (self.rival)(Step::Look);
        Lookup::<F>::flow(&self.inner, place, tuple).map(|inner| Contended { inner, rival: self.rival })
    }

    fn insert_flow(&self, place: Place, tuple: &F::Tuple, flow: &F::Flow) -> Result<(), InsertError> {
        (self.rival)(Step::Insert);
        Lookup::<F>::insert_flow(&self.inner, place, tuple, flow)
    }

    fn remove_flow(&self, place: Place, tuple: &F::Tuple) {
        (self.rival)(Step::Remove);
        Lookup::<F>::remove_flow(&self.inner, place, tuple);
    }

    fn affinity(&self, key: &F::AffinityKey) -> Option<ContendedAffinity<'a>> {
        let found = Lookup::<F>::affinity(&self.inner, key);
        found.map(|inner| ContendedAffinity { inner, rival: self.rival })
    }

    fn insert_affinity(&self, key: &F::AffinityKey, entry: &AffinityEntry) -> Result<(), InsertError> {
        (self.rival)(Step::Remember);
        Lookup::<F>::insert_affinity(&self.inner, key, entry)
    }

    fn remove_affinity(&self, key: &F::AffinityKey) {
        (self.rival)(Step::Forget);
        Lookup::<F>::remove_affinity(&self.inner, key);
    }

    fn fragment(&self, key: &F::FragmentKey) -> Option<FragmentRecord> {
        Lookup::<F>::fragment(&self.inner, key)
    }

    fn note_fragment(&self, key: &F::FragmentKey, record: &FragmentRecord) {
        Lookup::<F>::note_fragment(&self.inner, key, record);
    }

    fn masquerade_address(&self, interface: u32) -> Option<F::Address> {
        Lookup::<F>::masquerade_address(&self.inner, interface)
    }

    fn is_bound(&self, tuple: &F::Tuple) -> bool {
        Lookup::<F>::is_bound(&self.inner, tuple)
    }
}

impl<'a, F: Family> Routes<F> for Rivals<'a>
where
    MemoryEnvironment<'a>: Routes<F>,
{
    fn route(&self, query: &RouteQuery<F>, hop: &mut NextHop) -> Route {
        self.inner.route(query, hop)
    }
}

impl EventSink for Rivals<'_> {
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        self.inner.emit(write);
    }
}

impl Environment for Rivals<'_> {
    fn now(&self) -> Tick {
        self.inner.now()
    }

    fn random(&self) -> u32 {
        self.inner.random()
    }

    fn choice_seed(&self) -> u64 {
        self.inner.choice_seed()
    }

    fn choice<F: Family>(&self, tuple: &F::Tuple) -> u32 {
        self.inner.choice::<F>(tuple)
    }

    fn setting(&self, setting: Setting) -> u32 {
        self.inner.setting(setting)
    }

    fn interface(&self, index: u32) -> Option<InterfaceEntry> {
        self.inner.interface(index)
    }

    fn take_answer(&self, take: impl FnOnce(&mut Budget) -> bool) -> bool {
        self.inner.take_answer(take)
    }

    fn repeat<S: Steps>(&self, times: u32, steps: &mut S) {
        self.inner.repeat(times, steps);
    }

    fn count(&self, hook: Hook, verdict: VerdictNumber) {
        self.inner.count(hook, verdict);
    }

    fn count_service(&self, index: u32, add: impl FnOnce(&mut ServiceCounters)) {
        self.inner.count_service(index, add);
    }
}
