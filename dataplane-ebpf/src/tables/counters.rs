//! Counters, summed over CPUs.

use std::io;

use dataplane_core::{
    abi::{ServiceCounters, counter_index},
    pipeline::{Hook, Verdict},
    tables::{Cause, Counters, Operation, TableError},
};
use zerocopy::{FromBytes, IntoBytes};

use crate::sys::bpf::Map;

/// The two per-CPU arrays of counters. Each read is one system call, which copies the values of all CPUs.
#[derive(Debug)]
pub(super) struct KernelCounters {
    verdicts: Map,
    services: Map,
}

impl KernelCounters {
    pub(super) fn new(verdicts: Map, services: Map) -> Self {
        Self { verdicts, services }
    }

    /// The maps: by verdict, by frontend.
    pub(super) fn maps(&self) -> [&Map; 2] {
        [&self.verdicts, &self.services]
    }

    fn check(&self, index: u32, operation: Operation) -> Result<(), TableError> {
        let capacity = self.services.capacity();
        if index < capacity {
            return Ok(());
        }
        Err(TableError::new(SERVICES, operation, Cause::OutOfRange { index, capacity }))
    }
}

const VERDICTS: &str = dataplane_core::abi::map::COUNTERS;
const SERVICES: &str = dataplane_core::abi::map::SERVICE_COUNTERS;

impl Counters for KernelCounters {
    fn verdict(&self, hook: Hook, verdict: Verdict) -> Result<u64, TableError> {
        let values = read(&self.verdicts, VERDICTS, counter_index(hook, verdict.into()))?;
        Ok(each::<u64>(&values, self.verdicts.value_size()).fold(0, u64::wrapping_add))
    }

    fn service(&self, index: u32) -> Result<ServiceCounters, TableError> {
        self.check(index, Operation::Get)?;
        let values = read(&self.services, SERVICES, index)?;
        Ok(each::<ServiceCounters>(&values, self.services.value_size()).fold(ServiceCounters::default(), sum))
    }

    fn clear_service(&self, index: u32) -> Result<(), TableError> {
        self.check(index, Operation::Store)?;
        let zeroes = vec![0; self.services.user_value_size()];
        self.services
            .put(index.as_bytes(), &zeroes)
            .map_err(|error| system(SERVICES, Operation::Store, &error))
    }
}

fn read(map: &Map, name: &'static str, index: u32) -> Result<Vec<u8>, TableError> {
    let mut values = vec![0; map.user_value_size()];
    match map.get(index.as_bytes(), &mut values) {
        Ok(true) => Ok(values),
        Ok(false) => {
            let cause = Cause::OutOfRange { index, capacity: map.capacity() };
            Err(TableError::new(name, Operation::Get, cause))
        }
        Err(error) => Err(system(name, Operation::Get, &error)),
    }
}

/// The value of each CPU.
fn each<T: FromBytes>(values: &[u8], size: usize) -> impl Iterator<Item = T> {
    values
        .chunks(size.next_multiple_of(8).max(1))
        .filter_map(|value| T::read_from_prefix(value).ok())
        .map(|(value, _)| value)
}

fn sum(a: ServiceCounters, b: ServiceCounters) -> ServiceCounters {
    ServiceCounters {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        reply_packets: a.reply_packets.wrapping_add(b.reply_packets),
        reply_bytes: a.reply_bytes.wrapping_add(b.reply_bytes),
        flows: a.flows.wrapping_add(b.flows),
        drops: a.drops.wrapping_add(b.drops),
    }
}

fn system(table: &'static str, operation: Operation, error: &io::Error) -> TableError {
    TableError::new(table, operation, Cause::System { errno: error.raw_os_error().unwrap_or(0) })
}
