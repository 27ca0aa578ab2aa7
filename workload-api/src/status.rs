//! The one map from a refusal to what the caller learns: a code and a sentence that gives nothing away.

use identity::jwt::JwtError;
use identity::spiffe_id::SpiffeIdError;
use tonic::{Code, Status};

use crate::source::{AttestError, JwtFetchError};

/// Why a call is refused, or why its stream ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Workload Endpoint 3: every request carries the security header.
    #[error("security header missing from request")]
    SecurityHeader,
    #[error("audience must be specified")]
    NoAudience,
    #[error("svid must be specified")]
    NoSvid,
    #[error("invalid requested SPIFFE ID: {0}")]
    SpiffeId(#[source] SpiffeIdError),
    #[error("workload attestation failed")]
    NoPeer,
    #[error("workload attestation failed")]
    Attest(#[source] AttestError),
    /// Clients look for these very words.
    #[error("no identity issued")]
    NoIdentity,
    #[error("could not fetch JWT-SVID: {0}")]
    JwtFetch(#[source] JwtFetchError),
    #[error("{0}")]
    Jwt(#[source] JwtError),
    #[error("the JWT-SVID has a claim that cannot be told")]
    Claim,
    #[error("workload is not authorized for the requested identities [{0}]")]
    NotAuthorized(String),
    #[error("at most {0} resources may be named, by {1} bytes in all")]
    TooManyNames(usize, usize),
    #[error("the type of the resources is not known")]
    UnknownType,
    #[error("the agent is shutting down")]
    ShuttingDown,
    #[error("fetching WIT-SVIDs is not implemented")]
    NoWitSvids,
    #[error("fetching WIT bundles is not implemented")]
    NoWitBundles,
    #[error("unknown method")]
    NoSuchMethod,
}

impl Refusal {
    pub(crate) fn code(&self) -> Code {
        match self {
            // It would be denied again, as one without an entry is.
            Self::Attest(AttestError::Denied(_)) => Code::PermissionDenied,
            // Workload API 4.5: a mandatory field at its default value; Workload Endpoint 6: the header.
            Self::SecurityHeader
            | Self::NoAudience
            | Self::NoSvid
            | Self::SpiffeId(_)
            | Self::Jwt(_)
            | Self::Claim
            | Self::NotAuthorized(_)
            | Self::TooManyNames(..)
            | Self::UnknownType => Code::InvalidArgument,
            // Workload Endpoint 6: running, but not able to answer; the caller may come again.
            Self::NoPeer | Self::Attest(_) | Self::JwtFetch(_) | Self::ShuttingDown => {
                Code::Unavailable
            }
            // Workload API 5.2.1, 5.2.2, 6.2.1, 6.2.2: nothing to give.
            Self::NoIdentity => Code::PermissionDenied,
            // Workload API 7: without the profile, every RPC of it is unimplemented.
            Self::NoWitSvids | Self::NoWitBundles | Self::NoSuchMethod => Code::Unimplemented,
        }
    }

    /// A stable label for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::SecurityHeader => "security_header_missing",
            Self::NoAudience => "audience_missing",
            Self::NoSvid => "svid_missing",
            Self::SpiffeId(error) => error.reason(),
            Self::NoPeer => "peer_unknown",
            Self::Attest(error) => error.reason(),
            Self::NoIdentity => "no_identity",
            Self::JwtFetch(error) => error.reason(),
            Self::Jwt(error) => error.reason(),
            Self::Claim => "claim_not_a_value",
            Self::NotAuthorized(_) => "not_authorized",
            Self::TooManyNames(..) => "too_many_names",
            Self::UnknownType => "unknown_type",
            Self::ShuttingDown => "shutting_down",
            Self::NoWitSvids | Self::NoWitBundles | Self::NoSuchMethod => "not_implemented",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}
