//! Conntrack: one entry for each direction of a connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{mix, scatter, service::word_of_two};
use crate::wire::{Be16, Ipv4Address, Ipv6Address};

/// Flag of a flow: this entry is that of the replies.
pub const FLOW_REPLY: u16 = 1;
/// Flag of a flow: its backend is on this host.
pub const FLOW_LOCAL: u16 = 2;
/// Flag of a flow: its source is translated too. The entry of the replies stands in the table of reservations.
pub const FLOW_MASQUERADED: u16 = 4;

word_of_two! {
    /// A flow's life, changed by compare-and-swap. It carries the key's tag, so that a swap can't hit an entry that
    /// was recycled for another flow.
    StateWord,
    seen: "What was seen of the connection: bits of [`Seen`](crate::pipeline::Seen).",
    tag: "The key's tag."
}

macro_rules! flow_types {
    ($family:literal, $address:ty, $tuple:ident, $flow:ident) => {
        #[doc = concat!("Key of the ", $family, " conntrack table and of the reservations: a tuple as this hook sees it.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $tuple {
            /// Source address.
            pub source: $address,
            /// Destination address.
            pub destination: $address,
            /// Source port.
            pub source_port: Be16,
            /// Destination port.
            pub destination_port: Be16,
            /// 0: the host's uplinks; else an endpoint.
            pub scope: u32,
            /// The zone of the interface.
            pub zone: u16,
            /// The protocol's number.
            pub protocol: u8,
            /// 0.
            pub reserved: u8,
        }

        #[doc = concat!("Value of the ", $family, " conntrack table and of the reservations: what to do with the packets of one direction.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $flow {
            /// The life of the flow.
            pub state: StateWord,
            /// The backend, for both directions.
            pub backend: super::BackendRef,
            /// Source address after translation.
            pub source: $address,
            /// Destination address after translation.
            pub destination: $address,
            /// Source port after translation.
            pub source_port: Be16,
            /// Destination port after translation.
            pub destination_port: Be16,
            /// What the change of the addresses adds to a checksum ([`Delta`](crate::wire::Delta)).
            pub address_delta: u16,
            /// What the change of the ports adds to a checksum.
            pub port_delta: u16,
            /// Index of the frontend, for its counters.
            pub frontend: u32,
            /// When a packet was last seen, in [`Tick`](crate::pipeline::Tick)s.
            pub last_seen: u32,
            /// The endpoint's policy revision that the verdict was made under; 0 while there is no policy.
            pub revision: u32,
            /// [`FLOW_REPLY`], [`FLOW_LOCAL`] and [`FLOW_MASQUERADED`].
            pub flags: u16,
            /// 0.
            pub reserved: u16,
            /// The key's tag once more. A reader that copied the value checks both: the kernel fills a recycled
            /// element in one direction or the other, so one of them changes before what lies between.
            pub tail_tag: u32,
            /// Which of the flows of this tuple this is: the same number as in the state.
            pub incarnation: u32,
        }
    };
}

flow_types!("IPv4", Ipv4Address, TupleV4, FlowV4);
flow_types!("IPv6", Ipv6Address, TupleV6, FlowV6);

const _: () = assert!(size_of::<TupleV4>() == 20 && size_of::<TupleV6>() == 44);
const _: () = assert!(size_of::<FlowV4>() == 56 && size_of::<FlowV6>() == 80);

macro_rules! ports_and_scope {
    ($tuple:expr) => {
        (
            ($tuple.source_port.0 as u64) << 48
                | ($tuple.destination_port.0 as u64) << 32
                | $tuple.scope as u64,
            ($tuple.zone as u64) << 8 | $tuple.protocol as u64,
        )
    };
}

macro_rules! ports_and_protocol {
    ($tuple:expr) => {
        ($tuple.source_port.get() as u64) << 32
            | ($tuple.destination_port.get() as u64) << 16
            | $tuple.protocol as u64
    };
}

