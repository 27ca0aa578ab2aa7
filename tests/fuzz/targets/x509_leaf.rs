//! See `bodies::x509_leaf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::x509_leaf(data));
