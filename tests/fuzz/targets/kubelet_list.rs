//! See `bodies::kubelet_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::kubelet_list(data));
