//! The pipeline's environment, made of memory.

use std::{net::IpAddr, sync::Arc};

use super::{MemoryTables, clock_table::Entry, simulator::World};
use crate::{
    abi::{
        AffinityEntry, AffinityHead, BackendRef, BackendV4, BackendV6, FragmentRecord, INTERFACE_PLACES,
        InterfaceEntry, ServiceCounters, ServiceRef, ServiceWord, Setting, StateWord,
    },
    pipeline::{
        Backend, Budget, Environment, EventRecord, EventSink, Hook, NextHop, Route, RouteQuery, Routes,
        Steps, Tick, VerdictNumber,
    },
    tables::{
        AffinityCell, Family, Flow, FlowEntry, HashTable, InsertError, Lookup, Place, Store, Tuple, V4, V6,
        WordArray,
    },
};

/// Tables and world as one packet meets them.
#[derive(Debug)]
pub(super) struct MemoryEnvironment<'a> {
    pub(super) tables: &'a MemoryTables,
    pub(super) world: &'a World,
    pub(super) random: u32,
    /// What every flow hashes to, whatever its tuple, where a backend is chosen.
    pub(super) choice: Option<u32>,
}

/// An affinity in memory.
pub(super) struct MemoryAffinity(pub(super) Arc<Entry<AffinityEntry>>);

impl AffinityCell for MemoryAffinity {
    fn read(&self, tag: u32) -> Option<AffinityEntry> {
        let entry = *self.0.value.lock();
        entry.has_tag(tag).then_some(entry)
    }

    fn exchange_head(&self, current: AffinityHead, new: AffinityHead) -> bool {
        let mut entry = self.0.value.lock();
        let is_current = entry.head == current;
        if is_current {
            entry.head = new;
        }
        is_current
    }

    fn touch(&self, now: Tick) {
        self.0.value.lock().last_seen = now.0;
    }
}

/// A conntrack entry in memory. Its lock is held only while it is copied or changed.
pub(super) struct MemoryEntry<V>(pub(super) Arc<Entry<V>>);

macro_rules! lookup {
    ($family:ty, $services:ident, $backends:ident, $backend:ident, $conntrack:ident, $opening:ident, $nat:ident, $affinity:ident, $fragments:ident, $version:ident) => {
        impl Lookup<$family> for MemoryEnvironment<'_> {
            type Entry = MemoryEntry<<$family as Family>::Flow>;
            type Affinity = MemoryAffinity;

            fn service(&self, key: &<$family as Family>::ServiceKey) -> Option<ServiceRef> {
                self.tables.$services.find(key)
            }

            fn service_word(&self, index: u32) -> Option<ServiceWord> {
                self.tables.service_words.load(index, 0).map(ServiceWord)
            }

            fn slot(&self, index: u32) -> Option<u64> {
                self.tables.slots.load(index, 0)
            }

            fn backend(&self, backend: BackendRef) -> Option<Backend<$family>> {
                let array = &self.tables.$backends;
                let mut words = [0; size_of::<$backend>() / 8];
                for (word, position) in words.iter_mut().zip(0..) {
                    *word = array.load(backend.index(), position)?;
                }
                let row: $backend = zerocopy::transmute!(words);
                Backend::<$family>::of_generation(&row, backend.generation())
            }

            fn flow(&self, place: Place, tuple: &<$family as Family>::Tuple) -> Option<Self::Entry> {
                let table = match place {
                    Place::Conntrack => &self.tables.$conntrack,
                    Place::Nat => &self.tables.$nat,
                    Place::Opening => &self.tables.$opening,
                };
                table.find(tuple).map(MemoryEntry)
            }

            fn insert_flow(
                &self,
                place: Place,
                tuple: &<$family as Family>::Tuple,
                flow: &<$family as Family>::Flow,
            ) -> Result<(), InsertError> {
                let table = match place {
                    Place::Conntrack => &self.tables.$conntrack,
                    Place::Nat => &self.tables.$nat,
                    Place::Opening => &self.tables.$opening,
                };
                table.insert_new(tuple, *flow)
            }

            fn remove_flow(&self, place: Place, tuple: &<$family as Family>::Tuple) {
                match place {
                    Place::Conntrack => self.tables.$conntrack.take(tuple),
                    Place::Nat => self.tables.$nat.take(tuple),
                    Place::Opening => self.tables.$opening.take(tuple),
                };
            }

            fn affinity(&self, key: &<$family as Family>::AffinityKey) -> Option<MemoryAffinity> {
                self.tables.$affinity.find(key).map(MemoryAffinity)
            }

            fn insert_affinity(
                &self,
                key: &<$family as Family>::AffinityKey,
                entry: &AffinityEntry,
            ) -> Result<(), InsertError> {
                self.tables.$affinity.insert_new(key, *entry)
            }

            fn remove_affinity(&self, key: &<$family as Family>::AffinityKey) {
                self.tables.$affinity.take(key);
            }

            fn fragment(&self, key: &<$family as Family>::FragmentKey) -> Option<FragmentRecord> {
                self.tables.$fragments.find(key).map(|entry| *entry.value.lock())
            }

            fn note_fragment(&self, key: &<$family as Family>::FragmentKey, record: &FragmentRecord) {
                // It evicts, and so never fails.
                self.tables.$fragments.insert(key, record).unwrap_or(());
            }

            fn masquerade_address(&self, interface: u32) -> Option<<$family as Family>::Address> {
                let entry = self.tables.masquerade_entry(interface)?;
                (entry.$version != Default::default()).then_some(entry.$version)
            }

            fn is_bound(&self, tuple: &<$family as Family>::Tuple) -> bool {
                let socket = (tuple.destination().into(), tuple.destination_port().get(), tuple.protocol());
                self.world.is_bound(&socket)
            }
        }

        impl FlowEntry<$family> for MemoryEntry<<$family as Family>::Flow> {
            fn read(&self, tag: u32, into: &mut <$family as Family>::Flow) -> bool {
                *into = *self.0.value.lock();
                into.has_tag(tag)
            }

            fn state(&self) -> StateWord {
                self.0.value.lock().state
            }

            fn exchange_state(&self, current: StateWord, new: StateWord) -> bool {
                let mut value = self.0.value.lock();
                let is_current = value.state == current;
                if is_current {
                    value.state = new;
                }
                is_current
            }

            fn last_seen(&self) -> Tick {
                Tick(self.0.value.lock().last_seen)
            }

            fn touch(&self, now: Tick) {
                self.0.value.lock().last_seen = now.0;
            }
        }

        impl Routes<$family> for MemoryEnvironment<'_> {
            fn route(&self, query: &RouteQuery<$family>, hop: &mut NextHop) -> Route {
                let (source, destination) = (IpAddr::from(query.source), IpAddr::from(query.destination));
                self.world.route(query.interface, source, destination, query.length, hop)
            }
        }
    };
}

