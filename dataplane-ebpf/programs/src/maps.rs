//! The maps, and every access to a value in one.
//!
//! Sizes are those of `Capacity::default()`; the loader sets others. A pointer from a lookup is valid for this run of
//! the program (the kernel frees and unmaps nothing before it ends), but what it points to may be another key's by
//! now: hence whole words, read once, and the pipeline's tags.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr::{addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
    programs::{TcContext, XdpContext},
};
use dataplane_core::{
    abi::{
        AffinityEntry, AffinityHead, AffinityKeyV4, AffinityKeyV6, BackendV4, BackendV6, COLLECTOR_WORDS,
        CONFIG_WORDS, COUNTERS as COUNTER_COUNT, CollectorWord, DEFAULT_DROP_EVENTS_A_SECOND, EventAccount,
        FlowV4, FlowV6, FragmentKeyV4, FragmentKeyV6, FragmentRecord, INTERFACE_PLACES, InterfaceEntry,
        MasqueradeEntry, SUSPECTS, ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, StateWord,
        SuspectV4, SuspectV6, TEST_INPUT_WORDS, TestInput, TupleV4, TupleV6,
    },
    pipeline::{Budget, EventRecord, Fate, Hook, Seen, Stage, Tick, Workspaces},
    tables::{AffinityCell, Flow, InsertError, Place},
};

use crate::helpers::{RouteRoom, SumRoom};

const FRONTENDS: usize = 1 << 16;
const SLOT_WORDS: usize = 1 << 20;
const BACKENDS: usize = 1 << 16;
const FLOWS: usize = 1 << 18;
const OPENING: usize = 1 << 16;
const RESERVATIONS: usize = 1 << 17;
const CLIENTS: usize = 1 << 16;
const DATAGRAMS: usize = 1 << 14;
const SUM_WORDS: usize = size_of::<SumRoom>() / 8;
const ROOM_WORDS: usize = size_of::<Room>().div_ceil(8);
const PAGE: usize = 4096;
const ACCOUNT_WORDS: usize = size_of::<EventAccount>() / 8;
/// `BPF_F_MMAPABLE`, Linux 5.5.
const MAPPED: usize = 1 << 10;

