//! A controller, a host and the model: does what happens, and checks it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dataplane_core::{
    Controller, NextWake, Precedence, SourceHandle,
    abi::{ServiceKeyV4, ServiceKeyV6, TupleV4, TupleV6},
    memory::{MemoryTables, Outcome, SimulatedInterface, Simulator, Target},
    model::{Protocol, ServiceName},
    pipeline::{AnswerReason, DropReason, Hook, PassReason, Verdict},
    reconcile::Usage,
    source::CommitError,
    state::{Phase, RemovalGuard},
    tables::{Capacity, Store, Tuple},
    wire::Be16,
};
use dataplane_testkit::maglev::slow_table;

use super::{
    desired::Desired,
    flows::{Flows, Known, Lives},
    ops::{self, At, BACKENDS, Flags, Object, Odd, Packet, Span, Virtual, Wish},
};
use crate::check;

const FRONT: u32 = 2;
const BACK: u32 = 3;
/// What is not a client's good packet arrives here, in a zone of its own: the model does not follow its connections.
const ODD: u32 = 4;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWNERS: [&str; 2] = ["first", "second"];

/// What Maglev tables are made with.
const SEED: u64 = 9;

pub struct World {
    tables: Arc<MemoryTables>,
    simulator: Simulator,
    controller: Controller,
    handles: [SourceHandle; 2],
    fresh: Usage,
    now: Duration,
    desired: Desired,
    flows: Flows,
    lives: [Lives; 2],
    /// Whether the controller was stepped since the last check.
    is_settled_anew: bool,
}

impl World {
    pub fn new() -> Self {
        // Room for whatever the longest sequence wants at once, what waits for its grace period included.
        let capacity = Capacity {
            frontends: 64,
            slots: 1 << 13,
            backends: 128,
            conntrack: 1 << 10,
            opening: 1 << 10,
            nat: 1 << 9,
            affinity: 1 << 9,
            fragments: 8,
        };
        let tables = Arc::new(MemoryTables::new(capacity));
        let mut simulator = Simulator::new(Arc::clone(&tables));
        for (index, zone) in [(FRONT, 0), (BACK, 0), (ODD, 9)] {
            let mut interface = SimulatedInterface::new(index, MAC);
            interface.zone = zone;
            simulator.add_interface(interface).expect("interfaces have places");
        }
        let routes = simulator.routes_mut();
        for (prefix, interface) in [
            ("192.0.2.0/24", FRONT),
            ("2001:db8:1::/64", FRONT),
            ("198.51.100.0/24", BACK),
            ("2001:db8:2::/64", BACK),
        ] {
            routes.insert(prefix.parse().expect("a prefix"), Target::Link(interface));
        }
        for v6 in [false, true] {
            // The neighbour of the second backend is not known: tcx sends to it.
            for i in (0..BACKENDS).filter(|i| *i != 1) {
                routes.insert_neighbor(BACK, ops::backend(i, v6).ip(), [2, 0, 0, 0, 0, 9]);
            }
        }
        let controller = Controller::builder(tables.clone())
            .removal_guard(RemovalGuard::off())
            .maglev_seed(SEED)
            .build()
            .expect("tables that nobody else has");
        let register = |i: usize| {
            let handle =
                controller.register(OWNERS[i], Precedence::new(-(i as i32))).expect("the first of its name");
            handle.synced();
            handle
        };
        let handles = [register(0), register(1)];
        let mut world = Self {
            simulator,
            fresh: controller.usage(),
            controller,
            handles,
            tables,
            now: Duration::from_secs(1000),
            desired: Desired::default(),
            flows: Flows::default(),
            lives: [Lives::default(); 2],
            is_settled_anew: false,
        };
        world.settle();
        world
    }

    /// Commits one service, or two as a full picture.
    pub fn upsert(&mut self, wishes: &[Wish], full_picture: bool) {
        // One transaction has one owner.
        let owner = wishes[0].object.owner();
        let wishes: Vec<_> = wishes.iter().filter(|wish| wish.object.owner() == owner).cloned().collect();
        let mut transaction = self.handles[owner].transaction().upserts(wishes.iter().map(Wish::service));
        if full_picture {
            transaction = transaction.full_picture();
        }
        match (transaction.commit(), self.desired.with(&wishes, full_picture)) {
            (Ok(_), Some(after)) => self.desired = after,
            (Err(CommitError::FrontendTwice { .. } | CommitError::ServiceTwice { .. }), None) => {}
            (committed, after) => {
                panic!("commit of {wishes:?}: {committed:?}, expected success: {}", after.is_some())
            }
        }
        self.settle();
    }