impl TupleV4 {
    /// Where the flow belongs in a Maglev table: a number that is evenly spread over all 32 bits, made of the addresses,
    /// the ports and the protocol, and alike on every host. Scope and zone are the host's own, and are left out.
    #[inline(always)]
    pub const fn hash(&self, seed: u64) -> u32 {
        let addresses = (u32::from_be(self.source.0) as u64) << 32 | u32::from_be(self.destination.0) as u64;
        (scatter(scatter(seed, addresses), ports_and_protocol!(self)) >> 32) as u32
    }

    /// What the flow's entry carries to show that it is this tuple's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (ports, zone) = ports_and_scope!(self);
        let addresses = (self.source.0 as u64) << 32 | self.destination.0 as u64;
        mix(addresses, ports).wrapping_add(mix(zone, 0))
    }
}

impl TupleV6 {
    /// Where the flow belongs in a Maglev table. See [`TupleV4::hash`].
    #[inline(always)]
    pub const fn hash(&self, seed: u64) -> u32 {
        let (source_high, source_low) = self.source.numbers();
        let (destination_high, destination_low) = self.destination.numbers();
        let hash = scatter(scatter(seed, source_high), source_low);
        let hash = scatter(scatter(hash, destination_high), destination_low);
        (scatter(hash, ports_and_protocol!(self)) >> 32) as u32
    }

