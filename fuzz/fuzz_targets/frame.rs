//! Arbitrary bytes as a frame, at each hook.
#![no_main]

use forebay_fuzz::frame::Host;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static HOST: Host = Host::new();
}

fuzz_target!(|data: &[u8]| {
    HOST.with(|host| host.meet(data));
});
