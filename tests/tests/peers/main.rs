//! The light peers as judges: real Envoys, py-spiffe, rust-spiffe, a Java client, rustls and OpenSSL
//! against our programs.

#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong in a helper is the failure of the test that calls it"
)]

mod envoy;
mod java;
mod podman;
mod python;
mod rust;
mod scenarios;
mod systemd;
mod webpki;
