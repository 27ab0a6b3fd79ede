//! The collector: takes entries out of conntrack whose flows are over.
//!
//! It goes round connections, confirmed or not, and reservations of both families in slices, some hundreds of entries each, and
//! rests between them. A round begins at its time, and a second after the one before where packets were dropped meanwhile for
//! want of what it gives back. An entry whose time is over
//! is condemned in one round and removed in the next (see [`pipeline::collect`](crate::pipeline::collect)); what a packet
//! brought back to life meanwhile stays. A flow to a backend that left its service while another service holds it is
//! revoked: it goes at once, so that its next packet chooses anew.
//!
//! Cost: a round is linear in the entries, some ten seconds for a million. A slice takes some 180 µs in the kernel where all
//! entries live and 270 µs where all are over. The rest after it is 24 times as long as it took, so that a round takes 4 % of
//! a core while it lasts, on a slow machine as on a fast one.

mod nat_usage;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap;

pub use nat_usage::NatUsage;

use self::nat_usage::NatCount;
use crate::{
    model::IpFamily,
    pipeline::{DropReason, Fate, Hook, Revoked, Verdict, is_suspect},
    reconcile::{Departure, NextWake},
    tables::{
        Family, Flow, FlowTable, Moment, Place, ScanPosition, Store, Suspect, TableError, Tuple, V4, V6,
    },
};

/// Between two slices, at the least.
const REST: Duration = Duration::from_millis(5);

/// Between two slices, at the most: one that took longer than a 24th of this was held up by others.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// How many times as long as a slice took the rest after it is.
const REST_PER_WORK: u32 = 24;

/// The rest after a slice that took so long.
fn rest_after(slice: Duration) -> Duration {
    slice.saturating_mul(REST_PER_WORK).clamp(REST, LONGEST_REST)
}

/// From the beginning of a round to that of the next, at the least: by then no packet is under way that met an entry before
/// it was condemned.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Entries are moved from here to conntrack and never back, so that none is missed in a round which looks here first.
const FIRST_PLACE: Place = Place::Opening;

/// What packets are dropped for where something has run out that the collector gives back.
const EXHAUSTION: [DropReason; 3] =
    [DropReason::NatExhausted, DropReason::NatFull, DropReason::ConntrackFull];

/// What the collector has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Rounds through all tables.
    pub rounds: u64,
    /// Entries seen, each once in every round.
    pub scanned: u64,
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Entries removed because their backend left their service.
    pub revoked: u64,
    /// Slices that the kernel refused.
    pub failures: u64,
}

/// Goes round the tables of flows.
pub(crate) struct Collector {
    store: Arc<dyn Store>,
    interval: Duration,
    round: Option<Round>,
    next_round: Duration,
    next_slice: Duration,
    /// When it is asked next whether ports run out, and how many packets had been dropped for want of one the last time.
    next_watch: Duration,
    exhausted: u64,
    /// What is to go.
    revoked: HashMap<(IpFamily, Revoked), (Departure, Search)>,
    done: Collected,
    nat: NatCount,
}

/// A round through the tables.
#[derive(Clone, Copy, Debug)]
struct Round {
    family: IpFamily,
    place: Place,
    position: ScanPosition,
    /// Whether times are looked at, or only what is revoked.
    timed: bool,
    /// Whether the kernel refused a slice of it: then it says nothing about what it did not see.
    refused: bool,
}

impl Round {
    /// It goes on with the next table, if there is one.
    fn behind_this_table(self) -> Option<Self> {
        let (family, place) = match (self.family, self.place) {
            (family, Place::Opening) => (family, Place::Conntrack),
            (family, Place::Conntrack) => (family, Place::Nat),
            (IpFamily::V4, Place::Nat) => (IpFamily::V6, FIRST_PLACE),
            (IpFamily::V6, Place::Nat) => return None,
        };
        Some(Self { family, place, position: ScanPosition::default(), ..self })
    }
}

