//! Where the roots of the trust domain come from, when this server does not make them itself: an authority
//! above signs ours.

mod disk;
mod spire;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{
    bundle::{Bundle, JwtAuthority},
    trust_domain::TrustDomain,
    x509::Certificate,
};
use runtime::{clock::Clock, tasks::TaskGroup};

use super::CaSubject;
use crate::keys::{SignatureError, Signer};

use self::{disk::Disk, spire::Spire};
pub use self::{
    disk::DiskError,
    spire::{SpireConfig, SpireError},
};

/// Who signs our authorities.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UpstreamConfig {
    /// A key in a file.
    Disk(DiskConfig),
    /// A server of our trust domain.
    Spire(SpireConfig),
}

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
    /// It is that of a server.
    Spire(Spire),
    /// It is that of a server in this process.
    #[cfg(test)]
    Beside(tests::Beside),
}

/// What is to be signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CaRequest<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) subject: &'a CaSubject,
    /// The key that is to be certified.
    pub(super) signer: &'a Signer,
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
    #[error(transparent)]
    Spire(#[from] SpireError),
    #[cfg(test)]
    #[error("the authority above is away")]
    Away,
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
            Self::Spire(cause) => cause.reason(),
            #[cfg(test)]
            Self::Away => "upstream_away",
            Self::Sign(_) | Self::Profile | Self::ReadBack(_) => "upstream_certificate",
            Self::Ended => "upstream_ended",
        }
    }
}

impl UpstreamError {
    /// Whether it may be that the authority above signs later, without a change here.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Spire(_) => true,
            #[cfg(test)]
            Self::Away => true,
            Self::Disk(_) | Self::Sign(_) | Self::Profile | Self::Ended | Self::ReadBack(_) => {
                false
            }
        }
    }
}

impl Upstream {
    /// Loads what can be loaded. A server above is called when it is needed.
    pub fn open(
        config: UpstreamConfig,
        trust_domain: &TrustDomain,
        clock: &Clock,
        tasks: &TaskGroup,
    ) -> Result<Self, DiskError> {
        match config {
            UpstreamConfig::Disk(files) => Self::disk(files, clock.now()),
            UpstreamConfig::Spire(config) => {
                let (trust_domain, clock) = (trust_domain.clone(), clock.clone());
                let spire = Spire::start(config, trust_domain, clock, tasks);
                Ok(Self(Arc::new(Source::Spire(spire))))
            }
        }
    }

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
            Source::Spire(spire) => Ok(spire.mint(request, now).await?),
            #[cfg(test)]
            Source::Beside(server) => server.mint(request, now),
        }
    }

    /// Has a JWT authority counted wherever the authority above counts. One in files knows X.509 alone.
    pub(super) async fn publish(&self, authority: &JwtAuthority) -> Result<(), UpstreamError> {
        match &*self.0 {
            Source::Disk(_) => Ok(()),
            Source::Spire(spire) => Ok(spire.publish(authority).await?),
            #[cfg(test)]
            Source::Beside(server) => server.publish(authority).await,
        }
    }

    /// Whether it has a bundle that ours has to follow.
    pub(super) fn has_bundle(&self) -> bool {
        !matches!(&*self.0, Source::Disk(_))
    }

    /// The bundle that ours has to follow, if it has one.
    pub(super) async fn bundle(&self) -> Result<Option<Bundle>, UpstreamError> {
        match &*self.0 {
            Source::Disk(_) => Ok(None),
            Source::Spire(spire) => Ok(Some(spire.bundle().await?)),
            #[cfg(test)]
            Source::Beside(server) => Ok(Some(server.bundle()?)),
        }
    }
}

#[cfg(test)]
pub(in crate::authority) mod tests;
