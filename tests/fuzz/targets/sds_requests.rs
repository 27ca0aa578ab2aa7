//! See `bodies::sds_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::sds_requests(data));
