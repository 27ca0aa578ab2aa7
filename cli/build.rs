//! How the program that ships is linked: small.
//!
//! Functions that came out the same, generated code of many messages above all, are kept once, and the table of
//! addresses that the loader mends is written in its short form. Only the linker that this toolchain brings for this
//! target is known to do both.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks with a build script by its environment"
)]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") {
        for argument in ["--icf=all", "-z,pack-relative-relocs"] {
            println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}
