//! The agent: proves which node it is, and gets identities for the workloads that it attests.

pub mod attest;
pub mod bootstrap;
pub mod cache;
pub mod config;
pub mod custody;
pub mod keys;
pub mod rotation;
pub mod source;
pub mod state;
pub mod sync;
pub mod upstream;
