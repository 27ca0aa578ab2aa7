//! Certificate signing requests (PKCS#10, RFC 2986).

use x509_parser::{
    certification_request::X509CertificationRequest,
    der_parser::{Oid, oid},
    extensions::ParsedExtension,
    prelude::FromDer,
    x509::X509Version,
};

use super::extensions::Names;
use crate::key::{KeyError, PublicKey, SignatureScheme};

/// The largest request taken, in bytes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// A request whose signature proves that the sender holds the private key.
///
/// Only the public key is meant to reach a certificate. The names are kept for the one call that
/// signs what it is asked for, by an administrator's hand.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    names: Names,
}

impl Csr {
    /// Parses a request of at most [`MAX_CSR_BYTES`], and nothing after it; checks that its key is
    /// on the allow-list, then that it signed the request.
    pub fn parse_and_verify(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge);
        }
        let (rest, csr) = X509CertificationRequest::from_der(der).or(Err(CsrError::Malformed))?;
        if !rest.is_empty() {
            return Err(CsrError::TrailingData);
        }
        let info = &csr.certification_request_info;
        // RFC 2986 4.1: the only version is 0.
        if info.version != X509Version::V1 {
            return Err(CsrError::Malformed);
        }
        let public_key =
            PublicKey::from_spki_der(info.subject_pki.raw).map_err(CsrError::PublicKey)?;
        public_key
            .check_for_issuance()
            .map_err(CsrError::PublicKey)?;
        let scheme =
            scheme_of(&csr.signature_algorithm.algorithm).ok_or(CsrError::SignatureAlgorithm)?;
        public_key
            .verify(scheme, info.raw, &csr.signature_value.data)
            .map_err(CsrError::Signature)?;
        let names = csr
            .requested_extensions()
            .into_iter()
            .flatten()
            .find_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(Names::read(names)),
                _ => None,
            })
            .unwrap_or_default();
        Ok(Self { public_key, names })
    }

    /// The key that the sender proved to hold.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The URI names asked for, without those that are not ASCII.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.names.uris.iter().filter_map(Option::as_deref)
    }

    /// The DNS names asked for.
    pub fn dns_names(&self) -> &[String] {
        &self.names.dns
    }
}

/// The scheme behind a signature algorithm's identifier.
fn scheme_of(algorithm: &Oid<'_>) -> Option<SignatureScheme> {
    let known: [(Oid<'static>, SignatureScheme); 7] = [
        (oid!(1.2.840.10045.4.3.2), SignatureScheme::EcdsaSha256Der),
        (oid!(1.2.840.10045.4.3.3), SignatureScheme::EcdsaSha384Der),
        (oid!(1.2.840.10045.4.3.4), SignatureScheme::EcdsaSha512Der),
        (oid!(1.2.840.113549.1.1.11), SignatureScheme::RsaPkcs1Sha256),
        (oid!(1.2.840.113549.1.1.12), SignatureScheme::RsaPkcs1Sha384),
        (oid!(1.2.840.113549.1.1.13), SignatureScheme::RsaPkcs1Sha512),
        (oid!(1.3.101.112), SignatureScheme::Ed25519),
    ];
    known
        .into_iter()
        .find(|(oid, _)| oid == algorithm)
        .map(|(_, scheme)| scheme)
}

/// Why a certificate signing request is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The bytes are above [`MAX_CSR_BYTES`].
    #[error("CSR is larger than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// The bytes are not a request.
    #[error("CSR is malformed")]
    Malformed,
    /// Something follows the request.
    #[error("CSR is followed by other data")]
    TrailingData,
    /// The key is not on the allow-list.
    #[error("CSR has an unacceptable public key")]
    PublicKey(#[source] KeyError),
    /// The signature algorithm is not on the allow-list.
    #[error("CSR has an unknown signature algorithm")]
    SignatureAlgorithm,
    /// The signature does not verify: the sender did not prove to hold the key.
    #[error("CSR has an invalid signature")]
    Signature(#[source] KeyError),
}

impl CsrError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "csr_too_large",
            Self::Malformed => "csr_malformed",
            Self::TrailingData => "csr_trailing_data",
            Self::PublicKey(error) => error.reason(),
            Self::SignatureAlgorithm => "csr_signature_algorithm",
            Self::Signature(_) => "csr_signature",
        }
    }
}
