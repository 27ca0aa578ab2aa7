//! Why a node was not attested. The sentences are those that operators of SPIRE know.

use identity::key::KeyError;
use identity::selector::SelectorError;

use super::certificate::CertificateError;
use super::messages::PayloadError;
use crate::node::path_template::RenderError;
use crate::node::{Decision, OutsideNamespace, Refusal};

/// Why a node was not attested.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The payload is no payload.
    #[error("failed to unmarshal data")]
    Payload(#[from] PayloadError),
    /// The certificate does not count.
    #[error("failed to check host key")]
    Certificate(#[from] CertificateError),
    /// The host is not of the operator's domain.
    #[error("failed to decanonicalize hostname: cert principal is not in domain {0:?}")]
    OtherDomain(String),
    /// The response is none.
    #[error("failed to unmarshal challenge response")]
    Response(#[source] PayloadError),
    /// The signature is not by the certified key, or not over these nonces.
    #[error("failed to verify signature")]
    Signature(#[source] KeyError),
    /// The agent cannot be called as the operator has it.
    #[error("failed to create AgentID")]
    AgentId(#[from] RenderError),
    /// What the certificate says cannot be a selector.
    #[error("invalid selector")]
    Selector(#[from] SelectorError),
    /// The operator's template took a name of another attestor.
    #[error(transparent)]
    OutsideNamespace(#[from] OutsideNamespace),
}

impl Refusal for VerifyError {
    /// SPIRE's server says INTERNAL to whatever is wrong here.
    fn decision(&self) -> Decision {
        Decision::Undecided
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Payload(error) | Self::Response(error) => error.reason(),
            Self::Certificate(error) => error.reason(),
            Self::OtherDomain(_) => "host_of_other_domain",
            Self::Signature(error) => error.reason(),
            Self::AgentId(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::OutsideNamespace(_) => "outside_namespace",
        }
    }
}
