//! Arbitrary bytes as a record of an event.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay_fuzz::events::read(data));