/// How far the search for a revoked flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// It begins with the next round.
    Waiting,
    /// It began with this round, and has found nothing.
    Clean,
    /// It has found something. A packet may have brought that entry's other half back since, behind our back.
    Found,
}

impl Collector {
    pub fn new(store: Arc<dyn Store>, interval: Duration) -> Self {
        Self {
            store,
            interval: interval.max(SHORTEST_INTERVAL),
            round: None,
            next_round: Duration::ZERO,
            next_slice: Duration::ZERO,
            next_watch: Duration::ZERO,
            exhausted: 0,
            revoked: HashMap::new(),
            done: Collected::default(),
            nat: NatCount::default(),
        }
    }

    /// Flows of this frontend to this backend are to go.
    pub fn revoke(&mut self, departure: Departure) {
        let Departure { family, index: frontend, backend, .. } = departure;
        self.revoked.insert((family, Revoked { frontend, backend }), (departure, Search::Waiting));
    }

    /// Lets flows live whose backend came back, or whose frontend is gone. To be asked before each slice, and what it says
    /// must hold while the slice lasts.
    pub fn spare(&mut self, is_departed: impl Fn(&Departure) -> bool) {
        self.revoked.retain(|_, (departure, _)| is_departed(departure));
    }

    pub fn done(&self) -> Collected {
        self.done
    }

    /// The reservations on each address of this host, as of the last whole round.
    pub fn nat_usage(&self) -> Vec<NatUsage> {
        self.nat.usage()
    }

    /// Does one slice, if one is due.
    pub fn step(&mut self, now: Duration) -> NextWake {
        if now < self.next_slice {
            return NextWake::At(self.next_slice);
        }
        let Some(round) = self.round.take().or_else(|| self.begin(now)) else {
            return NextWake::At(self.next_round.min(self.next_watch));
        };
        let begin = Instant::now();
        let looked = self.slice(round);
        self.next_slice = now + rest_after(begin.elapsed());
        let next = looked.unwrap_or_else(|error| {
            self.done.failures += 1;
            if self.done.failures.is_power_of_two() {
                let failures = self.done.failures;
                tracing::warn!(%error, failures, "the collector was refused a slice; it goes on with the next table");
            }
            // Where one table can't be looked at, those behind it can.
            Round { refused: true, ..round }.behind_this_table().ok_or(Round { refused: true, ..round })
        });
        match next {
            Ok(round) => self.round = Some(round),
            Err(round) => self.end(round, now),
        }
        if self.round.is_some() || !self.revoked.is_empty() {
            return NextWake::At(self.next_slice);
        }
        NextWake::At(self.next_round.min(self.next_watch).max(self.next_slice))
    }

    /// Begins a round, if there is a reason for one.
    fn begin(&mut self, now: Duration) -> Option<Round> {
        let timed = now >= self.next_round || self.is_exhausted(now);
        if timed {
            self.next_round = now + self.interval;
            self.next_watch = now + SHORTEST_INTERVAL;
        } else if self.revoked.is_empty() {
            return None;
        }
        self.revoked.values_mut().for_each(|(_, search)| *search = Search::Clean);
        self.nat.begin();
        Some(Round {
            family: IpFamily::V4,
            place: FIRST_PLACE,
            position: ScanPosition::default(),
            timed,
            refused: false,
        })
    }

    /// Whether packets were dropped for want of a port or of an entry since it was asked last: then a round is worth its while
    /// before its time. Cost: a read of each counter that says so, once a second.
    fn is_exhausted(&mut self, now: Duration) -> bool {
        if now < self.next_watch {
            return false;
        }
        self.next_watch = now + SHORTEST_INTERVAL;
        let count = |(hook, reason): (Hook, DropReason)| {
            // Where the kernel refuses to say, rounds come at their time.
            self.store.counters().verdict(hook, Verdict::Drop(reason)).unwrap_or(0)
        };
        let hooks = [Hook::Xdp, Hook::Ingress];
        let counted = hooks.into_iter().flat_map(|hook| EXHAUSTION.map(|reason| (hook, reason))).map(count);
        let before = std::mem::replace(&mut self.exhausted, counted.sum());
        self.exhausted > before
    }

