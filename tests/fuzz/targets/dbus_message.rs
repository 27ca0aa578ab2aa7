//! See `bodies::dbus_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::dbus_message(data));