#[btf_map(name = "services_v4")]
static SERVICES_V4: HashMap<ServiceKeyV4, u64, { FRONTENDS * 2 }> = HashMap::new();
#[btf_map(name = "services_v6")]
static SERVICES_V6: HashMap<ServiceKeyV6, u64, { FRONTENDS * 2 }> = HashMap::new();
#[btf_map(name = "service_words")]
static SERVICE_WORDS: Array<u64, { FRONTENDS * 2 }, MAPPED> = Array::new();
#[btf_map(name = "slots")]
static SLOTS: Array<u64, SLOT_WORDS, MAPPED> = Array::new();
#[btf_map(name = "backends_v4")]
static BACKENDS_V4: Array<[u64; 2], BACKENDS, MAPPED> = Array::new();
#[btf_map(name = "backends_v6")]
static BACKENDS_V6: Array<[u64; 4], BACKENDS, MAPPED> = Array::new();
#[btf_map(name = "conntrack_v4")]
static CONNTRACK_V4: LruHashMap<TupleV4, FlowV4, FLOWS> = LruHashMap::new();
#[btf_map(name = "conntrack_v6")]
static CONNTRACK_V6: LruHashMap<TupleV6, FlowV6, FLOWS> = LruHashMap::new();
#[btf_map(name = "opening_v4")]
static OPENING_V4: LruHashMap<TupleV4, FlowV4, OPENING> = LruHashMap::new();
#[btf_map(name = "opening_v6")]
static OPENING_V6: LruHashMap<TupleV6, FlowV6, OPENING> = LruHashMap::new();
#[btf_map(name = "nat_v4")]
static NAT_V4: HashMap<TupleV4, FlowV4, RESERVATIONS> = HashMap::new();
#[btf_map(name = "nat_v6")]
static NAT_V6: HashMap<TupleV6, FlowV6, RESERVATIONS> = HashMap::new();
#[btf_map(name = "affinity_v4")]
static AFFINITY_V4: LruHashMap<AffinityKeyV4, AffinityEntry, CLIENTS> = LruHashMap::new();
#[btf_map(name = "affinity_v6")]
static AFFINITY_V6: LruHashMap<AffinityKeyV6, AffinityEntry, CLIENTS> = LruHashMap::new();
#[btf_map(name = "fragments_v4")]
static FRAGMENTS_V4: LruHashMap<FragmentKeyV4, FragmentRecord, DATAGRAMS> = LruHashMap::new();
#[btf_map(name = "fragments_v6")]
static FRAGMENTS_V6: LruHashMap<FragmentKeyV6, FragmentRecord, DATAGRAMS> = LruHashMap::new();
#[btf_map(name = "masquerade")]
static MASQUERADE: Array<[u64; 3], { INTERFACE_PLACES as usize }, MAPPED> = Array::new();
#[btf_map(name = "config")]
static CONFIG: Array<u64, { CONFIG_WORDS as usize }, MAPPED> = Array::new();
#[btf_map(name = "interfaces")]
static INTERFACES: Array<[u64; 2], { INTERFACE_PLACES as usize }, MAPPED> = Array::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, { COUNTER_COUNT as usize }> = PerCpuArray::new();
#[btf_map(name = "service_counters")]
static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, { FRONTENDS * 2 }> = PerCpuArray::new();
/// One for each hook: a program at one may be interrupted by one at another.
#[btf_map(name = "rooms")]
static ROOMS: PerCpuArray<[u64; ROOM_WORDS], 3> = PerCpuArray::new();
#[btf_map(name = "suspects_v4")]
static SUSPECTS_V4: Array<[u64; 5], { SUSPECTS as usize }, MAPPED> = Array::new();
#[btf_map(name = "suspects_v6")]
static SUSPECTS_V6: Array<[u64; 8], { SUSPECTS as usize }, MAPPED> = Array::new();
#[btf_map(name = "collector")]
static COLLECTOR: Array<u64, { COLLECTOR_WORDS as usize }, MAPPED> = Array::new();
#[btf_map(name = "test_inputs")]
static TEST_INPUTS: Array<u64, { TEST_INPUT_WORDS as usize }, MAPPED> = Array::new();

/// Records of events. The loader gives it the size that is wanted, and the smallest one where no events are.
#[btf_map(name = "events")]
static EVENTS: RingBuf<u64, PAGE> = RingBuf::new();
#[btf_map(name = "event_account")]
static EVENT_ACCOUNT: PerCpuArray<[u64; ACCOUNT_WORDS], 1> = PerCpuArray::new();

/// What is left of this CPU's answers.
#[btf_map(name = "answers")]
static ANSWERS: PerCpuArray<[u32; 2], 1> = PerCpuArray::new();
/// Room for bytes that are summed up.
#[btf_map(name = "sums")]
static SUMS: PerCpuArray<[u64; SUM_WORDS], 1> = PerCpuArray::new();
/// Later stages, by number: one array for each hook, since all programs of one must be of one type. The loader fills them.
#[btf_map(name = "stages_xdp")]
static STAGES_XDP: ProgramArray<{ Stage::ALL.len() }> = ProgramArray::new();
#[btf_map(name = "stages_ingress")]
static STAGES_INGRESS: ProgramArray<{ Stage::ALL.len() }> = ProgramArray::new();
#[btf_map(name = "stages_egress")]
static STAGES_EGRESS: ProgramArray<{ Stage::ALL.len() }> = ProgramArray::new();

/// 1 in the programs that tests load: time and randomness come from a map, and the verdict goes there.
#[unsafe(no_mangle)]
static DETERMINISTIC: u32 = 0;

/// Whether these programs were loaded for a test. The verifier knows the answer and removes what does not apply.
#[inline(always)]
pub fn is_deterministic() -> bool {
    // SAFETY: a static of this object, which the loader may set before the program is verified; hence volatile.
    unsafe { read_volatile(&raw const DETERMINISTIC) != 0 }
}

/// 1 in programs that tell of drops and flows.
#[unsafe(no_mangle)]
static TELL_EVENTS: u32 = 0;
/// How many drops each CPU tells of in a second.
#[unsafe(no_mangle)]
static DROP_EVENTS_A_SECOND: u32 = DEFAULT_DROP_EVENTS_A_SECOND;

