//! The workload attestor `k8s`: which pod a process belongs to, as the kubelet tells.

pub mod kubelet;
pub mod pod;
pub mod volumes;
