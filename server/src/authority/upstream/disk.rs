//! An authority whose certificate and key lie in files. They are read again for each signature, so that they
//! can be replaced while the server runs; when they cannot be read, those from before go on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use identity::x509::{
    AuthorityError, Certificate, CertificateError, MAX_LIST_BYTES, find_root,
    parse_pem_certificates,
};
use parking_lot::Mutex;
use runtime::{
    failpoint,
    files::{FileError, read_limited},
    report,
};
use tracing::warn;

use super::{CaRequest, DiskConfig, Minted, UpstreamError};
use crate::{
    authority::x509::sign_below,
    keys::{KeyPemError, Signer, pem},
};

/// Why the files are refused.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("unable to load upstream CA key")]
    Key(#[from] KeyPemError),
    #[error("unable to load upstream CA certificates")]
    File(#[from] FileError),
    #[error("unable to load upstream CA certificates: there is no file `{}`", .0.display())]
    Missing(PathBuf),
    #[error("unable to load upstream CA certificates: `{}`", path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error(
        "with no bundle_file_path configured only self-signed CAs are supported: `{}` must hold one certificate, which signs itself",
        .0.display()
    )]
    NotSelfSigned(PathBuf),
    #[error("unable to load upstream CA: certificate and private key do not match")]
    OtherKey,
    #[error("unable to load upstream CA: certificate cannot be validated with the bundle")]
    Chain(#[from] AuthorityError),
    #[error("reading the files was cut short")]
    CutShort(#[source] tokio::task::JoinError),
}

impl DiskError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Key(cause) => cause.reason(),
            Self::File(cause) => cause.reason(),
            Self::Missing(_) => "upstream_certificate_missing",
            Self::Certificates { source, .. } => source.reason(),
            Self::NotSelfSigned(_) => "upstream_not_self_signed",
            Self::OtherKey => "upstream_other_key",
            Self::Chain(_) => "upstream_chain",
            Self::CutShort(_) => "upstream_cut_short",
        }
    }
}

/// The files, and what was in them when they were last good.
#[derive(Debug)]
pub(super) struct Disk {
    config: DiskConfig,
    last: Mutex<Arc<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    signer: Signer,
    certificate: Certificate,
    /// From the certificate up to below the root; empty if it is the root.
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
    /// The one of them that the certificate leads to.
    root: Certificate,
    /// When the first of all that leads to it ends.
    ends: SystemTime,
}

impl Disk {
    pub(super) fn open(config: DiskConfig, now: SystemTime) -> Result<Self, DiskError> {
        let loaded = Loaded::read(&config, now)?;
        Ok(Self {
            config,
            last: Mutex::new(Arc::new(loaded)),
        })
    }

    pub(super) async fn mint(
        &self,
        request: CaRequest<'_>,
        now: SystemTime,
    ) -> Result<Minted, UpstreamError> {
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || Loaded::read(&config, now)).await;
        let loaded = match read.map_err(DiskError::CutShort)? {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                *self.last.lock() = Arc::clone(&loaded);
                loaded
            }
            Err(cause) => {
                warn!(
                    error.reason = cause.reason(),
                    error = %report::chain(&cause),
                    "Could not read the upstream authority's files again; what was in them before goes on"
                );
                Arc::clone(&self.last.lock())
            }
        };
        failpoint::reach("upstream", "read");
        let (issuer, ends) = (&loaded.certificate, loaded.ends);
        let certificate = sign_below(issuer, &loaded.signer, &request, ends, now)?;
        failpoint::reach("upstream", "signed");
        let mut chain = vec![certificate];
        chain.extend_from_slice(&loaded.chain);
        Ok(Minted {
            chain,
            roots: loaded.roots.clone(),
            root: loaded.root.clone(),
        })
    }
}

impl Loaded {
    fn read(config: &DiskConfig, now: SystemTime) -> Result<Self, DiskError> {
        let signer = pem::read(&config.key_file_path)?;
        let mut chain = certificates(&config.cert_file_path)?;
        let not_alone = || DiskError::NotSelfSigned(config.cert_file_path.clone());
        let certificate = chain.first().cloned().ok_or_else(not_alone)?;
        if certificate.public_key() != signer.public_key() {
            return Err(DiskError::OtherKey);
        }
        let roots = match &config.bundle_file_path {
            Some(path) => certificates(path)?,
            None if chain.len() == 1 && certificate.is_self_issued() => chain.clone(),
            None => return Err(not_alone()),
        };
        let root = find_root(&chain, &roots, now)?.clone();
        let above = chain.iter().chain([&root]);
        let ends = above.map(|certificate| certificate.validity().not_after());
        let ends = ends.fold(root.validity().not_after(), SystemTime::min);
        // A root is what peers have already.
        chain.retain(|certificate| !roots.contains(certificate));
        Ok(Self {
            signer,
            certificate,
            chain,
            roots,
            root,
            ends,
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, DiskError> {
    let text = read_limited(path, MAX_LIST_BYTES as u64)?;
    let text = text.ok_or_else(|| DiskError::Missing(path.to_owned()))?;
    parse_pem_certificates(&String::from_utf8_lossy(&text)).map_err(|source| {
        DiskError::Certificates {
            path: path.to_owned(),
            source,
        }
    })
}
