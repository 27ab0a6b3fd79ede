//! The tables, in the kernel's maps.

mod array;
mod counters;
mod flows;
mod grace;
mod hash;
mod nat_ports;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use dataplane_core::{
    abi::{
        ABI_VERSION, AffinityEntry, AffinityKeyV4, AffinityKeyV6, FlowV4, FlowV6, FragmentKeyV4,
        FragmentKeyV6, FragmentRecord, INTERFACE_PLACES, InterfaceEntry, MasqueradeEntry, ServiceKeyV4,
        ServiceKeyV6, ServiceRef, Setting, TupleV4, TupleV6, map,
    },
    model::NatPorts,
    pipeline::{AddressSettings, Tick, Timeouts},
    tables::{Claim, Place, Store, TableError, Tables, WordArray},
};
use zerocopy::transmute;

pub(crate) use self::{array::MappedWords, hash::KernelHash, nat_ports::Stranded};
use self::{
    counters::KernelCounters,
    flows::{Collector, KernelFlows, Looks},
    grace::GracePeriod,
};
use crate::{
    Error,
    object::{MAPS, MapSpec},
    pin::PinLock,
    sys::{
        bpf::{Map, Program},
        clock,
    },
};

/// Every table of a dataplane, in the kernel's maps. See [`Store`].
///
/// It keeps the maps alive: after the dataplane is dropped they are still there, but no packet meets them any more.
///
/// Cost: words of arrays are stored and loaded in memory that is shared with the kernel, without a system call. Hash
/// tables cost a system call for each entry, or one for each 4,096 entries in batches, where the kernel has them (5.6).
#[derive(Debug)]
pub struct KernelTables {
    services_v4: KernelHash<ServiceKeyV4, ServiceRef>,
    services_v6: KernelHash<ServiceKeyV6, ServiceRef>,
    service_words: MappedWords,
    slots: MappedWords,
    backends_v4: MappedWords,
    backends_v6: MappedWords,
    config: MappedWords,
    interfaces: MappedWords,
    flows_v4: KernelFlows<TupleV4, FlowV4>,
    flows_v6: KernelFlows<TupleV6, FlowV6>,
    half_open_v4: KernelFlows<TupleV4, FlowV4>,
    reservations_v4: KernelFlows<TupleV4, FlowV4>,
    half_open_v6: KernelFlows<TupleV6, FlowV6>,
    reservations_v6: KernelFlows<TupleV6, FlowV6>,
    affinity_v4: KernelHash<AffinityKeyV4, AffinityEntry>,
    affinity_v6: KernelHash<AffinityKeyV6, AffinityEntry>,
    fragments_v4: KernelHash<FragmentKeyV4, FragmentRecord>,
    fragments_v6: KernelHash<FragmentKeyV6, FragmentRecord>,
    masquerade: MappedWords,
    counters: KernelCounters,
    claim: Claim,
    test_inputs: MappedWords,
    grace: GracePeriod,
    /// As long as somebody may write to pinned tables, nobody else is to take them over.
    _pins: Option<Arc<PinLock>>,
}

