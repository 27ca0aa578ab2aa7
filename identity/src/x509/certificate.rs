//! One certificate, parsed once.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

use super::extensions::{Extensions, KeyUsage};
use super::signature::Frame;
use crate::{
    key::{KeyError, PublicKey},
    span::Span,
    spiffe_id::SpiffeId,
    validity::{Validity, ValidityError},
    x509::leaf::{LeafError, spiffe_id_of},
};

/// The largest certificate taken, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// The largest list of certificates taken, in bytes, in either form.
pub const MAX_LIST_BYTES: usize = 1024 * 1024;

/// An X.509 certificate with a public key that we can use. Cheap to clone.
///
/// Equal when the DER is.
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: CertificateDer<'static>,
    // In `der`.
    serial: Span,
    serial_decimal: Box<str>,
    // In `der`.
    subject: Span,
    issuer: Span,
    validity: Validity,
    public_key: PublicKey,
    extensions: Extensions,
}

impl Certificate {
    /// Parses one certificate (RFC 5280) of at most [`MAX_CERTIFICATE_BYTES`] and nothing after it.
    ///
    /// Whether it may do what it claims is not asked here; see [`super::check_leaf`] and
    /// [`super::verify_peer`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (certificate, rest) = Self::parse_first(der)?;
        if rest.is_empty() {
            Ok(certificate)
        } else {
            Err(CertificateError::TrailingData)
        }
    }

    /// Parses the certificate at the start of `bytes`, and hands back the rest.
    fn parse_first(bytes: &[u8]) -> Result<(Self, &[u8]), CertificateError> {
        let head = bytes.get(..MAX_CERTIFICATE_BYTES).unwrap_or(bytes);
        let (rest, parsed) =
            X509Certificate::from_der(head).or(Err(if head.len() < bytes.len() {
                CertificateError::TooLarge
            } else {
                CertificateError::Malformed
            }))?;
        let length = head.len() - rest.len();
        let (der, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
        Frame::of(der).ok_or(CertificateError::Malformed)?;
        let tbs = &parsed.tbs_certificate;
        let span = |part| Span::of(part, der).ok_or(CertificateError::Malformed);
        let validity = Validity::new(
            system_time(tbs.validity.not_before)?,
            system_time(tbs.validity.not_after)?,
        )?;
        let inner = Inner {
            der: CertificateDer::from(der.to_vec()),
            serial: span(tbs.raw_serial())?,
            serial_decimal: tbs.serial.to_string().into(),
            subject: span(tbs.subject.as_raw())?,
            issuer: span(tbs.issuer.as_raw())?,
            validity,
            public_key: PublicKey::from_spki_der_to_keep(tbs.subject_pki.raw)
                .map_err(CertificateError::PublicKey)?,
            extensions: Extensions::read(tbs)?,
        };
        Ok((Self(Arc::new(inner)), rest))
    }

    /// The certificate in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// The certificate in PEM (RFC 7468), with a newline at its end.
    pub fn to_pem(&self) -> String {
        let mut pem = String::with_capacity(self.0.der.len() * 3 / 2 + 64);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in self.0.der.chunks(48) {
            STANDARD.encode_string(line, &mut pem);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// The subject key identifier in lower-case hex; this names an X.509 authority.
    pub fn subject_key_id(&self) -> Option<String> {
        self.0.extensions.subject_key_id.as_ref().map(hex::encode)
    }

    /// The authority key identifier in lower-case hex: the subject key identifier of the issuer.
    pub fn authority_key_id(&self) -> Option<String> {
        self.0.extensions.authority_key_id.as_ref().map(hex::encode)
    }

    /// The serial number, as SPIRE writes it.
    pub fn serial_decimal(&self) -> &str {
        &self.0.serial_decimal
    }

    /// The content of the serial number's encoding: big-endian, two's complement.
    pub fn serial(&self) -> &[u8] {
        self.0.serial.take(self.der())
    }

    /// From not-before to not-after.
    pub fn validity(&self) -> Validity {
        self.0.validity
    }

    /// Whether the basic constraints say that it is a signing certificate.
    pub fn is_ca(&self) -> bool {
        self.0
            .extensions
            .basic_constraints
            .is_some_and(|constraints| constraints.is_ca)
    }

    /// How many certificates may stand between it and a leaf, where that is limited.
    pub fn path_length(&self) -> Option<u32> {
        self.0
            .extensions
            .basic_constraints
            .and_then(|constraints| constraints.path_length)
    }

    /// The subject's name in DER, which its certificates repeat as their issuer byte by byte.
    pub fn subject_der(&self) -> &[u8] {
        self.0.subject.take(self.der())
    }

    /// The subject's name as a text (RFC 2253), for people: its last attribute comes first.
    pub fn subject(&self) -> String {
        super::name::text(self.subject_der())
    }

    /// The issuer's name in DER.
    pub fn issuer_der(&self) -> &[u8] {
        self.0.issuer.take(self.der())
    }

    /// The common name of the subject, where there is one.
    pub fn common_name(&self) -> Option<String> {
        super::name::common_name(self.subject_der())
    }

    /// The serial number in lower-case hex, two digits for each byte; the sign is left out.
    pub fn serial_hex(&self) -> String {
        let skip = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = self.serial().get(skip(self.serial())..).unwrap_or_default();
        match digits {
            [] => "00".to_owned(),
            digits => hex::encode(digits),
        }
    }

    /// SHA-1 of the DER: a name for the certificate that others use, and no proof of anything.
    pub fn fingerprint_sha1(&self) -> String {
        hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, self.der()))
    }

    /// Whether subject and issuer are the same, as in a root.
    pub fn is_self_issued(&self) -> bool {
        self.subject_der() == self.issuer_der()
    }

    /// The extension KeyUsage, where present.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.0.extensions.key_usage
    }

    /// The public key that is certified.
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// The SPIFFE ID. Fails unless there is exactly one URI name, and that is a SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId, LeafError> {
        spiffe_id_of(self)
    }

    /// The DNS names, in order, as they stand there.
    pub fn dns_names(&self) -> &[String] {
        &self.0.extensions.names.dns
    }

    /// The URIs, in order, without those that are not ASCII.
    pub fn uri_names(&self) -> impl Iterator<Item = &str> {
        self.0
            .extensions
            .names
            .uris
            .iter()
            .flatten()
            .map(String::as_str)
    }

    /// The network addresses, in order: 4 bytes or 16.
    pub fn ip_names(&self) -> &[Vec<u8>] {
        &self.0.extensions.names.ips
    }

    pub(super) fn extensions(&self) -> &Extensions {
        &self.0.extensions
    }
}

