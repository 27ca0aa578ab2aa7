//! A serving certificate that is kept in files by somebody else, and read again when it changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use runtime::clock::Clock;
use runtime::files::{FileError, read_limited};
use runtime::report;
use runtime::shutdown::Shutdown;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use tracing::{error, info};
use zeroize::Zeroizing;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the certificate is, and how often it is looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub sync_interval: Duration,
}

/// Why the files are no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Read(#[from] FileError),
    #[error("there is no file `{}`", .0.display())]
    Missing(PathBuf),
    #[error("`{}` has no certificate in PEM", .0.display())]
    Certificate(PathBuf, #[source] Option<pem::Error>),
    #[error("`{}` has no private key in PEM", .0.display())]
    Key(PathBuf, #[source] pem::Error),
    #[error("the key in `{}` does not serve the certificate", .0.display())]
    Mismatch(PathBuf, #[source] rustls::Error),
}

impl CertificateError {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(error) => error.reason(),
            Self::Missing(_) => "serving_file_missing",
            Self::Certificate(..) => "serving_certificate",
            Self::Key(..) => "serving_key",
            Self::Mismatch(..) => "serving_key_mismatch",
        }
    }
}

/// The certificate that was read last and could be used.
#[derive(Debug)]
pub(crate) struct FileCertificate {
    files: CertificateFiles,
    current: ArcSwap<CertifiedKey>,
}

impl FileCertificate {
    /// Reads it for the first time.
    pub(crate) fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads it again at its interval, until shutdown. What cannot be used changes nothing.
    pub(crate) async fn keep(self: Arc<Self>, clock: Clock, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = clock.sleep(self.files.sync_interval) => {}
            }
            self.sync();
        }
    }

    fn sync(&self) {
        let path = self.files.certificate.display();
        match read(&self.files) {
            Ok(read) if read.cert == self.current.load().cert => {}
            Ok(read) => {
                self.current.store(Arc::new(read));
                info!(%path, "Took over a new serving certificate");
            }
            Err(cause) => error!(
                %path,
                error = report::chain(&cause),
                error.reason = cause.reason(),
                "Could not read the serving certificate again, and kept the last good one"
            ),
        }
    }
}

impl ResolvesServerCert for FileCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(files: &CertificateFiles) -> Result<CertifiedKey, CertificateError> {
    let file = |path: &PathBuf| {
        read_limited(path, MAX_FILE_BYTES)?.ok_or_else(|| CertificateError::Missing(path.clone()))
    };
    let certificate = file(&files.certificate)?;
    let key = Zeroizing::new(file(&files.key)?);
    let bad = |error| CertificateError::Certificate(files.certificate.clone(), error);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(Some(error)))?;
    if chain.is_empty() {
        return Err(bad(None));
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| CertificateError::Key(files.key.clone(), error))?;
    let mismatch = |error| CertificateError::Mismatch(files.key.clone(), error);
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(mismatch)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(mismatch)?;
    Ok(certified)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn write(folder: &TempDir, certificate_of: &KeyPair, key: &KeyPair) -> CertificateFiles {
        let params = CertificateParams::new(vec!["fed.org".to_owned()]).unwrap();
        let certificate = params.self_signed(certificate_of).unwrap();
        let files = CertificateFiles {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            sync_interval: Duration::from_secs(1),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn files_that_are_no_certificate_with_its_key_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let files = write(&folder, &one, &other);
        let reason = |files: &CertificateFiles| read(files).unwrap_err().reason();
        assert_eq!(reason(&files), "serving_key_mismatch");
        std::fs::write(&files.key, "nothing").unwrap();
        assert_eq!(reason(&files), "serving_key");
        std::fs::write(&files.certificate, "nothing").unwrap();
        assert_eq!(reason(&files), "serving_certificate");
        std::fs::remove_file(&files.certificate).unwrap();
        assert_eq!(reason(&files), "serving_file_missing");
    }

    #[test]
    fn a_new_certificate_is_taken_over_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let files = write(&folder, &one, &one);
        let certificate = FileCertificate::load(files).unwrap();
        let first = certificate.current.load_full();
        write(&folder, &other, &one);
        certificate.sync();
        assert_eq!(certificate.current.load().cert, first.cert);
        write(&folder, &other, &other);
        certificate.sync();
        assert_ne!(certificate.current.load().cert, first.cert);
    }
}
