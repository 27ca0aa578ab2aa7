//! Why a node was not attested. The sentences are those that operators of SPIRE know.

use std::net::IpAddr;

use identity::key::KeyError;
use identity::selector::SelectorError;
use identity::x509::{CertificateError, LeafError};

use super::messages::PayloadError;
use crate::node::path_template::RenderError;
use crate::node::{Decision, OutsideNamespace, Refusal};

/// Why a node was not attested.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The payload is no payload.
    #[error("failed to unmarshal data")]
    Payload(#[source] PayloadError),
    /// There is no leaf, or too much beside it.
    #[error(transparent)]
    Chain(PayloadError),
    /// The leaf is no certificate, or has a key that cannot be used.
    #[error("unable to parse leaf certificate")]
    Leaf(#[source] CertificateError),
    /// An intermediate is no certificate, or has a key that cannot be used.
    #[error("unable to parse intermediate certificate {position}")]
    Intermediate {
        /// Which one, from 0.
        position: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// An RSA key is longer than the operator allows.
    #[error("{whose} certificate key size too large")]
    KeySize {
        /// `leaf` or `intermediate`.
        whose: &'static str,
    },
    /// There is no valid path to a root.
    #[error("certificate verification failed")]
    Untrusted(#[source] identity::x509::VerifyError),
    /// The certificate is not for the address that the agent calls from.
    #[error("client IP {0} does not match any certificate IP SAN")]
    OtherAddress(IpAddr),
    /// The agent calls over no network.
    #[error("client IP not available for verification")]
    NoAddress,
    /// The serial number is below zero, and could be taken for another one.
    #[error("the serial number of the leaf certificate is negative")]
    Serial,
    /// The key may not sign what is not a certificate.
    #[error("unable to generate challenge: certificate not intended for digital signature use")]
    NotForSignatures,
    /// The key is of a kind that no challenge is made for.
    #[error("unable to generate challenge: unsupported public key type")]
    KeyType,
    /// The response is none.
    #[error("unable to unmarshal challenge response")]
    Response(#[source] PayloadError),
    /// The response is for another kind of key.
    #[error("challenge response verification failed: expecting {0} response")]
    OtherResponse(&'static str),
    /// The signature is not by the key of the leaf, or not over these nonces.
    #[error("challenge response verification failed: {kind} signature verify failed")]
    Signature {
        /// `RSA` or `ECDSA`.
        kind: &'static str,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The certificate to exchange is no X509-SVID.
    #[error("valid SVID x509 cert not found")]
    NoSvid(#[source] LeafError),
    /// The X509-SVID is of another trust domain, or not below the prefix.
    #[error("x509 cert doesnt match SVID prefix")]
    OutsidePrefix,
    /// The agent cannot be called as the operator has it.
    #[error("failed to make spiffe id")]
    AgentId(#[from] RenderError),
    /// What the certificate says cannot be a selector.
    #[error("invalid selector")]
    Selector(#[from] SelectorError),
    /// The operator's template took a name of another attestor.
    #[error(transparent)]
    OutsideNamespace(#[from] OutsideNamespace),
}

impl From<PayloadError> for VerifyError {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::NoCertificate | PayloadError::TooManyIntermediates => Self::Chain(error),
            PayloadError::TooLong | PayloadError::Json { .. } | PayloadError::Encoding { .. } => {
                Self::Payload(error)
            }
        }
    }
}

impl Refusal for VerifyError {
    fn decision(&self) -> Decision {
        match self {
            Self::Payload(_)
            | Self::Chain(_)
            | Self::Leaf(_)
            | Self::Intermediate { .. }
            | Self::KeySize { .. }
            | Self::Response(_) => Decision::Malformed,
            Self::Untrusted(_)
            | Self::OtherAddress(_)
            | Self::OtherResponse(_)
            | Self::Signature { .. }
            | Self::Serial
            | Self::NoSvid(_)
            | Self::OutsidePrefix => Decision::Denied,
            // SPIRE's server says INTERNAL to a certificate that cannot be challenged.
            Self::NotForSignatures
            | Self::KeyType
            | Self::NoAddress
            | Self::AgentId(_)
            | Self::Selector(_)
            | Self::OutsideNamespace(_) => Decision::Undecided,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Payload(error) | Self::Chain(error) | Self::Response(error) => error.reason(),
            Self::Leaf(source) | Self::Intermediate { source, .. } => source.reason(),
            Self::KeySize { .. } => "key_too_large",
            Self::Untrusted(error) => error.reason(),
            Self::OtherAddress(_) => "address_not_certified",
            Self::NoAddress => "address_unknown",
            Self::Serial => "serial_negative",
            Self::NotForSignatures => "certificate_not_for_signatures",
            Self::KeyType => "key_algorithm",
            Self::OtherResponse(_) => "challenge_response_of_other_kind",
            Self::Signature { source, .. } => source.reason(),
            Self::NoSvid(error) => error.reason(),
            Self::OutsidePrefix => "svid_outside_prefix",
            Self::AgentId(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::OutsideNamespace(_) => "outside_namespace",
        }
    }
}
