//! Public keys, and the checking of signatures.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ptr,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    encoding::{AsDer, PublicKeyX509Der},
    signature::{
        self, ParsedPublicKey, RsaPssSaltLength, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use x509_parser::{
    der_parser::{Oid, oid},
    prelude::FromDer,
    x509::SubjectPublicKeyInfo,
};

use super::{
    KeyAlgorithm, KeyError,
    weakness::{has_small_factor, is_roca},
};
use crate::span::Span;

/// The largest SubjectPublicKeyInfo taken, in bytes: RSA 8192 needs about 1 KiB.
const MAX_SPKI_BYTES: usize = 4096;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const RSA_BITS_CERTIFIED: std::ops::RangeInclusive<u16> = 2048..=4096;

const EC_PUBLIC_KEY: Oid<'static> = oid!(1.2.840.10045.2.1);
const RSA_ENCRYPTION: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ED25519: Oid<'static> = oid!(1.3.101.112);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const P521: Oid<'static> = oid!(1.3.132.0.35);

/// A public key that signatures can be checked with. Cheap to clone.
///
/// Equal when its SubjectPublicKeyInfo is, which is kept in canonical DER.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    spki: Box<[u8]>,
    // Of `some_verifier`. To read a key again costs a tenth of checking a signature with it.
    parsed: OnceLock<ParsedPublicKey>,
    algorithm: KeyAlgorithm,
    subject_key_id: [u8; 20],
    // In `spki`.
    material: Material<Span>,
}

/// The numbers of a key, big-endian, as a JWK needs them (RFC 7518 6).
#[derive(Clone, Copy)]
pub(crate) enum Material<Number> {
    /// Both coordinates, as long as the curve's field.
    Ec { x: Number, y: Number },
    /// Modulus and exponent, without leading zeros.
    Rsa { n: Number, e: Number },
    /// Ed25519: not among the keys of a SPIFFE bundle's JWT authorities.
    Edwards { x: Number },
}

