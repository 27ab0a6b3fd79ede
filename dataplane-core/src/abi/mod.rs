//! Keys and values of the kernel's maps, byte by byte.
//!
//! One definition serves both builds: the kernel programs and user space compile these very types, so a layout
//! cannot drift between them. The rules:
//!
//! - `repr(C)`, no padding (zerocopy's derive refuses it), explicit reserved fields, sizes asserted below.
//! - Any bytes are a valid value: integers only, with checked conversion into the types of
//!   [`pipeline`](crate::pipeline).
//! - Network byte order for what packets carry ([`Be16`](crate::wire::Be16) and the address types), the host's for
//!   the rest.
//! - What must be consistent is one aligned 8-byte word ([`ServiceRef`], [`ServiceWord`], [`BackendRef`], a flow's
//!   state); a wider value carries a tag or a generation that its reader checks. See `docs/tables.md`.

mod affinity;
mod backend;
mod config;
mod counters;
mod event;
mod flow;
mod fragment;
mod interface;
mod service;
mod suspect;

pub use affinity::{AffinityEntry, AffinityHead, AffinityKeyV4, AffinityKeyV6};
pub use backend::{BACKEND_DRAINING, BACKEND_LOCAL, BackendRef, BackendV4, BackendV6};
pub use config::{
    ADDRESSES_ANSWER_PING, ADDRESSES_DROP_UNSERVED, CONFIG_WORDS, DEFAULT_ANSWERS_A_SECOND, Setting,
    TEST_INPUT_WORDS, TestInput,
};
pub use counters::{COUNTERS, ServiceCounters, counter_index};
pub use event::{
    DEFAULT_DROP_EVENTS_A_SECOND, DropRecordV4, DropRecordV6, EVENT_ANSWERED, EVENT_CLOSED, EVENT_DROPPED,
    EVENT_LOCAL, EVENT_MASQUERADED, EVENT_NO_HOOK, EVENT_OPENED, EventAccount, EventHead, FlowRecordV4,
    FlowRecordV6,
};
pub use flow::{FLOW_LOCAL, FLOW_MASQUERADED, FLOW_REPLY, FlowV4, FlowV6, StateWord, TupleV4, TupleV6};
pub use fragment::{FragmentKeyV4, FragmentKeyV6, FragmentRecord};
pub use interface::{
    INTERFACE_PLACES, INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, InterfaceEntry, MasqueradeEntry,
};
pub use service::{
    LIST_AFFINITY, LIST_MASQUERADE, LIST_MASQUERADE_LOCAL, SLOT_AFFINITY_WORD, SLOT_HEADER_WORDS,
    SLOT_LINE_WORDS, SLOT_SEED_WORD, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader,
};
pub use suspect::{COLLECTOR_WORDS, CollectorWord, SUSPECTS, SuspectV4, SuspectV6};

/// The version of everything in this module. It rises with each change of a layout or of a field's meaning.
pub const ABI_VERSION: u64 = 5;