    pub fn remove(&mut self, object: Object) {
        let name = ServiceName::new(&format!("s{}", object.service())).expect("a good name");
        let committed = self.handles[object.owner()].transaction().remove(&name).commit();
        committed.expect("whoever is there may go");
        self.desired.remove(object);
        self.settle();
    }

    pub fn pass(&mut self, span: Span) {
        self.now += span.time();
        if matches!(span, Span::Hours) {
            self.flows.forget();
        }
        self.settle();
        // A round of the collector, where one is due.
        for slice in 0..8 {
            self.controller.collect(self.now + slice * Duration::from_millis(6));
        }
    }

    /// A client's packet, as its interface's hooks see it.
    pub fn client(&mut self, packet: &Packet) {
        let bytes = packet.frame().link(MAC, MAC).build();
        self.simulator.set_choice(Some(u32::from(packet.random) << 24));
        let (hook, out) = if packet.xdp {
            (None, self.simulator.receive(FRONT, &bytes))
        } else {
            (Some(Hook::Ingress), self.simulator.run(Hook::Ingress, FRONT, &bytes))
        };
        let translated = check::outcome(&bytes, hook, &out);

        let (client, frontend) = (packet.client(), packet.frontend());
        let key = (client, frontend);
        let winner = self.desired.winner(frontend);
        let selectable = |backend: usize| winner.is_some_and(|wish| wish.is_selectable(backend));
        let any_selectable = (0..BACKENDS).any(selectable);
        let lives = &self.lives[usize::from(frontend.v6)];
        let known = self.flows.get(&key);
        // The backend that this connection has for certain.
        let opens = packet.flags == Flags::Syn && frontend.protocol() == Protocol::Tcp;
        let reopens = opens && known.is_some_and(|known| known.ending);
        // Who still tries to connect may leave a backend that gets no new connections.
        let may_leave = |known: &Known| {
            let drains = known.backend.is_some_and(|backend| !self.desired.selects(backend, frontend.v6));
            opens && drains && !known.confirmed
        };
        let index = self.index(frontend);
        let bound = known
            .filter(|known| known.is_certain(self.now) && !known.left && !reopens && !may_leave(known))
            .filter(|known| index.is_some() && known.index == index)
            .and_then(|known| known.backend.filter(|&backend| lives.is_there_since(backend, known.life)));

        let refused = match out.verdict {
            Verdict::Answer(reason) => Some(reason),
            Verdict::Drop(reason) => reason.answered(),
            _ => None,
        };
        if let Some(reason) = refused {
            let is_told = matches!(out.verdict, Verdict::Answer(_));
            assert_eq!(is_told, packet.is_answered(reason), "{key:?}: {}", out.verdict);
        }
        match out.verdict {
            Verdict::Forward | Verdict::Deliver => {
                let translated = translated.expect("the packet was a good one");
                assert!(translated.is_original(), "{translated:?}");
                let to = translated.after.destination;
                let backend = (0..BACKENDS).find(|&i| ops::backend(i, frontend.v6) == to);
                let backend = backend.unwrap_or_else(|| panic!("{to} is nobody's backend"));
                if let Some(bound) = bound {
                    assert_eq!(backend, bound, "a connection moved though its backend is there");
                }
                let stays = known.is_some_and(|known| known.backend.is_none_or(|was| was == backend));
                assert!(
                    selectable(backend) || stays,
                    "a new connection to {frontend:?} went to {to}, which takes none"
                );
                if let (None, Some(wish)) = (known, winner)
                    && wish.is_maglev()
                {
                    let table = slow_table(ops::PLACES, SEED, &wish.weights());
                    let place = (u64::from(hash(client, frontend)) * u64::from(ops::PLACES)) >> 32;
                    assert_eq!(to, table[place as usize], "{key:?}: place {place} of {table:?}");
                }
                let goes_on = known.filter(|known| known.backend == Some(backend));
                let ending = packet.flags.ends() || goes_on.is_some_and(|known| known.ending);
                // Where it went there before, it may still be to a former life of the backend.
                let life = goes_on.map_or(lives.life(backend), |known| known.life);
                let answered = goes_on.is_some_and(|known| known.answered);
                let speaks = !matches!(packet.flags, Flags::Syn | Flags::SynAck);
                let confirmed = goes_on.is_some_and(|known| known.confirmed || (known.answered && speaks));
                let seen = Known {
                    backend: Some(backend),
                    life,
                    index,
                    last: self.now,
                    ending,
                    left: goes_on.is_some_and(|known| known.left),
                    answered,
                    confirmed,
                };
                self.flows.note(key, seen);
                assert_eq!(
                    out.verdict == Verdict::Deliver,
                    ops::is_local(backend) || (packet.odd == Odd::BigToBeSplit && !frontend.v6),
                    "{} to backend {backend}",
                    out.verdict
                );
            }
            Verdict::Answer(AnswerReason::NoBackend) | Verdict::Drop(DropReason::NoBackend) => {
                assert!(winner.is_some() && !any_selectable && bound.is_none(), "{key:?}: no backend?");
            }
            Verdict::Drop(DropReason::TupleInUse) => {
                assert!(bound.is_none() && self.flows.is_in_use(&key, selectable), "{key:?}: in use?");
                // What it was before is over.
                if let Some(known) = self.flows.get_mut(&key) {
                    known.last = Duration::ZERO;
                }
            }
            Verdict::Answer(AnswerReason::HopLimit) | Verdict::Drop(DropReason::HopLimit) => {
                assert_eq!(packet.odd, Odd::LastHop);
            }
            Verdict::Answer(AnswerReason::TooBig) | Verdict::Drop(DropReason::TooBig) => {
                assert!(matches!(packet.odd, Odd::Big | Odd::BigToBeSplit), "{:?}", packet.odd);
                // XDP may have opened the connection, to somebody.
                if packet.xdp && bound.is_none() {
                    let seen = Known {
                        backend: None,
                        life: 0,
                        index,
                        last: self.now,
                        ending: packet.flags.ends(),
                        left: false,
                        answered: false,
                        confirmed: false,
                    };
                    self.flows.note(key, seen);
                }
            }
            Verdict::Pass(PassReason::NoService) => {
                assert!(winner.is_none() && bound.is_none(), "{key:?} passed, and is served");
            }
            Verdict::Drop(DropReason::NoFlow) => {
                let tcp = frontend.protocol() == Protocol::Tcp;
                let may_open = !matches!(packet.flags, Flags::Reset | Flags::SynAck);
                assert!(tcp && !may_open && winner.is_some() && bound.is_none(), "{key:?}: no flow?");
            }
            other => panic!("{key:?}: {other}"),
        }
        if packet.flags.ends()
            && let Some(known) = self.flows.get_mut(&key)
        {
            known.ending = true;
        }
    }

