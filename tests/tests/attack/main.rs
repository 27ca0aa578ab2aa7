//! Attacks and accidents, against real processes. `make attack` runs them with long rounds.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what goes wrong in a helper is the failure of its test, and figures are printed"
)]

mod agent;
mod authorities;
mod crash;
#[cfg(debug_assertions)]
mod failpoints;
mod flood;
mod handshakes;
mod hardening;
mod operator;
mod peer;
mod sealed;
mod socket;

/// How many rounds of an attack to run: `normal`, or what SIGNET_ROUNDS asks for.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests have no `main` of their own"
)]
fn rounds(normal: u32) -> u32 {
    let asked = std::env::var("SIGNET_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(normal)
}