    fn end(&mut self, round: Round, now: Duration) {
        if round.refused {
            // It would be refused again; and what was to be found may stand where nobody looked.
            self.next_round = now + self.interval;
            self.next_slice = self.next_round;
            self.revoked.values_mut().for_each(|(_, search)| *search = Search::Found);
            return;
        }
        self.done.rounds += 1;
        self.nat.end();
        self.revoked.retain(|_, (_, search)| *search != Search::Clean);
    }

    /// Looks at the next entries; where the round goes on, or that it is over.
    fn slice(&mut self, round: Round) -> Result<Result<Round, Round>, TableError> {
        let store = self.store.clone();
        let at = Moment::of(&*store);
        let behind = match (round.family, round.place) {
            (IpFamily::V4, Place::Conntrack) => self.look::<V4>(store.flows_v4(), &round, &at)?,
            (IpFamily::V4, Place::Opening) => self.look::<V4>(store.half_open_v4(), &round, &at)?,
            (IpFamily::V4, Place::Nat) => self.look::<V4>(store.reservations_v4(), &round, &at)?,
            (IpFamily::V6, Place::Conntrack) => self.look::<V6>(store.flows_v6(), &round, &at)?,
            (IpFamily::V6, Place::Opening) => self.look::<V6>(store.half_open_v6(), &round, &at)?,
            (IpFamily::V6, Place::Nat) => self.look::<V6>(store.reservations_v6(), &round, &at)?,
        };
        Ok(match behind {
            Some(position) => Ok(Round { position, ..round }),
            None => round.behind_this_table().ok_or(round),
        })
    }

    fn look<F: Family>(
        &mut self,
        table: &dyn FlowTable<F::Tuple, F::Flow>,
        round: &Round,
        at: &Moment,
    ) -> Result<Option<ScanPosition>, TableError>
    where
        F::Address: Into<IpAddr>,
    {
        let mut entries = Vec::new();
        let behind = table.scan(round.position, &mut entries)?;
        self.done.scanned += entries.len() as u64;
        if round.place == Place::Nat {
            // Replies come to the address that was lent.
            entries.iter().for_each(|(tuple, _)| self.nat.add(tuple.destination().into()));
        }
        let suspects: Vec<Suspect<F::Tuple>> = entries
            .iter()
            .filter_map(|(tuple, flow)| {
                let this = Revoked { frontend: flow.frontend(), backend: flow.backend() };
                let expired = || {
                    round.timed && is_suspect::<F>(flow, tuple.protocol(), at.now, |which| at.setting(which))
                };
                match self.revoked.get_mut(&(round.family, this)) {
                    Some((_, search)) if *search != Search::Waiting => {
                        *search = Search::Found;
                        Some(Suspect { tuple: *tuple, revoked: this })
                    }
                    _ => expired().then(|| Suspect { tuple: *tuple, revoked: Revoked::default() }),
                }
            })
            .collect();
        let mut fates = Vec::with_capacity(suspects.len());
        let looked = table.collect(&suspects, at, &mut fates);
        for (suspect, fate) in suspects.iter().zip(fates) {
            if fate == Fate::Removed {
                let revoked = suspect.revoked != Revoked::default();
                if round.place == Place::Nat {
                    self.nat.subtract(suspect.tuple.destination().into());
                }
                *if revoked { &mut self.done.revoked } else { &mut self.done.expired } += 1;
            }
        }
        looked.map(|()| behind)
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector")
            .field("round", &self.round)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_take_less_than_a_twentieth_of_a_core() {
        for microseconds in [0, 1, 180, 270, 1_000, 4_000] {
            let slice = Duration::from_micros(microseconds);
            assert!(slice * 20 < slice + rest_after(slice), "{slice:?}");
        }
        assert_eq!(rest_after(Duration::from_secs(1)), LONGEST_REST, "it was held up");
    }
}
