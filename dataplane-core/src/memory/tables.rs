//! Every table, in RAM.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::{RwLock, RwLockReadGuard};

use super::{clock_table::ClockTable, events::MemoryEvents, flows::MemoryFlows, hash::Hashed, words::Words};
use crate::{
    abi::{
        ABI_VERSION, AffinityEntry, AffinityKeyV4, AffinityKeyV6, CONFIG_WORDS, COUNTERS,
        DEFAULT_ANSWERS_A_SECOND, FlowV4, FlowV6, FragmentKeyV4, FragmentKeyV6, FragmentRecord,
        INTERFACE_PLACES, MasqueradeEntry, ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, Setting,
        TupleV4, TupleV6, counter_index, map,
    },
    model::NatPorts,
    pipeline::{AddressSettings, Hook, Tick, Timeouts, Verdict, VerdictNumber},
    tables::{Capacity, Cause, Claim, Counters, Operation, Store, TableError, Tables, WordArray},
};

/// Every table of a dataplane, in RAM, with the capacities and failures of the kernel's.
#[derive(Debug)]
pub struct MemoryTables {
    pub(super) services_v4: Hashed<ServiceKeyV4, ServiceRef>,
    pub(super) services_v6: Hashed<ServiceKeyV6, ServiceRef>,
    pub(super) service_words: Words,
    pub(super) slots: Words,
    pub(super) backends_v4: Words,
    pub(super) backends_v6: Words,
    pub(super) config: Words,
    pub(super) interfaces: Words,
    pub(super) conntrack_v4: Arc<ClockTable<TupleV4, FlowV4>>,
    pub(super) conntrack_v6: Arc<ClockTable<TupleV6, FlowV6>>,
    pub(super) opening_v4: Arc<ClockTable<TupleV4, FlowV4>>,
    pub(super) opening_v6: Arc<ClockTable<TupleV6, FlowV6>>,
    pub(super) nat_v4: Arc<ClockTable<TupleV4, FlowV4>>,
    pub(super) nat_v6: Arc<ClockTable<TupleV6, FlowV6>>,
    flows_v4: MemoryFlows<TupleV4, FlowV4>,
    flows_v6: MemoryFlows<TupleV6, FlowV6>,
    half_open_v4: MemoryFlows<TupleV4, FlowV4>,
    half_open_v6: MemoryFlows<TupleV6, FlowV6>,
    reservations_v4: MemoryFlows<TupleV4, FlowV4>,
    reservations_v6: MemoryFlows<TupleV6, FlowV6>,
    pub(super) affinity_v4: ClockTable<AffinityKeyV4, AffinityEntry>,
    pub(super) affinity_v6: ClockTable<AffinityKeyV6, AffinityEntry>,
    pub(super) fragments_v4: ClockTable<FragmentKeyV4, FragmentRecord>,
    pub(super) fragments_v6: ClockTable<FragmentKeyV6, FragmentRecord>,
    pub(super) masquerade: Words,
    pub(super) counters: MemoryCounters,
    claim: Claim,
    pub(super) events: Arc<MemoryEvents>,
    /// Held by each packet on its way. Who takes it for writing has seen all of them leave.
    packets: RwLock<()>,
}

/// No secret: in memory what happens once is to happen again.
const CHOICE_SEED: u64 = 0x243f_6a88_85a3_08d3;

