//! The sockets that a workload sees: the SPIFFE Workload API and Envoy's secret discovery, with health
//! and reflection beside them.
//!
//! [`source::IdentitySource`] is what they need of an agent, [`routes::routes`] makes services of it,
//! and [`client`] is their other end, for tools and tests.

pub mod client;
mod codec;
mod encode;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod health;
mod hints;
pub mod metrics;
pub mod options;
pub mod routes;
mod sds;
mod session;
pub mod source;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod update;
mod workload;
