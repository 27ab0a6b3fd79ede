//! What a packet costs at least: a look and an answer, a lookup in the kernel's own table.

use aya_ebpf::{bindings::xdp_action, btf_maps::LruHashMap, macros::btf_map};

use super::prelude::{PacketV4, PacketV6};

/// As many as conntrack has by default; the loader sets others.
const TABLE_ENTRIES: usize = 1 << 18;

#[btf_map(name = "bench_lru16")]
static LRU16: LruHashMap<[u32; 4], [u64; 2], TABLE_ENTRIES> = LruHashMap::new();
#[btf_map(name = "bench_lru40")]
static LRU40: LruHashMap<[u32; 10], [u64; 2], TABLE_ENTRIES> = LruHashMap::new();

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What every balancer looks at before it looks anything up.
#[inline(always)]
pub fn is_ours_v4(packet: PacketV4) -> bool {
    let protocol: u8 = packet.read::<u8, 23>();
    packet.read::<u16, 12>() == 0x0800u16.to_be()
        && packet.read::<u8, 14>() == 0x45
        && packet.read::<u16, 20>() & 0x3fffu16.to_be() == 0
        && (protocol == TCP || protocol == UDP)
        && packet.read::<u16, 36>() != 0
}

#[inline(always)]
pub fn is_ours_v6(packet: PacketV6) -> bool {
    let protocol: u8 = packet.read::<u8, 20>();
    packet.read::<u16, 12>() == 0x86ddu16.to_be()
        && packet.read::<u8, 14>() >> 4 == 6
        && (protocol == TCP || protocol == UDP)
        && packet.read::<u16, 56>() != 0
}

/// Sends the packet back where it came from.
macro_rules! answer {
    ($packet:expr) => {{
        let packet = $packet;
        let to = (packet.read::<u16, 0>(), packet.read::<u16, 2>(), packet.read::<u16, 4>());
        let from = (packet.read::<u16, 6>(), packet.read::<u16, 8>(), packet.read::<u16, 10>());
        packet.write::<u16, 0>(from.0);
        packet.write::<u16, 2>(from.1);
        packet.write::<u16, 4>(from.2);
        packet.write::<u16, 6>(to.0);
        packet.write::<u16, 8>(to.1);
        packet.write::<u16, 10>(to.2);
        xdp_action::XDP_TX
    }};
}

#[inline(always)]
pub fn parse_v4(packet: PacketV4) -> u32 {
    if is_ours_v4(packet) { answer!(packet) } else { xdp_action::XDP_PASS }
}

#[inline(always)]
pub fn parse_v6(packet: PacketV6) -> u32 {
    if is_ours_v6(packet) { answer!(packet) } else { xdp_action::XDP_PASS }
}

#[inline(always)]
fn key16(packet: PacketV4) -> [u32; 4] {
    [packet.read::<u32, 26>(), packet.read::<u32, 30>(), packet.read::<u32, 34>(), TCP.into()]
}

#[inline(always)]
fn key40(packet: PacketV6) -> [u32; 10] {
    [
        packet.read::<u32, 22>(),
        packet.read::<u32, 26>(),
        packet.read::<u32, 30>(),
        packet.read::<u32, 34>(),
        packet.read::<u32, 38>(),
        packet.read::<u32, 42>(),
        packet.read::<u32, 46>(),
        packet.read::<u32, 50>(),
        packet.read::<u32, 54>(),
        TCP.into(),
    ]
}

macro_rules! lookup {
    ($lookup:ident, $fill:ident, $packet:ty, $table:ident, $key:ident, $is_ours:ident) => {
        /// L(n): parse, look the flow up, answer. A flow that is not there is dropped, which shows in the verdict.
        #[inline(always)]
        pub fn $lookup(packet: $packet) -> u32 {
            if !$is_ours(packet) {
                return xdp_action::XDP_PASS;
            }
            if $table.get_ptr(&$key(packet)).is_none() {
                return xdp_action::XDP_DROP;
            }
            answer!(packet)
        }

        /// Puts the flow in.
        #[inline(always)]
        pub fn $fill(packet: $packet) -> u32 {
            match $table.insert(&$key(packet), &[1, 2], 0) {
                Ok(()) => xdp_action::XDP_TX,
                Err(_) => xdp_action::XDP_DROP,
            }
        }
    };
}

lookup!(lookup_v4, fill_v4, PacketV4, LRU16, key16, is_ours_v4);
lookup!(lookup_v6, fill_v6, PacketV6, LRU40, key40, is_ours_v6);
