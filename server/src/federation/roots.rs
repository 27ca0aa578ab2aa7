//! The authorities of the Web PKI that a bundle endpoint of the profile `https_web` is checked by.
//!
//! They are read for each fetch, so that what an operator adds to them counts without a restart.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Where Linux distributions keep all authorities in one file.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A hundred and fifty authorities are some 250 KiB.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Why there are no authorities.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    #[error("could not read the certificate authorities")]
    Read(#[from] runtime::files::FileError),
    #[error("`{}` has no certificate authority", .0.display())]
    None(PathBuf),
}

impl RootsError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "web_roots_read",
            Self::None(_) => "web_roots_none",
        }
    }
}

/// The authorities of a file that the operator names; else those of the system; else those that
/// browsers have, which are compiled in, where a system has none of the usual files.
pub(crate) fn load(named: Option<&Path>) -> Result<RootCertStore, RootsError> {
    if let Some(path) = named {
        let roots = read(path)?.unwrap_or_else(RootCertStore::empty);
        if roots.is_empty() {
            return Err(RootsError::None(path.to_owned()));
        }
        return Ok(roots);
    }
    of_system(SYSTEM.map(Path::new))
}

/// The first file that is there counts, whatever it holds: an operator who empties it trusts nobody, and
/// not those whom browsers trust.
fn of_system<const N: usize>(paths: [&Path; N]) -> Result<RootCertStore, RootsError> {
    for path in paths {
        match read(path)? {
            Some(roots) if roots.is_empty() => return Err(RootsError::None(path.to_owned())),
            Some(roots) => return Ok(roots),
            None => {}
        }
    }
    Ok(RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    })
}

/// `None` if there is no such file. What in it is no certificate, or none that can be used, is passed
/// over: systems carry authorities that are older than the rules.
fn read(path: &Path) -> Result<Option<RootCertStore>, RootsError> {
    let Some(text) = runtime::files::read_limited(path, MAX_FILE_BYTES)? else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let _counts = roots.add_parsable_certificates(certificates);
    Ok(Some(roots))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_named_file_is_taken_alone_and_must_hold_an_authority() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        assert!(matches!(load(Some(&path)), Err(RootsError::None(_))));
        std::fs::write(&path, "nothing").unwrap();
        assert!(matches!(load(Some(&path)), Err(RootsError::None(_))));
        let key = KeyPair::generate().unwrap();
        let root = CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(&path, format!("# ours\n{}", root.pem())).unwrap();
        assert_eq!(load(Some(&path)).unwrap().len(), 1);
    }

    #[test]
    fn adv_an_emptied_file_of_the_system_is_not_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let [missing, empty] = ["missing.pem", "empty.pem"].map(|name| folder.path().join(name));
        std::fs::write(&empty, "").unwrap();
        let refused = of_system([missing.as_path(), &empty]);
        assert!(matches!(refused, Err(RootsError::None(path)) if path == empty));
        let compiled_in = of_system([missing.as_path()]).unwrap();
        assert!(compiled_in.len() > 50);
    }

    #[test]
    fn there_are_authorities_on_any_system() {
        assert!(load(None).unwrap().len() > 50);
    }
}
