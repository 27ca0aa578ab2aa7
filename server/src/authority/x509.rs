//! The X.509 authority, and what it signs: leaves, and authorities of servers below this one.

mod below;
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
    x509::{Attribute, Certificate, DistinguishedName, find_root},
};

use super::{
    Config, CreateError, Kind, SignError, Unusable, journal::Authority, slots::Term,
    upstream::CaRequest,
};
use crate::{
    keys::{KeyType, Signer},
    records::authorities::Entry,
};
use der::{Body, LEAF_NAME, Name, Shape, Template};

pub(super) use below::sign_below;
pub(super) use root::sign_request;

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
    /// Whom the leaf names beside the SPIFFE ID, instead of what all leaves name.
    pub name: Option<&'a DistinguishedName>,
}

/// An authority of a server below this one, to be signed. The caller has authorized it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DownstreamRequest<'a> {
    pub(crate) public_key: &'a PublicKey,
    pub(crate) ttl: Duration,
}

/// What a certificate is to say, of either kind.
struct Wanted<'a> {
    id: &'a SpiffeId,
    public_key: &'a PublicKey,
    ttl: Duration,
    subject: Name<'a>,
    shape: Shape<'a>,
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
    above: Above,
    /// What stands in SVIDs behind the leaf: nothing, if the authority is itself in the bundle.
    issuers: Vec<Bytes>,
    issued_at: SystemTime,
    signer: Signer,
    template: Template,
}

/// What an authority leads to.
#[derive(Debug)]
struct Above {
    /// From above it up to below the root.
    issuers: Vec<Certificate>,
    /// What belongs into the bundle.
    roots: Vec<Certificate>,
    /// The name of the root that it leads to, if it is none itself.
    upstream_id: Option<String>,
}

impl Above {
    /// Of a chain, the authority's own certificate first, to one of `roots`.
    fn of(chain: &[Certificate], roots: Vec<Certificate>, root: Certificate) -> Self {
        Self {
            issuers: chain.iter().skip(1).cloned().collect(),
            roots,
            upstream_id: Some(bundle::X509Authority::new(root).authority_id()),
        }
    }
}

impl X509Ca {
    /// An authority that is itself in the bundle.
    fn root(
        trust_domain: &TrustDomain,
        certificate: Certificate,
        issued_at: SystemTime,
        signer: Signer,
    ) -> Self {
        let above = Above {
            issuers: Vec::new(),
            roots: vec![certificate.clone()],
            upstream_id: None,
        };
        Self::new(trust_domain, certificate, above, issued_at, signer)
    }

    fn new(
        trust_domain: &TrustDomain,
        certificate: Certificate,
        above: Above,
        issued_at: SystemTime,
        signer: Signer,
    ) -> Self {
        let key_id = signer.public_key().subject_key_id();
        let template = Template::new(signer.algorithm(), certificate.subject_der(), &key_id);
        let id = bundle::X509Authority::new(certificate.clone()).authority_id();
        let behind = std::iter::once(&certificate).chain(&above.issuers);
        let behind = behind.map(|issuer| Bytes::copy_from_slice(issuer.der()));
        let issuers = match &above.upstream_id {
            None => Vec::new(),
            Some(_) => behind.collect(),
        };
        Self(Arc::new(Inner {
            id,
            trust_domain: trust_domain.clone(),
            issuers,
            certificate,
            above,
            issued_at,
            signer,
            template,
        }))
    }

    #[cfg(test)]
    pub(crate) fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    /// Signs a leaf.
    pub(crate) fn sign(
        &self,
        request: &X509SvidRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        request.check(self)?;
        // SPIRE puts the first DNS name there, for old peers that look for it.
        let common_name = request.dns_names.first().map(DnsName::as_str);
        let asked = request.asked_name(common_name);
        let subject = asked
            .as_ref()
            .map_or(Name::Default { common_name }, Name::Given);
        let wanted = Wanted {
            id: request.id,
            public_key: request.public_key,
            ttl: request.ttl,
            subject,
            shape: Shape::Leaf {
                dns_names: request.dns_names,
            },
        };
        let body = self.body(&wanted, now)?;
        self.seal(&body, |bytes| profile::is_leaf_of(bytes, request.id))
    }

    /// Signs an authority of a server below this one. It may sign what this one may.
    pub(crate) fn sign_downstream(
        &self,
        request: &DownstreamRequest<'_>,
        now: SystemTime,
    ) -> Result<IssuedX509Svid, SignError> {
        request.public_key.check_for_issuance()?;
        let id = self.0.trust_domain.id();
        // As SPIRE names it: its issuer, so many authorities below the bundle.
        let unit = format!("DOWNSTREAM-{}", self.0.above.issuers.len() + 1);
        let subject = DistinguishedName::from_der(self.0.certificate.subject_der())
            .or(Err(SignError::Profile))?
            .with(Attribute::OrganizationalUnit, unit);
        let wanted = Wanted {
            id: &id,
            public_key: request.public_key,
            ttl: request.ttl,
            subject: Name::Given(&subject),
            shape: Shape::Authority,
        };
        let body = self.body(&wanted, now)?;
        self.seal(&body, |bytes| profile::is_authority_of(bytes, &id))
    }