lookup!(
    V4,
    services_v4,
    backends_v4,
    BackendV4,
    conntrack_v4,
    opening_v4,
    nat_v4,
    affinity_v4,
    fragments_v4,
    v4
);
lookup!(
    V6,
    services_v6,
    backends_v6,
    BackendV6,
    conntrack_v6,
    opening_v6,
    nat_v6,
    affinity_v6,
    fragments_v6,
    v6
);

impl EventSink for MemoryEnvironment<'_> {
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        self.tables.events.emit(write);
    }
}

impl Environment for MemoryEnvironment<'_> {
    fn now(&self) -> Tick {
        self.tables.now()
    }

    fn random(&self) -> u32 {
        self.random
    }

    fn choice_seed(&self) -> u64 {
        self.tables.config.load(Setting::ChoiceSeed as u32, 0).unwrap_or(0)
    }

    fn choice<F: Family>(&self, tuple: &F::Tuple) -> u32 {
        self.choice.unwrap_or_else(|| tuple.hash(self.choice_seed()))
    }

    fn setting(&self, setting: Setting) -> u32 {
        self.tables.config.load(setting as u32, 0).unwrap_or(0) as u32
    }

    fn interface(&self, index: u32) -> Option<InterfaceEntry> {
        let interfaces = &self.tables.interfaces;
        let place = index % INTERFACE_PLACES;
        let words = [interfaces.load(place, 0)?, interfaces.load(place, 1)?];
        let entry: InterfaceEntry = zerocopy::transmute!(words);
        (entry.index == index && index != 0).then_some(entry)
    }

    fn take_answer(&self, take: impl FnOnce(&mut Budget) -> bool) -> bool {
        take(&mut self.world.answers.lock())
    }

    fn repeat<S: Steps>(&self, times: u32, steps: &mut S) {
        (0..times).any(|index| steps.step(index));
    }

    fn count(&self, hook: Hook, verdict: VerdictNumber) {
        self.tables.counters.count(hook, verdict);
    }

    fn count_service(&self, index: u32, add: impl FnOnce(&mut ServiceCounters)) {
        let mut change = ServiceCounters::default();
        add(&mut change);
        self.tables.counters.add(index, &change);
    }
}
