//! Changes of configuration, frames and time, interleaved.
#![no_main]

use forebay_fuzz::sequence;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    sequence::run(data);
});