impl MemoryTables {
    /// Empty tables with the default time-outs.
    pub fn new(capacity: Capacity) -> Self {
        let conntrack_v4 = Arc::new(ClockTable::new(map::CONNTRACK_V4, capacity.conntrack));
        let conntrack_v6 = Arc::new(ClockTable::new(map::CONNTRACK_V6, capacity.conntrack));
        let opening_v4 = Arc::new(ClockTable::new(map::OPENING_V4, capacity.opening));
        let opening_v6 = Arc::new(ClockTable::new(map::OPENING_V6, capacity.opening));
        let nat_v4 = Arc::new(ClockTable::without_eviction(map::NAT_V4, capacity.nat));
        let nat_v6 = Arc::new(ClockTable::without_eviction(map::NAT_V6, capacity.nat));
        let events = Arc::new(MemoryEvents::default());
        let (flows_v4, reservations_v4) = (reporting(&conntrack_v4, &events), reporting(&nat_v4, &events));
        let (flows_v6, reservations_v6) = (reporting(&conntrack_v6, &events), reporting(&nat_v6, &events));
        let (half_open_v4, half_open_v6) = (reporting(&opening_v4, &events), reporting(&opening_v6, &events));
        let tables = Self {
            services_v4: Hashed::new(map::SERVICES_V4, capacity.frontend_entries()),
            services_v6: Hashed::new(map::SERVICES_V6, capacity.frontend_entries()),
            service_words: Words::new(map::SERVICE_WORDS, capacity.frontends.saturating_mul(2), 1),
            slots: Words::new(map::SLOTS, capacity.slots, 1),
            backends_v4: Words::new(map::BACKENDS_V4, capacity.backends, 2),
            backends_v6: Words::new(map::BACKENDS_V6, capacity.backends, 4),
            config: Words::new(map::CONFIG, CONFIG_WORDS, 1),
            interfaces: Words::new(map::INTERFACES, INTERFACE_PLACES, 2),
            conntrack_v4,
            conntrack_v6,
            opening_v4,
            opening_v6,
            nat_v4,
            nat_v6,
            flows_v4,
            flows_v6,
            half_open_v4,
            half_open_v6,
            reservations_v4,
            reservations_v6,
            affinity_v4: ClockTable::new(map::AFFINITY_V4, capacity.affinity),
            affinity_v6: ClockTable::new(map::AFFINITY_V6, capacity.affinity),
            fragments_v4: ClockTable::new(map::FRAGMENTS_V4, capacity.fragments),
            fragments_v6: ClockTable::new(map::FRAGMENTS_V6, capacity.fragments),
            masquerade: Words::new(map::MASQUERADE, INTERFACE_PLACES, 3),
            counters: MemoryCounters::new(capacity.frontends.saturating_mul(2)),
            claim: Claim::default(),
            events,
            packets: RwLock::new(()),
        };
        tables.set(Setting::AbiVersion, ABI_VERSION);
        tables.set_timeouts(&Timeouts::default());
        tables.set_nat_ports(NatPorts::default());
        tables.set_answers_a_second(DEFAULT_ANSWERS_A_SECOND);
        tables.set_addresses(AddressSettings::default());
        tables.set_choice_seed(CHOICE_SEED);
        tables
    }

    /// Sets the ports that source NAT gives out; they hold from the next packet on. Replies to ports that are none of them
    /// any more find their flows no longer.
    pub fn set_nat_ports(&self, ports: NatPorts) {
        self.set(Setting::NatPorts, ports.word());
    }

    /// The addresses that flows get which leave through an interface.
    pub(super) fn masquerade_entry(&self, interface: u32) -> Option<MasqueradeEntry> {
        let place = interface % INTERFACE_PLACES;
        let word = |word| self.masquerade.load(place, word);
        let entry: MasqueradeEntry = zerocopy::transmute!([word(0)?, word(1)?, word(2)?]);
        (entry.index == interface && interface != 0).then_some(entry)
    }

    /// Sets the time-outs; they hold from the next packet on.
    pub fn set_timeouts(&self, timeouts: &Timeouts) {
        for (setting, ticks) in timeouts.settings() {
            self.set(setting, ticks);
        }
    }

    /// Sets how many packets of our own are sent a second to answer what is dropped; 0: none.
    pub fn set_answers_a_second(&self, answers: u32) {
        self.set(Setting::AnswersASecond, answers.into());
    }

    /// Sets what becomes of packets to virtual addresses that are of no service; it holds from the next packet on.
    pub fn set_addresses(&self, settings: AddressSettings) {
        self.set(Setting::Addresses, settings.word());
    }

    /// Sets what services with random choice begin their hash with: any number but 0, the same one in each new set of tables
    /// unless set. Flows that are open stay where they are.
    pub fn set_choice_seed(&self, seed: u64) {
        self.set(Setting::ChoiceSeed, seed);
    }

    /// Sets the clock: the nanoseconds since an arbitrary start.
    pub(super) fn set_time(&self, nanoseconds: u64) {
        self.events.set_time(nanoseconds);
    }

    /// Where packets and the collector tell what they do; nothing is told until that is wanted.
    pub fn events(&self) -> &MemoryEvents {
        &self.events
    }

    fn set(&self, setting: Setting, word: u64) {
        // Every setting is within the configuration: its capacity is a constant beside them.
        self.config.store(setting as u32, &[word]).unwrap_or(());
    }

    /// Begins a packet: until the guard is dropped, [`Store::synchronize`] waits.
    pub(super) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.packets.read()
    }
}