/// Whether these programs tell of events. The verifier takes out what does not apply, as of [`is_deterministic`].
#[inline(always)]
pub fn tells_events() -> bool {
    // SAFETY: as in `is_deterministic`.
    unsafe { read_volatile(&raw const TELL_EVENTS) != 0 }
}

/// How many drops each CPU tells of in a second.
#[inline(always)]
pub fn drop_events_a_second() -> u32 {
    // SAFETY: as in `is_deterministic`.
    unsafe { read_volatile(&raw const DROP_EVENTS_A_SECOND) }
}

/// Copies a value out of a map, word by word, in order.
#[inline(always)]
fn copy<const WORDS: usize>(value: *const [u64; WORDS]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut i = 0;
    while i < WORDS {
        // SAFETY: the pointer is to a value of so many words, aligned to 8 bytes, valid for this run; volatile, since
        // others write it: each word is loaded once, whole.
        words[i] = unsafe { read_volatile(value.cast::<u64>().add(i)) };
        i += 1;
    }
    words
}

#[inline(always)]
fn array_word<const N: usize, const F: usize>(array: &Array<u64, N, F>, index: u32) -> Option<u64> {
    let value = array.get_ptr(index)?;
    // SAFETY: as in `copy`.
    Some(unsafe { read_volatile(value) })
}

#[inline(always)]
pub fn service_word(index: u32) -> Option<u64> {
    array_word(&SERVICE_WORDS, index)
}

#[inline(always)]
pub fn slot(index: u32) -> Option<u64> {
    array_word(&SLOTS, index)
}

#[inline(always)]
pub fn setting(index: u32) -> Option<u64> {
    array_word(&CONFIG, index)
}

#[inline(always)]
pub fn interface(index: u32) -> Option<InterfaceEntry> {
    let words = copy(INTERFACES.get_ptr(index & (INTERFACE_PLACES - 1))?);
    Some(zerocopy::transmute!(words))
}

#[inline(always)]
pub fn masquerade(index: u32) -> Option<MasqueradeEntry> {
    let words = copy(MASQUERADE.get_ptr(index & (INTERFACE_PLACES - 1))?);
    Some(zerocopy::transmute!(words))
}

#[inline(always)]
pub fn test_input(input: TestInput) -> u64 {
    array_word(&TEST_INPUTS, input as u32).unwrap_or(0)
}

#[inline(always)]
pub fn set_test_output(output: TestInput, word: u64) {
    if let Some(value) = TEST_INPUTS.get_ptr_mut(output as u32) {
        // SAFETY: as in `copy`; tests read it after the run.
        unsafe { write_volatile(value, word) };
    }
}

#[inline(always)]
pub fn collector_word(word: CollectorWord) -> u64 {
    array_word(&COLLECTOR, word as u32).unwrap_or(0)
}

/// Reads a word of the collector and counts it up.
#[inline(always)]
pub fn take_collector_word(word: CollectorWord) -> Option<u32> {
    let value = COLLECTOR.get_ptr_mut(word as u32)?;
    // SAFETY: as in `copy`. One collector runs at a time: its runs follow one another.
    unsafe {
        let taken = read_volatile(value);
        write_volatile(value, taken.wrapping_add(1));
        Some(taken as u32)
    }
}

/// Room for the packet of one hook on one CPU.
#[repr(C)]
struct Room {
    work: Workspaces,
    route: RouteRoom,
}

/// Goes on with a later stage at XDP. It returns only where there is no program in that place.
///
/// Only to be inlined into the program itself: a tail call from a function of its own would return into that.
#[inline(always)]
pub fn go_on_at_xdp(context: *mut xdp_md, stage: Stage) {
    // SAFETY: the program's context, and nothing here wants to be dropped.
    unsafe { STAGES_XDP.tail_call(&XdpContext::new(context), stage as u32) };
}

/// Goes on with a later stage at tc, as [`go_on_at_xdp`] does.
#[inline(always)]
pub fn go_on_at_tc(context: *mut __sk_buff, hook: Hook, stage: Stage) {
    let stages = if matches!(hook, Hook::Egress) { &STAGES_EGRESS } else { &STAGES_INGRESS };
    // SAFETY: as in `go_on_at_xdp`.
    unsafe { stages.tail_call(&TcContext::new(context), stage as u32) };
}

