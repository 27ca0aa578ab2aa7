//! The agent's half: the host certificate and the host key, as they are in their files now.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::key::KeyError;
use runtime::files::{self, FileError};
use zeroize::Zeroizing;

use super::fields::Fields;
use super::messages::{Challenge, Payload, PayloadError, Response, Signed};
use super::signature::{Sha1, public_key, verify};
use crate::node::json::Bytes;
use crate::node::nonce::Nonce;

mod key;

use self::key::HostKey;

/// Where SPIRE's agent looks.
pub const DEFAULT_KEY_PATH: &str = "/etc/ssh/ssh_host_rsa_key";
/// Where SPIRE's agent looks.
pub const DEFAULT_CERT_PATH: &str = "/etc/ssh/ssh_host_rsa_key-cert.pub";

/// A longer file has neither a key nor a certificate of one host.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Proves by a host certificate and its key. They are read again for every try, as whoever renews the
/// certificate puts it into its file.
#[derive(Clone, Debug)]
pub struct Prover {
    /// The key, in OpenSSH's form or in PEM.
    pub host_key_path: PathBuf,
    /// The certificate, as `ssh-keygen` writes it.
    pub host_cert_path: PathBuf,
}

/// A certificate and its key, for one try.
pub struct Holder {
    payload: Vec<u8>,
    key: HostKey,
}

impl Prover {
    /// Reads certificate and key, as they are now, and sees whether they fit.
    pub fn load(&self) -> Result<Holder, ProverError> {
        let text = read(&self.host_cert_path)?;
        let unusable = || ProverError::NoCertificate(self.host_cert_path.clone());
        let text = String::from_utf8_lossy(&text);
        let encoded = text.split_ascii_whitespace().nth(1).unwrap_or_default();
        let bytes = STANDARD.decode(encoded).map_err(|_e| unusable())?;
        let fields = Fields::read(&bytes).ok_or_else(unusable)?;
        let public = public_key(&fields.key).map_err(ProverError::Key)?;
        let key = HostKey::read(&read(&self.host_key_path)?, &public)?;
        // A key that is not the certificate's would cost a try at the server to be told so.
        let (format, blob) = key.sign(b"probe")?;
        verify(&public, b"probe", format, &blob, Sha1::Refused)
            .map_err(|_e| ProverError::Mismatch)?;
        Ok(Holder {
            payload: Payload(bytes).encode(),
            key,
        })
    }
}

impl Holder {
    /// What the agent shows: its certificate.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Signs what the server drew, and a nonce of our own, so that the server cannot have a text of its
    /// own signed.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, ProverError> {
        let challenge = Challenge::parse(challenge).map_err(ProverError::Challenge)?;
        let own = Nonce::draw();
        let message = digest(&SHA256, &challenge.nonce.joined(own));
        let (format, blob) = self.key.sign(message.as_ref())?;
        let response = Response {
            nonce: own,
            signature: Signed {
                format: format.to_owned(),
                blob: Bytes(blob),
                rest: None,
            },
        };
        Ok(response.encode())
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holder(redacted)")
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ProverError> {
    let content = files::read_limited(path, MAX_FILE_BYTES)?;
    let content = content.map(Zeroizing::new);
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
    #[error("there is no SSH certificate in `{}`", .0.display())]
    NoCertificate(PathBuf),
    /// The certified key is of a kind that is not built.
    #[error("the certified key cannot be used")]
    Key(#[source] KeyError),
    /// The file has no key, or an encrypted one.
    #[error("the host key cannot be read; it must be an unencrypted key of the certificate's kind")]
    NoKey,
    /// The key is not that of the certificate.
    #[error("the host key is not that of the host certificate")]
    Mismatch,
    /// The server's challenge is none.
    #[error("the server's challenge cannot be read")]
    Challenge(#[source] PayloadError),
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
            Self::NoCertificate(_) => "certificate_malformed",
            Self::Key(error) => error.reason(),
            Self::NoKey => "key_malformed",
            Self::Mismatch => "key_mismatch",
            Self::Challenge(error) => error.reason(),
            Self::Sign => "sign",
        }
    }
}
