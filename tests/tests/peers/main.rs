//! The light peers as judges: real Envoys, py-spiffe, a Java client and OpenSSL against our programs.
#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong in a helper is the failure of its test"
)]

mod envoy;
mod java;
mod python;
mod scenarios;
