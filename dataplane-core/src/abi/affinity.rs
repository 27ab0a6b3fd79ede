//! Affinity: which backend a client of a service came to last.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{BackendRef, mix, service::word_of_two};
use crate::wire::{Ipv4Address, Ipv6Address};

/// Key of the IPv4 affinity table: a client of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityKeyV4 {
    /// The client's address.
    pub client: Ipv4Address,
    /// Index of the frontend.
    pub frontend: u32,
}

/// Key of the IPv6 affinity table: a client of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityKeyV6 {
    /// The client's address.
    pub client: Ipv6Address,
    /// Index of the frontend.
    pub frontend: u32,
}

impl AffinityKeyV4 {
    /// What the entry of this client carries.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        mix(self.client.0 as u64, self.frontend as u64)
    }
}

impl AffinityKeyV6 {
    /// What the entry of this client carries.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (high, low) = self.client.halves();
        mix(high, low.wrapping_add((mix(low, self.frontend as u64) as u64) << 16))
    }
}

word_of_two! {
    /// The life of an affinity, changed by compare-and-swap.
    AffinityHead,
    life: "31 random bits, which tell it from others of its client, and the highest bit where it is being replaced.",
    tag: "The key's tag."
}

impl AffinityHead {
    const DYING: u32 = 1 << 31;

    /// Of a new affinity.
    #[inline(always)]
    pub const fn beginning(tag: u32, random: u32) -> Self {
        Self::new(random & !Self::DYING, tag)
    }

    /// The same, being replaced.
    #[inline(always)]
    #[must_use]
    pub const fn dying(self) -> Self {
        Self::new(self.life() | Self::DYING, self.tag())
    }

    /// Whether it is being replaced; whoever has noted that does it.
    #[inline(always)]
    pub const fn is_dying(self) -> bool {
        self.life() & Self::DYING != 0
    }

    /// What the last word of the entry must carry.
    const fn tail(self) -> u32 {
        self.tag() ^ (self.life() & !Self::DYING)
    }
}

/// Value of the affinity tables: the backend that a client is to come to again.
///
/// The backend is a hint. It holds as long as the frontend's list names it, which is looked up each time: so nothing
/// here needs to change when backends come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityEntry {
    /// Its life.
    pub head: AffinityHead,
    /// The backend.
    pub backend: BackendRef,
    /// When the client last opened a connection, in [`Tick`](crate::pipeline::Tick)s.
    pub last_seen: u32,
    /// Made of the head, so that a reader who copied the value notices where it was recycled meanwhile.
    pub tail: u32,
}

impl AffinityEntry {
    /// A client comes to a backend now.
    #[inline(always)]
    pub const fn new(head: AffinityHead, backend: BackendRef, now: u32) -> Self {
        Self { head, backend, last_seen: now, tail: head.tail() }
    }

    /// Whether it is that of the key with this tag, from its first to its last word.
    #[inline(always)]
    pub const fn has_tag(&self, tag: u32) -> bool {
        self.head.tag() == tag && self.tail == self.head.tail()
    }
}

const _: () = assert!(size_of::<AffinityKeyV4>() == 8 && size_of::<AffinityKeyV6>() == 20);
const _: () = assert!(size_of::<AffinityEntry>() == 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bit_of_a_key_changes_its_tag(bytes in any::<[u8; 20]>(), bit in 0usize..160) {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            let six = |b: &[u8]| AffinityKeyV6::read_from_bytes(b).unwrap();
            prop_assert_ne!(six(&bytes).tag(), six(&other).tag());
            let four = |b: &[u8]| AffinityKeyV4::read_from_bytes(&b[..8]).unwrap();
            if bit < 64 {
                prop_assert_ne!(four(&bytes).tag(), four(&other).tag());
            }
        }

        /// What is partly of one entry and partly of another is nobody's, unless only the backend or the time differs.
        #[test]
        fn halves_of_two_entries_are_no_entry(tag in any::<u32>(), one in 0..1u32 << 31, other in 0..1u32 << 31) {
            let entry = |life| AffinityEntry::new(AffinityHead::beginning(tag, life), BackendRef::new(1, 1), 5);
            prop_assert!(entry(one).has_tag(tag) && !entry(one).has_tag(tag ^ 1));
            let torn = AffinityEntry { tail: entry(other).tail, ..entry(one) };
            prop_assert_eq!(torn.has_tag(tag), one == other);
            let dying = AffinityEntry { head: entry(one).head.dying(), ..entry(one) };
            prop_assert!(dying.has_tag(tag) && dying.head.is_dying() && !entry(one).head.is_dying());
        }
    }
}
