//! Why the kubelet did not say which pods it runs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::list::{ListError, MAX_LIST_BYTES};

/// Why there is no list of pods. All callers that wait for one answer get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KubeletError {
    /// No connection.
    #[error(
        "could not connect to the kubelet at `{address}` (is the kubelet running, and is this its \
         address? see `node_name` and the ports in the configuration)"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The handshake failed, by another reason than the certificate.
    #[error("the TLS handshake with the kubelet at `{address}` failed")]
    Tls {
        /// Where.
        address: String,
        /// What the TLS library said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Whoever answers is not known to be the kubelet.
    #[error(
        "the certificate of the kubelet at `{address}` is refused (set `kubelet_ca_path` to the \
         authority that signed it, or mount the kubelet's own certificate)"
    )]
    Certificate {
        /// Where.
        address: String,
        /// What is wrong with it.
        #[source]
        source: Arc<io::Error>,
    },
    /// The files that this agent shows to the kubelet, or checks it by, cannot be used.
    #[error("could not use `{path}` for the connection to the kubelet", path = .path.display())]
    Credentials {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Arc<io::Error>,
    },
    /// The configuration names the node as no certificate can.
    #[error("`{0}` is not a name that the kubelet's certificate can have (see `node_name`)")]
    NodeName(String),
    /// 401.
    #[error(
        "the kubelet does not know this agent: 401 (it needs `--authentication-token-webhook` and the \
         API server to check a token that it has not seen)"
    )]
    Unauthorized,
    /// 403.
    #[error(
        "the kubelet does not let this agent list pods: 403 (grant `get` on `nodes/pods` to the \
         agent's service account)"
    )]
    Forbidden,
    /// Any other answer but 200.
    #[error("the kubelet answered with status {0}")]
    Status(u16),
    /// The connection broke in the middle of the answer.
    #[error("the kubelet's answer broke off")]
    Interrupted(#[source] Arc<hyper::Error>),
    /// The answer is no list of pods.
    #[error("the kubelet's answer is not a list of pods")]
    Garbage(#[source] ListError),
    /// The answer is larger than any node's list.
    #[error("the kubelet's answer is larger than {MAX_LIST_BYTES} bytes")]
    TooLarge,
    /// No whole answer in time.
    #[error("the kubelet did not answer within {0:?}")]
    Timeout(Duration),
    /// No answer yet, and a caller need not wait for it.
    #[error("the kubelet has not answered yet")]
    Slow,
    /// The Pods API's socket is not there.
    #[error("the kubelet's Pods API has no socket at `{}`", .0.display())]
    NoSocket(PathBuf),
    /// The kubelet has not heard of its pods yet.
    #[error("the kubelet is initializing")]
    Initializing,
    /// The Pods API failed.
    #[error("the kubelet's Pods API failed")]
    PodsApi(#[source] Arc<tonic::Status>),
    /// The Pods API ended the stream.
    #[error("the kubelet ended the stream of its pods")]
    StreamEnded,
    /// The Pods API says what it must not.
    #[error("the kubelet's Pods API sent something that is not a pod")]
    NotAPod,
    /// This process ends.
    #[error("the agent shuts down")]
    Shutdown,
}

impl KubeletError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "kubelet_unreachable",
            Self::Tls { .. } => "kubelet_tls",
            Self::Certificate { .. } => "kubelet_certificate",
            Self::Credentials { .. } => "kubelet_credentials",
            Self::NodeName(_) => "kubelet_node_name",
            Self::Unauthorized => "kubelet_unauthorized",
            Self::Forbidden => "kubelet_forbidden",
            Self::Status(_) => "kubelet_status",
            Self::Interrupted(_) => "kubelet_interrupted",
            Self::Garbage(_) => "kubelet_garbage",
            Self::TooLarge => "kubelet_too_large",
            Self::Timeout(_) => "kubelet_timeout",
            Self::Slow => "kubelet_slow",
            Self::NoSocket(_) => "pods_api_no_socket",
            Self::Initializing => "pods_api_initializing",
            Self::PodsApi(_) => "pods_api_failed",
            Self::StreamEnded => "pods_api_ended",
            Self::NotAPod => "pods_api_not_a_pod",
            Self::Shutdown => "shutdown",
        }
    }
}
