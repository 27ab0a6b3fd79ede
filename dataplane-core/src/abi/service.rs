//! Services: from a frontend's key to its word, and from there to its list of backends.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::mix;
use crate::wire::{Be16, Ipv4Address, Ipv6Address};

/// Key of the table of IPv4 frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceKeyV4 {
    /// The virtual address.
    pub address: Ipv4Address,
    /// The port.
    pub port: Be16,
    /// The protocol's number.
    pub protocol: u8,
    /// 0; from where a packet comes, once external and internal traffic differ.
    pub scope: u8,
}

/// Key of the table of IPv6 frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceKeyV6 {
    /// The virtual address.
    pub address: Ipv6Address,
    /// The port.
    pub port: Be16,
    /// The protocol's number.
    pub protocol: u8,
    /// 0; from where a packet comes, once external and internal traffic differ.
    pub scope: u8,
}

impl ServiceKeyV4 {
    /// What [`ServiceRef`] and [`ServiceWord`] of this frontend carry.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        mix(self.address.0 as u64, pack(self.port, self.protocol, self.scope))
    }
}

impl ServiceKeyV6 {
    /// What [`ServiceRef`] and [`ServiceWord`] of this frontend carry.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (high, low) = self.address.halves();
        mix(high, low.wrapping_add((mix(low, pack(self.port, self.protocol, self.scope)) as u64) << 16))
    }
}

const fn pack(port: Be16, protocol: u8, scope: u8) -> u64 {
    (port.0 as u64) << 16 | (protocol as u64) << 8 | scope as u64
}

/// Two 32-bit halves in one word, which is stored and loaded as a whole.
macro_rules! word_of_two {
    ($(#[$doc:meta])* $name:ident, $low:ident: $low_doc:literal, $high:ident: $high_doc:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Puts the halves together.
            #[inline(always)]
            pub const fn new($low: u32, $high: u32) -> Self {
                Self(($high as u64) << 32 | $low as u64)
            }

            #[doc = $low_doc]
            #[inline(always)]
            pub const fn $low(self) -> u32 {
                self.0 as u32
            }

            #[doc = $high_doc]
            #[inline(always)]
            pub const fn $high(self) -> u32 {
                (self.0 >> 32) as u32
            }
        }
    };
}
pub(super) use word_of_two;

word_of_two! {
    /// What the hash tells of a frontend: where its word is. It never changes while the frontend stands, so that the
    /// kernel never recycles its element under a reader unless the frontend was removed.
    ServiceRef,
    index: "Index of the frontend's [`ServiceWord`] and of its counters.",
    tag: "The key's tag; another one means that the element was recycled: a miss."
}

impl ServiceRef {
    /// What stands in the table of frontends for a virtual address itself, with port and protocol 0: there is no word.
    #[inline(always)]
    pub const fn of_address(tag: u32) -> Self {
        Self::new(u32::MAX, tag)
    }
}

word_of_two! {
    /// What a frontend points to now. Storing this word switches the frontend from one list of backends to another;
    /// 0 means that there is none.
    ServiceWord,
    base: "First word of the list in the slot table, in lines of [`SLOT_LINE_WORDS`]. Never 0.",
    tag: "The key's tag; another one means that the index was given to another frontend: a miss."
}

/// The slot table is handed out in lines of so many words: a cache line of 64 bytes.
pub const SLOT_LINE_WORDS: u32 = 8;

/// Words in front of a list's entries: [`SlotHeader`], a seed, the time-out of affinity, and one that is 0.
pub const SLOT_HEADER_WORDS: u32 = 4;

/// Which word of the header is the seed of the hash that finds a flow's place in the Maglev table; 0 without a table.
///
/// It belongs to the list, so that it changes together with the table.
pub const SLOT_SEED_WORD: u32 = 1;

/// Which word of the header is the time-out of affinity, in [`Tick`](crate::pipeline::Tick)s; 0 without [`LIST_AFFINITY`].
pub const SLOT_AFFINITY_WORD: u32 = 2;

/// Flag of a list: flows to backends on other hosts get an address of this host as their source.
pub const LIST_MASQUERADE: u16 = 1;
/// Flag of a list: that a backend is on this host is no reason to leave its flows' source alone. Only with
/// [`LIST_MASQUERADE`].
pub const LIST_MASQUERADE_LOCAL: u16 = 2;
/// Flag of a list: a client comes to the backend again that it came to before, for as long as the list names that one.
pub const LIST_AFFINITY: u16 = 4;

/// First word of a list in the slot table. Behind the header stand [`BackendRef`](super::BackendRef)s: without a
/// Maglev table one for each unit of weight, with one each backend once and behind them the table. They stand by
/// rising index, so that one of them can be looked for. A list never changes while a packet may read it.
///
/// The table is packed: each place is a 16-bit index of an entry, four to a word, the first in the lowest bits.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(transparent)]
pub struct SlotHeader(pub u64);

impl SlotHeader {
    /// Puts the parts together.
    #[inline(always)]
    pub const fn new(entries: u32, table: u16, flags: u16) -> Self {
        Self((flags as u64) << 48 | (table as u64) << 32 | entries as u64)
    }

    /// How many entries follow the header. 0: no backend takes new flows.
    #[inline(always)]
    pub const fn entries(self) -> u32 {
        self.0 as u32
    }

    /// How many places the Maglev table has, at most 65521; 0: there is none, entries are chosen from at random.
    #[inline(always)]
    pub const fn table(self) -> u32 {
        (self.0 >> 32) as u16 as u32
    }

    /// [`LIST_MASQUERADE`], [`LIST_MASQUERADE_LOCAL`] and [`LIST_AFFINITY`].
    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// How many words the Maglev table takes.
    #[inline(always)]
    pub const fn table_words(self) -> u32 {
        self.table().div_ceil(PLACES_PER_WORD)
    }

    /// In which word of the Maglev table a place is.
    #[inline(always)]
    pub const fn word_of(place: u32) -> u32 {
        place / PLACES_PER_WORD
    }

    /// The words of a table of these indexes.
    pub fn pack(indexes: &[u16]) -> impl Iterator<Item = u64> + '_ {
        indexes.chunks(PLACES_PER_WORD as usize).map(|indexes| {
            let place = (0u32..).zip(indexes);
            place.fold(0, |word, (place, &index)| word | u64::from(index) << (place << PLACE_SHIFT))
        })
    }

    /// The index at a place, from its word.
    #[inline(always)]
    pub const fn index_in(word: u64, place: u32) -> u32 {
        let shift = (place % PLACES_PER_WORD) << PLACE_SHIFT;
        (word >> shift) as u16 as u32
    }
}

const PLACES_PER_WORD: u32 = 4;
/// A place is 16 bits wide.
const PLACE_SHIFT: u32 = 4;

const _: () = assert!(size_of::<ServiceKeyV4>() == 8 && size_of::<ServiceKeyV6>() == 20);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The tag tells keys apart that differ anywhere: no field is left out of it.
        #[test]
        fn each_bit_of_a_key_changes_its_tag(bytes in any::<[u8; 20]>(), bit in 0usize..160) {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            let six = |b: &[u8]| ServiceKeyV6::read_from_bytes(b).unwrap();
            prop_assert_ne!(six(&bytes).tag(), six(&other).tag());
            let four = |b: &[u8]| ServiceKeyV4::read_from_bytes(&b[..8]).unwrap();
            if bit < 64 {
                prop_assert_ne!(four(&bytes).tag(), four(&other).tag());
            }
        }
    }
}
