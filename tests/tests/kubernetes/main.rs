//! Signet on a real Kubernetes. Where no cluster can run, each test says so by name.

mod harness;
