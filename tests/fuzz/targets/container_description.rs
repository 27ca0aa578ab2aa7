//! See `bodies::container_description`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::container_description(data));
