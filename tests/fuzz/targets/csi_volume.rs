//! See `bodies::csi_volume`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::csi_volume(data));
