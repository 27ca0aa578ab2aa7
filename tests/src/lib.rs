//! What the integration tests share: programs, domains, workloads and the peers that judge them.
//!
//! A [`domain::Domain`] runs a real server and real agents, ours or SPIRE's, as processes in a temporary
//! folder. [`peers`] finds the outside judges that `tests/setup` installed.

pub mod domain;
pub mod peers;
pub mod process;
pub mod programs;
pub mod scenarios;
