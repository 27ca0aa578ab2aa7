//! See `bodies::attestation_payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::attestation_payload(data));
