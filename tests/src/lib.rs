//! What the integration tests share: programs, domains, workloads and the peers that judge them.
//!
//! A [`domain::Domain`] runs a real server and real agents, ours or SPIRE's, as processes in a temporary
//! folder. A [`cluster::Cluster`] is a real Kubernetes on this machine, and [`installed::Installed`] the shipped manifests
//! on it. [`peers`] finds the outside judges that `tests/setup` installed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what goes wrong here is the failure of the test that calls it"
)]

pub mod api;
pub mod cluster;
pub mod domain;
pub mod envoy;
pub mod installed;
pub mod pairs;
pub mod peers;
pub mod prober;
pub mod process;
pub mod programs;
pub mod scenarios;
pub mod simulated;
pub mod workload;
