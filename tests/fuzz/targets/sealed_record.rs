//! See `bodies::sealed_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::sealed_record(data));
