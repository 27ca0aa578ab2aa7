//! A host certificate that was checked: its authority is trusted, its time has come, its signature fits.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::key::{KeyError, PublicKey};

use super::authorities::Authorities;
use super::fields::Fields;
use super::signature::{self, Sha1};

/// Longer certificates are refused before they are parsed.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// The kind of a host certificate.
const HOST: u32 = 2;

/// A host certificate, as far as it matters here. It can be had of checked bytes alone.
#[derive(Clone, Debug)]
pub struct HostCertificate {
    /// The certified key.
    pub(super) key: PublicKey,
    /// SHA-256 of the certificate, as SPIRE writes it.
    pub(super) fingerprint: String,
    /// The names of the host, of which there is one at least.
    pub(super) principals: Vec<String>,
    pub(super) key_id: String,
    pub(super) serial: u64,
}

impl HostCertificate {
    /// Parses a certificate in the form of the SSH protocol, and checks it.
    pub fn verify(
        bytes: &[u8],
        authorities: &Authorities,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong);
        }
        let fields = Fields::read(bytes).ok_or(CertificateError::Malformed)?;
        if fields.kind != HOST {
            return Err(CertificateError::NotOfAHost);
        }
        if fields.principals.is_empty() {
            return Err(CertificateError::NoPrincipals);
        }
        // PROTOCOL.certkeys: what is critical and not known is refused, and of hosts nothing is known.
        if let Some(name) = fields.critical.first() {
            return Err(CertificateError::Critical((*name).to_owned()));
        }
        let authority = authorities
            .find(&fields.authority)
            .ok_or(CertificateError::UnknownAuthority)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // PROTOCOL.certkeys: valid from the first second on, and before the last one.
        if !fields.valid.contains(&now) {
            return Err(CertificateError::NotInItsTime);
        }
        let (format, blob) = fields.signature;
        signature::verify(authority, fields.signed, format, blob, Sha1::Refused)
            .map_err(CertificateError::Signature)?;
        Ok(Self {
            key: signature::public_key(&fields.key).map_err(CertificateError::Key)?,
            fingerprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes)),
            principals: fields.principals.into_iter().map(str::to_owned).collect(),
            key_id: fields.key_id.to_owned(),
            serial: fields.serial,
        })
    }
}

/// Why a certificate is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    /// It is too long.
    #[error("the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
    /// It is no certificate, or not in its one form.
    #[error("the certificate is malformed")]
    Malformed,
    /// It is for a user.
    #[error("the certificate is not a host certificate")]
    NotOfAHost,
    /// It names no host.
    #[error("cert has no valid principals")]
    NoPrincipals,
    /// It demands what nobody here knows.
    #[error("the certificate has the critical option `{0}`")]
    Critical(String),
    /// Its authority is none of those that are trusted.
    #[error("the certificate is of no trusted authority")]
    UnknownAuthority,
    /// It is not valid yet, or not any more.
    #[error("the certificate is expired or not yet valid")]
    NotInItsTime,
    /// The signature is not the authority's.
    #[error("the certificate has no valid signature")]
    Signature(#[source] KeyError),
    /// The certified key cannot be used.
    #[error("the certificate has an unusable key")]
    Key(#[source] KeyError),
}

impl CertificateError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "certificate_too_large",
            Self::Malformed => "certificate_malformed",
            Self::NotOfAHost => "certificate_not_of_a_host",
            Self::NoPrincipals => "certificate_without_principals",
            Self::Critical(_) => "certificate_critical_option",
            Self::UnknownAuthority => "certificate_unknown_authority",
            Self::NotInItsTime => "certificate_not_in_its_time",
            Self::Signature(error) | Self::Key(error) => error.reason(),
        }
    }
}