    /// The index that a frontend has now, if it is served.
    fn index(&self, frontend: Virtual) -> Option<u32> {
        let (address, protocol) = (frontend.address(), frontend.protocol().number());
        let port = Be16::new(address.port());
        let found = match address.ip() {
            IpAddr::V4(ip) => {
                let key = ServiceKeyV4 { address: ip.into(), port, protocol, scope: 0 };
                self.tables.services_v4().get(&key)
            }
            IpAddr::V6(ip) => {
                let key = ServiceKeyV6 { address: ip.into(), port, protocol, scope: 0 };
                self.tables.services_v6().get(&key)
            }
        };
        found.expect("tables in memory answer").map(|found| found.index())
    }

    /// A backend's answer on a connection that was seen.
    pub fn answer(&mut self, which: u8, flags: Flags) {
        let Some(key) = self.flows.pick(which) else {
            return;
        };
        let (client, frontend) = key;
        let Some(known) = self.flows.get(&key).cloned() else {
            return;
        };
        let Some(backend) = known.backend else {
            return;
        };
        let frame = ops::packet(ops::backend(backend, frontend.v6), client, frontend.protocol(), flags);
        let bytes = frame.link(MAC, MAC).build();
        let local = ops::is_local(backend);
        let (hook, out) = if local {
            (Some(Hook::Egress), self.simulator.run(Hook::Egress, FRONT, &bytes))
        } else {
            (None, self.simulator.receive(BACK, &bytes))
        };
        let translated = check::outcome(&bytes, hook, &out);
        let answered = self.flows.answered(&key, backend);
        let alone = answered.len() == 1;
        match out.verdict {
            Verdict::Forward | Verdict::Deliver => {
                assert_eq!(out.verdict == Verdict::Deliver, local);
                let after = translated.expect("the packet was a good one").after;
                assert_eq!(after.destination, client);
                let right = answered.iter().any(|frontend| frontend.address() == after.source);
                assert!(right, "an answer on {key:?} comes from {}", after.source);
            }
            Verdict::Pass(PassReason::NoService) => {
                let surely = alone && known.is_certain(self.now) && !known.left;
                assert!(!surely, "an answer on {key:?} is not translated");
            }
            other => panic!("an answer on {key:?}: {other}"),
        }
        for frontend in answered {
            if let Some(known) = self.flows.get_mut(&(client, frontend)) {
                known.ending |= flags.ends();
                if alone && out.verdict != Verdict::Pass(PassReason::NoService) {
                    known.last = self.now;
                    known.answered = true;
                }
            }
        }
    }

