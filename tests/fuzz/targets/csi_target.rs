//! See `bodies::csi_target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::csi_target(data));
