//! See `bodies::k8s_psat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::k8s_psat(data));