impl<Number> Material<Number> {
    fn map<To>(self, to: impl Fn(Number) -> To) -> Material<To> {
        match self {
            Self::Ec { x, y } => Material::Ec { x: to(x), y: to(y) },
            Self::Rsa { n, e } => Material::Rsa { n: to(n), e: to(e) },
            Self::Edwards { x } => Material::Edwards { x: to(x) },
        }
    }
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 4.1.2.7) of an algorithm in [`KeyAlgorithm`].
    ///
    /// Refuses trailing data, anything that is not the canonical encoding, points that are not on
    /// their curve or not uncompressed, and RSA outside of 2048 to 8192 bits.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let (inner, parsed) = read(der)?;
        let parsed = OnceLock::from(parsed);
        Ok(Self(Arc::new(Inner { parsed, ..inner })))
    }

    /// The same for a key that is kept more often than used: it takes a third of the memory, and the first signature
    /// that is checked with it takes a tenth longer.
    pub(crate) fn from_spki_der_to_keep(der: &[u8]) -> Result<Self, KeyError> {
        let (inner, _parsed) = read(der)?;
        Ok(Self(Arc::new(inner)))
    }

    /// An RSA key of a modulus and an exponent, big-endian.
    pub fn from_rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let der =
            AsDer::<PublicKeyX509Der<'_>>::as_der(&signature::RsaPublicKeyComponents { n, e });
        Self::from_spki_der(der.or(Err(KeyError::Malformed))?.as_ref())
    }

    /// A key on a curve, of coordinates exactly as long as the curve's field (RFC 7518 6.2.1.2).
    pub fn from_ec(curve: KeyAlgorithm, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let field = match curve {
            KeyAlgorithm::EcP256 => 32,
            KeyAlgorithm::EcP384 => 48,
            KeyAlgorithm::EcP521 => 66,
            KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => return Err(KeyError::Algorithm),
        };
        if x.len() != field || y.len() != field {
            return Err(KeyError::Malformed);
        }
        let point = [&[4], x, y].concat();
        let parsed = ParsedPublicKey::new(some_verifier(curve), point);
        let der = parsed.or(Err(KeyError::Malformed))?.as_der();
        Self::from_spki_der(der.or(Err(KeyError::Malformed))?.as_ref())
    }

    /// An Ed25519 key of its 32 bytes (RFC 8032 5.1.5).
    pub fn from_ed25519(key: &[u8; 32]) -> Result<Self, KeyError> {
        // RFC 8410 4: a fixed head, and the key.
        const HEAD: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        Self::from_spki_der(&[HEAD, key].concat())
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// The kind and size of the key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.algorithm
    }

    /// SHA-1 of the key's bit string (RFC 5280 4.2.1.2, method 1).
    pub fn subject_key_id(&self) -> [u8; 20] {
        self.0.subject_key_id
    }

    pub(crate) fn material(&self) -> Material<&[u8]> {
        self.0.material.map(|span| span.take(&self.0.spki))
    }

    /// Checks that the key may be certified: P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits
    /// whose exponent is odd and from 65537 to 2^32, and whose modulus has no known weakness.
    pub fn check_for_issuance(&self) -> Result<(), KeyError> {
        let fit = match (self.0.algorithm, self.material()) {
            (KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::Ed25519, _) => true,
            (KeyAlgorithm::Rsa(bits), Material::Rsa { n, e }) => {
                RSA_BITS_CERTIFIED.contains(&bits)
                    && is_sane_exponent(e)
                    && !has_small_factor(n)
                    && !is_roca(n)
            }
            _ => false,
        };
        if fit { Ok(()) } else { Err(KeyError::Weak) }
    }

    /// Checks `signature` over `message`. A scheme that does not fit the key's algorithm is refused
    /// before anything is computed.
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        let verifier = scheme.verifier(self.0.algorithm).ok_or(KeyError::Scheme)?;
        let verified = if ptr::addr_eq(verifier, some_verifier(self.0.algorithm)) {
            self.parsed()?.verify_sig(message, signature)
        } else {
            UnparsedPublicKey::new(verifier, &self.0.spki).verify(message, signature)
        };
        verified.or(Err(KeyError::Signature))
    }

    fn parsed(&self) -> Result<&ParsedPublicKey, KeyError> {
        if let Some(parsed) = self.0.parsed.get() {
            return Ok(parsed);
        }
        let parsed = parse(self.0.algorithm, &self.0.spki)?;
        Ok(self.0.parsed.get_or_init(|| parsed))
    }
}

/// Reads a key. It has not its parsed form yet, which comes beside it.
fn read(der: &[u8]) -> Result<(Inner, ParsedPublicKey), KeyError> {
    if der.len() > MAX_SPKI_BYTES {
        return Err(KeyError::TooLarge);
    }
    let (rest, spki) = SubjectPublicKeyInfo::from_der(der).or(Err(KeyError::Malformed))?;
    if !rest.is_empty() {
        return Err(KeyError::Malformed);
    }
    let (algorithm, material) = read_material(&spki, der)?;
    let parsed = parse(algorithm, der)?;
    if !is_canonical(der, &spki, algorithm, &parsed) {
        return Err(KeyError::Malformed);
    }
    // RFC 5280 4.2.1.2, method 1: SHA-1 of the bit string. SPIRE names authorities by it.
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &spki.subject_public_key.data);
    let mut subject_key_id = [0; 20];
    subject_key_id
        .iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    let inner = Inner {
        spki: der.into(),
        parsed: OnceLock::new(),
        algorithm,
        subject_key_id,
        material,
    };
    Ok((inner, parsed))
}

fn parse(algorithm: KeyAlgorithm, der: &[u8]) -> Result<ParsedPublicKey, KeyError> {
    ParsedPublicKey::new(some_verifier(algorithm), der).or(Err(KeyError::Malformed))
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for PublicKey {}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.spki.hash(state);
    }
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|byte| byte & 1 == 1)
}

