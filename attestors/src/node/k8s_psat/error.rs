//! Why a node was not attested. The sentences are those that operators of SPIRE know.

use identity::selector::SelectorError;
use identity::spiffe_id::SpiffeIdError;

use super::api_server::ApiError;
use super::facts::{FactsError, ObjectName, ServiceAccount};
use super::payload::PayloadError;
use crate::node::{Decision, OutsideNamespace, Refusal};

/// Why a node was not attested.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The payload is no payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The cluster is none of those configured.
    #[error("not configured for cluster {0:?}")]
    UnknownCluster(String),
    /// The review could not be had.
    #[error(
        "unable to validate token with TokenReview API for cluster {cluster:?}: unable to query token review API"
    )]
    Review {
        /// The cluster.
        cluster: String,
        /// What the API server did instead.
        source: ApiError,
    },
    /// The review is about something else: an expired token is among these.
    #[error(
        "unable to validate token with TokenReview API for cluster {cluster:?}: token review API response contains an error: {error}"
    )]
    ReviewFailed {
        /// The cluster.
        cluster: String,
        /// The API server's words.
        error: String,
    },
    /// The API server did not say that it looked at the audience.
    #[error(
        "unable to validate token with TokenReview API for cluster {cluster:?}: token review API did not validate audience: wanted one of {wanted:?} but got {got:?}"
    )]
    Audience {
        /// The cluster.
        cluster: String,
        /// The audiences that were asked about.
        wanted: Vec<String>,
        /// Those that it looked at.
        got: Vec<String>,
    },
    /// The token is not one of the cluster's, or not for this audience, or its pod is gone.
    #[error("token not authenticated according to TokenReview API for cluster {0:?}")]
    NotAuthenticated(String),
    /// The token is of no service account.
    #[error("failed to parse username from token review status for cluster {cluster:?}")]
    Username {
        /// The cluster.
        cluster: String,
        /// What is wrong with it.
        source: FactsError,
    },
    /// The service account may not attest.
    #[error("{:?} is not an allowed service account for cluster {cluster:?}", .account.to_string())]
    NotAllowed {
        /// The service account.
        account: ServiceAccount,
        /// The cluster.
        cluster: String,
    },
    /// The token is not bound to a pod, as an old-style token is not, or to a node that has no name.
    #[error("failed to get {what} from token review status for cluster {cluster:?}")]
    Unbound {
        /// What was looked for.
        what: &'static str,
        /// The cluster.
        cluster: String,
        /// What is there.
        source: FactsError,
    },
    /// The pod could not be read.
    #[error(
        "failed to get pod from k8s API server for cluster {cluster:?}: unable to query pods API"
    )]
    Pod {
        /// The cluster.
        cluster: String,
        /// What the API server did instead.
        source: ApiError,
    },
    /// The pod of that name is another one by now.
    #[error(
        "pod UID mismatch for pod {:?} in cluster {cluster:?}: token bound to pod UID {:?}",
        .pod.as_str(), .uid.as_str()
    )]
    OtherPod {
        /// The name of the pod.
        pod: ObjectName,
        /// The UID that the token is bound to.
        uid: ObjectName,
        /// The cluster.
        cluster: String,
    },
    /// The pod is on another node than the review says.
    #[error(
        "node mismatch for pod {:?} in cluster {cluster:?}: token bound to node {:?}",
        .pod.as_str(), .node.as_str()
    )]
    OtherNode {
        /// The name of the pod.
        pod: ObjectName,
        /// The name of the node that the token is bound to.
        node: ObjectName,
        /// The cluster.
        cluster: String,
    },
    /// The pod is on no node.
    #[error("failed to get node from k8s API server for cluster {0:?}: empty node name")]
    NoNode(String),
    /// The node could not be read.
    #[error(
        "failed to get node from k8s API server for cluster {cluster:?}: unable to query nodes API"
    )]
    Node {
        /// The cluster.
        cluster: String,
        /// What the API server did instead.
        source: ApiError,
    },
    /// The node has no UID.
    #[error("node UID is empty for cluster {0:?}")]
    NoNodeUid(String),
    /// The node of that name is another one by now.
    #[error(
        "node UID mismatch for node {:?} in cluster {cluster:?}: token bound to node UID {:?}",
        .node.as_str(), .uid.as_str()
    )]
    RecreatedNode {
        /// The name of the node.
        node: ObjectName,
        /// The UID that the token is bound to.
        uid: ObjectName,
        /// The cluster.
        cluster: String,
    },
    /// What was found cannot stand in a SPIFFE ID.
    #[error("invalid agent ID")]
    AgentId(#[from] SpiffeIdError),
    /// What was found cannot be a selector.
    #[error("invalid selector")]
    Selector(#[from] SelectorError),
    /// A defect of this attestor.
    #[error(transparent)]
    OutsideNamespace(#[from] OutsideNamespace),
}

impl Refusal for VerifyError {
    /// SPIRE's server says INTERNAL for all that it could not decide,
    /// and for a token that the API server objects to.
    fn decision(&self) -> Decision {
        match self {
            Self::Payload(_) | Self::UnknownCluster(_) => Decision::Malformed,
            Self::NotAuthenticated(_)
            | Self::NotAllowed { .. }
            | Self::OtherPod { .. }
            | Self::OtherNode { .. }
            | Self::RecreatedNode { .. } => Decision::Denied,
            Self::Review { .. }
            | Self::ReviewFailed { .. }
            | Self::Audience { .. }
            | Self::Username { .. }
            | Self::Unbound { .. }
            | Self::Pod { .. }
            | Self::NoNode(_)
            | Self::Node { .. }
            | Self::NoNodeUid(_)
            | Self::AgentId(_)
            | Self::Selector(_)
            | Self::OutsideNamespace(_) => Decision::Undecided,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Payload(error) => error.reason(),
            Self::UnknownCluster(_) => "cluster_unknown",
            Self::Review { source, .. } | Self::Pod { source, .. } | Self::Node { source, .. } => {
                source.reason()
            }
            Self::ReviewFailed { .. } => "token_refused",
            Self::Audience { .. } => "audience_not_validated",
            Self::NotAuthenticated(_) => "token_not_authenticated",
            Self::Username { source, .. } | Self::Unbound { source, .. } => source.reason(),
            Self::NotAllowed { .. } => "service_account_not_allowed",
            Self::OtherPod { .. } => "pod_replaced",
            Self::OtherNode { .. } => "pod_on_other_node",
            Self::NoNode(_) => "pod_not_scheduled",
            Self::NoNodeUid(_) => "node_without_uid",
            Self::RecreatedNode { .. } => "node_replaced",
            Self::AgentId(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::OutsideNamespace(_) => "outside_namespace",
        }
    }
}
