//! Why a node was not attested. The sentences are those that operators of SPIRE know.

use identity::selector::SelectorError;
use identity::spiffe_id::SpiffeIdError;

use super::fetch::FetchError;
use super::messages::PayloadError;
use crate::node::{Decision, OutsideNamespace, Refusal, with_cause};

/// What an agent is told once the server has looked for its nonce, whatever was found there. Whoever calls
/// chose where to look, and would learn what of the server's network answers, and how.
const NOT_FOUND: &str = "challenge verification failed";

/// Why a node was not attested.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The payload is no payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The operator wants another port.
    #[error("port {0} is not allowed to be used by this server")]
    OtherPort(u16),
    /// The operator wants a port that only root can open.
    #[error("port {0} is not allowed to be >= 1024")]
    HighPort(u16),
    /// The name is of no host that the operator allows.
    #[error("the requested hostname is not allowed to connect")]
    OtherHost,
    /// Too many agents are being asked.
    #[error("too many agents are being challenged; try again")]
    Busy,
    /// Nothing was fetched.
    #[error("challenge verification failed")]
    Fetch(#[source] FetchError),
    /// Something else was fetched.
    #[error("challenge verification failed: expected nonce was not found in HTTP response")]
    OtherNonce,
    /// The host's name cannot stand in a SPIFFE ID.
    #[error("failed to make spiffe id")]
    AgentId(#[from] SpiffeIdError),
    /// The host's name cannot be a selector.
    #[error("invalid selector")]
    Selector(#[from] SelectorError),
    /// A defect of this attestor.
    #[error(transparent)]
    OutsideNamespace(#[from] OutsideNamespace),
}

impl From<FetchError> for VerifyError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Busy => Self::Busy,
            other => Self::Fetch(other),
        }
    }
}

impl Refusal for VerifyError {
    fn decision(&self) -> Decision {
        match self {
            Self::Payload(_) | Self::OtherPort(_) | Self::HighPort(_) => Decision::Malformed,
            Self::OtherHost | Self::Fetch(_) | Self::OtherNonce => Decision::Denied,
            Self::Busy | Self::AgentId(_) | Self::Selector(_) | Self::OutsideNamespace(_) => {
                Decision::Undecided
            }
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Payload(error) => error.reason(),
            Self::OtherPort(_) | Self::HighPort(_) => "port_not_allowed",
            Self::OtherHost => "hostname_not_allowed",
            Self::Busy => "busy",
            Self::Fetch(error) => error.reason(),
            Self::OtherNonce => "nonce_other",
            Self::AgentId(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::OutsideNamespace(_) => "outside_namespace",
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Fetch(_) | Self::OtherNonce => NOT_FOUND.to_owned(),
            other => with_cause(other),
        }
    }
}
