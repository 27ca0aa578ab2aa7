//! See `bodies::agent_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::agent_state(data));
