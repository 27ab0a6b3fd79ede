//! Conntrack as the collector sees it.

use std::{collections::HashSet, fmt::Debug, hash::Hash, net::Ipv4Addr, sync::Arc};

use dataplane_core::{
    abi::{BackendRef, FlowV4, FlowV6, TupleV4, TupleV6},
    pipeline::{Fate, Revoked, Seen, Tick, Timeouts},
    tables::{
        Family, Flow as _, FlowTable, HashTable, Moment, ScanPosition, Store, Suspect, Tuple as _, V4, V6,
    },
    wire::{Be16, Ipv4Address, Ipv6Address, PROTOCOL_UDP},
};

use super::Case;

pub(super) const CASES: &[Case] = &[
    Case { name: "a round meets every entry once", run: |store| each(&store, round) },
    Case { name: "an entry is condemned, then removed", run: |store| each(&store, removal) },
    Case { name: "a packet in between saves an entry", run: |store| each(&store, revival) },
    Case { name: "only the flow that is revoked goes", run: |store| each(&store, revocation) },
    Case { name: "an entry that is being replaced is left alone once", run: |store| each(&store, dying) },
];

/// A family's table, and the flows that are put there: of UDP, unanswered, which live for [`Timeouts::udp`].
struct Subject<'a, F: Family> {
    table: &'a dyn HashTable<F::Tuple, F::Flow>,
    flows: &'a dyn FlowTable<F::Tuple, F::Flow>,
    store: &'a dyn Store,
    tuple: fn(u32) -> F::Tuple,
    flow: fn(BackendRef) -> F::Flow,
}

const FRONTEND: u32 = 0;

/// What a table of flows does, spoken of by numbers.
trait Flows {
    /// Puts in a flow that was idle for so many ticks.
    fn put(&self, number: u32, backend: BackendRef, seen: u32, idle: u32);
    fn has(&self, number: u32) -> bool;
    fn look(&self, number: u32, revoked: Revoked) -> Fate;
    /// How many entries a round meets, and how many of them for the first time.
    fn round(&self) -> (usize, usize);
}

impl<F: Family<Tuple: Hash + Eq + Debug>> Flows for Subject<'_, F> {
    fn put(&self, number: u32, backend: BackendRef, seen: u32, idle: u32) {
        let tuple = (self.tuple)(number);
        let then = Tick(self.store.now().0.wrapping_sub(idle));
        let flow = (self.flow)(backend).starting(Seen(seen).word(tuple.tag()), then);
        self.table.insert(&tuple, &flow).expect("room for a flow");
    }

    fn has(&self, number: u32) -> bool {
        self.table.get(&(self.tuple)(number)).expect("a readable table").is_some()
    }

    fn look(&self, number: u32, revoked: Revoked) -> Fate {
        let mut fates = Vec::new();
        let suspect = Suspect { tuple: (self.tuple)(number), revoked };
        self.flows.collect(&[suspect], &Moment::of(self.store), &mut fates).expect("a look");
        assert_eq!(fates.len(), 1);
        fates[0]
    }

    fn round(&self) -> (usize, usize) {
        let (mut position, mut entries) = (Some(ScanPosition::default()), Vec::new());
        while let Some(from) = position {
            position = self.flows.scan(from, &mut entries).expect("a readable table");
        }
        let tuples: HashSet<F::Tuple> = entries.iter().map(|(tuple, _)| *tuple).collect();
        (entries.len(), tuples.len())
    }
}