/// This CPU's room for the packet of a hook. Each run of a program takes it once; after a tail call the next program does,
/// and the one before has ended.
#[inline(always)]
pub fn room(hook: Hook) -> Option<(&'static mut Workspaces, &'static mut RouteRoom)> {
    let room = ROOMS.get_ptr_mut(hook as u32)?;
    // SAFETY: as long as a `Room`, aligned to 8 bytes, zero at first, which is valid for its integers and bools, and only
    // ever written as such. Nobody else has it: soft interrupts are off at these hooks, a program is not interrupted by
    // another of its own hook, and it asks but once.
    let room = unsafe { &mut *room.cast::<Room>() };
    Some((&mut room.work, &mut room.route))
}

/// This CPU's room for bytes that are summed up, each time for as long as one sum takes.
#[inline(always)]
pub fn sum_room() -> Option<&'static mut SumRoom> {
    let room = SUMS.get_ptr_mut(0)?;
    // SAFETY: as long as a `SumRoom`, which is integers; only the program at ingress has it, as in `room`, and it never has
    // two at once: each ends with the sum that it is for.
    Some(unsafe { &mut *room.cast::<SumRoom>() })
}

#[inline(always)]
pub fn take_answer(take: impl FnOnce(&mut Budget) -> bool) -> bool {
    match ANSWERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own, two integers, as in `count`; the reference ends with the closure.
        Some(budget) => take(unsafe { &mut *budget.cast::<Budget>() }),
        None => false,
    }
}

/// Takes a drop out of those that this CPU may tell of.
#[inline(always)]
pub fn take_drop_event(take: impl FnOnce(&mut Budget) -> bool) -> bool {
    match EVENT_ACCOUNT.get_ptr_mut(0) {
        // SAFETY: this CPU's own, as in `take_answer`: only packets take from it. It stands behind the two counters.
        Some(account) => take(unsafe { &mut *addr_of_mut!((*account.cast::<EventAccount>()).budget) }),
        None => false,
    }
}

/// What an event is not told for.
#[derive(Clone, Copy)]
pub enum Untold {
    /// There is no room.
    Lost,
    /// There were enough of its kind.
    Withheld,
}

/// Counts an event that is not told.
#[inline(always)]
pub fn count_untold(why: Untold) {
    if let Some(account) = EVENT_ACCOUNT.get_ptr_mut(0) {
        let account = account.cast::<EventAccount>();
        // SAFETY: a counter within the value, aligned; atomic, since a packet may interrupt the collector, which runs where
        // soft interrupts are on.
        unsafe {
            let counter = match why {
                Untold::Lost => addr_of_mut!((*account).lost),
                Untold::Withheld => addr_of_mut!((*account).withheld),
            };
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1);
        }
    }
}

/// Puts a record into the ring; tells whether there was room. Nobody is waited for.
#[inline(always)]
pub fn tell<R: EventRecord>(write: impl FnOnce(&mut R)) -> bool {
    let Some(mut room) = EVENTS.reserve_untyped::<R>(0) else {
        return false;
    };
    let words = room.as_mut_ptr().cast::<u64>();
    let mut i = 0;
    while i < size_of::<R>() / 8 {
        // SAFETY: within the room, which is as long as a record and aligned to 8 bytes; volatile, since the compiler would
        // make a loop of bytes of it.
        unsafe { write_volatile(words.add(i), 0) };
        i += 1;
    }
    // SAFETY: whole words, which are 0, of which a record may consist (`EventRecord`); nobody else has the room yet.
    write(unsafe { room.assume_init_mut() });
    room.submit(0);
    true
}

#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own counter; soft interrupts are off at these hooks, so that nobody else writes it.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

#[inline(always)]
pub fn count_service(index: u32, add: impl FnOnce(&mut ServiceCounters)) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own counters, as in `count`; the reference ends with the closure.
        add(unsafe { &mut *counters });
    }
}

const NO_EXIST: u64 = 1;

