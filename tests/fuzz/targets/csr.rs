//! See `bodies::csr`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::csr(data));
