//! What Signet runs on Kubernetes beside its server and agents.

pub mod csi;
