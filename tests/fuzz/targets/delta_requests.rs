//! See `bodies::delta_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::delta_requests(data));
