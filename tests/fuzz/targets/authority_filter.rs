//! See `bodies::authority_filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::authority_filter(data));
