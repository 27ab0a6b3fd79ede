//! The programs behind a prelude, and the floors beside them. `benches` runs them; nothing of it is in the object that
//! is committed.

mod config;
mod fib;
mod floors;
mod prelude;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_core::pipeline::Hook;

use crate::helpers::{Skb, Xdp};

/// The loop around the repetitions, which no net figure contains.
#[xdp]
fn bench_empty(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// A program at XDP: the prelude, then what is measured.
macro_rules! xdp_programs {
    ($($name:ident: $fresh:ident, |$context:ident, $packet:ident| $work:expr;)+) => {
        // With fragments as the programs that are attached: only those may go on with the same later stages.
        $(#[xdp(frags)]
        fn $name(context: XdpContext) -> u32 {
            let $context = context.ctx;
            let Some($packet) = prelude::$fresh(Xdp($context).bytes()) else { return xdp_action::XDP_ABORTED };
            $work
        })+
    };
}

xdp_programs! {
    bench_prelude_v4: fresh_v4, |_context, _packet| xdp_action::XDP_TX;
    bench_prelude_v6: fresh_v6, |_context, _packet| xdp_action::XDP_TX;
    bench_parse_v4: fresh_v4, |_context, packet| floors::parse_v4(packet);
    bench_parse_v6: fresh_v6, |_context, packet| floors::parse_v6(packet);
    bench_lookup_v4: fresh_v4, |_context, packet| floors::lookup_v4(packet);
    bench_lookup_v6: fresh_v6, |_context, packet| floors::lookup_v6(packet);
    bench_fill_v4: fresh_v4, |_context, packet| floors::fill_v4(packet);
    bench_fill_v6: fresh_v6, |_context, packet| floors::fill_v6(packet);
    bench_fib_v4: fresh_v4, |context, packet| fib::lookup_v4(context, packet);
    bench_fib_v6: fresh_v6, |context, packet| fib::lookup_v6(context, packet);
    bench_xdp_v4: fresh_v4, |context, _packet| crate::xdp::run(context);
    bench_xdp_v6: fresh_v6, |context, _packet| crate::xdp::run(context);
}

/// The same at tc.
macro_rules! tc_programs {
    ($($name:ident: $fresh:ident, |$context:ident| $work:expr;)+) => {
        $(#[classifier]
        fn $name(context: TcContext) -> i32 {
            let $context = context.skb.skb;
            if prelude::$fresh(Skb($context).bytes()).is_none() {
                return DROP;
            }
            $work
        })+
    };
}

/// `TC_ACT_OK`.
const OK: i32 = 0;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

tc_programs! {
    bench_prelude_tc_v4: fresh_v4, |_context| OK;
    bench_prelude_tc_v6: fresh_v6, |_context| OK;
    bench_ingress_v4: fresh_v4, |context| crate::skb::run(context, Hook::Ingress);
    bench_ingress_v6: fresh_v6, |context| crate::skb::run(context, Hook::Ingress);
}
