//! See `bodies::volume_report`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::volume_report(data));