    /// A packet with a byte changed.
    pub fn bent(&self, packet: &Packet, hook: At, at: u8, with: u8) {
        let mut bytes = packet.frame().link(MAC, MAC).build();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= with;
        self.raw(hook, &bytes);
    }

    /// Bytes.
    pub fn raw(&self, hook: At, bytes: &[u8]) {
        let out: Outcome = self.simulator.run(hook.hook(), ODD, bytes);
        check::outcome(bytes, Some(hook.hook()), &out);
    }

    /// Lets the controller do what is due now.
    fn settle(&mut self) {
        self.simulator.set_time(self.now);
        self.is_settled_anew = true;
        for _ in 0..10_000 {
            if self.controller.step(self.now) != NextWake::Now {
                self.lives[0].note(self.desired.present(false));
                self.lives[1].note(self.desired.present(true));
                for ((_, frontend), known) in self.flows.iter_mut() {
                    let winner = self.desired.winner(*frontend);
                    known.left |=
                        known.backend.is_some_and(|backend| !winner.is_some_and(|wish| wish.has(backend)));
                }
                return;
            }
        }
        panic!("the controller never has enough");
    }

    /// What holds after each operation. The control half is looked at where it had something to do: packets don't change
    /// it.
    pub fn check(&mut self) {
        check::tables(&self.tables);
        if std::mem::take(&mut self.is_settled_anew) {
            self.check_control();
        }
    }

    fn check_control(&self) {
        // Their addresses have no port.
        let v4 = self.tables.services_v4().entries().map(|entry| entry.expect("memory").0.port);
        let v6 = self.tables.services_v6().entries().map(|entry| entry.expect("memory").0.port);
        let listed = v4.chain(v6).filter(|port| port.get() != 0).count();
        assert_eq!(listed, self.desired.served(), "frontends in the tables");
        let mut count = 0;
        for wish in self.desired.wishes() {
            count += 1;
            let (owner, name) = (OWNERS[wish.object.owner()], format!("s{}", wish.object.service()));
            let status = self.controller.status_of(owner, &name);
            let status = status.unwrap_or_else(|| panic!("{name} of {owner} has no status"));
            let (won, claimed) = self.desired.won(wish);
            let expected = if won == claimed { Phase::Applied } else { Phase::Conflict };
            assert_eq!(status.phase, expected, "{name} of {owner}");
        }
        assert_eq!(self.controller.status().len(), count, "services that nobody wants");
    }

    /// Everything goes, and what it took is free again.
    pub fn end(&mut self) {
        for handle in &self.handles {
            handle.transaction().full_picture().commit().expect("an empty picture");
        }
        self.desired = Desired::default();
        for _ in 0..20 {
            self.now += Duration::from_secs(1);
            self.settle();
        }
        self.check();
        assert_eq!(self.controller.usage(), self.fresh, "something was not given back");
        for array in [self.tables.backends_v4(), self.tables.backends_v6()] {
            let left = (0..array.capacity()).filter(|i| array.load(*i, 0).unwrap_or(0) as u32 != 0).count();
            assert_eq!(left, 0, "backends that nobody wants in {}", array.name());
        }
        let left = (0..self.tables.service_words().capacity())
            .filter(|i| self.tables.service_words().load(*i, 0) != Some(0))
            .count();
        assert_eq!(left, 0, "words that nobody wants");
    }
}

/// What a client's connection to a frontend hashes to.
fn hash(client: SocketAddr, frontend: Virtual) -> u32 {
    let (service, protocol) = (frontend.address(), frontend.protocol().number());
    let (from, to) = (Be16::new(client.port()), Be16::new(service.port()));
    match (client.ip(), service.ip()) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            TupleV4::new(client.into(), service.into(), from, to, protocol).hash(SEED)
        }
        (IpAddr::V6(client), IpAddr::V6(service)) => {
            TupleV6::new(client.into(), service.into(), from, to, protocol).hash(SEED)
        }
        _ => panic!("a client of the other family"),
    }
}
