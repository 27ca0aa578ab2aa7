//! Where the roots of the trust domain come from, when this server does not make them itself: an authority
//! above signs ours.

mod disk;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{key::PublicKey, trust_domain::TrustDomain, x509::Certificate};

use super::CaSubject;
use crate::keys::SignatureError;

use self::disk::Disk;
pub use self::disk::DiskError;

/// The files of a certificate authority that signs ours (SPIRE's plugin `disk`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskConfig {
    /// Its certificate, then, with a bundle, what leads from it to a root.
    pub cert_file_path: PathBuf,
    pub key_file_path: PathBuf,
    /// The roots. Without it the certificate is the one root, and signs itself.
    pub bundle_file_path: Option<PathBuf>,
}

/// The authority above ours. Clones share it.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// Its key lies in a file.
    Disk(Disk),
}

/// What is to be signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CaRequest<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) subject: &'a CaSubject,
    pub(super) public_key: &'a PublicKey,
    pub(super) ttl: Duration,
}

/// What was signed.
#[derive(Clone, Debug)]
pub(super) struct Minted {
    /// The new certificate, then what leads to a root, which itself is not in it.
    pub(super) chain: Vec<Certificate>,
    /// What belongs into the bundle.
    pub(super) roots: Vec<Certificate>,
    /// The one of them that the chain leads to.
    pub(super) root: Certificate,
}

/// Why the authority above signed nothing.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("could not sign the certificate of the authority")]
    Sign(#[from] SignatureError),
    #[error("certificate to be signed is not that of an authority")]
    Profile,
    #[error("the authority above has ended")]
    Ended,
    #[error("could not read back the certificate of the authority")]
    ReadBack(#[from] identity::x509::CertificateError),
}

impl UpstreamError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Disk(cause) => cause.reason(),
            Self::Sign(_) | Self::Profile | Self::ReadBack(_) => "upstream_certificate",
            Self::Ended => "upstream_ended",
        }
    }
}

impl Upstream {
    /// Loads the files; the server does not start with wrong ones.
    pub fn disk(config: DiskConfig, now: SystemTime) -> Result<Self, DiskError> {
        Ok(Self(Arc::new(Source::Disk(Disk::open(config, now)?))))
    }

    /// Has an authority signed.
    pub(super) async fn mint(
        &self,
        request: CaRequest<'_>,
        now: SystemTime,
    ) -> Result<Minted, UpstreamError> {
        match &*self.0 {
            Source::Disk(disk) => disk.mint(request, now).await,
        }
    }
}
