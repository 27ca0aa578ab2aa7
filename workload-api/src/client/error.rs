//! Why a call to a Workload API gave nothing.

use identity::bundle::BundleError;
use identity::jwt::JwtError;
use identity::key::KeyError;
use identity::spiffe_id::SpiffeIdError;
use identity::trust_domain::TrustDomainError;
use identity::x509::{CertificateError, SvidError};
use tonic::{Code, Status};

/// Why a call to a Workload API gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket, or it could not be reached.
    #[error("could not connect to the Workload API")]
    Connect(#[source] tonic::transport::Error),
    /// The agent refused.
    #[error("the Workload API refused the call")]
    Refused(#[source] Box<Status>),
    /// The agent closed the stream before it said anything.
    #[error("the Workload API closed the stream without an answer")]
    Ended,
    /// A mandatory field is missing.
    #[error("the answer of the Workload API lacks a mandatory field")]
    Incomplete,
    /// The SPIFFE ID beside an SVID is not the one in it.
    #[error("the answer of the Workload API names another SPIFFE ID than its SVID")]
    OtherId,
    /// A SPIFFE ID is not one.
    #[error("the answer of the Workload API has a malformed SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The key of a map of bundles is not a trust domain.
    #[error("the answer of the Workload API has a malformed trust domain")]
    TrustDomain(#[source] TrustDomainError),
    /// A chain is not one.
    #[error("the answer of the Workload API has a malformed certificate chain")]
    Certificate(#[source] CertificateError),
    /// A private key is not one.
    #[error("the answer of the Workload API has a malformed private key")]
    Key(#[source] KeyError),
    /// A chain and its key are no X509-SVID.
    #[error("the answer of the Workload API has an X509-SVID that breaks the standard")]
    Svid(#[source] SvidError),
    /// A bundle is not one.
    #[error("the answer of the Workload API has a malformed bundle")]
    Bundle(#[source] BundleError),
    /// A token is not one.
    #[error("the answer of the Workload API has a malformed JWT-SVID")]
    Jwt(#[source] JwtError),
}

impl ClientError {
    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            _ => None,
        }
    }

    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) => "workload_api_connect",
            Self::Refused(_) => "workload_api_refused",
            Self::Ended => "workload_api_ended",
            Self::Incomplete => "workload_api_incomplete",
            Self::OtherId => "workload_api_other_id",
            Self::SpiffeId(error) => error.reason(),
            Self::TrustDomain(error) => error.reason(),
            Self::Certificate(error) => error.reason(),
            Self::Key(error) => error.reason(),
            Self::Svid(error) => error.reason(),
            Self::Bundle(error) => error.reason(),
            Self::Jwt(error) => error.reason(),
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}
