//! Maps and helpers as the pipeline's environment.

use core::{cell::Cell, ffi::c_void};

use dataplane_core::{
    abi::{
        AffinityEntry, BackendRef, FragmentRecord, InterfaceEntry, ServiceCounters, ServiceRef, ServiceWord,
        Setting, StateWord, TestInput, counter_index,
    },
    pipeline::{
        Backend, Budget, Environment, EventRecord, EventSink, Hook, NextHop, Route, RouteQuery, Routes,
        Stage, Steps, Tick, VerdictNumber,
    },
    tables::{Family, FlowEntry, InsertError, Lookup, Place, V4, V6},
};

use crate::{
    events,
    helpers::{self, RouteRoom},
    maps,
};

/// The kernel around one run of a program.
pub struct Kernel {
    /// The program's context, which the route lookup wants.
    context: *mut c_void,
    /// Taken for each route lookup and put back.
    route: Cell<Option<&'static mut RouteRoom>>,
}

impl Kernel {
    #[inline(always)]
    pub fn new(context: *mut c_void, route: &'static mut RouteRoom) -> Self {
        Self { context, route: Cell::new(Some(route)) }
    }
}

/// The time.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    if maps::is_deterministic() { maps::test_input(TestInput::Now) } else { helpers::coarse_nanoseconds() }
}

/// Counts a packet whose next stage is not in its place.
#[inline(always)]
pub fn absent(hook: Hook, stage: Stage) -> VerdictNumber {
    let verdict = stage.absent().into();
    maps::count(counter_index(hook, verdict));
    verdict
}

/// Tells tests what became of the packet.
#[inline(always)]
pub fn report(verdict: VerdictNumber) {
    if maps::is_deterministic() {
        maps::set_test_output(TestInput::Verdict, u64::from(verdict.get()) | 1 << 32);
    }
}

/// Tells tests where the packet was sent.
#[inline(always)]
pub fn report_hop(hop: &NextHop) {
    if maps::is_deterministic() {
        let [a, b, c, d] = hop.gateway.address;
        maps::set_test_output(TestInput::Egress, hop.interface.into());
        maps::set_test_output(TestInput::GatewayHigh, u64::from(a) << 32 | u64::from(b));
        maps::set_test_output(TestInput::GatewayLow, u64::from(c) << 32 | u64::from(d));
    }
}

