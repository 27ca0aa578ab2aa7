//! The rules for the leaf of an X509-SVID.

use super::Certificate;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// Checks a peer's leaf against X509-SVID 5.2, and that its key may sign a handshake.
///
/// These rules are all that a validator may ask of others. See [`check_leaf`] for our own.
pub fn check_peer_leaf(certificate: &Certificate) -> Result<SpiffeId, LeafError> {
    // X509-SVID 5.2: a certificate that may sign certificates does not authenticate anyone.
    if certificate.is_ca() {
        return Err(LeafError::IsCa);
    }
    if let Some(usage) = certificate.key_usage() {
        // X509-SVID 5.2: neither keyCertSign nor cRLSign is set.
        if usage.key_cert_sign() {
            return Err(LeafError::KeyCertSign);
        }
        if usage.crl_sign() {
            return Err(LeafError::CrlSign);
        }
        // X509-SVID 4.3 has every leaf set digitalSignature. 5.2 leaves the check to us: TLS 1.3
        // authenticates by a signature, so a key that may not sign proves nothing.
        if !usage.digital_signature() {
            return Err(LeafError::NoDigitalSignature);
        }
    }
    let id = spiffe_id_of(certificate)?;
    // X509-SVID 5.2: the SPIFFE ID has a path.
    if !id.has_path() {
        return Err(LeafError::NoPath);
    }
    Ok(id)
}

/// Checks a leaf against everything that X509-SVID 2 to 5 ask of an issuer. Our own leaves, and
/// those that a server signed for us, must pass.
pub fn check_leaf(certificate: &Certificate) -> Result<SpiffeId, LeafError> {
    let id = check_peer_leaf(certificate)?;
    // X509-SVID 4.1: cA is FALSE; clients look for the extension itself.
    if certificate.extensions().basic_constraints.is_none() {
        return Err(LeafError::NoBasicConstraints);
    }
    // X509-SVID 4.3: KeyUsage is present and critical.
    if !certificate
        .key_usage()
        .is_some_and(|usage| usage.is_critical())
    {
        return Err(LeafError::KeyUsageNotCritical);
    }
    // X509-SVID 4.4: where extended key usage is present, it has both serverAuth and clientAuth.
    if let Some(usage) = certificate.extensions().extended_key_usage
        && !(usage.server_auth && usage.client_auth)
    {
        return Err(LeafError::ExtendedKeyUsage);
    }
    Ok(id)
}

/// The SPIFFE ID among the names. X509-SVID 2: exactly one URI, so that no reader can take another.
pub(super) fn spiffe_id_of(certificate: &Certificate) -> Result<SpiffeId, LeafError> {
    match certificate.extensions().names.uris.as_slice() {
        [] => Err(LeafError::NoUri),
        [Some(uri)] => SpiffeId::parse(uri).map_err(LeafError::SpiffeId),
        [None] => Err(LeafError::UriNotAscii),
        // X509-SVID 5.2: a leaf with more than one URI is refused, whatever the others are.
        more => Err(LeafError::ManyUris { count: more.len() }),
    }
}

/// Why a certificate is not the leaf of an X509-SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// It is a signing certificate (X509-SVID 5.2).
    #[error("certificate is a signing certificate")]
    IsCa,
    /// It may sign certificates (X509-SVID 5.2).
    #[error("certificate has the key usage keyCertSign")]
    KeyCertSign,
    /// It may sign revocation lists (X509-SVID 5.2).
    #[error("certificate has the key usage cRLSign")]
    CrlSign,
    /// Its key may not sign (X509-SVID 4.3).
    #[error("certificate lacks the key usage digitalSignature")]
    NoDigitalSignature,
    /// It has no URI name (X509-SVID 2).
    #[error("certificate has no URI name")]
    NoUri,
    /// Its URI name is not ASCII (RFC 5280 4.2.1.6).
    #[error("certificate has a URI name that is not ASCII")]
    UriNotAscii,
    /// It has several URI names (X509-SVID 5.2).
    #[error("certificate has {count} URI names, exactly one is allowed")]
    ManyUris {
        /// How many.
        count: usize,
    },
    /// Its URI name is not a SPIFFE ID (X509-SVID 5.2).
    #[error("certificate has a URI name that is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// Its SPIFFE ID has no path (X509-SVID 5.2).
    #[error("certificate has a SPIFFE ID without a path")]
    NoPath,
    /// It lacks basic constraints (X509-SVID 4.1).
    #[error("certificate lacks basic constraints")]
    NoBasicConstraints,
    /// Its key usage is missing or not critical (X509-SVID 4.3).
    #[error("certificate lacks a critical key usage")]
    KeyUsageNotCritical,
    /// Its extended key usage lacks one of the two (X509-SVID 4.4).
    #[error("certificate lacks the extended key usage serverAuth or clientAuth")]
    ExtendedKeyUsage,
}

impl LeafError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::IsCa => "leaf_is_ca",
            Self::KeyCertSign => "leaf_key_cert_sign",
            Self::CrlSign => "leaf_crl_sign",
            Self::NoDigitalSignature => "leaf_no_digital_signature",
            Self::NoUri => "leaf_no_uri",
            Self::UriNotAscii => "leaf_uri_not_ascii",
            Self::ManyUris { .. } => "leaf_many_uris",
            Self::SpiffeId(error) => error.reason(),
            Self::NoPath => "leaf_no_path",
            Self::NoBasicConstraints => "leaf_no_basic_constraints",
            Self::KeyUsageNotCritical => "leaf_key_usage",
            Self::ExtendedKeyUsage => "leaf_extended_key_usage",
        }
    }
}