/// What a map says of an insert that must not replace anything.
#[inline(always)]
fn inserted(result: Result<(), i32>) -> Result<(), InsertError> {
    const EEXIST: i32 = -17;
    // Where a program interrupts another one that holds the lock of the same bucket (`htab_lock_bucket`, Linux 5.11).
    const EBUSY: i32 = -16;
    match result {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        Err(EBUSY) => Err(InsertError::Busy),
        Err(_) => Err(InsertError::Full),
    }
}

/// Replaces an entry's first word, if it is still `current`; tells whether it did.
///
/// # Safety
/// The pointer is to a value of a map, aligned to 8 bytes, valid for this run; every change of the word in a live entry is
/// such a swap.
#[inline(always)]
unsafe fn exchange(first: *mut u64, current: u64, new: u64) -> bool {
    // SAFETY: as the caller promises.
    let (_, swapped) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(first, current, new)
    };
    swapped
}

/// An affinity, in its map.
#[derive(Clone, Copy)]
pub struct Affinity(*mut AffinityEntry);

impl AffinityCell for Affinity {
    #[inline(always)]
    fn read(&self, tag: u32) -> Option<AffinityEntry> {
        let words = copy(self.0.cast::<[u64; size_of::<AffinityEntry>() / 8]>().cast_const());
        let entry: AffinityEntry = zerocopy::transmute!(words);
        // SAFETY: as in `copy`. The first word once more, as of a flow.
        let again = unsafe { read_volatile(self.0.cast::<u64>()) };
        if entry.has_tag(tag) && again == entry.head.0 { Some(entry) } else { None }
    }

    #[inline(always)]
    fn exchange_head(&self, current: AffinityHead, new: AffinityHead) -> bool {
        // SAFETY: the first field of a value that was found.
        unsafe { exchange(self.0.cast(), current.0, new.0) }
    }

    #[inline(always)]
    fn touch(&self, now: Tick) {
        // SAFETY: a field within the value, aligned; a store of 4 bytes that others may overwrite.
        unsafe { write_volatile(addr_of_mut!((*self.0).last_seen), now.0) };
    }
}