macro_rules! family {
    ($family:ty, $maps:ident, $route:ident, $is_bound:ident) => {
        impl Lookup<$family> for Kernel {
            type Entry = maps::$maps::Entry;
            type Affinity = maps::Affinity;

            #[inline(always)]
            fn service(&self, key: &<$family as Family>::ServiceKey) -> Option<ServiceRef> {
                maps::$maps::service(key)
            }

            #[inline(always)]
            fn service_word(&self, index: u32) -> Option<ServiceWord> {
                maps::service_word(index).map(ServiceWord)
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u64> {
                maps::slot(index)
            }

            #[inline(always)]
            fn backend(&self, backend: BackendRef) -> Option<Backend<$family>> {
                let row = maps::$maps::backend(backend.index())?;
                Backend::<$family>::of_generation(&row, backend.generation())
            }

            #[inline(always)]
            fn flow(&self, place: Place, tuple: &<$family as Family>::Tuple) -> Option<Self::Entry> {
                maps::$maps::flow(place, tuple)
            }

            #[inline(always)]
            fn insert_flow(
                &self,
                place: Place,
                tuple: &<$family as Family>::Tuple,
                flow: &<$family as Family>::Flow,
            ) -> Result<(), InsertError> {
                maps::$maps::insert_flow(place, tuple, flow)
            }

            #[inline(always)]
            fn remove_flow(&self, place: Place, tuple: &<$family as Family>::Tuple) {
                maps::$maps::remove_flow(place, tuple);
            }

            #[inline(always)]
            fn affinity(&self, key: &<$family as Family>::AffinityKey) -> Option<maps::Affinity> {
                maps::$maps::affinity(key)
            }

            #[inline(always)]
            fn insert_affinity(
                &self,
                key: &<$family as Family>::AffinityKey,
                entry: &AffinityEntry,
            ) -> Result<(), InsertError> {
                maps::$maps::insert_affinity(key, entry)
            }

            #[inline(always)]
            fn remove_affinity(&self, key: &<$family as Family>::AffinityKey) {
                maps::$maps::remove_affinity(key);
            }

            #[inline(always)]
            fn fragment(&self, key: &<$family as Family>::FragmentKey) -> Option<FragmentRecord> {
                maps::$maps::fragment(key)
            }

            #[inline(always)]
            fn note_fragment(&self, key: &<$family as Family>::FragmentKey, record: &FragmentRecord) {
                maps::$maps::note_fragment(key, record);
            }

            #[inline(always)]
            fn masquerade_address(&self, interface: u32) -> Option<<$family as Family>::Address> {
                let entry = maps::masquerade(interface)?;
                if entry.index != interface || entry.$maps == Default::default() {
                    return None;
                }
                Some(entry.$maps)
            }

            #[inline(always)]
            fn is_bound(&self, tuple: &<$family as Family>::Tuple) -> bool {
                helpers::$is_bound(self.context, tuple)
            }
        }

        impl FlowEntry<$family> for maps::$maps::Entry {
            #[inline(always)]
            fn read(&self, tag: u32, into: &mut <$family as Family>::Flow) -> bool {
                maps::$maps::Entry::read(self, tag, into)
            }

            #[inline(always)]
            fn state(&self) -> StateWord {
                maps::$maps::Entry::state(self)
            }

            #[inline(always)]
            fn exchange_state(&self, current: StateWord, new: StateWord) -> bool {
                maps::$maps::Entry::exchange_state(self, current, new)
            }

            #[inline(always)]
            fn last_seen(&self) -> Tick {
                maps::$maps::Entry::last_seen(self)
            }

            #[inline(always)]
            fn touch(&self, now: Tick) {
                maps::$maps::Entry::touch(self, now);
            }
        }

        impl Routes<$family> for Kernel {
            #[inline(always)]
            fn route(&self, query: &RouteQuery<$family>, hop: &mut NextHop) -> Route {
                let Some(room) = self.route.take() else {
                    return Route::Stack;
                };
                let route = room.$route(self.context, query, hop);
                self.route.set(Some(room));
                route
            }
        }
    };
}

family!(V4, v4, route_v4, is_bound_v4);
family!(V6, v6, route_v6, is_bound_v6);

impl EventSink for Kernel {
    #[inline(always)]
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        events::emit(write);
    }
}

impl Environment for Kernel {
    #[inline(always)]
    fn now(&self) -> Tick {
        Tick::from_nanoseconds(nanoseconds())
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        if maps::is_deterministic() {
            return maps::test_input(TestInput::Random) as u32;
        }
        helpers::random()
    }

    #[inline(always)]
    fn choice_seed(&self) -> u64 {
        maps::setting(Setting::ChoiceSeed as u32).unwrap_or(0)
    }

    #[inline(always)]
    fn setting(&self, setting: Setting) -> u32 {
        maps::setting(setting as u32).unwrap_or(0) as u32
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<InterfaceEntry> {
        maps::interface(index).filter(|entry| entry.index == index && index != 0)
    }

    #[inline(always)]
    fn take_answer(&self, take: impl FnOnce(&mut Budget) -> bool) -> bool {
        maps::take_answer(take)
    }

    #[inline(always)]
    fn repeat<S: Steps>(&self, times: u32, steps: &mut S) {
        helpers::repeat(times, steps);
    }

    #[inline(always)]
    fn count(&self, hook: Hook, verdict: VerdictNumber) {
        maps::count(counter_index(hook, verdict));
    }

    #[inline(always)]
    fn count_service(&self, index: u32, add: impl FnOnce(&mut ServiceCounters)) {
        maps::count_service(index, add);
    }
}
