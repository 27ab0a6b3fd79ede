//! Arbitrary bytes as a document.
#![no_main]

use forebay_fuzz::yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    yaml::read(data);
});