/// The maps of one family.
macro_rules! family {
    ($module:ident, $services:ident, $service_key:ty, $backends:ident, $backend:ty, $conntrack:ident, $opening:ident, $nat:ident, $affinity:ident, $affinity_key:ty, $tuple:ty,
     $flow:ident, $fragments:ident, $fragment_key:ty, $suspects:ident, $suspect:ident) => {
        pub mod $module {
            use super::*;

            const FLOW_WORDS: usize = size_of::<$flow>() / 8;

            #[inline(always)]
            pub fn service(key: &$service_key) -> Option<ServiceRef> {
                let value = $services.get_ptr(key)?;
                // SAFETY: as in `copy`.
                Some(ServiceRef(unsafe { read_volatile(value) }))
            }

            #[inline(always)]
            pub fn backend(index: u32) -> Option<$backend> {
                let words = copy($backends.get_ptr(index)?);
                Some(zerocopy::transmute!(words))
            }

            /// A conntrack entry, in the map.
            #[derive(Clone, Copy)]
            pub struct Entry(*mut $flow);

            #[inline(always)]
            pub fn flow(place: Place, tuple: &$tuple) -> Option<Entry> {
                let found = match place {
                    Place::Conntrack => $conntrack.get_ptr_mut(tuple),
                    Place::Nat => $nat.get_ptr_mut(tuple),
                    Place::Opening => $opening.get_ptr_mut(tuple),
                };
                found.map(Entry)
            }

            #[inline(always)]
            pub fn insert_flow(place: Place, tuple: &$tuple, flow: &$flow) -> Result<(), InsertError> {
                inserted(match place {
                    Place::Conntrack => $conntrack.insert(tuple, flow, NO_EXIST),
                    Place::Nat => $nat.insert(tuple, flow, NO_EXIST),
                    Place::Opening => $opening.insert(tuple, flow, NO_EXIST),
                })
            }

            #[inline(always)]
            pub fn affinity(key: &$affinity_key) -> Option<Affinity> {
                $affinity.get_ptr_mut(key).map(Affinity)
            }

            #[inline(always)]
            pub fn insert_affinity(key: &$affinity_key, entry: &AffinityEntry) -> Result<(), InsertError> {
                inserted($affinity.insert(key, entry, NO_EXIST))
            }

            #[inline(always)]
            pub fn remove_affinity(key: &$affinity_key) {
                // It may be gone, or its bucket busy (`inserted`): then it stays, dying, until the table evicts it.
                $affinity.remove(key).unwrap_or(());
            }

            #[inline(always)]
            pub fn remove_flow(place: Place, tuple: &$tuple) {
                let removed = match place {
                    Place::Conntrack => $conntrack.remove(tuple),
                    Place::Nat => $nat.remove(tuple),
                    Place::Opening => $opening.remove(tuple),
                };
                // It may be gone, or its bucket busy (`inserted`): then it stays, dying, until the collector takes it out.
                removed.unwrap_or(());
            }

            #[inline(always)]
            pub fn fragment(key: &$fragment_key) -> Option<FragmentRecord> {
                let words = copy($fragments.get_ptr(key)?.cast::<[u64; 3]>());
                Some(zerocopy::transmute!(words))
            }

            #[inline(always)]
            pub fn note_fragment(key: &$fragment_key, record: &FragmentRecord) {
                // There may be no room: then the later parts are not found to be ours.
                $fragments.insert(key, record, 0).unwrap_or(());
            }

            #[inline(always)]
            pub fn suspect(index: u32) -> Option<$suspect> {
                let words = copy($suspects.get_ptr(index)?);
                Some(zerocopy::transmute!(words))
            }

            #[inline(always)]
            pub fn set_fate(index: u32, fate: Fate) {
                if let Some(suspect) = $suspects.get_ptr_mut(index) {
                    // SAFETY: a field within the value, aligned to 4 bytes; the collector reads it after the run.
                    unsafe { write_volatile(addr_of_mut!((*suspect.cast::<$suspect>()).fate), fate as u32) };
                }
            }

            impl Entry {
                /// Copies the value; false where its tags are not `tag` before and after, or its incarnation is not the
                /// same: it was recycled meanwhile.
                #[inline(always)]
                pub fn read(&self, tag: u32, into: &mut $flow) -> bool {
                    let words = copy(self.0.cast::<[u64; FLOW_WORDS]>().cast_const());
                    *into = zerocopy::transmute!(words);
                    // The first word once more: whoever fills the element from its front has changed it before what was
                    // copied after the first look.
                    let again = self.state();
                    into.has_tag(tag)
                        && again.tag() == tag
                        && Seen::from(again).incarnation() == into.incarnation
                }

                #[inline(always)]
                pub fn state(&self) -> StateWord {
                    // SAFETY: as in `copy`; the first field.
                    StateWord(unsafe { read_volatile(self.0.cast::<u64>()) })
                }

                #[inline(always)]
                pub fn exchange_state(&self, current: StateWord, new: StateWord) -> bool {
                    // SAFETY: the first field of a value that was found.
                    unsafe { exchange(self.0.cast(), current.0, new.0) }
                }

                #[inline(always)]
                pub fn last_seen(&self) -> Tick {
                    // SAFETY: a field within the value, aligned; volatile, since others write it.
                    Tick(unsafe { read_volatile(&raw const (*self.0).last_seen) })
                }

                #[inline(always)]
                pub fn touch(&self, now: Tick) {
                    // SAFETY: a field within the value, aligned; a store of 4 bytes that others may overwrite.
                    unsafe { write_volatile(addr_of_mut!((*self.0).last_seen), now.0) };
                }
            }
        }
    };
}

family!(
    v4,
    SERVICES_V4,
    ServiceKeyV4,
    BACKENDS_V4,
    BackendV4,
    CONNTRACK_V4,
    OPENING_V4,
    NAT_V4,
    AFFINITY_V4,
    AffinityKeyV4,
    TupleV4,
    FlowV4,
    FRAGMENTS_V4,
    FragmentKeyV4,
    SUSPECTS_V4,
    SuspectV4
);
family!(
    v6,
    SERVICES_V6,
    ServiceKeyV6,
    BACKENDS_V6,
    BackendV6,
    CONNTRACK_V6,
    OPENING_V6,
    NAT_V6,
    AFFINITY_V6,
    AffinityKeyV6,
    TupleV6,
    FlowV6,
    FRAGMENTS_V6,
    FragmentKeyV6,
    SUSPECTS_V6,
    SuspectV6
);
