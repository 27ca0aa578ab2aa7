//! The light peers as judges: real Envoys, py-spiffe, a Java client and OpenSSL against our programs.

mod envoy;
mod java;
mod python;
mod scenarios;