    /// What the flow's entry carries to show that it is this tuple's.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let (ports, zone) = ports_and_scope!(self);
        let (source_high, source_low) = self.source.halves();
        let (destination_high, destination_low) = self.destination.halves();
        mix(source_high, source_low)
            .wrapping_add(mix(destination_low, destination_high).rotate_left(11))
            .wrapping_add(mix(ports, zone))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bit_of_a_tuple_changes_its_tag(bytes in any::<[u8; 44]>(), bit in 0usize..344) {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            let six = |b: &[u8]| TupleV6::read_from_bytes(b).unwrap();
            prop_assert_ne!(six(&bytes).tag(), six(&other).tag());
            let four = |b: &[u8]| TupleV4::read_from_bytes(&b[..20]).unwrap();
            if bit < 152 {
                prop_assert_ne!(four(&bytes).tag(), four(&other).tag());
            }
        }
    }

    /// Two tuples, and the seed, for the tests of the hash.
    fn tuples() -> impl Strategy<Value = (TupleV4, TupleV6, u64)> {
        (any::<[u8; 44]>(), any::<u64>()).prop_map(|(bytes, seed)| {
            let six = TupleV6::read_from_bytes(&bytes).unwrap();
            (TupleV4::read_from_bytes(&bytes[..20]).unwrap(), six, seed)
        })
    }

    proptest! {
        /// The hash is that of the numbers which the packet's bytes stand for, worked out here in wider arithmetic.
        #[test]
        fn the_hash_is_that_of_the_packets_numbers((four, six, seed) in tuples()) {
            fn slow(seed: u64, numbers: &[u128]) -> u32 {
                const RANGE: u128 = 1 << 64;
                let mut hash = u128::from(seed);
                for number in numbers {
                    hash = ((hash ^ number) + 0x9e37_79b9_7f4a_7c15) % RANGE;
                    hash = ((hash ^ (hash / (1 << 30))) * 0xbf58_476d_1ce4_e5b9) % RANGE;
                    hash = ((hash ^ (hash / (1 << 27))) * 0x94d0_49bb_1331_11eb) % RANGE;
                    hash ^= hash / (1 << 31);
                }
                u32::try_from(hash / (1 << 32)).unwrap()
            }
            let last = |source: Be16, destination: Be16, protocol: u8| {
                (u128::from(source.get()) << 32) + (u128::from(destination.get()) << 16) + u128::from(protocol)
            };
            let number = |address| u128::from(u32::from(std::net::Ipv4Addr::from(address)));
            let ports = last(four.source_port, four.destination_port, four.protocol);
            let addresses = (number(four.source) << 32) + number(four.destination);
            prop_assert_eq!(four.hash(seed), slow(seed, &[addresses, ports]));
            let halves = |address| {
                let number = u128::from(std::net::Ipv6Addr::from(address));
                [number >> 64, number % (1 << 64)]
            };
            let ports = last(six.source_port, six.destination_port, six.protocol);
            let numbers = [&halves(six.source)[..], &halves(six.destination), &[ports]].concat();
            prop_assert_eq!(six.hash(seed), slow(seed, &numbers));
        }

        /// Hosts have zones and scopes of their own.
        #[test]
        fn the_hash_leaves_out_what_is_the_hosts_own((four, six, seed) in tuples(), zone in any::<u16>()) {
            let other = TupleV4 { zone, scope: 7, reserved: 1, ..four };
            prop_assert_eq!(other.hash(seed), four.hash(seed));
            let other = TupleV6 { zone, scope: 7, reserved: 1, ..six };
            prop_assert_eq!(other.hash(seed), six.hash(seed));
        }
    }

    /// One bit of the tuple or of the seed changes each bit of the hash in half of all cases.
    #[test]
    fn each_bit_reaches_each_bit_of_the_hash() {
        const SAMPLES: u32 = 4000;
        // Half of 4000, and seven standard deviations of 32 to either side: 10,000 counters, and a false alarm in 10^7.
        let half = SAMPLES / 2 - 224..=SAMPLES / 2 + 224;
        let check = |name: &str, bit: usize, changed: [u32; 32]| {
            for (of, count) in changed.into_iter().enumerate() {
                assert!(
                    half.contains(&count),
                    "{name}: bit {bit} changes bit {of} {count} times of {SAMPLES}"
                );
            }
        };
        let count = |differ: u32, changed: &mut [u32; 32]| {
            for (of, count) in changed.iter_mut().enumerate() {
                *count += differ >> of & 1;
            }
        };
        let mut draw = 0x1234_5678u64;
        let mut random = || {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            draw >> 24
        };
        // Clients of one network at one service, and few ports: what differs is little, as it is in the field.
        let mut four = |flip: Option<usize>| {
            let mut bytes = [0u8; 20];
            bytes[..4].copy_from_slice(&[10, 0, 0, random() as u8]);
            bytes[4..10].copy_from_slice(&[203, 0, 113, 10, 0x9c, random() as u8]);
            (bytes[11], bytes[18]) = (80, 6);
            let seed = random() & 0xff;
            let tuple = |bytes: &[u8]| TupleV4::read_from_bytes(bytes).unwrap();
            let before = tuple(&bytes).hash(seed);
            match flip {
                Some(bit) => {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    before ^ tuple(&bytes).hash(seed)
                }
                None => before ^ tuple(&bytes).hash(seed ^ 1 << (random() % 64)),
            }
        };
        // Scope and zone are bits 96 to 143.
        for bit in (0..96).chain(144..152) {
            let mut changed = [0; 32];
            (0..SAMPLES).for_each(|_| count(four(Some(bit)), &mut changed));
            check("v4", bit, changed);
        }
        let mut changed = [0; 32];
        (0..SAMPLES).for_each(|_| count(four(None), &mut changed));
        check("the seed", 0, changed);
        for bit in (0..288).chain(336..344) {
            let mut changed = [0; 32];
            for sample in 0..SAMPLES {
                let mut bytes = [0u8; 44];
                bytes[15] = sample as u8;
                bytes[33] = (sample >> 8) as u8;
                let before = TupleV6::read_from_bytes(&bytes).unwrap().hash(7);
                bytes[bit / 8] ^= 1 << (bit % 8);
                count(before ^ TupleV6::read_from_bytes(&bytes).unwrap().hash(7), &mut changed);
            }
            check("v6", bit, changed);
        }
    }
}
