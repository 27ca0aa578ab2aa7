//! See `bodies::sealed_record`.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target calls one of the bodies")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::sealed_record(data));
