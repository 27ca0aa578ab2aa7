//! See `bodies::kubelet_pod`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::kubelet_pod(data));
