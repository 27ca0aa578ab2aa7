//! The services over a real Unix socket, as a workload meets them.

mod bundles;
mod client;
mod discovery;
mod header;
mod jwt;
mod matrix;
mod secrets;
mod time;
mod wire;
mod x509;