fn each(store: &Arc<dyn Store>, check: fn(&dyn Flows)) {
    let v4: [(&dyn HashTable<_, _>, &dyn FlowTable<_, _>); 2] =
        [(store.conntrack_v4(), store.flows_v4()), (store.opening_v4(), store.half_open_v4())];
    for (table, flows) in v4 {
        check(&Subject::<V4> {
            table,
            flows,
            store: &**store,
            tuple: |number| {
                let address = |n: u32| Ipv4Address::from(Ipv4Addr::from(n));
                TupleV4::new(address(number), address(7), Be16::new(9), Be16::new(53), PROTOCOL_UDP)
            },
            flow: |backend| FlowV4 { backend, frontend: FRONTEND, ..FlowV4::default() },
        });
    }
    let v6: [(&dyn HashTable<_, _>, &dyn FlowTable<_, _>); 2] =
        [(store.conntrack_v6(), store.flows_v6()), (store.opening_v6(), store.half_open_v6())];
    for (table, flows) in v6 {
        check(&Subject::<V6> {
            table,
            flows,
            store: &**store,
            tuple: |number| {
                let address = |n: u32| Ipv6Address([1, 2, 3, n]);
                TupleV6::new(address(number), address(7), Be16::new(9), Be16::new(53), PROTOCOL_UDP)
            },
            flow: |backend| FlowV6 { backend, frontend: FRONTEND, ..FlowV6::default() },
        });
    }
}

/// More ticks than an unanswered datagram's flow lives, by the default time-outs, and fewer.
fn ticks() -> (u32, u32) {
    let life = Tick::ticks_of_milliseconds(Timeouts::default().udp);
    (life + 5, life - 50)
}

const BACKEND: BackendRef = BackendRef::new(1, 1);

fn round(flows: &dyn Flows) {
    assert_eq!(flows.round(), (0, 0));
    // More than one slice of the kernel's holds, and few enough that it evicts hardly any.
    const ENTRIES: u32 = 800;
    for number in 0..ENTRIES {
        flows.put(number, BACKEND, 0, 0);
    }
    let stand = (0..ENTRIES).filter(|&number| flows.has(number)).count();
    assert_eq!(flows.round(), (stand, stand));
    assert!(stand > 600, "{stand}");
}

fn removal(flows: &dyn Flows) {
    let (expired, alive) = ticks();
    flows.put(1, BACKEND, 0, expired);
    flows.put(2, BACKEND, 0, alive);
    assert_eq!(flows.look(3, Revoked::default()), Fate::Gone);
    assert_eq!(flows.look(1, Revoked::default()), Fate::Condemned);
    assert_eq!(flows.look(2, Revoked::default()), Fate::Lives);
    assert!(flows.has(1));
    assert_eq!(flows.look(1, Revoked::default()), Fate::Removed);
    assert_eq!(flows.look(2, Revoked::default()), Fate::Lives);
    assert!(!flows.has(1) && flows.has(2));
    assert_eq!(flows.look(1, Revoked::default()), Fate::Gone);
}

fn revival(flows: &dyn Flows) {
    let (expired, alive) = ticks();
    flows.put(1, BACKEND, 0, expired);
    assert_eq!(flows.look(1, Revoked::default()), Fate::Condemned);
    // What a packet does to it: the time of its last one.
    flows.put(1, BACKEND, Seen::CONDEMNED, 0);
    assert_eq!(flows.look(1, Revoked::default()), Fate::Lives);
    flows.put(2, BACKEND, Seen::CONDEMNED, alive);
    assert_eq!(flows.look(2, Revoked::default()), Fate::Lives);
    assert!(flows.has(1) && flows.has(2));
}

fn revocation(flows: &dyn Flows) {
    flows.put(1, BACKEND, 0, 0);
    for (frontend, backend) in [(FRONTEND, BackendRef::new(1, 2)), (FRONTEND + 1, BACKEND)] {
        assert_eq!(flows.look(1, Revoked { frontend, backend }), Fate::Lives);
    }
    assert!(flows.has(1));
    assert_eq!(flows.look(1, Revoked { frontend: FRONTEND, backend: BACKEND }), Fate::Removed);
    assert!(!flows.has(1));
}

/// Whoever claimed it takes it out in microseconds. Where that failed, nobody else would.
fn dying(flows: &dyn Flows) {
    let (_, alive) = ticks();
    flows.put(1, BACKEND, Seen::DYING, alive);
    assert_eq!(flows.look(1, Revoked::default()), Fate::Condemned);
    assert!(flows.has(1));
    assert_eq!(flows.look(1, Revoked::default()), Fate::Removed);
    assert!(!flows.has(1));
}
