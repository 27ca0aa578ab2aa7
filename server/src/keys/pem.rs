//! A key that an operator hands over in a PEM file: PKCS#8, SEC1 or PKCS#1, as SPIRE takes them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    encoding::AsDer as _,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, RsaKeyPair,
    },
};
use identity::key::{KeyError, PrivateKey};
use runtime::files::{FileError, read_limited};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use zeroize::{Zeroize as _, Zeroizing};

use super::Signer;

/// The largest key file taken, in bytes: RSA 8192 needs 7 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// Why a key file is refused. Never says anything about a key's content.
#[derive(Debug, thiserror::Error)]
pub enum KeyPemError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no key file `{}`", .0.display())]
    Missing(PathBuf),
    #[error("`{}` holds no PEM private key (PKCS#8, EC or RSA)", .0.display())]
    NoKey(PathBuf),
    #[error("the key in `{}` cannot be used; EC P-256, EC P-384 and RSA keys can", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

impl KeyPemError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(cause) => cause.reason(),
            Self::Missing(_) => "key_file_missing",
            Self::NoKey(_) => "key_file_damaged",
            Self::Key { source, .. } => source.reason(),
        }
    }
}

/// Reads the first private key of a PEM file.
pub(crate) fn read(path: &Path) -> Result<Signer, KeyPemError> {
    let text = read_limited(path, MAX_BYTES)?.map(Zeroizing::new);
    let text = text.ok_or_else(|| KeyPemError::Missing(path.to_owned()))?;
    let no_key = |_| KeyPemError::NoKey(path.to_owned());
    let mut der = PrivateKeyDer::from_pem_slice(&text).map_err(no_key)?;
    let unusable = |source| KeyPemError::Key {
        path: path.to_owned(),
        source,
    };
    let pkcs8 = pkcs8(&der);
    der.zeroize();
    let pkcs8 = pkcs8.ok_or(KeyError::Malformed).map_err(unusable)?;
    let key = PrivateKey::from_pkcs8_der(pkcs8).map_err(unusable)?;
    Signer::new(Arc::new(key)).map_err(unusable)
}

fn pkcs8(der: &PrivateKeyDer<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let der = match der {
        PrivateKeyDer::Pkcs8(pkcs8) => pkcs8.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Sec1(sec1) => {
            let of =
                |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, sec1.secret_sec1_der());
            let pair = of(&ECDSA_P256_SHA256_ASN1_SIGNING)
                .or_else(|_| of(&ECDSA_P384_SHA384_ASN1_SIGNING));
            pair.ok()?.to_pkcs8v1().ok()?.as_ref().to_vec()
        }
        PrivateKeyDer::Pkcs1(pkcs1) => {
            let pair = RsaKeyPair::from_der(pkcs1.secret_pkcs1_der()).ok()?;
            pair.as_der().ok()?.as_ref().to_vec()
        }
        _ => return None,
    };
    Some(Zeroizing::new(der))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use proptest::prelude::*;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = BASE64.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    fn of(text: &[u8]) -> Result<Signer, KeyPemError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn reads_ec_and_rsa_keys_in_each_form_that_spire_takes() {
        for algorithm in [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
        ] {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let sec1 = pair.private_key().as_der().unwrap();
            let pkcs8 = pair.to_pkcs8v1().unwrap();
            let first = of(pem("EC PRIVATE KEY", sec1.as_ref()).as_bytes()).unwrap();
            let second = of(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()).unwrap();
            assert_eq!(first.public_key(), second.public_key());
        }
        let pkcs8 = RsaKeyPair::generate(KeySize::Rsa2048)
            .unwrap()
            .as_der()
            .unwrap();
        // What PKCS#8 wraps: the rest of its last octet string.
        let pkcs1 = &pkcs8.as_ref()[26..];
        let first = of(pem("RSA PRIVATE KEY", pkcs1).as_bytes()).unwrap();
        let second = of(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()).unwrap();
        assert_eq!(first.public_key(), second.public_key());
    }

    #[test]
    fn a_file_without_a_usable_key_is_refused_by_name_and_shows_nothing_of_it() {
        let missing = read(Path::new("/nowhere/key.pem")).unwrap_err();
        assert!(matches!(missing, KeyPemError::Missing(_)));
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n";
        for text in ["", certificate, broken] {
            let told = format!("{:?}", of(text.as_bytes()).unwrap_err());
            assert!(!told.contains("secret"), "{told}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_or_an_error(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = of(&text);
        }
    }
}
