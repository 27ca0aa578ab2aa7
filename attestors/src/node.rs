//! How a node proves to a server which node it is.

pub mod join_token;