fn is_sane_exponent(e: &[u8]) -> bool {
    let value = e.iter().try_fold(0_u64, |sum, byte| {
        sum.checked_mul(256).map(|sum| sum + u64::from(*byte)) // below 2^64: the low byte is free
    });
    is_odd(e) && value.is_some_and(|value| (65537..1 << 32).contains(&value))
}

/// Sorts out the algorithm by its identifiers alone, then finds the numbers in the DER that `spki` was read from.
fn read_material(
    spki: &SubjectPublicKeyInfo<'_>,
    der: &[u8],
) -> Result<(KeyAlgorithm, Material<Span>), KeyError> {
    let span = |number: &[u8]| Span::of(number, der).ok_or(KeyError::Malformed);
    let bits = spki.subject_public_key.data.as_ref();
    let parameters = spki.algorithm.parameters.as_ref();
    if spki.algorithm.algorithm == RSA_ENCRYPTION {
        return read_rsa(spki, span);
    }
    if spki.algorithm.algorithm == ED25519 {
        return Ok((KeyAlgorithm::Ed25519, Material::Edwards { x: span(bits)? }));
    }
    if spki.algorithm.algorithm != EC_PUBLIC_KEY {
        return Err(KeyError::Algorithm);
    }
    let curve = parameters
        .and_then(|any| any.as_oid().ok())
        .ok_or(KeyError::Algorithm)?;
    let (algorithm, field) = match curve {
        c if c == P256 => (KeyAlgorithm::EcP256, 32),
        c if c == P384 => (KeyAlgorithm::EcP384, 48),
        c if c == P521 => (KeyAlgorithm::EcP521, 66),
        _ => return Err(KeyError::Algorithm),
    };
    // RFC 5480 2.2: 4 stands for the uncompressed form, which alone everybody reads.
    let Some((4, point)) = bits.split_first() else {
        return Err(KeyError::Malformed);
    };
    let (x, y) = point.split_at_checked(field).ok_or(KeyError::Malformed)?;
    if y.len() != field {
        return Err(KeyError::Malformed);
    }
    Ok((
        algorithm,
        Material::Ec {
            x: span(x)?,
            y: span(y)?,
        },
    ))
}

/// Whether `der` is the one encoding of the key.
///
/// A key on a curve has a fixed head and its point, in the form that [`read_material`] takes alone; the
/// library would compute the point anew to write it, at a tenth of the price of checking a signature.
fn is_canonical(
    der: &[u8],
    spki: &SubjectPublicKeyInfo<'_>,
    algorithm: KeyAlgorithm,
    parsed: &ParsedPublicKey,
) -> bool {
    let head: &[u8] = match algorithm {
        KeyAlgorithm::EcP256 => {
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
        }
        KeyAlgorithm::EcP384 => {
            b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
        }
        KeyAlgorithm::EcP521 => {
            b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00"
        }
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 => {
            return parsed
                .as_der()
                .is_ok_and(|canonical| canonical.as_ref() == der);
        }
    };
    der.strip_prefix(head) == Some(spki.subject_public_key.data.as_ref())
}

fn read_rsa(
    spki: &SubjectPublicKeyInfo<'_>,
    span: impl Fn(&[u8]) -> Result<Span, KeyError>,
) -> Result<(KeyAlgorithm, Material<Span>), KeyError> {
    let parsed = spki.parsed().or(Err(KeyError::Malformed))?;
    let x509_parser::public_key::PublicKey::RSA(rsa) = parsed else {
        return Err(KeyError::Malformed);
    };
    let (n, e) = (strip(rsa.modulus), strip(rsa.exponent));
    let top = n.first().ok_or(KeyError::Malformed)?;
    let bits = n.len() * 8 - usize::try_from(top.leading_zeros()).unwrap_or_default();
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::Weak);
    }
    let bits = u16::try_from(bits).or(Err(KeyError::Weak))?;
    let material = Material::Rsa {
        n: span(n)?,
        e: span(e)?,
    };
    Ok((KeyAlgorithm::Rsa(bits), material))
}

