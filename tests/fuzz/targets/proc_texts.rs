//! See `bodies::proc_texts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::proc_texts(data));
