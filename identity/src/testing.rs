//! What the tests of this crate are made of: certificates of every shape, and the time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use zeroize::Zeroizing;

use crate::{
    bundle::Bundle, key::PrivateKey, spiffe_id::SpiffeId, trust_domain::TrustDomain,
    x509::Certificate,
};

/// The start of 2026-06-01.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// A signing certificate with its key.
pub(crate) struct Authority {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) certificate: Certificate,
}

impl Authority {
    /// A root of a trust domain.
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = signing(name, "root");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let certificate = Certificate::parse(certificate.der()).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    /// An intermediate below this.
    pub(crate) fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = signing("example.org", "intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = self.sign(&params, &key);
        Self {
            params,
            key,
            certificate,
        }
    }

    /// A leaf of our own profile, changed.
    pub(crate) fn leaf_with(
        &self,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, Arc<PrivateKey>) {
        let mut params = leaf(uri);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (self.sign(&params, &key), private(&key))
    }

    pub(crate) fn leaf(&self, uri: &str) -> Certificate {
        self.leaf_with(uri, |_| {}).0
    }

    pub(crate) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        let issuer = Issuer::from_params(&self.params, &self.key);
        Certificate::parse(params.signed_by(key, &issuer).unwrap().der()).unwrap()
    }

    pub(crate) fn bundle(&self, name: &str) -> Bundle {
        Bundle::from_certificates(trust_domain(name), [self.certificate.clone()])
    }
}

pub(crate) fn private(key: &KeyPair) -> Arc<PrivateKey> {
    Arc::new(PrivateKey::from_pkcs8_der(Zeroizing::new(key.serialize_der())).unwrap())
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "SPIFFE");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn signing(name: &str, kind: &str) -> CertificateParams {
    let mut params = params(&format!("{kind} of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{name}"))];
    params
}

pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = params("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![uri(id)];
    params
}
