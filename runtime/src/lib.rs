//! What every process of Signet shares.
//!
//! This crate does not know what the processes are for: it has time, supervised tasks, shutdown,
//! readiness, hardened listeners, connections to servers, the peers behind Unix sockets, configuration files, logs and
//! metrics. A module enters only when two crates above need it.

pub mod admin;
pub mod authority;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod dial;
pub mod failpoint;
pub mod files;
pub mod listen;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod process;
pub mod quota;
pub mod random;
pub mod rate;
pub mod readiness;
pub mod report;
pub mod shutdown;
pub mod tasks;
pub mod unix;