/// Reads certificates written one after another, as the Workload API carries them. At most
/// [`MAX_LIST_BYTES`]; no bytes are no certificates.
pub fn parse_concatenated_der(bytes: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    if bytes.len() > MAX_LIST_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let mut certificates = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (certificate, after) = Certificate::parse_first(rest)?;
        certificates.push(certificate);
        rest = after;
    }
    Ok(certificates)
}

/// Reads the certificates of a PEM text of at most [`MAX_LIST_BYTES`]. There must be at least one,
/// and nothing else in PEM form.
pub fn parse_pem_certificates(text: &str) -> Result<Vec<Certificate>, CertificateError> {
    if text.len() > MAX_LIST_BYTES {
        return Err(CertificateError::TooLarge);
    }
    let blocks = pem::parse_many(text).or(Err(CertificateError::Pem))?;
    // A block that is cut off or misspelt is passed over by the reader; its markers are not.
    let whole = |marker| text.matches(marker).count() == blocks.len();
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let is_cut = last.starts_with('-') && !last.ends_with("-----");
    if is_cut || !(whole("-----BEGIN ") && whole("-----END ")) {
        return Err(CertificateError::Pem);
    }
    if blocks.is_empty() {
        return Err(CertificateError::NoPem);
    }
    blocks
        .iter()
        .map(|block| match block.tag() {
            "CERTIFICATE" => Certificate::parse(block.contents()),
            tag => Err(CertificateError::PemTag {
                tag: tag.chars().take(64).collect(),
            }),
        })
        .collect()
}

/// Writes certificates in PEM, one after another.
pub fn to_pem(certificates: impl IntoIterator<Item = impl Borrow<Certificate>>) -> String {
    certificates
        .into_iter()
        .map(|certificate| certificate.borrow().to_pem())
        .collect()
}

fn system_time(time: ASN1Time) -> Result<SystemTime, CertificateError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or(CertificateError::Malformed)
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.der.as_ref().hash(state);
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Certificate({}, {:?})",
            self.0.serial_decimal, self.0.extensions.names.uris
        )
    }
}

/// Why bytes are not a certificate, or not one that we can use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes are above the size limit.
    #[error("certificate is too large")]
    TooLarge,
    /// The bytes are not a certificate.
    #[error("certificate is malformed")]
    Malformed,
    /// Something follows the certificate.
    #[error("certificate is followed by other data")]
    TrailingData,
    /// An extension appears twice (RFC 5280 4.2).
    #[error("certificate has an extension twice")]
    DuplicateExtension,
    /// There are more extensions than anybody needs.
    #[error("certificate has too many extensions")]
    TooManyExtensions,
    /// The certificate ends before it begins.
    #[error("certificate has no valid lifetime")]
    Validity(#[from] ValidityError),
    /// The public key is none that we can use.
    #[error("certificate has an unusable public key")]
    PublicKey(#[source] KeyError),
    /// The text is not PEM.
    #[error("PEM is malformed")]
    Pem,
    /// The text has no PEM block.
    #[error("no PEM blocks")]
    NoPem,
    /// The text has a PEM block of another kind.
    #[error("expected block type \"CERTIFICATE\"; got {tag:?}")]
    PemTag {
        /// The kind of the block, cut to 64 characters.
        tag: String,
    },
}

impl CertificateError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "certificate_too_large",
            Self::Malformed => "certificate_malformed",
            Self::TrailingData => "certificate_trailing_data",
            Self::DuplicateExtension => "certificate_duplicate_extension",
            Self::TooManyExtensions => "certificate_too_many_extensions",
            Self::Validity(_) => "certificate_validity",
            Self::PublicKey(error) => error.reason(),
            Self::Pem => "pem_malformed",
            Self::NoPem => "pem_empty",
            Self::PemTag { .. } => "pem_tag",
        }
    }
}