impl KernelTables {
    /// Takes the maps of a loaded object, and the collector's programs. `batch`: whether the kernel has batch commands.
    /// `pins`: what keeps others from the maps, where they are pinned.
    ///
    /// # Errors
    /// [`Error::Object`] where a map is missing or of another layout, [`Error::Map`] where one can't be mapped.
    pub(crate) fn new(
        maps: LoadedMaps,
        [collect_v4, collect_v6]: [Program; 2],
        batch: bool,
        pins: Option<Arc<PinLock>>,
    ) -> Result<Self, Error> {
        let mut maps = maps.0;
        let mut take = |name: &'static str| {
            maps.remove(name).ok_or_else(|| Error::Object { reason: format!("it has no map {name}") })
        };
        let mapped = |name: &'static str, map: Map, width| {
            let capacity = map.capacity();
            MappedWords::new(name, map, width).map_err(|source| Error::Map {
                operation: "map into memory",
                table: name.into(),
                capacity,
                source,
            })
        };
        let grace = GracePeriod::new().map_err(|source| Error::Map {
            operation: "make",
            table: grace::NAME.into(),
            capacity: 1,
            source,
        })?;
        let looks = mapped(map::COLLECTOR, take(map::COLLECTOR)?, 1)?;
        let looks = Arc::new(Looks::new(looks));
        let suspects = mapped(map::SUSPECTS_V4, take(map::SUSPECTS_V4)?, 5)?;
        let collector = Collector::new(suspects, &looks, collect_v4, batch);
        let flows_v4 = collector.flows(Place::Conntrack, map::CONNTRACK_V4, take(map::CONNTRACK_V4)?);
        let half_open_v4 = collector.flows(Place::Opening, map::OPENING_V4, take(map::OPENING_V4)?);
        let reservations_v4 = collector.flows(Place::Nat, map::NAT_V4, take(map::NAT_V4)?);
        let suspects = mapped(map::SUSPECTS_V6, take(map::SUSPECTS_V6)?, 8)?;
        let collector = Collector::new(suspects, &looks, collect_v6, batch);
        let flows_v6 = collector.flows(Place::Conntrack, map::CONNTRACK_V6, take(map::CONNTRACK_V6)?);
        let half_open_v6 = collector.flows(Place::Opening, map::OPENING_V6, take(map::OPENING_V6)?);
        let reservations_v6 = collector.flows(Place::Nat, map::NAT_V6, take(map::NAT_V6)?);
        Ok(Self {
            services_v4: KernelHash::new(map::SERVICES_V4, take(map::SERVICES_V4)?, batch),
            services_v6: KernelHash::new(map::SERVICES_V6, take(map::SERVICES_V6)?, batch),
            service_words: mapped(map::SERVICE_WORDS, take(map::SERVICE_WORDS)?, 1)?,
            slots: mapped(map::SLOTS, take(map::SLOTS)?, 1)?,
            backends_v4: mapped(map::BACKENDS_V4, take(map::BACKENDS_V4)?, 2)?,
            backends_v6: mapped(map::BACKENDS_V6, take(map::BACKENDS_V6)?, 4)?,
            config: mapped(map::CONFIG, take(map::CONFIG)?, 1)?,
            interfaces: mapped(map::INTERFACES, take(map::INTERFACES)?, 2)?,
            flows_v4,
            flows_v6,
            half_open_v4,
            reservations_v4,
            half_open_v6,
            reservations_v6,
            affinity_v4: KernelHash::new(map::AFFINITY_V4, take(map::AFFINITY_V4)?, batch),
            affinity_v6: KernelHash::new(map::AFFINITY_V6, take(map::AFFINITY_V6)?, batch),
            fragments_v4: KernelHash::new(map::FRAGMENTS_V4, take(map::FRAGMENTS_V4)?, batch),
            fragments_v6: KernelHash::new(map::FRAGMENTS_V6, take(map::FRAGMENTS_V6)?, batch),
            masquerade: mapped(map::MASQUERADE, take(map::MASQUERADE)?, 3)?,
            counters: KernelCounters::new(take(map::COUNTERS)?, take(map::SERVICE_COUNTERS)?),
            test_inputs: mapped(map::TEST_INPUTS, take(map::TEST_INPUTS)?, 1)?,
            claim: Claim::default(),
            grace,
            _pins: pins,
        })
    }

    /// Writes the version of the layout, the time-outs and, where there is none yet, the secret by which backends are chosen.
    ///
    /// # Errors
    /// [`TableError`] where the configuration has no such word.
    pub(crate) fn configure(
        &self,
        timeouts: &Timeouts,
        answers_a_second: u32,
        addresses: AddressSettings,
    ) -> Result<(), TableError> {
        self.set_timeouts(timeouts)?;
        self.set_answers_a_second(answers_a_second)?;
        self.set_addresses(addresses)?;
        // Tables that are taken over keep theirs, and with it their clients whose connections are not confirmed yet.
        if matches!(self.config.load(Setting::ChoiceSeed as u32, 0), None | Some(0)) {
            self.set_choice_seed(secret())?;
        }
        self.config.store(Setting::AbiVersion as u32, &[ABI_VERSION])
    }

    /// Sets how long flows are kept without a packet; it holds from the next packet on.
    ///
    /// # Errors
    /// [`TableError`] where the configuration has no such word; that is, never with the object that this crate carries.
    pub fn set_timeouts(&self, timeouts: &Timeouts) -> Result<(), TableError> {
        for (setting, ticks) in timeouts.settings() {
            self.config.store(setting as u32, &[ticks])?;
        }
        Ok(())
    }

    /// Sets how many packets of our own each CPU sends a second, to answer what is dropped; 0: none.
    ///
    /// # Errors
    /// As [`set_timeouts`](Self::set_timeouts).
    pub fn set_answers_a_second(&self, answers: u32) -> Result<(), TableError> {
        self.config.store(Setting::AnswersASecond as u32, &[answers.into()])
    }

    /// Sets what becomes of packets to virtual addresses that are of no service; it holds from the next packet on.
    ///
    /// # Errors
    /// As [`set_timeouts`](Self::set_timeouts).
    pub fn set_addresses(&self, settings: AddressSettings) -> Result<(), TableError> {
        self.config.store(Setting::Addresses as u32, &[settings.word()])
    }

    /// Sets what services with random choice begin their hash with: any number but 0. It is drawn at random where tables are made,
    /// and stays with them; flows whose entries were pushed out choose anew when it is changed.
    ///
    /// # Errors
    /// As [`set_timeouts`](Self::set_timeouts).
    pub fn set_choice_seed(&self, seed: u64) -> Result<(), TableError> {
        self.config.store(Setting::ChoiceSeed as u32, &[seed])
    }

    /// The map of a table, by its name in [`abi::map`](dataplane_core::abi::map), for programs of the embedder's own.
    /// Who writes to it must keep the rules of [`Store`] and of the table's layout.
    pub fn map_fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        let [counters, service_counters] = self.counters.maps();
        let map = match name {
            map::SERVICES_V4 => self.services_v4.map(),
            map::SERVICES_V6 => self.services_v6.map(),
            map::SERVICE_WORDS => self.service_words.map(),
            map::SLOTS => self.slots.map(),
            map::BACKENDS_V4 => self.backends_v4.map(),
            map::BACKENDS_V6 => self.backends_v6.map(),
            map::CONFIG => self.config.map(),
            map::INTERFACES => self.interfaces.map(),
            map::CONNTRACK_V4 => self.flows_v4.hash.map(),
            map::CONNTRACK_V6 => self.flows_v6.hash.map(),
            map::OPENING_V4 => self.half_open_v4.hash.map(),
            map::NAT_V4 => self.reservations_v4.hash.map(),
            map::OPENING_V6 => self.half_open_v6.hash.map(),
            map::NAT_V6 => self.reservations_v6.hash.map(),
            map::AFFINITY_V4 => self.affinity_v4.map(),
            map::AFFINITY_V6 => self.affinity_v6.map(),
            map::FRAGMENTS_V4 => self.fragments_v4.map(),
            map::FRAGMENTS_V6 => self.fragments_v6.map(),
            map::MASQUERADE => self.masquerade.map(),
            map::SUSPECTS_V4 => self.flows_v4.suspects().map(),
            map::SUSPECTS_V6 => self.flows_v6.suspects().map(),
            map::COLLECTOR => self.flows_v4.looks().map(),
            map::COUNTERS => counters,
            map::SERVICE_COUNTERS => service_counters,
            map::TEST_INPUTS => self.test_inputs.map(),
            _ => return None,
        };
        Some(map.as_fd())
    }

    /// Sets the ports that source NAT gives out; it holds from the next packet on. Replies to ports that are none of them
    /// any more find their flows no longer.
    ///
    /// # Errors
    /// [`TableError`] where the configuration has no such word; that is, never with the object that this crate carries.
    pub fn set_nat_ports(&self, ports: NatPorts) -> Result<(), TableError> {
        self.config.store(Setting::NatPorts as u32, &[ports.word()])
    }

    /// Writes what the programs know of an interface to its place, which must be its own or free.
    pub(crate) fn set_interface(&self, entry: &InterfaceEntry) -> Result<(), TableError> {
        let place = entry.index % INTERFACE_PLACES;
        let words: [u64; 2] = transmute!(*entry);
        self.interfaces.store(place, &words)
    }

    /// Clears the places of all interfaces but these.
    pub(crate) fn keep_interfaces(&self, kept: &[u32]) -> Result<(), TableError> {
        for place in 0..INTERFACE_PLACES {
            let words = [0, 1].map(|word| self.interfaces.load(place, word).unwrap_or(0));
            let entry: InterfaceEntry = transmute!(words);
            if words != [0, 0] && !kept.contains(&entry.index) {
                self.interfaces.store(place, &[0; 2])?;
                self.masquerade.store(place, &[0; 3])?;
            }
        }
        Ok(())
    }

    /// Writes the addresses that flows get which leave through an interface.
    pub(crate) fn set_masquerade(&self, entry: &MasqueradeEntry) -> Result<(), TableError> {
        let words: [u64; 3] = transmute!(*entry);
        self.masquerade.store(entry.index % INTERFACE_PLACES, &words)
    }

    /// Clears the place of an interface.
    pub(crate) fn clear_interface(&self, index: u32) -> Result<(), TableError> {
        let place = index % INTERFACE_PLACES;
        self.interfaces.store(place, &[0; 2])?;
        self.masquerade.store(place, &[0; 3])
    }

    /// The words that programs loaded for a test read instead of the clock and the random numbers.
    #[cfg(feature = "testing")]
    pub(crate) fn test_inputs(&self) -> &MappedWords {
        &self.test_inputs
    }
}