/// Names of the maps in the object and under a pin directory.
pub mod map {
    /// Frontends of IPv4 services: [`ServiceKeyV4`](super::ServiceKeyV4) to [`ServiceRef`](super::ServiceRef), a hash.
    pub const SERVICES_V4: &str = "services_v4";
    /// Frontends of IPv6 services: [`ServiceKeyV6`](super::ServiceKeyV6) to [`ServiceRef`](super::ServiceRef), a hash.
    pub const SERVICES_V6: &str = "services_v6";
    /// One [`ServiceWord`](super::ServiceWord) for each frontend, a memory-mapped array.
    pub const SERVICE_WORDS: &str = "service_words";
    /// Backend lists of services, as words, a memory-mapped array.
    pub const SLOTS: &str = "slots";
    /// [`BackendV4`](super::BackendV4) by index, a memory-mapped array.
    pub const BACKENDS_V4: &str = "backends_v4";
    /// [`BackendV6`](super::BackendV6) by index, a memory-mapped array.
    pub const BACKENDS_V6: &str = "backends_v6";
    /// [`TupleV4`](super::TupleV4) to [`FlowV4`](super::FlowV4), an LRU hash.
    pub const CONNTRACK_V4: &str = "conntrack_v4";
    /// [`TupleV6`](super::TupleV6) to [`FlowV6`](super::FlowV6), an LRU hash.
    pub const CONNTRACK_V6: &str = "conntrack_v6";
    /// As [`CONNTRACK_V4`], of connections that are not confirmed yet.
    pub const OPENING_V4: &str = "opening_v4";
    /// As [`CONNTRACK_V6`], of connections that are not confirmed yet.
    pub const OPENING_V6: &str = "opening_v6";
    /// The replies of flows whose source is translated, [`TupleV4`](super::TupleV4) to [`FlowV4`](super::FlowV4), a hash:
    /// each entry reserves a port.
    pub const NAT_V4: &str = "nat_v4";
    /// As [`NAT_V4`], [`TupleV6`](super::TupleV6) to [`FlowV6`](super::FlowV6).
    pub const NAT_V6: &str = "nat_v6";
    /// Clients of IPv4 frontends, [`AffinityKeyV4`](super::AffinityKeyV4) to [`AffinityEntry`](super::AffinityEntry), an LRU hash.
    pub const AFFINITY_V4: &str = "affinity_v4";
    /// Clients of IPv6 frontends, [`AffinityKeyV6`](super::AffinityKeyV6) to [`AffinityEntry`](super::AffinityEntry), an LRU hash.
    pub const AFFINITY_V6: &str = "affinity_v6";
    /// Datagrams in parts: [`FragmentKeyV4`](super::FragmentKeyV4) to [`FragmentRecord`](super::FragmentRecord), an LRU hash.
    pub const FRAGMENTS_V4: &str = "fragments_v4";
    /// As [`FRAGMENTS_V4`], [`FragmentKeyV6`](super::FragmentKeyV6) to [`FragmentRecord`](super::FragmentRecord).
    pub const FRAGMENTS_V6: &str = "fragments_v6";
    /// [`MasqueradeEntry`](super::MasqueradeEntry) by interface index modulo [`INTERFACE_PLACES`](super::INTERFACE_PLACES), a
    /// memory-mapped array.
    pub const MASQUERADE: &str = "masquerade";
    /// One word for each [`Setting`](super::Setting), a memory-mapped array.
    pub const CONFIG: &str = "config";
    /// [`InterfaceEntry`](super::InterfaceEntry) by interface index modulo [`INTERFACE_PLACES`](super::INTERFACE_PLACES), a memory-mapped array.
    pub const INTERFACES: &str = "interfaces";
    /// Packets by hook and verdict, a per-CPU array.
    pub const COUNTERS: &str = "counters";
    /// [`ServiceCounters`](super::ServiceCounters) by index of the frontend, a per-CPU array.
    pub const SERVICE_COUNTERS: &str = "service_counters";
    /// [`SuspectV4`](super::SuspectV4)s of the collector, a memory-mapped array.
    pub const SUSPECTS_V4: &str = "suspects_v4";
    /// [`SuspectV6`](super::SuspectV6)s of the collector, a memory-mapped array.
    pub const SUSPECTS_V6: &str = "suspects_v6";
    /// One word for each [`CollectorWord`](super::CollectorWord), a memory-mapped array.
    pub const COLLECTOR: &str = "collector";
    /// Records of [`event`](crate::event)s, a ring buffer. It is no table: it belongs to one load of the programs, and is not
    /// pinned.
    pub const EVENTS: &str = "events";
    /// The [`EventAccount`](super::EventAccount) of each CPU, a per-CPU array of one, which belongs to the ring.
    pub const EVENT_ACCOUNT: &str = "event_account";
    /// Time and randomness for tests, one word for each [`TestInput`](super::TestInput), a memory-mapped array.
    pub const TEST_INPUTS: &str = "test_inputs";
}

/// Mixes two words into 32 bits that differ where the words do, but for one time in 2^32.
///
/// The tags of keys are made of it. It is no hash against an adversary: a tag only tells whether an entry was
/// recycled for another key while it was being read.
#[inline(always)]
const fn mix(a: u64, b: u64) -> u32 {
    // Odd constants without structure: the fractional bits of the golden ratio and of the square root of 2.
    let mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0x6a09_e667_f3bc_c909);
    (mixed >> 32) as u32
}

/// One step of a hash that is well mixed: each bit of the result depends on each bit of both arguments. For one value of
/// either argument it is a bijection of the other.
///
/// What hosts must agree on is hashed so: Maglev's permutations, and a flow's place in a Maglev table. It is the
/// finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), fed with one word after the other; no hash against an adversary who knows the
/// seed.
#[inline(always)]
pub(crate) const fn scatter(state: u64, word: u64) -> u64 {
    let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
