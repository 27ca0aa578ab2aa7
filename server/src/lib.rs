//! The Signet server: signing authorities, registration entries, and the APIs over them.

mod api;
mod audit;
pub mod authority;
pub mod bundles;
pub mod config;
mod errand;
pub mod federation;
mod feed;
mod housekeeping;
mod index;
pub mod keys;
mod limits;
mod oidc;
mod presence;
pub mod publish;
mod records;
mod server;
pub mod store;
mod tls;
mod verifiers;
pub mod web;
mod writes;

pub use self::server::{Deps, Handle, StartError, start};
