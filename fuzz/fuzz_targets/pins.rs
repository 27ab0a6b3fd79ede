//! Arbitrary damage to tables that a controller finds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay_fuzz::pins::go_on(data));
