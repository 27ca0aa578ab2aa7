//! Proof of who asks: the evidence of nodes, and what an agent can see of a process.
//!
//! Both halves of a node attestor stand in one module, so that the proof and its check are read side
//! by side. An attestor returns only values that were parsed from the very bytes whose proof was
//! checked.

pub mod node;
pub mod workload;
