//! Placeholder programs: each passes every packet.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    btf_maps::Array,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[btf_map]
static COUNTERS: Array<u64, 16> = Array::new();

#[xdp(frags)]
fn forebay_xdp(_: XdpContext) -> u32 {
    count(0);
    xdp_action::XDP_PASS
}

#[classifier]
fn forebay_ingress(_: TcContext) -> i32 {
    count(1);
    TC_ACT_UNSPEC
}

#[classifier]
fn forebay_egress(_: TcContext) -> i32 {
    count(2);
    TC_ACT_UNSPEC
}

fn count(hook: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(hook) {
        // SAFETY: the pointer is to a value of this map, valid for this run of the program.
        unsafe { *counter += 1 };
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
