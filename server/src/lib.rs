//! The Signet server: signing authorities, registration entries, and the APIs over them.

pub mod authority;
pub mod bundles;
pub mod keys;
pub mod store;

#[expect(dead_code, reason = "the index that reads these records lands next")]
mod records;
