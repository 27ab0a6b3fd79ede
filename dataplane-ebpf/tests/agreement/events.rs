//! What both tell of drops and flows, and what both collectors make of the same entries.

use std::time::Duration;

use dataplane_core::{
    abi::TestInput,
    event::{Event, EventOptions},
    pipeline::{CloseReason, Fate, Revoked, Tick},
    tables::{Family, Flow, FlowTable, Moment, ScanPosition, Store, Suspect, Tuple, V4, V6},
};
use dataplane_ebpf::Error;
use dataplane_testkit::frames::Rng;

use crate::world::World;

/// Room for what one step tells, and no limit: each CPU has one of its own, and here there is one CPU.
pub fn all_of_them() -> EventOptions {
    EventOptions::default().with_ring_bytes(1 << 22).with_drops_a_second(u32::MAX)
}

/// How often each kind of event was told.
#[derive(Debug, Default)]
pub struct Told {
    dropped: usize,
    answered: usize,
    opened: usize,
    masqueraded: usize,
    closed: std::collections::BTreeMap<&'static str, usize>,
}

impl Told {
    /// Reads what both have told since the last time; what differs, in words.
    pub fn compare(&mut self, world: &World) -> Option<String> {
        let mut expected: Vec<Result<Event, String>> = Vec::new();
        while let Some(record) = world.simulator.tables().events().take() {
            expected.push(Ok(Event::parse(&record).unwrap()));
        }
        let mut got = Vec::new();
        if let Some(reader) = world.kernel.plane().events() {
            // A record that means nothing differs from all that the simulator tells.
            while let Some(event) = match reader.next(Duration::ZERO) {
                Err(Error::Event { source }) => Some(Err(source.to_string())),
                event => event.unwrap().map(Ok),
            } {
                got.push(event);
            }
        }
        expected.iter().flatten().for_each(|event| self.note(event));
        (expected != got).then(|| format!("events: simulator {expected:#?}, kernel {got:#?}"))
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Dropped(dropped) => {
                self.dropped += 1;
                self.answered += usize::from(dropped.answered);
            }
            Event::Opened(opened) => {
                self.opened += 1;
                self.masqueraded += usize::from(opened.flow.masquerade.is_some());
            }
            Event::Closed(closed) => *self.closed.entry(closed.reason.name()).or_default() += 1,
            _ => {}
        }
    }

    /// Fails where something was never told.
    pub fn is_everything(&self) {
        println!("agreement: told {self:?}");
        assert!([self.dropped, self.answered, self.opened, self.masqueraded].iter().all(|&count| count > 0));
        let missing: Vec<_> = CloseReason::ALL
            .iter()
            // No frontend is ever taken away here.
            .filter(|&&reason| reason != CloseReason::FrontendGone)
            .filter(|reason| !self.closed.contains_key(reason.name()))
            .collect();
        assert!(missing.is_empty(), "no flow was closed for these reasons: {missing:?}");
    }
}

/// Has both collectors look at every entry there is, twice, and compares what becomes of them.
pub fn collect(world: &mut World, now: Duration, rng: &mut Rng) {
    world.simulator.set_time(now);
    let (memory, kernel) = (world.simulator.tables(), world.kernel.plane().tables());
    world.kernel.set(TestInput::Now, now.as_nanos() as u64).unwrap();
    let mut at = [Moment::of(&**memory), Moment::of(&*kernel)];
    at.iter_mut().for_each(|at| at.now = Tick::from_nanoseconds(now.as_nanos() as u64));
    look::<V4>(memory.flows_v4(), kernel.flows_v4(), &at, rng);
    look::<V4>(memory.half_open_v4(), kernel.half_open_v4(), &at, rng);
    look::<V4>(memory.reservations_v4(), kernel.reservations_v4(), &at, rng);
    look::<V6>(memory.flows_v6(), kernel.flows_v6(), &at, rng);
    look::<V6>(memory.half_open_v6(), kernel.half_open_v6(), &at, rng);
    look::<V6>(memory.reservations_v6(), kernel.reservations_v6(), &at, rng);
}

fn look<F: Family>(
    memory: &dyn FlowTable<F::Tuple, F::Flow>,
    kernel: &dyn FlowTable<F::Tuple, F::Flow>,
    at: &[Moment; 2],
    rng: &mut Rng,
) {
    let (mut position, mut entries) = (Some(ScanPosition::default()), Vec::new());
    while let Some(from) = position {
        position = memory.scan(from, &mut entries).unwrap();
    }
    let suspects: Vec<_> = entries
        .into_iter()
        .map(|(tuple, flow)| {
            let revoked = Revoked { frontend: flow.frontend(), backend: flow.backend() };
            Suspect { tuple, revoked: if rng.chance(3) { revoked } else { Revoked::default() } }
        })
        .collect();
    for _ in 0..2 {
        let mut fates: [Vec<Fate>; 2] = [Vec::new(), Vec::new()];
        memory.collect(&suspects, &at[0], &mut fates[0]).unwrap();
        kernel.collect(&suspects, &at[1], &mut fates[1]).unwrap();
        for ((suspect, one), other) in suspects.iter().zip(&fates[0]).zip(&fates[1]) {
            if one != other {
                println!("DISAGREEMENT of collectors, protocol {}", suspect.tuple.protocol());
                panic!("{suspect:?}: simulator {one:?}, kernel {other:?}");
            }
        }
    }
}
