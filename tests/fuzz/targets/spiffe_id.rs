//! See `bodies::spiffe_id`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::spiffe_id(data));
