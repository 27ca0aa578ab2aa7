//! JWT-SVIDs: reading tokens that we hold, and validating those of others.

mod svid;
mod token;
mod validate;

pub use svid::JwtSvid;
pub use token::Algorithm;
pub use validate::{LEEWAY, ValidatedJwt, validate};

use crate::{key::KeyError, spiffe_id::SpiffeIdError, trust_domain::TrustDomain};

/// The largest token taken, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Why a token is not a valid JWT-SVID. Where SPIRE has a message for it, it is used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// The token is above [`MAX_TOKEN_BYTES`].
    #[error("token is larger than {MAX_TOKEN_BYTES} bytes")]
    TooLarge,
    /// The token is not in compact form (JWT-SVID 5.1).
    #[error("unable to parse JWT token: not in compact form")]
    NotCompact,
    /// The header is not a JSON object whose names are unique.
    #[error("unable to parse JWT token: header is malformed")]
    Header,
    /// The algorithm is missing or none of those in [`Algorithm`] (JWT-SVID 2.1).
    #[error("unable to parse JWT token: signature algorithm is not allowed")]
    Algorithm,
    /// The header has something other than `alg`, `kid` and `typ` (JWT-SVID 2).
    #[error("token header has an unexpected parameter")]
    HeaderParameter,
    /// The header's `typ` is neither `JWT` nor `JOSE` (JWT-SVID 2.3).
    #[error("token header has an invalid type")]
    Type,
    /// The header's `kid` is missing, empty or too long.
    #[error("token header missing key id")]
    KeyId,
    /// The payload is not a JSON object whose names are unique.
    #[error("unable to parse JWT token: claims are malformed")]
    Claims,
    /// The claim `sub` is missing (JWT-SVID 3.1).
    #[error("token missing subject claim")]
    NoSubject,
    /// The claim `sub` is not a SPIFFE ID (JWT-SVID 3.1).
    #[error("token has an invalid subject claim")]
    Subject(#[source] SpiffeIdError),
    /// The claim `aud` is missing or empty (JWT-SVID 3.2).
    #[error("token missing aud claim")]
    NoAudience,
    /// The claim `exp` is missing (JWT-SVID 3.3).
    #[error("token missing exp claim")]
    NoExpiry,
    /// A claim has the wrong type or is out of range.
    #[error("token has an invalid {claim:?} claim")]
    Claim {
        /// The name of the claim.
        claim: &'static str,
    },
    /// There is no bundle for the trust domain of the subject.
    #[error("no keys found for trust domain {:?}", trust_domain.name())]
    NoBundle {
        /// The trust domain of the subject.
        trust_domain: TrustDomain,
    },
    /// The trust domain of the subject has no such key.
    #[error("public key {key_id:?} not found in trust domain {:?}", trust_domain.name())]
    UnknownKey {
        /// What the token asks for.
        key_id: String,
        /// The trust domain of the subject.
        trust_domain: TrustDomain,
    },
    /// The signature does not verify, or the algorithm does not fit the key.
    #[error("token has an invalid signature")]
    Signature(#[source] KeyError),
    /// The token is past `exp`.
    #[error("token has expired")]
    Expired,
    /// The token is before `nbf`.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The token was issued in the future.
    #[error("token is issued in the future")]
    IssuedInFuture,
    /// The claim `aud` lacks the audience that the validator goes by (JWT-SVID 3.2).
    #[error("expected audience in {expected:?} (audience={found:?})")]
    Audience {
        /// What the validator goes by.
        expected: Vec<String>,
        /// What the token says.
        found: Vec<String>,
    },
}

impl JwtError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "token_too_large",
            Self::NotCompact => "token_not_compact",
            Self::Header => "token_header",
            Self::Algorithm => "token_algorithm",
            Self::HeaderParameter => "token_header_parameter",
            Self::Type => "token_type",
            Self::KeyId => "token_key_id",
            Self::Claims => "token_claims",
            Self::NoSubject => "token_no_subject",
            Self::Subject(error) => error.reason(),
            Self::NoAudience => "token_no_audience",
            Self::NoExpiry => "token_no_expiry",
            Self::Claim { .. } => "token_claim",
            Self::NoBundle { .. } => "no_bundle",
            Self::UnknownKey { .. } => "token_unknown_key",
            Self::Signature(error) => error.reason(),
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::Audience { .. } => "token_audience",
        }
    }
}

#[cfg(test)]
mod tests;