impl Store for MemoryTables {
    fn tables(&self) -> Tables<'_> {
        Tables {
            services_v4: &self.services_v4,
            services_v6: &self.services_v6,
            service_words: &self.service_words,
            slots: &self.slots,
            backends_v4: &self.backends_v4,
            backends_v6: &self.backends_v6,
            config: &self.config,
            interfaces: &self.interfaces,
            conntrack_v4: &*self.conntrack_v4,
            conntrack_v6: &*self.conntrack_v6,
            flows_v4: &self.flows_v4,
            flows_v6: &self.flows_v6,
            opening_v4: &*self.opening_v4,
            opening_v6: &*self.opening_v6,
            half_open_v4: &self.half_open_v4,
            half_open_v6: &self.half_open_v6,
            nat_v4: &*self.nat_v4,
            nat_v6: &*self.nat_v6,
            reservations_v4: &self.reservations_v4,
            reservations_v6: &self.reservations_v6,
            affinity_v4: &self.affinity_v4,
            affinity_v6: &self.affinity_v6,
            fragments_v4: &self.fragments_v4,
            fragments_v6: &self.fragments_v6,
            masquerade: &self.masquerade,
            counters: &self.counters,
            claim: &self.claim,
        }
    }

    fn synchronize(&self) -> Result<(), TableError> {
        drop(self.packets.write());
        Ok(())
    }

    fn now(&self) -> Tick {
        Tick::from_nanoseconds(self.events.nanoseconds())
    }
}

fn reporting<K, V>(table: &Arc<ClockTable<K, V>>, events: &Arc<MemoryEvents>) -> MemoryFlows<K, V> {
    MemoryFlows { table: table.clone(), events: events.clone() }
}

/// Counters, one set for all threads.
#[derive(Debug)]
pub(super) struct MemoryCounters {
    verdicts: Box<[AtomicU64]>,
    services: Box<[[AtomicU64; 6]]>,
}

impl MemoryCounters {
    fn new(frontends: u32) -> Self {
        Self {
            verdicts: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            services: (0..frontends).map(|_| Default::default()).collect(),
        }
    }

    pub(super) fn count(&self, hook: Hook, verdict: VerdictNumber) {
        if let Some(counter) = self.verdicts.get(counter_index(hook, verdict) as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add(&self, index: u32, change: &ServiceCounters) {
        if let Some(counters) = self.services.get(index as usize) {
            let ServiceCounters { packets, bytes, reply_packets, reply_bytes, flows, drops } = *change;
            for (counter, amount) in
                counters.iter().zip([packets, bytes, reply_packets, reply_bytes, flows, drops])
            {
                if amount != 0 {
                    counter.fetch_add(amount, Ordering::Relaxed);
                }
            }
        }
    }

    fn counters(&self, index: u32, operation: Operation) -> Result<&[AtomicU64; 6], TableError> {
        let capacity = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        let cause = Cause::OutOfRange { index, capacity };
        self.services.get(index as usize).ok_or(TableError::new(map::SERVICE_COUNTERS, operation, cause))
    }
}

impl Counters for MemoryCounters {
    fn verdict(&self, hook: Hook, verdict: Verdict) -> Result<u64, TableError> {
        Ok(self
            .verdicts
            .get(counter_index(hook, verdict.into()) as usize)
            .map_or(0, |c| c.load(Ordering::Relaxed)))
    }

    fn service(&self, index: u32) -> Result<ServiceCounters, TableError> {
        let counters = self.counters(index, Operation::Get)?;
        let [packets, bytes, reply_packets, reply_bytes, flows, drops] =
            counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        Ok(ServiceCounters { packets, bytes, reply_packets, reply_bytes, flows, drops })
    }

    fn clear_service(&self, index: u32) -> Result<(), TableError> {
        for counter in self.counters(index, Operation::Store)? {
            counter.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    /// The promise that everything stands on that is written anew.
    #[test]
    fn a_grace_period_ends_when_the_packets_under_way_have_left() {
        let tables = MemoryTables::new(Capacity::small());
        thread::scope(|scope| {
            let packet = tables.enter();
            let (said, heard) = mpsc::channel();
            let tables = &tables;
            scope.spawn(move || {
                tables.synchronize().unwrap();
                said.send(()).unwrap();
            });
            assert!(heard.recv_timeout(Duration::from_millis(100)).is_err(), "a packet is still under way");
            drop(packet);
            heard.recv_timeout(Duration::from_secs(10)).unwrap();
        });
    }
}