    fn body<'a>(&self, wanted: &Wanted<'a>, now: SystemTime) -> Result<Body<'a>, SignError> {
        let issuer_ends = self.not_after();
        // RFC 5280 has no rule for it, but what outlives its issuer is of no use to anybody.
        let not_after = now
            .checked_add(wanted.ttl)
            .map_or(issuer_ends, |end| whole_seconds(end).min(issuer_ends));
        if not_after <= now {
            return Err(SignError::AuthorityEnded);
        }
        Ok(Body {
            serial: new_serial(),
            not_before: now - NOT_BEFORE_CUSHION,
            not_after,
            spki: wanted.public_key.spki_der(),
            subject_key_id: wanted.public_key.subject_key_id(),
            uri: wanted.id.as_str(),
            subject: wanted.subject,
            shape: wanted.shape,
        })
    }

    /// Signs what was written, once another reader than its writer has checked it.
    fn seal(
        &self,
        body: &Body<'_>,
        is_as_asked: impl FnOnce(&[u8]) -> bool,
    ) -> Result<IssuedX509Svid, SignError> {
        let template = &self.0.template;
        let to_be_signed = template.to_be_signed(body);
        if !is_as_asked(&to_be_signed) {
            return Err(SignError::Profile);
        }
        let signature = self.0.signer.sign_x509(&to_be_signed)?;
        let certificate = template.certificate(&to_be_signed, &signature);
        Ok(IssuedX509Svid {
            chain: std::iter::once(certificate.into())
                .chain(self.0.issuers.iter().cloned())
                .collect(),
            serial: u128::from_be_bytes(body.serial).to_string(),
            not_after: body.not_after,
        })
    }
}

/// Whom leaves name where nobody says anything else.
pub(super) fn leaf_name() -> DistinguishedName {
    let named = DistinguishedName::default();
    let with = |name: DistinguishedName, (attribute, value)| name.with(attribute, value);
    LEAF_NAME.into_iter().fold(named, with)
}

impl X509SvidRequest<'_> {
    fn asked_name(&self, common_name: Option<&str>) -> Option<DistinguishedName> {
        let name = self.name?.clone();
        Some(match common_name {
            None => name,
            Some(common_name) => name.with(Attribute::CommonName, common_name),
        })
    }

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

    fn upstream_id(&self) -> Option<String> {
        self.0.above.upstream_id.clone()
    }
}

impl Authority for X509Ca {
    const KIND: Kind = Kind::X509;

    fn key_type(config: &Config) -> KeyType {
        config.ca_key_type
    }

    async fn create(signer: Signer, config: &Config, now: SystemTime) -> Result<Self, CreateError> {
        let request = CaRequest {
            trust_domain: &config.trust_domain,
            subject: &config.ca_subject,
            signer: &signer,
            ttl: config.ca_ttl,
        };
        let own = &config.trust_domain;
        let Some(upstream) = &config.upstream else {
            let certificate = Certificate::parse(&root::self_sign(&request, now)?)?;
            check_profile(&certificate, &signer, own)?;
            return Ok(Self::root(own, certificate, now, signer));
        };
        let minted = upstream.mint(request, now).await?;
        let certificate = minted.chain.first().ok_or(CreateError::Profile)?;
        check_profile(certificate, &signer, own)?;
        find_root(&minted.chain, &minted.roots, now)?;
        let (certificate, issued_at) = (certificate.clone(), now);
        let above = Above::of(&minted.chain, minted.roots, minted.root);
        Ok(Self::new(own, certificate, above, issued_at, signer))
    }

    fn restore(
        entry: &Entry,
        signer: Signer,
        bundle: &Bundle,
        now: SystemTime,
    ) -> Result<Self, Unusable> {
        let chain = entry.certificates.iter().map(|der| Certificate::parse(der));
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let certificate = chain.first().ok_or(Unusable::NoCertificate)?;
        if certificate.public_key() != signer.public_key() {
            return Err(Unusable::OtherKey);
        }
        let (own, issued_at) = (&bundle.trust_domain, entry.issued_at);
        if bundle.certificates().any(|root| root == certificate) {
            return Ok(Self::root(own, certificate.clone(), issued_at, signer));
        }
        let root = find_root(&chain, bundle.certificates(), now).or(Err(Unusable::NotInBundle))?;
        let above = Above::of(&chain, vec![root.clone()], root.clone());
        Ok(Self::new(
            own,
            certificate.clone(),
            above,
            issued_at,
            signer,
        ))
    }

    fn certificates(&self) -> Vec<Bytes> {
        let all = std::iter::once(&self.0.certificate).chain(&self.0.above.issuers);
        all.map(|certificate| Bytes::copy_from_slice(certificate.der()))
            .collect()
    }

    fn publish(&self, bundle: &mut Bundle) -> bool {
        let mut changed = false;
        for root in &self.0.above.roots {
            let mut root = bundle::X509Authority::new(root.clone());
            // A key stays tainted whatever certificate it comes with next.
            let id = root.authority_id();
            let mut known = bundle.x509_authorities.iter();
            root.tainted = known.any(|known| known.tainted && known.authority_id() == id);
            changed |= bundle.add_x509_authority(root);
        }
        changed
    }
}

/// Whether a certificate makes an authority of this trust domain with this key (X509-SVID 3.2, 4.1, 4.3).
fn check_profile(
    certificate: &Certificate,
    signer: &Signer,
    trust_domain: &TrustDomain,
) -> Result<(), CreateError> {
    let usage = certificate.key_usage();
    let signs = usage.is_some_and(|usage| usage.key_cert_sign());
    let names_us = certificate
        .spiffe_id()
        .is_ok_and(|id| id == trust_domain.id());
    let is_ours = certificate.public_key() == signer.public_key();
    if certificate.is_ca() && signs && names_us && is_ours {
        Ok(())
    } else {
        Err(CreateError::Profile)
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
