//! See `bodies::kubeconfig_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::kubeconfig_file(data));
