//! See `bodies::dbus_message`.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target calls one of the bodies")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::dbus_message(data));
