//! Certificate signing requests (PKCS#10, RFC 2986).

use x509_parser::{
    certification_request::X509CertificationRequest, der_parser::asn1_rs::Any,
    extensions::ParsedExtension, prelude::FromDer, x509::X509Version,
};

use super::distinguished::{DistinguishedName, NameError};
use super::extensions::Names;
use crate::key::{KeyError, PublicKey, SignatureScheme};

/// The largest request taken, in bytes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// A request whose signature proves that the sender holds the private key.
///
/// Only the public key is meant to reach a certificate. The names and the subject are kept for the one
/// call that signs what it is asked for, by an administrator's hand; extensions are never more than
/// asked for.
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    names: Names,
    subject: Vec<u8>,
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
        // RFC 2986 4.1: the only version is 0. A signature is whole bytes.
        if info.version != X509Version::V1 || csr.signature_value.unused_bits != 0 {
            return Err(CsrError::Malformed);
        }
        let public_key =
            PublicKey::from_spki_der(info.subject_pki.raw).map_err(CsrError::PublicKey)?;
        public_key
            .check_for_issuance()
            .map_err(CsrError::PublicKey)?;
        // What follows the signed part begins with the algorithm's identifier.
        let (_, outer) = Any::from_der(der).or(Err(CsrError::Malformed))?;
        let tail = outer
            .data
            .strip_prefix(info.raw)
            .ok_or(CsrError::Malformed)?;
        let scheme = scheme_of(tail).ok_or(CsrError::SignatureAlgorithm)?;
        public_key
            .verify(scheme, info.raw, &csr.signature_value.data)
            .map_err(CsrError::Signature)?;
        // All of them, if there is more than one: what is counted here must be all that was asked for.
        let mut names = Names::default();
        for extension in csr.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(more) = extension {
                names.extend(Names::read(more));
            }
        }
        Ok(Self {
            public_key,
            names,
            subject: info.subject.as_raw().to_vec(),
        })
    }

    /// The key that the sender proved to hold.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The URI names asked for; `None` for one that is not ASCII.
    pub fn uris(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.names.uris.iter().map(Option::as_deref)
    }

    /// The subject asked for.
    pub fn subject(&self) -> Result<DistinguishedName, NameError> {
        DistinguishedName::from_der(&self.subject)
    }

    /// The DNS names asked for, those that are not ASCII left out.
    pub fn dns_names(&self) -> &[String] {
        &self.names.dns
    }

    /// Those, with what is no text replaced: a name is written in ASCII (RFC 5280 4.2.1.6).
    pub fn foreign_dns_names(&self) -> &[String] {
        &self.names.foreign_dns
    }
}

/// The scheme whose AlgorithmIdentifier stands at the start of `der`: one exact encoding each
/// (RFC 5758 3.2, RFC 8017 A.2.4, RFC 8410 3), parameters included.
fn scheme_of(der: &[u8]) -> Option<SignatureScheme> {
    use SignatureScheme::{
        EcdsaSha256Der, EcdsaSha384Der, EcdsaSha512Der, Ed25519, RsaPkcs1Sha256, RsaPkcs1Sha384,
        RsaPkcs1Sha512,
    };
    let known: [(&[u8], SignatureScheme); 7] = [
        (
            b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            EcdsaSha256Der,
        ),
        (
            b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            EcdsaSha384Der,
        ),
        (
            b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04",
            EcdsaSha512Der,
        ),
        (
            b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
            RsaPkcs1Sha256,
        ),
        (
            b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00",
            RsaPkcs1Sha384,
        ),
        (
            b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00",
            RsaPkcs1Sha512,
        ),
        (b"\x30\x05\x06\x03\x2b\x65\x70", Ed25519),
    ];
    known
        .into_iter()
        .find(|(encoding, _)| der.starts_with(encoding))
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
