//! Forebay's programs: they bind `dataplane-core`'s pipeline to hooks and maps, and hold no logic of their own.
//!
//! | file | binds |
//! | --- | --- |
//! | `maps.rs` | the maps, and every access to a value in one |
//! | `environment.rs` | maps and helpers as the pipeline's [`Environment`](dataplane_core::pipeline::Environment) |
//! | `frame.rs` | packet bytes between `data` and `data_end` |
//! | `xdp.rs`, `skb.rs` | a packet at each kind of hook: how it is changed and sent |
//! | `helpers.rs` | the kernel's helper functions |
//! | `events.rs` | the ring that events go to |
//! | `collect.rs` | the collector's look at an entry |
#![no_std]
#![no_main]
#![allow(internal_features)]
#![feature(asm_experimental_arch, core_intrinsics)]
#![deny(unsafe_op_in_unsafe_fn)]

#[deny(unsafe_code)]
mod collect;
#[deny(unsafe_code)]
mod environment;
#[deny(unsafe_code)]
mod events;
mod frame;
mod helpers;
mod maps;
#[deny(unsafe_code)]
mod skb;
#[deny(unsafe_code)]
mod xdp;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_core::pipeline::{Hook, Stage};

// Each is inlined into the function that the kernel enters, however large it is: a tail call from any other would come back.

/// XDP on an uplink: the shortcut for packets that leave again. The link layer and IPv4.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp(context: XdpContext) -> u32 {
    xdp::run(context.ctx)
}

/// tcx or clsact on an uplink, packets that come in.
#[classifier]
#[inline(always)]
fn forebay_ingress(context: TcContext) -> i32 {
    skb::run(context.skb.skb, Hook::Ingress)
}

/// tcx or clsact on an uplink, packets that go out.
#[classifier]
#[inline(always)]
fn forebay_egress(context: TcContext) -> i32 {
    skb::run(context.skb.skb, Hook::Egress)
}

/// Where [`forebay_xdp`] goes on with IPv6.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_v6(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::V6)
}

/// Where [`forebay_ingress`] goes on with IPv6.
#[classifier]
#[inline(always)]
fn forebay_ingress_v6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::V6)
}

/// Where [`forebay_egress`] goes on with IPv6.
#[classifier]
#[inline(always)]
fn forebay_egress_v6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Egress, Stage::V6)
}

/// Where [`forebay_xdp`] opens a masqueraded connection.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_nat_v4(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::MasqueradeV4)
}

/// Where [`forebay_xdp_v6`] opens a masqueraded connection.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_nat_v6(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::MasqueradeV6)
}

/// Where [`forebay_ingress`] opens a masqueraded connection.
#[classifier]
#[inline(always)]
fn forebay_in_nat_v4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::MasqueradeV4)
}

/// Where [`forebay_ingress_v6`] opens a masqueraded connection.
#[classifier]
#[inline(always)]
fn forebay_in_nat_v6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::MasqueradeV6)
}

/// Where [`forebay_xdp`] opens a connection to a service with affinity.
#[xdp(frags)]
fn forebay_xdp_aff4(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::AffinityV4)
}

/// Where [`forebay_xdp_v6`] opens a connection to a service with affinity.
#[xdp(frags)]
fn forebay_xdp_aff6(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::AffinityV6)
}

/// Where [`forebay_ingress`] opens a connection to a service with affinity.
#[classifier]
fn forebay_in_aff4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::AffinityV4)
}

/// Where [`forebay_ingress_v6`] opens a connection to a service with affinity.
#[classifier]
fn forebay_in_aff6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::AffinityV6)
}

/// Where [`forebay_xdp`] goes on with ICMP.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_icmp4(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::IcmpV4)
}

/// Where [`forebay_xdp_v6`] goes on with ICMPv6.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_icmp6(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::IcmpV6)
}

/// Where [`forebay_ingress`] goes on with ICMP.
#[classifier]
#[inline(always)]
fn forebay_ingress_icmp4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::IcmpV4)
}

/// Where [`forebay_ingress_v6`] goes on with ICMPv6.
#[classifier]
#[inline(always)]
fn forebay_ingress_icmp6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::IcmpV6)
}

/// Where [`forebay_egress`] goes on with ICMP.
#[classifier]
#[inline(always)]
fn forebay_egress_icmp4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Egress, Stage::IcmpV4)
}

/// Where [`forebay_egress_v6`] goes on with ICMPv6.
#[classifier]
#[inline(always)]
fn forebay_egress_icmp6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Egress, Stage::IcmpV6)
}

/// Where [`forebay_ingress`] goes on with what is dropped and answered.
#[classifier]
#[inline(always)]
fn forebay_ingress_answer4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::AnswerV4)
}

/// Where [`forebay_ingress_v6`] goes on with what is dropped and answered.
#[classifier]
#[inline(always)]
fn forebay_ingress_answer6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::AnswerV6)
}

/// Where [`forebay_xdp`] goes on with parts of packets.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_frag4(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::FragmentV4)
}

/// Where [`forebay_xdp_v6`] goes on with parts of packets.
#[xdp(frags)]
#[inline(always)]
fn forebay_xdp_frag6(context: XdpContext) -> u32 {
    xdp::go_on(context.ctx, Stage::FragmentV6)
}

/// Where [`forebay_ingress`] goes on with parts of packets.
#[classifier]
#[inline(always)]
fn forebay_ingress_frag4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::FragmentV4)
}

/// Where [`forebay_ingress_v6`] goes on with parts of packets.
#[classifier]
#[inline(always)]
fn forebay_ingress_frag6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Ingress, Stage::FragmentV6)
}

/// Where [`forebay_egress`] goes on with parts of packets.
#[classifier]
#[inline(always)]
fn forebay_egress_frag4(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Egress, Stage::FragmentV4)
}

/// Where [`forebay_egress_v6`] goes on with parts of packets.
#[classifier]
#[inline(always)]
fn forebay_egress_frag6(context: TcContext) -> i32 {
    skb::go_on(context.skb.skb, Hook::Egress, Stage::FragmentV6)
}

/// Run by the collector, never attached: looks at one IPv4 entry.
#[classifier]
fn forebay_collect_v4(_: TcContext) -> i32 {
    collect::look_v4();
    0
}

/// Run by the collector, never attached: looks at one IPv6 entry.
#[classifier]
fn forebay_collect_v6(_: TcContext) -> i32 {
    collect::look_v6();
    0
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Last, so that no line above moves: line numbers are in the object.
#[cfg(feature = "bench")]
mod bench;