/// A number that nobody else knows, and not 0: SipHash under keys that the system gave this process for its hash tables.
fn secret() -> u64 {
    RandomState::new().hash_one(0u8) | 1
}

impl Store for KernelTables {
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
            conntrack_v4: &self.flows_v4.hash,
            conntrack_v6: &self.flows_v6.hash,
            flows_v4: &self.flows_v4,
            flows_v6: &self.flows_v6,
            opening_v4: &self.half_open_v4.hash,
            half_open_v4: &self.half_open_v4,
            nat_v4: &self.reservations_v4.hash,
            opening_v6: &self.half_open_v6.hash,
            half_open_v6: &self.half_open_v6,
            nat_v6: &self.reservations_v6.hash,
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
        self.grace.wait()
    }

    fn now(&self) -> Tick {
        Tick::from_nanoseconds(clock::coarse_nanoseconds())
    }
}

/// The maps of a loaded object, by name, with layouts that were checked against [`MAPS`].
#[derive(Debug)]
pub(crate) struct LoadedMaps(HashMap<&'static str, Map>);

impl LoadedMaps {
    /// Takes all maps of [`MAPS`] out of a loaded object.
    ///
    /// # Errors
    /// [`Error::Object`] where one is missing or of another layout, [`Error::TableDescriptor`], [`Error::Cpus`].
    pub(crate) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        let cpus = cpus()?;
        let mut maps = HashMap::new();
        for spec in MAPS {
            let map = ebpf.take_map(spec.name).and_then(data).ok_or_else(|| Error::Object {
                reason: format!("map {} is missing or of another type", spec.name),
            })?;
            let failed = |operation| {
                move |source| Error::TableDescriptor { operation, table: spec.name.into(), source }
            };
            let fd = map.fd().as_fd().try_clone_to_owned().map_err(failed("open"))?;
            let map = Map::from_fd(fd, cpus).map_err(failed("ask about"))?;
            check(&map, spec)?;
            maps.insert(spec.name, map);
        }
        Ok(Self(maps))
    }

    /// The kernel's number of a map.
    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.0.get(name).map(Map::id)
    }
}

/// How many CPUs there can be.
///
/// # Errors
/// [`Error::Cpus`].
pub(crate) fn cpus() -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(path, source)| Error::Cpus { path: path.to_string(), source })
}

fn data(map: aya::maps::Map) -> Option<aya::maps::MapData> {
    use aya::maps::Map::{Array, HashMap, LruHashMap, PerCpuArray};
    match map {
        Array(map) | HashMap(map) | LruHashMap(map) | PerCpuArray(map) => Some(map),
        _ => None,
    }
}

/// Compares a map of the kernel with what it should be.
fn check(map: &Map, spec: &MapSpec) -> Result<(), Error> {
    let found = (map.kind(), map.key_size(), map.value_size(), map.flags());
    let wanted = (spec.kind as u32, spec.key_size, spec.value_size, spec.flags);
    if found == wanted {
        return Ok(());
    }
    Err(Error::Object {
        reason: format!(
            "map {} has (type, key size, value size, flags) {found:?} in the kernel, not {wanted:?}",
            spec.name
        ),
    })
}
