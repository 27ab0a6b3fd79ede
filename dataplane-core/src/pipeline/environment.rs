//! The outside world, as an argument of the pipeline.

use super::{Budget, EventSink, Hook, Routes, Tick, VerdictNumber};
use crate::{
    abi::{BACKEND_DRAINING, BACKEND_LOCAL, BackendV4, BackendV6, InterfaceEntry, ServiceCounters, Setting},
    tables::{Family, Lookup, Tuple, V4, V6},
    wire::Be16,
};

/// Tables, routes, time, randomness, counters and events: maps and helpers in the kernel, structs in memory.
pub trait Environment: Lookup<V4> + Lookup<V6> + Routes<V4> + Routes<V6> + EventSink {
    /// The time.
    fn now(&self) -> Tick;

    /// A random number, evenly spread over all 32 bits.
    fn random(&self) -> u32;

    /// What the hash begins with by which services with random choice pick a backend; nobody outside knows it.
    fn choice_seed(&self) -> u64;

    /// Which backend of a service with random choice a tuple is for: evenly spread over all 32 bits, and the same each time.
    #[inline(always)]
    fn choice<F: Family>(&self, tuple: &F::Tuple) -> u32 {
        tuple.hash(self.choice_seed())
    }

    /// A value of the configuration; 0 where it is not set.
    fn setting(&self, setting: Setting) -> u32;

    /// What is known of an interface; `None` where it is not one of ours.
    fn interface(&self, index: u32) -> Option<InterfaceEntry>;

    /// Calls [`Steps::step`] with 0, 1 and so on, `times` times at the most, until it says that it is done. The kernel's
    /// verifier walks through a step once, and not `times` times as through a loop.
    fn repeat<S: Steps>(&self, times: u32, steps: &mut S);

    /// Takes an answer out of this CPU's budget, if there is one; tells whether there was.
    fn take_answer(&self, take: impl FnOnce(&mut Budget) -> bool) -> bool;

    /// Counts a packet.
    fn count(&self, hook: Hook, verdict: VerdictNumber);

    /// Adds to the counters of the frontend with this index.
    fn count_service(&self, index: u32, add: impl FnOnce(&mut ServiceCounters));
}

/// What [`Environment::repeat`] does again and again.
pub trait Steps {
    /// Does step number `index`, and tells whether it was the last.
    fn step(&mut self, index: u32) -> bool;
}

/// A backend that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend<F: Family> {
    /// Its address.
    pub address: F::Address,
    /// Its port.
    pub port: Be16,
    /// Whether it is on this host.
    pub local: bool,
    /// Whether no list sends it new flows.
    pub draining: bool,
}

macro_rules! backend_of_row {
    ($family:ty, $row:ty) => {
        impl Backend<$family> {
            /// The backend in this row of the array, if it still has this generation.
            #[inline(always)]
            pub fn of_generation(row: &$row, generation: u32) -> Option<Self> {
                if row.generation != generation || row.generation == 0 {
                    return None;
                }
                Some(Self {
                    address: row.address,
                    port: row.port,
                    local: row.flags & BACKEND_LOCAL != 0,
                    draining: row.flags & BACKEND_DRAINING != 0,
                })
            }
        }
    };
}

backend_of_row!(V4, BackendV4);
backend_of_row!(V6, BackendV6);
