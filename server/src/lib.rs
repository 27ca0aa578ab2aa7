//! The Signet server: signing authorities, registration entries, and the APIs over them.

pub mod store;
