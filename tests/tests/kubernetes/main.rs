//! Signet on a real Kubernetes, from the shipped manifests. Where no cluster can run, each test says so by name.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is the failure of the test that calls it"
)]

mod drivers;
mod explain;
mod harness;
mod identity;
mod outage;
mod pairs;
mod rights;
