//! Bundles between the wire and the server.

use std::time::Duration;

use bytes::Bytes;
use identity::bundle::{Bundle, JwtAuthority, MAX_KEY_ID_BYTES, X509Authority};
use identity::key::{KeyError, PublicKey};
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, CertificateError};
use proto::spire::types;

use crate::records::{from_seconds, to_seconds};

/// Why a bundle of a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum BundleError {
    #[error("unable to parse X.509 authority")]
    X509(#[source] CertificateError),
    #[error("unable to parse JWT authority")]
    Jwt(#[source] JwtAuthorityError),
}

/// Why a JWT authority of a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwtAuthorityError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("missing key ID")]
    NoKeyId,
    #[error("key ID is longer than {MAX_KEY_ID_BYTES} bytes")]
    LongKeyId,
    #[error("key ID {0:?} is there twice")]
    KeyIdTwice(String),
}

/// Reads the bundle of a trust domain. Nothing is tainted in what comes from outside.
pub(in crate::api) fn from_proto(
    trust_domain: TrustDomain,
    message: &types::Bundle,
) -> Result<Bundle, BundleError> {
    let mut bundle = Bundle::new(trust_domain);
    for authority in x509_authorities(&message.x509_authorities).map_err(BundleError::X509)? {
        bundle.add_x509_authority(authority);
    }
    bundle.jwt_authorities = jwt_authorities(&message.jwt_authorities).map_err(BundleError::Jwt)?;
    bundle.refresh_hint = u64::try_from(message.refresh_hint)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    bundle.sequence = message.sequence_number;
    Ok(bundle)
}

/// The bundle with the taints of its message: for one that comes from a server of our own trust domain.
pub(in crate::api) fn tainted_as(mut bundle: Bundle, message: &types::Bundle) -> Bundle {
    for authority in &mut bundle.x509_authorities {
        let der = authority.certificate.der().as_ref();
        let mut tainted = message.x509_authorities.iter().filter(|a| a.tainted);
        authority.tainted = tainted.any(|message| message.asn1 == der);
    }
    for authority in &mut bundle.jwt_authorities {
        let mut tainted = message.jwt_authorities.iter().filter(|a| a.tainted);
        authority.tainted = tainted.any(|message| message.key_id == authority.key_id);
    }
    bundle
}

/// Reads X.509 authorities.
pub(in crate::api) fn x509_authorities(
    messages: &[types::X509Certificate],
) -> Result<Vec<X509Authority>, CertificateError> {
    let read = |message: &types::X509Certificate| {
        Ok(X509Authority::new(Certificate::parse(&message.asn1)?))
    };
    messages.iter().map(read).collect()
}

/// Reads JWT authorities, of which no two have one key ID.
pub(in crate::api) fn jwt_authorities(
    messages: &[types::JwtKey],
) -> Result<Vec<JwtAuthority>, JwtAuthorityError> {
    let mut authorities: Vec<JwtAuthority> = Vec::new();
    for message in messages {
        let authority = jwt_authority(message)?;
        if authorities
            .iter()
            .any(|other| other.key_id == authority.key_id)
        {
            return Err(JwtAuthorityError::KeyIdTwice(authority.key_id));
        }
        authorities.push(authority);
    }
    Ok(authorities)
}

/// Reads a JWT authority. Nothing is tainted in what comes from below.
pub(crate) fn jwt_authority(message: &types::JwtKey) -> Result<JwtAuthority, JwtAuthorityError> {
    let public_key = PublicKey::from_spki_der(&message.public_key)?;
    if message.key_id.is_empty() {
        return Err(JwtAuthorityError::NoKeyId);
    }
    if message.key_id.len() > MAX_KEY_ID_BYTES {
        return Err(JwtAuthorityError::LongKeyId);
    }
    Ok(JwtAuthority {
        key_id: message.key_id.clone(),
        public_key,
        expires_at: (message.expires_at > 0).then(|| from_seconds(message.expires_at)),
        tainted: false,
    })
}

/// A JWT authority.
pub(crate) fn jwt_to_proto(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(authority.public_key.spki_der()),
        key_id: authority.key_id.clone(),
        expires_at: authority.expires_at.map_or(0, to_seconds),
        tainted: authority.tainted,
    }
}

/// A bundle, as far as the mask asks for it. The trust domain is always there.
pub(in crate::api) fn to_proto(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let wants = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    let x509 = |authority: &X509Authority| types::X509Certificate {
        asn1: Bytes::copy_from_slice(authority.certificate.der()),
        tainted: authority.tainted,
    };
    let mut message = types::Bundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        ..Default::default()
    };
    if wants(|mask| mask.x509_authorities) {
        message.x509_authorities = bundle.x509_authorities.iter().map(x509).collect();
    }
    if wants(|mask| mask.jwt_authorities) {
        message.jwt_authorities = bundle.jwt_authorities.iter().map(jwt_to_proto).collect();
    }
    if wants(|mask| mask.refresh_hint) {
        let seconds = bundle.refresh_hint.map_or(0, |hint| hint.as_secs());
        message.refresh_hint = i64::try_from(seconds).unwrap_or(i64::MAX);
    }
    if wants(|mask| mask.sequence_number) {
        message.sequence_number = bundle.sequence;
    }
    message
}
