//! The projected service-account token: a Kubernetes pod proves itself by what its kubelet gave it.
//!
//! The agent's half, [`Prover`], reads the token that the kubelet keeps fresh in a file. The server's
//! half, [`Verifier`], has the API server of the agent's cluster review it, and takes nothing from
//! the token but what that review says: which service account, which pod, which node. Pod and node
//! are looked up besides, for what the review does not say, and must agree with it.
//!
//! A server that may not read pods and nodes can still attest where the review names the node
//! (Kubernetes 1.32 and later). Then there is no `agent_node_ip`, nobody notices that the Node object
//! is gone, and label selectors cannot be had: to ask for them without the permission is an error.

mod api_server;
mod connect;
mod error;
mod facts;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod kubeconfig;
mod payload;
mod prover;
mod selectors;
mod verifier;

pub use self::api_server::{ApiError, ApiServer, Limits};
pub use self::connect::{ConnectError, KubeConfig, connect};
pub use self::error::VerifyError;
pub use self::facts::{FactsError, Namespace, Node, ObjectName, Pod, Review, ServiceAccount};
pub use self::payload::{Payload, PayloadError, ServiceAccountToken};
pub use self::prover::{Prover, ProverError};
pub use self::verifier::{AgentIdBy, Cluster, Verifier};

/// The name of this attestor in configuration, on the wire and in agent ids.
pub const NAME: &str = "k8s_psat";
