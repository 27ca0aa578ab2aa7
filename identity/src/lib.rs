//! The nouns of SPIFFE, valid by construction.
//!
//! Every type here is parsed once and then trusted: a [`spiffe_id::SpiffeId`] in hand is valid, a
//! [`x509::X509Svid`] keeps the profile of X509-SVID 5, a [`key::PrivateKey`] is on the allow-list.
//! The crate is pure: it does no I/O, reads no clock (`now` is an argument), draws no randomness,
//! and its output order never depends on a hash.

pub mod bundle;
pub mod entry;
mod json;
pub mod jwt;
pub mod key;
pub mod namespace;
pub mod selector;
mod span;
pub mod spiffe_id;
pub mod trust_domain;
pub mod validity;
pub mod x509;

#[cfg(test)]
mod testing;
