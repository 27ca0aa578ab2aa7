//! See `bodies::endpoint_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::endpoint_url(data));
