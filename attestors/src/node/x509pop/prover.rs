//! The agent's half: the certificate and the key, as they are in their files now.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PSS_SHA256, RsaKeyPair,
};
use identity::key::KeyAlgorithm;
use identity::x509::{Certificate, CertificateError};
use runtime::files::{self, FileError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::messages::{Challenge, EcdsaSignature, Payload, PayloadError, Response, RsaSignature};
use crate::node::json::Bytes;
use crate::node::nonce::Nonce;

/// A longer file has neither a key nor the chain of one node.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Proves by a certificate and its key, which whoever renews them puts into files: they are read again
/// for every try.
#[derive(Clone, Debug)]
pub struct Prover {
    /// The key, in PEM.
    pub private_key_path: PathBuf,
    /// The certificate, and intermediates after it, in PEM.
    pub certificate_path: PathBuf,
    /// Further intermediates, in PEM.
    pub intermediates_path: Option<PathBuf>,
}

/// A certificate and its key, for one try.
pub struct Holder {
    payload: Vec<u8>,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl Prover {
    /// Reads certificate and key, as they are now, and sees whether they fit.
    pub fn load(&self) -> Result<Holder, ProverError> {
        let mut chain = certificates(&self.certificate_path)?;
        if let Some(path) = &self.intermediates_path {
            chain.extend(certificates(path)?);
        }
        let leaf = chain
            .first()
            .ok_or_else(|| ProverError::NoCertificate(self.certificate_path.clone()))?;
        let text = Zeroizing::new(read(&self.private_key_path)?);
        let key = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|_no_key| ProverError::NoKey(self.private_key_path.clone()))?;
        let key = Key::of(leaf, &key)?;
        let ders = chain.iter().map(|one| one.der().to_vec()).collect();
        let payload = Payload::new(ders)
            .map_err(|_empty| ProverError::NoCertificate(self.certificate_path.clone()))?;
        Ok(Holder {
            payload: payload.encode(),
            key,
        })
    }
}

impl Key {
    /// Takes the key of a certificate, of the kind that the certificate says.
    fn of(leaf: &Certificate, key: &PrivateKeyDer<'_>) -> Result<Self, ProverError> {
        let der = key.secret_der();
        let ecdsa = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der);
        let (key, public) = match leaf.public_key().algorithm() {
            KeyAlgorithm::EcP256 => {
                let key =
                    ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_e| ProverError::Mismatch)?;
                let public = key.public_key().as_der().map(|der| der.as_ref().to_vec());
                (Self::Ecdsa(key), public)
            }
            KeyAlgorithm::EcP521 => {
                let key =
                    ecdsa(&ECDSA_P521_SHA256_FIXED_SIGNING).map_err(|_e| ProverError::Mismatch)?;
                let public = key.public_key().as_der().map(|der| der.as_ref().to_vec());
                (Self::Ecdsa(key), public)
            }
            KeyAlgorithm::Rsa(_) => {
                let key = RsaKeyPair::from_pkcs8(der).or_else(|_pkcs1| RsaKeyPair::from_der(der));
                let key = key.map_err(|_e| ProverError::Mismatch)?;
                let public = key.public_key().as_der().map(|der| der.as_ref().to_vec());
                (Self::Rsa(key), public)
            }
            KeyAlgorithm::EcP384 => return Err(ProverError::Algorithm("ECDSA on P-384")),
            KeyAlgorithm::Ed25519 => return Err(ProverError::Algorithm("Ed25519")),
        };
        match public {
            Ok(public) if public == leaf.public_key().spki_der() => Ok(key),
            Ok(_) | Err(_) => Err(ProverError::Mismatch),
        }
    }
}

impl Holder {
    /// What the agent shows: its chain.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Signs what the server drew, and a nonce of our own, so that the server cannot have a text of its
    /// own signed.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, ProverError> {
        let challenge = Challenge::parse(challenge).map_err(ProverError::Challenge)?;
        let own = Nonce::draw();
        let response = match &self.key {
            Key::Rsa(key) => {
                let asked = challenge.rsa_signature;
                let asked = asked.ok_or(ProverError::OtherChallenge("RSA"))?;
                let mut signature = vec![0; key.public_modulus_len()];
                let message = asked.nonce.joined(own);
                key.sign(
                    &RSA_PSS_SHA256,
                    &SystemRandom::new(),
                    &message,
                    &mut signature,
                )
                .map_err(|_e| ProverError::Sign)?;
                Response {
                    rsa_signature: Some(RsaSignature {
                        nonce: own,
                        signature: Bytes(signature),
                    }),
                    ecdsa_signature: None,
                }
            }
            Key::Ecdsa(key) => {
                let asked = challenge.ecdsa_signature;
                let asked = asked.ok_or(ProverError::OtherChallenge("ECDSA"))?;
                let signature = key.sign(&SystemRandom::new(), &asked.nonce.joined(own));
                let signature = signature.map_err(|_e| ProverError::Sign)?;
                let numbers = signature.as_ref();
                let (r, s) = numbers
                    .split_at_checked(numbers.len() / 2)
                    .unwrap_or_default();
                Response {
                    rsa_signature: None,
                    ecdsa_signature: Some(EcdsaSignature {
                        nonce: own,
                        r: Bytes(r.to_vec()),
                        s: Bytes(s.to_vec()),
                    }),
                }
            }
        };
        Ok(response.encode())
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holder(redacted)")
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ProverError> {
    let text = read(path)?;
    let parse = |der: Result<CertificateDer<'_>, _>| {
        let der = der.map_err(|_no_pem| CertificateError::Pem)?;
        Certificate::parse(&der)
    };
    let parsed = CertificateDer::pem_slice_iter(&text).map(parse);
    let parsed: Result<Vec<_>, _> = parsed.collect();
    parsed.map_err(|source| ProverError::Certificate {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ProverError> {
    let content = files::read_limited(path, MAX_FILE_BYTES)?;
    content.ok_or_else(|| ProverError::Missing(path.to_owned()))
}

/// Why there is no evidence, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// A file cannot be read.
    #[error("could not read what the node proves itself by")]
    File(#[from] FileError),
    /// A file is not there.
    #[error("there is no file `{}`", .0.display())]
    Missing(PathBuf),
    /// The file has no certificate.
    #[error("there is no certificate in `{}`", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate is none.
    #[error("a certificate in `{}` cannot be used", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The file has no key.
    #[error("there is no private key in PEM in `{}`", .0.display())]
    NoKey(PathBuf),
    /// The key is not that of the certificate.
    #[error("the private key is not that of the certificate")]
    Mismatch,
    /// The key is of a kind that is not built.
    #[error(
        "a key of the kind {0} cannot prove anything here; use ECDSA on P-256 or P-521, or RSA"
    )]
    Algorithm(&'static str),
    /// The server's challenge is none.
    #[error("the server's challenge cannot be read")]
    Challenge(#[source] PayloadError),
    /// The challenge is for another kind of key.
    #[error("the server's challenge is for another kind of key than {0}")]
    OtherChallenge(&'static str),
    /// The library did not sign.
    #[error("could not sign the answer to the server's challenge")]
    Sign,
}

impl ProverError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::Missing(_) => "file_not_found",
            Self::NoCertificate(_) => "pem_empty",
            Self::Certificate { source, .. } => source.reason(),
            Self::NoKey(_) => "key_malformed",
            Self::Mismatch => "key_mismatch",
            Self::Algorithm(_) => "key_algorithm",
            Self::Challenge(error) => error.reason(),
            Self::OtherChallenge(_) => "challenge_of_other_kind",
            Self::Sign => "sign",
        }
    }
}
