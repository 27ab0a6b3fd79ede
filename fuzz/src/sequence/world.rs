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
    clients::{Client, Clients, Hint, Recalled, Visit},
    desired::Desired,
    flows::{Flows, Key, Known, Lives},
    ops::{self, At, BACKENDS, Flags, Object, Odd, Packet, Ports, Span, Virtual, Wish},
    ports::{BOUND, Group, Lent, is_udp},
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
    lent: Lent,
    clients: Clients,
    lives: [Lives; 2],
    /// Whether the controller was stepped since the last check.
    is_settled_anew: bool,
}

impl World {
    pub fn new(ports: Ports) -> Self {
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
        let lent = Lent::new(ports);
        tables.set_nat_ports(lent.nat_ports());
        let mut simulator = Simulator::new(Arc::clone(&tables));
        for (index, zone) in [(FRONT, 0), (BACK, 0), (ODD, 9)] {
            let mut interface = SimulatedInterface::new(index, MAC);
            interface.zone = zone;
            if index == BACK {
                interface.masquerade_v4 = Some("198.51.100.1".parse().expect("an address"));
                interface.masquerade_v6 = Some("2001:db8:2::1".parse().expect("an address"));
            }
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
            simulator.bind(ops::own(v6), BOUND, Protocol::Udp.number());
        }
        let routes = simulator.routes_mut();
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
            lent,
            clients: Clients::default(),
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
            self.lent.forget();
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
        let winner = self.desired.winner(frontend).cloned();
        let winner = winner.as_ref();
        let selectable = |backend: usize| winner.is_some_and(|wish| wish.is_selectable(backend));
        let any_selectable = (0..BACKENDS).any(selectable);
        let masquerades = |backend: usize| winner.is_some_and(|wish| wish.masquerades(backend));
        let index = self.index(frontend);
        let known = self.flows.get(&key).cloned();
        let known = known.as_ref();
        let bound = known.filter(|known| self.is_bound(known, packet, index)).cloned();

        let refused = match out.verdict {
            Verdict::Answer(reason) => Some(reason),
            Verdict::Drop(reason) => reason.answered(),
            _ => None,
        };
        if let Some(reason) = refused {
            let is_told = matches!(out.verdict, Verdict::Answer(_));
            assert_eq!(is_told, packet.is_answered(reason), "{key:?}: {}", out.verdict);
        }
        if !matches!(out.verdict, Verdict::Forward | Verdict::Deliver) {
            self.lent.note_client(&key, packet.flags, None, self.now);
        }
        match out.verdict {
            Verdict::Forward | Verdict::Deliver => {
                let translated = translated.expect("the packet was a good one");
                let (backend, port) = self.destination(frontend, &translated);
                assert_eq!(
                    out.verdict == Verdict::Deliver,
                    port.is_none()
                        && (ops::is_local(backend) || (packet.odd == Odd::BigToBeSplit && !frontend.v6)),
                    "{} to backend {backend}",
                    out.verdict
                );
                self.arrived(packet, backend, port, index, bound.as_ref());
            }
            Verdict::Answer(AnswerReason::NoBackend) | Verdict::Drop(DropReason::NoBackend) => {
                assert!(winner.is_some() && !any_selectable && bound.is_none(), "{key:?}: no backend?");
            }
            Verdict::Drop(DropReason::TupleInUse) => {
                let keeps_source = |backend| selectable(backend) && !masquerades(backend);
                assert!(bound.is_none() && self.flows.is_in_use(&key, keeps_source), "{key:?}: in use?");
                self.dropped(&key, index, true);
            }
            Verdict::Drop(DropReason::NatExhausted) => {
                let exhausted = |backend: &usize| {
                    selectable(*backend)
                        && masquerades(*backend)
                        && self.lent.may_be_exhausted(Group::of(frontend, *backend), self.now)
                };
                assert!(bound.is_none() && (0..BACKENDS).any(|i| exhausted(&i)), "{key:?}: exhausted?");
                self.dropped(&key, index, true);
            }
            Verdict::Answer(AnswerReason::HopLimit) | Verdict::Drop(DropReason::HopLimit) => {
                assert_eq!(packet.odd, Odd::LastHop);
                if bound.is_none() {
                    self.dropped(&key, index, false);
                }
            }
            Verdict::Answer(AnswerReason::TooBig) | Verdict::Drop(DropReason::TooBig) => {
                // One that is masqueraded is not split.
                let may_be_split = !known
                    .is_some_and(|known| known.port.is_some() || known.backend.is_none())
                    && !(0..BACKENDS).any(|backend| selectable(backend) && masquerades(backend));
                match packet.odd {
                    Odd::Big => {}
                    Odd::BigToBeSplit => assert!(frontend.v6 || !may_be_split, "{key:?} is not split"),
                    odd => panic!("{key:?}: too big, {odd:?}"),
                }
                if bound.is_none() {
                    self.dropped(&key, index, false);
                    // XDP may have opened the connection, to somebody.
                    if packet.xdp {
                        self.opened_unseen(packet, index);
                    }
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
            && !is_udp(frontend)
            && let Some(known) = self.flows.get_mut(&key)
        {
            known.ending = true;
        }
    }

    /// Whether a connection stands for certain and goes on with this packet.
    fn is_bound(&self, known: &Known, packet: &Packet, index: Option<u32>) -> bool {
        let frontend = packet.frontend();
        let Some(backend) = known.backend else {
            return false;
        };
        let opens = packet.flags == Flags::Syn && !is_udp(frontend);
        let reopens = opens && known.ending;
        // Who still tries to connect may leave a backend that gets no new connections.
        let may_leave = opens && !self.desired.selects(backend, frontend.v6) && !known.confirmed;
        known.is_certain(frontend, self.now)
            && !known.left
            && !reopens
            && !may_leave
            && index.is_some()
            && known.index == index
            && self.lives[usize::from(frontend.v6)].is_there_since(backend, known.life)
    }

    /// The backend that a client's packet went to, and the port of this host that it came from, if it did.
    fn destination(&self, frontend: Virtual, translated: &check::Translated) -> (usize, Option<u16>) {
        let (before, after) = (&translated.before, &translated.after);
        let to = after.destination;
        let backend = (0..BACKENDS).find(|&i| ops::backend(i, frontend.v6) == to);
        let backend = backend.unwrap_or_else(|| panic!("{to} is nobody's backend"));
        if after.source == before.source {
            return (backend, None);
        }
        let (from, port) = (after.source, after.source.port());
        assert_eq!(from.ip(), ops::own(frontend.v6), "a source that is not ours");
        assert!(self.lent.range().contains(&port), "{from} is out of the range");
        assert!(!is_udp(frontend) || port != BOUND, "{from} is a socket's");
        (backend, Some(port))
    }

    /// Checks and notes that a client's packet went to a backend, from a port of this host or its own. `bound`: the connection that
    /// stood for certain.
    fn arrived(
        &mut self,
        packet: &Packet,
        backend: usize,
        port: Option<u16>,
        index: Option<u32>,
        bound: Option<&Known>,
    ) {
        let (client, frontend) = (packet.client(), packet.frontend());
        let key = (client, frontend);
        let winner = self.desired.winner(frontend).cloned();
        let known = self.flows.get(&key).cloned();
        let life = self.lives[usize::from(frontend.v6)].life(backend);
        let group = Group::of(frontend, backend);
        if let Some(bound) = bound {
            assert_eq!(Some(backend), bound.backend, "a connection moved though its backend is there");
            assert_eq!(port, bound.port, "a connection changed its source though its backend is there");
        }
        // The same as before, where it is not another one to the same backend, or one that nobody saw.
        let goes_on = known.as_ref().filter(|known| (known.backend, known.port) == (Some(backend), port));
        let is_new = known.as_ref().is_none_or(|known| known.backend.is_some()) && goes_on.is_none();
        let is_open = |wish: &Wish| wish.is_selectable(backend);
        assert!(
            !is_new || winner.as_ref().is_some_and(is_open),
            "a new connection to {frontend:?} went to backend {backend}, which takes none"
        );
        let client_at = index.map(|index| (client.ip(), index));
        if let (Some(wish), Some(client_at)) = (&winner, client_at) {
            let memory = wish.memory();
            let recalled =
                memory.map_or(Recalled::Nothing, |timeout| self.clients.recall(client_at, timeout, self.now));
            if is_new {
                assert_eq!(
                    port.is_some(),
                    wish.masquerades(backend),
                    "the source of a connection of {wish:?}"
                );
                if let Recalled::Backend(before) = recalled {
                    assert_eq!(backend, before, "{key:?} is not remembered");
                }
                if wish.is_maglev() && recalled == Recalled::Nothing {
                    let table = slow_table(ops::PLACES, SEED, &wish.weights());
                    let place = (u64::from(hash(client, frontend)) * u64::from(ops::PLACES)) >> 32;
                    let to = ops::backend(backend, frontend.v6);
                    assert_eq!(to, table[place as usize], "{key:?}: place {place} of {table:?}");
                }
            }
            if let Some(timeout) = memory.filter(|_| bound.is_none()) {
                let visit = if is_new { Visit::New(backend, life) } else { Visit::Perhaps(backend) };
                self.clients.note(client_at, (frontend, wish.object), visit, timeout, self.now);
            }
        }
        // What it had before went with it, if it still stood.
        if let Some(before) = known.as_ref().filter(|_| is_new)
            && let (Some(at), Some(port)) = (before.backend, before.port)
            && before.is_certain(frontend, self.now)
            && !before.left
        {
            self.lent.give_back(Group::of(frontend, at), port, &key);
        }
        if let Some(port) = port {
            self.takes(group, port, &key);
            self.lent.lend(group, port, key, bound.is_some(), self.now);
        }
        self.lent.note_client(&key, packet.flags, port.map(|port| (group, port)), self.now);

        // Of one that may have begun anew it is not known what its packets have shown.
        let answered = bound.is_some_and(|known| known.answered);
        let speaks = is_udp(frontend) || packet.flags.goes_on();
        let seen = Known {
            backend: Some(backend),
            port,
            // Where it went there before, it may still be to a former life of the backend.
            life: goes_on.map_or(life, |known| known.life),
            index,
            last: self.now,
            ending: goes_on.is_some_and(|known| known.ending),
            left: goes_on.is_some_and(|known| known.left),
            answered,
            confirmed: bound.is_some_and(|known| known.confirmed) || (answered && speaks),
        };
        self.flows.note(key, seen);
    }

    /// Checks that a client may have this port, where another one has it or had it.
    fn takes(&mut self, group: Group, port: u16, key: &Key) {
        let Some(holder) = self.lent.holder(group, port).filter(|holder| holder.key != *key) else {
            return;
        };
        let (other, now) = (holder.key, self.now);
        let none_free = self.lent.may_have_none_free(group);
        let Some(known) = self.flows.get_mut(&other) else {
            return;
        };
        let has_it = known.backend.map(|backend| Group::of(other.1, backend)) == Some(group)
            && known.port == Some(port);
        if !has_it {
            return;
        }
        if known.is_certain(other.1, now) && !known.left {
            assert!(!known.keeps_port(other.1, now), "{key:?} took port {port} of {other:?}: {known:?}");
            assert!(none_free, "{key:?} took port {port} of {other:?}, though others are free");
        }
        known.end();
    }

    /// A client's packet was dropped, maybe after a backend was chosen. `is_over`: what it was of is over.
    fn dropped(&mut self, key: &Key, index: Option<u32>, is_over: bool) {
        let (client, frontend) = *key;
        if let (Some(wish), Some(index)) = (self.desired.winner(frontend), index)
            && let Some(timeout) = wish.memory()
        {
            let of = (frontend, wish.object);
            self.clients.note((client.ip(), index), of, Visit::Dropped, timeout, self.now);
        }
        if let Some(known) = self.flows.get_mut(key) {
            if is_over {
                known.end();
            }
            if known.backend.is_none() {
                self.lent.note_unseen(frontend, self.now);
            }
        }
    }

    /// A client's packet may have opened a connection, and nobody saw where it would have gone.
    fn opened_unseen(&mut self, packet: &Packet, index: Option<u32>) {
        let (client, frontend) = (packet.client(), packet.frontend());
        let seen = Known {
            backend: None,
            port: None,
            life: 0,
            index,
            last: self.now,
            ending: false,
            left: false,
            answered: false,
            confirmed: false,
        };
        self.flows.note((client, frontend), seen);
        self.lent.note_unseen(frontend, self.now);
        // It may have got somebody's port.
        let is_alike = |other: Virtual| (other.v6, other.protocol()) == (frontend.v6, frontend.protocol());
        for ((_, other), known) in self.flows.iter_mut() {
            if is_alike(*other) && known.port.is_some() && !known.keeps_port(*other, self.now) {
                known.end();
            }
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
        let from = ops::backend(backend, frontend.v6);
        if let Some(port) = known.port {
            return self.answer_to_port(&key, Group::of(frontend, backend), from, port, flags);
        }
        let frame = ops::packet(from, client, frontend.protocol(), flags);
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
                let translated = translated.expect("the packet was a good one");
                assert!(!translated.is_masqueraded(), "{translated:?}");
                let after = translated.after;
                assert_eq!(after.destination, client);
                let right = answered.iter().any(|frontend| frontend.address() == after.source);
                assert!(right, "an answer on {key:?} comes from {}", after.source);
            }
            Verdict::Pass(PassReason::NoService) => {
                let surely = alone && known.is_certain(frontend, self.now) && !known.left;
                assert!(!surely, "an answer on {key:?} is not translated");
            }
            other => panic!("an answer on {key:?}: {other}"),
        }
        for frontend in answered {
            if let Some(known) = self.flows.get_mut(&(client, frontend)) {
                known.ending |= flags.ends() && !is_udp(frontend);
                if alone && out.verdict != Verdict::Pass(PassReason::NoService) {
                    known.last = self.now;
                    known.answered = true;
                }
            }
        }
    }

    /// A backend's answer to a port of this host, from which the connection of `key` came to it.
    fn answer_to_port(&mut self, key: &Key, group: Group, from: SocketAddr, port: u16, flags: Flags) {
        let frontend = key.1;
        let to = SocketAddr::new(ops::own(frontend.v6), port);
        let bytes = ops::packet(from, to, frontend.protocol(), flags).link(MAC, MAC).build();
        let out = self.simulator.receive(BACK, &bytes);
        let translated = check::outcome(&bytes, None, &out);
        // Another one may have the port by now.
        let holder = self.lent.holder(group, port).map(|holder| holder.key);
        match out.verdict {
            Verdict::Forward => {
                let after = translated.expect("the packet was a good one").after;
                let is_unseen =
                    |other: &Key| self.flows.get(other).is_some_and(|known| known.backend.is_none());
                let gets_it = |other: &Key| (other.0, other.1.address()) == (after.destination, after.source);
                let mut all = holder.into_iter().chain(self.flows.keys().filter(is_unseen));
                let of = all.find(|other| gets_it(other) && other.1.protocol() == frontend.protocol());
                drop(all);
                let of = of.unwrap_or_else(|| panic!("an answer to {to}, of {holder:?}, became {after:?}"));
                self.lent.note_backend(group, port, of, flags, self.now);
                if let Some(known) = self.flows.get_mut(&of) {
                    known.ending |= flags.ends() && !is_udp(frontend);
                    if known.port == Some(port) && known.backend.map(|at| Group::of(of.1, at)) == Some(group)
                    {
                        known.last = self.now;
                        known.answered = true;
                    }
                }
            }
            Verdict::Pass(PassReason::NoService) => {
                let known = self.flows.get(key).filter(|_| holder == Some(*key));
                let surely = known.is_some_and(|known| known.is_certain(frontend, self.now) && !known.left);
                assert!(!surely, "an answer to {to}, on {key:?}, is not translated");
            }
            other => panic!("an answer to {to}, on {key:?}: {other}"),
        }
    }

    /// A packet with a byte changed.
    pub fn bent(&mut self, packet: &Packet, hook: At, at: u8, with: u8) {
        let mut bytes = packet.frame().link(MAC, MAC).build();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= with;
        self.raw(hook, &bytes);
    }

    /// Bytes.
    pub fn raw(&mut self, hook: At, bytes: &[u8]) {
        let out: Outcome = self.simulator.run(hook.hook(), ODD, bytes);
        check::outcome(bytes, Some(hook.hook()), &out);
        // Its zone has connections of its own, and clients in common with the others.
        if !matches!(out.verdict, Verdict::Pass(_)) {
            self.clients.stray(self.now);
        }
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
                let mut clients = std::mem::take(&mut self.clients);
                let Self { desired, lives, .. } = &*self;
                let is_used = |(_, index): &Client, hint: &Hint| {
                    let same = |object: Object| {
                        (object.owner(), object.service()) == (hint.object.owner(), hint.object.service())
                    };
                    self.index(hint.frontend) == Some(*index)
                        && lives[usize::from(hint.frontend.v6)].is_there_since(hint.backend, hint.life)
                        && desired.winner(hint.frontend).is_some_and(|wish| {
                            same(wish.object) && wish.memory().is_some() && wish.is_selectable(hint.backend)
                        })
                };
                clients.keep(is_used);
                self.clients = clients;
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
        // All time-outs pass, and then two rounds of the collector: a third may be under way.
        self.now += Duration::from_secs(7 * 3600);
        let end = self.now + Duration::from_secs(16);
        while self.now < end {
            self.simulator.set_time(self.now);
            self.now = match self.controller.collect(self.now) {
                NextWake::At(at) => at,
                _ => self.now,
            };
            self.now += Duration::from_millis(1);
        }
        self.check();
        let tables = &self.tables;
        let v4 = [tables.conntrack_v4(), tables.opening_v4(), tables.nat_v4()].map(|table| table.fill());
        let v6 = [tables.conntrack_v6(), tables.opening_v6(), tables.nat_v6()].map(|table| table.fill());
        for fill in v4.into_iter().chain(v6) {
            assert_eq!(fill.expect("tables in memory answer"), 0, "entries that nobody needs");
        }
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
