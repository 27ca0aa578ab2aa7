//! The X.509 authority, and the leaves that it signs.

mod der;
mod profile;
mod root;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use identity::{
    bundle::{self, Bundle},
    entry::DnsName,
    key::PublicKey,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
    x509::Certificate,
};

use super::{Config, CreateError, Kind, SignError, Unusable, journal::Authority, slots::Term};
use crate::{
    keys::{KeyType, Signer},
    records::authorities::Entry,
};
use der::{Leaf, Template};

/// How far certificates reach back, for peers whose clocks are behind. SPIRE's value.
pub(super) const NOT_BEFORE_CUSHION: Duration = Duration::from_secs(10);

/// Who a leaf is for. It decides which SPIFFE IDs may stand in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// A workload: any member of the trust domain outside of `/spire`.
    Workload,
    /// An agent: below `/spire/agent`.
    Agent,
    /// This server.
    Server,
}

/// A leaf to be signed. The caller has authorized it.
#[derive(Clone, Copy, Debug)]
pub struct X509SvidRequest<'a> {
    pub id: &'a SpiffeId,
    pub public_key: &'a PublicKey,
    pub dns_names: &'a [DnsName],
    pub ttl: Duration,
    pub subject: Subject,
}

/// A signed X509-SVID, without its key.
#[derive(Clone, Debug)]
pub struct IssuedX509Svid {
    /// In DER: the leaf, then what leads to an authority of the bundle, which itself is not in it.
    pub chain: Vec<Bytes>,
    /// In decimal digits.
    pub serial: String,
    pub not_after: SystemTime,
}

/// An authority that signs X509-SVIDs. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct X509Ca(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    trust_domain: TrustDomain,
    certificate: Certificate,
    issued_at: SystemTime,
    signer: Signer,
    template: Template,
}

impl X509Ca {
    fn new(
        trust_domain: &TrustDomain,
        certificate: Certificate,
        issued_at: SystemTime,
        signer: Signer,
    ) -> Self {
        let key_id = signer.public_key().subject_key_id();
        let template = Template::new(signer.algorithm(), certificate.subject_der(), &key_id);
        let id = bundle::X509Authority::new(certificate.clone()).authority_id();
        Self(Arc::new(Inner {
            id,
            trust_domain: trust_domain.clone(),
            certificate,
            issued_at,
            signer,
            template,
        }))
    }

    #[cfg(test)]
    pub(crate) fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    /// Signs a leaf, once what it says is checked by another reader than its writer.
    pub(crate) fn sign(
        &self,
        request: &X509SvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        request.check(self)?;
        let issuer_ends = self.not_after();
        // RFC 5280 has no rule for it, but a leaf that outlives its issuer is of no use to anybody.
        let not_after = now
            .checked_add(request.ttl)
            .map_or(issuer_ends, |end| whole_seconds(end).min(issuer_ends));
        if not_after <= now {
            return Err(SignError::AuthorityEnded);
        }
        let leaf = Leaf {
            serial: new_serial(),
            not_before: now - NOT_BEFORE_CUSHION,
            not_after,
            spki: request.public_key.spki_der(),
            subject_key_id: request.public_key.subject_key_id(),
            uri: request.id.as_str(),
            dns_names: request.dns_names,
            // SPIRE puts the first DNS name there, for old peers that look for it.
            common_name: request.dns_names.first().map(DnsName::as_str),
        };
        let template = &self.0.template;
        let to_be_signed = template.to_be_signed(&leaf);
        if !profile::is_leaf_of(&to_be_signed, request.id) {
            return Err(SignError::Profile);
        }
        let signature = self.0.signer.sign_x509(&to_be_signed)?;
        let certificate = template.certificate(&to_be_signed, &signature);
        Ok(IssuedX509Svid {
            chain: vec![certificate.into()],
            serial: u128::from_be_bytes(leaf.serial).to_string(),
            not_after,
        })
    }
}

impl X509SvidRequest<'_> {
    /// What must hold before a signature is made, in every build.
    fn check(&self, authority: &X509Ca) -> Result<(), SignError> {
        // X509-SVID 3: the issuer's trust domain and the leaf's are the same.
        if !self.id.is_member_of(&authority.0.trust_domain) {
            return Err(SignError::NotMember {
                id: self.id.clone(),
            });
        }
        let fits = match self.subject {
            Subject::Workload => self.id.has_path() && !self.id.is_reserved(),
            Subject::Agent => self.id.is_agent(),
            Subject::Server => self.id.is_server(),
        };
        if !fits {
            return Err(SignError::Reserved {
                id: self.id.clone(),
            });
        }
        Ok(self.public_key.check_for_issuance()?)
    }
}

impl Term for X509Ca {
    fn authority_id(&self) -> &str {
        &self.0.id
    }

    fn issued_at(&self) -> SystemTime {
        self.0.issued_at
    }

    fn not_after(&self) -> SystemTime {
        self.0.certificate.validity().not_after()
    }
}

impl Authority for X509Ca {
    const KIND: Kind = Kind::X509;

    fn key_type(config: &Config) -> KeyType {
        config.ca_key_type
    }

    fn create(signer: Signer, config: &Config, now: SystemTime) -> Result<Self, CreateError> {
        let der = root::self_sign(
            &signer,
            &config.trust_domain,
            &config.ca_subject,
            config.ca_ttl,
            now,
        )?;
        let certificate = Certificate::parse(&der)?;
        let signs = certificate
            .key_usage()
            .is_some_and(|usage| usage.key_cert_sign());
        let names_us = certificate
            .spiffe_id()
            .is_ok_and(|id| id == config.trust_domain.id());
        if !(certificate.is_ca() && signs && names_us) {
            return Err(CreateError::Profile);
        }
        Ok(Self::new(&config.trust_domain, certificate, now, signer))
    }

    fn restore(entry: &Entry, signer: Signer, bundle: &Bundle) -> Result<Self, Unusable> {
        let der = entry.certificates.first().ok_or(Unusable::NoCertificate)?;
        let certificate = Certificate::parse(der)?;
        if certificate.public_key() != signer.public_key() {
            return Err(Unusable::OtherKey);
        }
        if !bundle.certificates().any(|own| *own == certificate) {
            return Err(Unusable::NotInBundle);
        }
        Ok(Self::new(
            &bundle.trust_domain,
            certificate,
            entry.issued_at,
            signer,
        ))
    }

    fn certificates(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(self.0.certificate.der())]
    }

    fn publish(&self, bundle: &mut Bundle) -> bool {
        bundle.add_x509_authority(bundle::X509Authority::new(self.0.certificate.clone()))
    }
}

/// Certificates know no parts of a second.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A random serial number, positive and always of 16 bytes (RFC 5280 4.1.2.2).
fn new_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = runtime::random::bytes();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    serial
}
