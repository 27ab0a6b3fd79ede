//! A fresh packet of another flow at the start of each repetition.
//!
//! `BPF_PROG_TEST_RUN` hands one buffer to all repetitions and restores nothing. Without this, a program that translates
//! would be measured on its own output, and a lookup always on one hot key. It is part of each measured program, and
//! measured alone to be taken off.
#![allow(unsafe_code)]

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{btf_maps::Array, macros::btf_map};

use super::config::{Config, PACKET_V4, PACKET_V6};
use crate::frame::Bytes;

#[btf_map(name = "bench_config")]
static CONFIG: Array<Config, 1> = Array::new();

/// A packet that was just written: all its headers may be read.
#[derive(Clone, Copy)]
pub struct Packet<const LENGTH: u32> {
    data: usize,
}

pub type PacketV4 = Packet<PACKET_V4>;
pub type PacketV6 = Packet<PACKET_V6>;

impl<const LENGTH: u32> Packet<LENGTH> {
    #[inline(always)]
    fn of(bytes: Bytes) -> Option<Self> {
        (bytes.data + LENGTH as usize <= bytes.end).then_some(Self { data: bytes.data })
    }

    /// Reads a field, always from the packet: the compiler must not remember what was written.
    #[inline(always)]
    pub fn read<T: Copy, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= LENGTH as usize) };
        // SAFETY: within the packet, whose length `of` compared; integers only, and the BPF target loads them unaligned.
        unsafe { read_volatile((self.data + OFFSET) as *const T) }
    }

    /// Writes a field. Volatile keeps each store as it is here: never narrower than what programs load, for such a load
    /// would wait for two stores, as it never does in a packet that was received.
    #[inline(always)]
    pub fn write<T: Copy, const OFFSET: usize>(self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= LENGTH as usize) };
        // SAFETY: as in `read`.
        unsafe { write_volatile((self.data + OFFSET) as *mut T, value) }
    }
}

/// The configuration; a pointer into the map, since a copy would be larger than the packet.
#[derive(Clone, Copy)]
pub struct Settings(*mut Config);

macro_rules! settings {
    ($($name:ident: $type:ty),+) => {
        impl Settings {
            $(#[inline(always)]
            pub fn $name(self) -> $type {
                // SAFETY: a field of the map's only value, valid for this run.
                unsafe { read_volatile(&raw const (*self.0).$name) }
            })+
        }
    };
}

settings!(flow_mask: u32, factor: u32, shift: u32, counter: u32, link: [u32; 3], interface: u32, peer: [u32; 4],
    peer_port: u16, tcp_flags: u8, reply: u8);

impl Settings {
    #[inline(always)]
    pub fn get() -> Option<Self> {
        CONFIG.get_ptr_mut(0).map(Self)
    }

    /// The next flow's number. Multiplying by an odd number and folding the upper bits into the lower can both be undone
    /// within the mask's bits, so that each flow has its turn; a plain stride would come back to the same pages, and big
    /// tables would look cheap.
    #[inline(always)]
    fn next_flow(self) -> u32 {
        let (mask, factor, shift) = (self.flow_mask(), self.factor(), self.shift() & 31);
        let count = self.counter();
        // SAFETY: as above; one run at a time.
        unsafe { write_volatile(&raw mut (*self.0).counter, count.wrapping_add(1)) };
        let mut flow = (count & mask).wrapping_mul(factor) & mask;
        flow ^= flow >> shift;
        flow.wrapping_mul(factor) & mask
    }

    #[inline(always)]
    fn write_link<const LENGTH: u32>(self, packet: Packet<LENGTH>, ethertype: u16) {
        let [a, b, c] = self.link();
        packet.write::<u32, 0>(a);
        packet.write::<u32, 4>(b);
        packet.write::<u32, 8>(c);
        packet.write::<u16, 12>(ethertype.to_be());
    }

    /// Source port in the first two bytes, destination port in the last.
    #[inline(always)]
    fn ports(self, client: u32) -> u32 {
        // 4096 flows of one client address.
        let (client, peer) =
            (u32::from((1024 + (client & 0xfff) as u16).to_be()), u32::from(self.peer_port()));
        if self.reply() == 0 { peer << 16 | client } else { client << 16 | peer }
    }

    /// Data offset, flags and window, as they stand in the TCP header.
    #[inline(always)]
    fn flags(self) -> u32 {
        (0x5000_ffff | u32::from(self.tcp_flags()) << 16).to_be()
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Writes the next packet. `None` never happens, but the verifier wants it handled.
#[inline(always)]
pub fn fresh_v4(bytes: Bytes) -> Option<PacketV4> {
    let packet = PacketV4::of(bytes)?;
    let settings = Settings::get()?;
    let flow = settings.next_flow();
    let (client, [peer, ..]) = ((0x0a01_0000 + (flow >> 12)).to_be(), settings.peer());
    let (source, destination) = if settings.reply() == 0 { (client, peer) } else { (peer, client) };
    settings.write_link(packet, ETHERTYPE_IPV4);
    packet.write::<u16, 14>(0x4500u16.to_be());
    packet.write::<u16, 16>(((PACKET_V4 - 14) as u16).to_be());
    // No identification; don't fragment.
    packet.write::<u32, 18>(0x4000u32.to_be());
    // 64 hops, TCP.
    packet.write::<u16, 22>(0x4006u16.to_be());
    // Checksums are only ever mended, never verified.
    packet.write::<u16, 24>(0x1234);
    packet.write::<u32, 26>(source);
    packet.write::<u32, 30>(destination);
    packet.write::<u32, 34>(settings.ports(flow));
    packet.write::<u32, 38>(1);
    packet.write::<u32, 42>(0);
    packet.write::<u32, 46>(settings.flags());
    packet.write::<u32, 50>(0xabcd);
    Some(packet)
}

/// As [`fresh_v4`].
#[inline(always)]
pub fn fresh_v6(bytes: Bytes) -> Option<PacketV6> {
    let packet = PacketV6::of(bytes)?;
    let settings = Settings::get()?;
    let flow = settings.next_flow();
    let client = [0x2001_0db8u32.to_be(), 0x000a_0001u32.to_be(), 0, (flow >> 12).to_be()];
    let (source, destination) =
        if settings.reply() == 0 { (client, settings.peer()) } else { (settings.peer(), client) };
    settings.write_link(packet, ETHERTYPE_IPV6);
    packet.write::<u32, 14>(0x6000_0000u32.to_be());
    packet.write::<u16, 18>(((PACKET_V6 - 54) as u16).to_be());
    // TCP, 64 hops.
    packet.write::<u16, 20>(0x0640u16.to_be());
    packet.write::<u32, 22>(source[0]);
    packet.write::<u32, 26>(source[1]);
    packet.write::<u32, 30>(source[2]);
    packet.write::<u32, 34>(source[3]);
    packet.write::<u32, 38>(destination[0]);
    packet.write::<u32, 42>(destination[1]);
    packet.write::<u32, 46>(destination[2]);
    packet.write::<u32, 50>(destination[3]);
    packet.write::<u32, 54>(settings.ports(flow));
    packet.write::<u32, 58>(1);
    packet.write::<u32, 62>(0);
    packet.write::<u32, 66>(settings.flags());
    packet.write::<u32, 70>(0xabcd);
    Some(packet)
}
