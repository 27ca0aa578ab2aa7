//! Makes the self-signed certificate of an X.509 authority, or the request to have it signed by another.

use std::time::SystemTime;

use identity::key::KeyAlgorithm;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use super::{NOT_BEFORE_CUSHION, new_serial};
use crate::{
    authority::{CaSubject, upstream::CaRequest},
    keys::Signer,
};

/// The attribute `serialNumber` of a name (RFC 5280 A.1): it keeps the names of our authorities apart.
const OID_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// Signs a certificate for the key of the request itself, valid for its `ttl`.
pub(super) fn self_sign(request: &CaRequest<'_>, now: SystemTime) -> Result<Vec<u8>, rcgen::Error> {
    let params = params(request, now)?;
    let key = CertifiedKey::of(request.signer)?;
    Ok(params.self_signed(&key)?.der().to_vec())
}

/// Writes a request to have the key certified by somebody else, in DER (RFC 2986). It proves that we have
/// the key, and names what SPIRE's servers name in theirs.
pub(in crate::authority) fn sign_request(request: &CaRequest<'_>) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(request.subject, None)?;
    let id = request.trust_domain.id();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let key = CertifiedKey::of(request.signer)?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}

fn params(request: &CaRequest<'_>, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let serial = new_serial();
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = whole_seconds(now - NOT_BEFORE_CUSHION);
    params.not_after = whole_seconds(now + request.ttl);
    params.distinguished_name = name(
        request.subject,
        Some(&u128::from_be_bytes(serial).to_string()),
    )?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // X509-SVID 4.3: a signing certificate has keyCertSign.
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // X509-SVID 3.2: the SPIFFE ID of a signing certificate is the trust domain's, without a path.
    let id = request.trust_domain.id();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    let key_id = request.signer.public_key().subject_key_id().to_vec();
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
    Ok(params)
}

fn name(subject: &CaSubject, serial: Option<&str>) -> Result<DistinguishedName, rcgen::Error> {
    let mut name = DistinguishedName::new();
    let text = |value: &str| -> Result<DnValue, rcgen::Error> {
        Ok(match value.try_into() {
            Ok(printable) => DnValue::PrintableString(printable),
            Err(_) => DnValue::Utf8String(value.to_owned()),
        })
    };
    for (kind, value) in [
        (DnType::CountryName, &subject.country),
        (DnType::OrganizationName, &subject.organization),
        (DnType::CommonName, &subject.common_name),
    ] {
        if let Some(value) = value {
            name.push(kind, text(value)?);
        }
    }
    if let Some(serial) = serial {
        name.push(
            DnType::CustomDnType(OID_SERIAL_NUMBER.to_vec()),
            text(serial)?,
        );
    }
    Ok(name)
}

fn whole_seconds(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

struct CertifiedKey<'a> {
    spki: SubjectPublicKeyInfo,
    signer: &'a Signer,
}

impl<'a> CertifiedKey<'a> {
    fn of(signer: &'a Signer) -> Result<Self, rcgen::Error> {
        let spki = SubjectPublicKeyInfo::from_der(signer.public_key().spki_der())?;
        Ok(Self { spki, signer })
    }
}

impl PublicKeyData for CertifiedKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.spki.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.signer.algorithm() {
            KeyAlgorithm::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
            // INVARIANT: a signer has no key of the others.
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => {
                &rcgen::PKCS_ECDSA_P256_SHA256
            }
        }
    }
}

impl SigningKey for CertifiedKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer
            .sign_x509(message)
            .or(Err(rcgen::Error::RemoteKeyError))
    }
}
