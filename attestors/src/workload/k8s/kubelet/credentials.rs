//! The files by which this agent and the kubelet know each other.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use runtime::files::read_limited;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use super::KubeletError;
use super::options::{Authentication, Secure, Verification};
use super::tls::Trust;

/// A bundle of certificates, a key or a token is a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What one TLS configuration is made of.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) trust: Trust,
    pub(super) own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Material {
    /// Reads the files. Files are small and local, so this blocks.
    pub(super) fn read(secure: &Secure) -> Result<Self, KubeletError> {
        let trust = match &secure.verification {
            Verification::Skip => Trust::Anybody,
            Verification::Auto { ca, pinned } => trust(ca.as_deref(), pinned, name(secure)?)?,
        };
        let own = match &secure.authentication {
            Authentication::Certificate {
                certificate,
                private_key,
            } => Some((certificates(certificate)?, key(private_key)?)),
            Authentication::Token(_) | Authentication::Anonymous => None,
        };
        Ok(Self { trust, own })
    }
}

/// The header that shows the token, for the configured kind of authentication.
///
/// It is read before each request: the file is small, and the kubelet of a pod replaces it.
pub(super) fn authorization(secure: &Secure) -> Result<Option<HeaderValue>, KubeletError> {
    let Authentication::Token(path) = &secure.authentication else {
        return Ok(None);
    };
    let text = Zeroizing::new(read(path)?);
    let unusable = || {
        unusable(
            path,
            io::Error::new(io::ErrorKind::InvalidData, "it holds no token"),
        )
    };
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(unusable());
    }
    let mut line = Zeroizing::new(b"Bearer ".to_vec());
    line.extend_from_slice(token);
    let mut header = HeaderValue::from_bytes(&line).ok().ok_or_else(unusable)?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// The name that the certificate must have.
fn name(secure: &Secure) -> Result<Option<ServerName<'static>>, KubeletError> {
    let Some(name) = secure.node_name.as_ref().or(secure.address.as_ref()) else {
        return Ok(None);
    };
    // A name that no certificate can have must not switch the check off.
    match ServerName::try_from(name.clone()) {
        Ok(name) => Ok(Some(name)),
        Err(_) => Err(KubeletError::NodeName(name.clone())),
    }
}

fn trust(
    ca: Option<&Path>,
    pinned: &[PathBuf],
    name: Option<ServerName<'static>>,
) -> Result<Trust, KubeletError> {
    let mut authorities = RootCertStore::empty();
    let mut missing = None;
    if let Some(path) = ca {
        match certificates(path) {
            Ok(found) => {
                // The cluster's bundle may hold what no verifier takes; the rest still counts.
                authorities.add_parsable_certificates(found);
            }
            Err(error) => missing = Some(error),
        }
    }
    let mut exact = Vec::new();
    for path in pinned {
        match certificates(path) {
            // Behind the leaf stands whoever signed it, who is not believed for other leaves.
            Ok(found) => exact.extend(found.into_iter().next()),
            Err(error) => {
                missing.get_or_insert(error);
            }
        }
    }
    if authorities.is_empty() && exact.is_empty() {
        return Err(missing.unwrap_or_else(|| {
            let nothing = io::Error::new(
                io::ErrorKind::NotFound,
                "no authority and no certificate to check the kubelet by",
            );
            unusable(ca.unwrap_or_else(|| Path::new("kubelet_ca_path")), nothing)
        }));
    }
    Ok(Trust::These {
        authorities,
        pinned: exact,
        name,
    })
}

/// The certificates of a PEM file that may hold other things too; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KubeletError> {
    let text = Zeroizing::new(read(path)?);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unusable(path, io::Error::other(error)))?;
    if found.is_empty() {
        let nothing = io::Error::new(io::ErrorKind::InvalidData, "it holds no certificate");
        return Err(unusable(path, nothing));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, KubeletError> {
    let text = Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| unusable(path, io::Error::other(error)))
}

fn read(path: &Path) -> Result<Vec<u8>, KubeletError> {
    match read_limited(path, MAX_FILE_BYTES) {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(unusable(path, io::ErrorKind::NotFound.into())),
        Err(error) => Err(unusable(path, error.source)),
    }
}

fn unusable(path: &Path, source: io::Error) -> KubeletError {
    KubeletError::Credentials {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
