//! The agent: proves which node it is, and gets identities for the workloads that it attests.

pub mod agent;
pub mod api;
pub mod attest;
pub mod attestation;
pub mod bootstrap;
pub mod cache;
pub mod config;
pub mod confine;
pub mod credentials;
pub mod custody;
pub mod endpoints;
pub mod explain;
pub mod keys;
pub mod lifecycle;
pub mod lock;
pub mod proof;
pub mod rebootstrap;
pub mod rotation;
pub mod sealed;
pub mod source;
pub mod state;
pub mod sync;
pub mod upstream;
