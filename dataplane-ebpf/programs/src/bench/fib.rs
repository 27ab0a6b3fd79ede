//! What a route and its neighbour cost: one question to the kernel, for the packet as it stands. It owes nothing to how
//! our programs ask.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::{bpf_fib_lookup, xdp_action, xdp_md},
    helpers::generated,
};

use super::prelude::{PacketV4, PacketV6, Settings};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;

#[inline(always)]
pub fn lookup_v4(context: *mut xdp_md, packet: PacketV4) -> u32 {
    lookup(context, AF_INET, |parameters| {
        parameters.__bindgen_anon_3.ipv4_src = packet.read::<u32, 26>();
        parameters.__bindgen_anon_4.ipv4_dst = packet.read::<u32, 30>();
    })
}

#[inline(always)]
pub fn lookup_v6(context: *mut xdp_md, packet: PacketV6) -> u32 {
    lookup(context, AF_INET6, |parameters| {
        parameters.__bindgen_anon_3.ipv6_src = packet.read::<[u32; 4], 22>();
        parameters.__bindgen_anon_4.ipv6_dst = packet.read::<[u32; 4], 38>();
    })
}

#[inline(always)]
fn lookup(context: *mut xdp_md, family: u8, addresses: impl FnOnce(&mut bpf_fib_lookup)) -> u32 {
    let Some(settings) = Settings::get() else { return xdp_action::XDP_ABORTED };
    // SAFETY: integers and unions of integers only; zero is a value of each.
    let mut parameters: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    parameters.family = family;
    parameters.l4_protocol = TCP;
    parameters.__bindgen_anon_1.tot_len = 84;
    parameters.ifindex = settings.interface();
    addresses(&mut parameters);
    let length = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context is this program's, the parameters are of the size that is said.
    let answer = unsafe { generated::bpf_fib_lookup(context.cast(), &raw mut parameters, length, 0) };
    if answer == 0 { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}
