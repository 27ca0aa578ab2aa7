//! See `bodies::bundle_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::bundle_json(data));
