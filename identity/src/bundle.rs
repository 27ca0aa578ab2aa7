//! Trust bundles: what a trust domain's SVIDs are checked with.

mod jwk;
mod read;
mod write;

use std::time::{Duration, SystemTime};

pub use read::BundleError;

use crate::{
    key::PublicKey,
    trust_domain::TrustDomain,
    x509::{Certificate, parse_concatenated_der, parse_pem_certificates, to_pem},
};

/// The largest bundle taken, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 128;

/// A certificate that X509-SVIDs chain to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct X509Authority {
    /// The certificate, mostly a root.
    pub certificate: Certificate,
    /// Whether SVIDs below it must be replaced. It is trusted until it is revoked.
    pub tainted: bool,
}

impl X509Authority {
    /// An authority that is not tainted.
    pub fn new(certificate: Certificate) -> Self {
        Self {
            certificate,
            tainted: false,
        }
    }

    /// The name of the authority: the subject key identifier in lower-case hex. Where the
    /// certificate has none, it is computed as RFC 5280 4.2.1.2 does.
    pub fn authority_id(&self) -> String {
        self.certificate
            .subject_key_id()
            .unwrap_or_else(|| hex::encode(self.certificate.public_key().subject_key_id()))
    }
}

/// A public key that JWT-SVIDs are checked with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtAuthority {
    /// The key id, unique in the bundle: 1 to [`MAX_KEY_ID_BYTES`] bytes.
    pub key_id: String,
    /// The key.
    pub public_key: PublicKey,
    /// When the key ceases to sign, where known.
    pub expires_at: Option<SystemTime>,
    /// Whether tokens signed with it must be replaced. It is trusted until it is revoked.
    pub tainted: bool,
}

/// The trust bundle of one trust domain (SPIFFE Trust Domain and Bundle 3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bundle {
    /// Whose bundle it is. The JSON form does not say.
    pub trust_domain: TrustDomain,
    /// For X509-SVIDs. None at all means that no X509-SVID of the trust domain is valid.
    pub x509_authorities: Vec<X509Authority>,
    /// For JWT-SVIDs. None at all means that no JWT-SVID of the trust domain is valid.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often to ask for news, in whole seconds.
    pub refresh_hint: Option<Duration>,
    /// Grows with every change; 0 where unknown.
    pub sequence: u64,
}

impl Bundle {
    /// A bundle without authorities: nobody of the trust domain is trusted.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: None,
            sequence: 0,
        }
    }

    /// A bundle of the certificates in a PEM text; see [`parse_pem_certificates`].
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, BundleError> {
        let certificates = parse_pem_certificates(text).map_err(BundleError::Certificate)?;
        Ok(Self::from_certificates(trust_domain, certificates))
    }

    /// A bundle of concatenated certificates, as the Workload API carries them; no bytes are a
    /// bundle without authorities. See [`parse_concatenated_der`].
    pub fn from_x509_der(trust_domain: TrustDomain, der: &[u8]) -> Result<Self, BundleError> {
        let certificates = parse_concatenated_der(der).map_err(BundleError::Certificate)?;
        Ok(Self::from_certificates(trust_domain, certificates))
    }

    /// A bundle of these certificates, without the repeated ones.
    pub fn from_certificates(
        trust_domain: TrustDomain,
        certificates: impl IntoIterator<Item = Certificate>,
    ) -> Self {
        let mut bundle = Self::new(trust_domain);
        for certificate in certificates {
            bundle.add_x509_authority(X509Authority::new(certificate));
        }
        bundle
    }

    /// Adds an authority unless its certificate is there already. Tells whether it was added.
    pub fn add_x509_authority(&mut self, authority: X509Authority) -> bool {
        let known = self
            .x509_authorities
            .iter()
            .any(|own| own.certificate == authority.certificate);
        if !known {
            self.x509_authorities.push(authority);
        }
        !known
    }

    /// The JWT authority with this key id.
    pub fn jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities
            .iter()
            .find(|authority| authority.key_id == key_id)
    }

    /// The certificates of the X.509 authorities, in order.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.x509_authorities
            .iter()
            .map(|authority| &authority.certificate)
    }

    /// The certificates in DER, one after another, as the Workload API carries them.
    pub fn x509_der(&self) -> Vec<u8> {
        self.certificates()
            .flat_map(|certificate| certificate.der().iter().copied())
            .collect()
    }

    /// The certificates in PEM, one after another.
    pub fn x509_pem(&self) -> String {
        to_pem(self.certificates())
    }
}

#[cfg(test)]
mod tests;