/// A number without leading zeros.
fn strip(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A verifier of the algorithm, for reading a key.
fn some_verifier(algorithm: KeyAlgorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        KeyAlgorithm::EcP256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyAlgorithm::EcP384 => &signature::ECDSA_P384_SHA384_ASN1,
        KeyAlgorithm::EcP521 => &signature::ECDSA_P521_SHA512_ASN1,
        KeyAlgorithm::Rsa(_) => &signature::RSA_PKCS1_2048_8192_SHA256,
        KeyAlgorithm::Ed25519 => &signature::ED25519,
    }
}

/// A signature algorithm with its hash and its encoding.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureScheme {
    /// ECDSA with SHA-256 in DER, as in certificates; P-256 or P-384.
    EcdsaSha256Der,
    /// ECDSA with SHA-384 in DER, as in certificates; P-256 or P-384.
    EcdsaSha384Der,
    /// ECDSA with SHA-512 in DER, as in certificates; P-256, P-384 or P-521.
    EcdsaSha512Der,
    /// ECDSA on P-256 with SHA-256 as two numbers, as in tokens (RFC 7518 3.4).
    Es256,
    /// ECDSA on P-384 with SHA-384 as two numbers, as in tokens (RFC 7518 3.4).
    Es384,
    /// ECDSA on P-521 with SHA-512 as two numbers, as in tokens (RFC 7518 3.4).
    Es512,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSA PSS with SHA-256 and a salt as long as the hash.
    RsaPssSha256,
    /// RSA PSS with SHA-384 and a salt as long as the hash.
    RsaPssSha384,
    /// RSA PSS with SHA-512 and a salt as long as the hash.
    RsaPssSha512,
    /// RSA PSS with SHA-256 and the longest salt that fits, as Go makes it unless told otherwise.
    RsaPssSha256LongSalt,
    /// RSA PKCS#1 v1.5 with SHA-1: for SSH alone, where old programs sign a challenge by it.
    RsaPkcs1Sha1,
    /// Ed25519.
    Ed25519,
}

impl SignatureScheme {
    /// What checks it with a key of this algorithm; none if the two do not fit.
    fn verifier(self, key: KeyAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (self, key) {
            (Self::EcdsaSha256Der, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Self::EcdsaSha384Der, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA384_ASN1,
            (Self::EcdsaSha512Der, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA512_ASN1,
            (Self::EcdsaSha256Der, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA256_ASN1,
            (Self::EcdsaSha384Der, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Self::EcdsaSha512Der, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA512_ASN1,
            (Self::EcdsaSha256Der, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA256_ASN1,
            (Self::EcdsaSha512Der, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA512_ASN1,
            (Self::Es256, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA256_FIXED,
            (Self::Es384, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA384_FIXED,
            (Self::Es512, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA512_FIXED,
            (Self::RsaPkcs1Sha256, KeyAlgorithm::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::RsaPkcs1Sha384, KeyAlgorithm::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::RsaPkcs1Sha512, KeyAlgorithm::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::RsaPssSha256, KeyAlgorithm::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA256,
            (Self::RsaPssSha384, KeyAlgorithm::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA384,
            (Self::RsaPssSha512, KeyAlgorithm::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA512,
            (Self::RsaPssSha256LongSalt, KeyAlgorithm::Rsa(_)) => {
                &const { signature::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) }
            }
            (Self::RsaPkcs1Sha1, KeyAlgorithm::Rsa(_)) => {
                &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY
            }
            (Self::Ed25519, KeyAlgorithm::Ed25519) => &signature::ED25519,
            _ => return None,
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKey({:?}, {})",
            self.0.algorithm,
            hex::encode(self.0.subject_key_id)
        )
    }
}
