//! See `bodies::jwt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::jwt(data));
