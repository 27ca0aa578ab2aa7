//! From the server's messages to what they mean.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::bundle::{Bundle, JwtAuthority, MAX_KEY_ID_BYTES, X509Authority};
use identity::entry::{Entry, EntryId, Hint};
use identity::key::PublicKey;
use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, MAX_CHAIN};
use proto::spire::types;
use tracing::warn;

use crate::upstream::UpstreamError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn protocol(what: &'static str) -> UpstreamError {
    UpstreamError::Protocol { what, source: None }
}

fn because(what: &'static str, source: impl Into<Cause>) -> UpstreamError {
    UpstreamError::Protocol {
        what,
        source: Some(source.into()),
    }
}

/// The certificates of an X509-SVID, leaf first.
pub(super) fn chain(svid: Option<&types::X509svid>) -> Result<Vec<Certificate>, UpstreamError> {
    let svid = svid.ok_or_else(|| protocol("the answer has no SVID"))?;
    if svid.cert_chain.is_empty() || svid.cert_chain.len() > MAX_CHAIN {
        return Err(protocol(
            "the chain of an SVID has no certificate, or too many",
        ));
    }
    let parse = |der: &bytes::Bytes| Certificate::parse(der);
    let chain: Result<_, _> = svid.cert_chain.iter().map(parse).collect();
    chain.map_err(|error| because("a certificate of an SVID is malformed", error))
}

/// A bundle, which must be that of `expected`.
pub(super) fn bundle(
    bundle: &types::Bundle,
    expected: &TrustDomain,
) -> Result<Bundle, UpstreamError> {
    let found = TrustDomain::parse(&bundle.trust_domain)
        .map_err(|error| because("a bundle has a malformed trust domain", error))?;
    if found != *expected {
        return Err(protocol("a bundle is that of another trust domain"));
    }
    let mut read = Bundle::new(found);
    for authority in &bundle.x509_authorities {
        let certificate = Certificate::parse(&authority.asn1)
            .map_err(|error| because("an X.509 authority of a bundle is malformed", error))?;
        read.add_x509_authority(X509Authority {
            certificate,
            tainted: authority.tainted,
        });
    }
    read.jwt_authorities = bundle
        .jwt_authorities
        .iter()
        .filter_map(jwt_authority)
        .collect();
    read.refresh_hint = u64::try_from(bundle.refresh_hint)
        .ok()
        .filter(|hint| *hint > 0)
        .map(Duration::from_secs);
    read.sequence = bundle.sequence_number;
    Ok(read)
}

/// A key of a kind that is not known here cannot validate any token, so nothing is lost without it.
fn jwt_authority(key: &types::JwtKey) -> Option<JwtAuthority> {
    let named = (1..=MAX_KEY_ID_BYTES).contains(&key.key_id.len());
    match PublicKey::from_spki_der(&key.public_key) {
        Ok(public_key) if named => Some(JwtAuthority {
            key_id: key.key_id.clone(),
            public_key,
            expires_at: seconds(key.expires_at),
            tainted: key.tainted,
        }),
        Ok(_) => {
            warn!("Passed over a JWT authority whose key id is empty or too long");
            None
        }
        Err(error) => {
            warn!(
                error.reason = error.reason(),
                "Passed over a JWT authority that cannot be used"
            );
            None
        }
    }
}

/// An entry as synchronization brings it: without the fields that the agent does not ask for.
///
/// One that cannot be read is passed over with a warning, as SPIRE does: it takes an identity away
/// from one workload instead of all identities from all.
pub(super) fn entry(entry: &types::Entry, own: &SpiffeId) -> Option<Entry> {
    let read = read_entry(entry, own);
    if let Err(error) = &read {
        let id: String = entry.id.chars().take(64).collect();
        warn!(entry.id = id, error = %error, "Passed over a malformed entry");
    }
    read.ok()
}

#[derive(Debug, thiserror::Error)]
enum EntryFault {
    #[error("it has no SPIFFE ID")]
    NoSpiffeId,
    #[error("its SPIFFE ID is of another trust domain")]
    Foreign,
    #[error("it has no selectors")]
    NoSelectors,
    #[error(transparent)]
    Id(#[from] identity::entry::EntryIdError),
    #[error(transparent)]
    SpiffeId(#[from] identity::spiffe_id::SpiffeIdError),
    #[error(transparent)]
    Selector(#[from] identity::selector::SelectorError),
    #[error(transparent)]
    TrustDomain(#[from] identity::trust_domain::TrustDomainError),
    #[error(transparent)]
    Hint(#[from] identity::entry::HintError),
}

fn read_entry(entry: &types::Entry, own: &SpiffeId) -> Result<Entry, EntryFault> {
    let id = EntryId::parse(&entry.id)?;
    let spiffe_id = entry.spiffe_id.as_ref().ok_or(EntryFault::NoSpiffeId)?;
    let spiffe_id = SpiffeId::from_parts(&spiffe_id.trust_domain, &spiffe_id.path)?;
    if !spiffe_id.is_member_of(own.trust_domain()) {
        return Err(EntryFault::Foreign);
    }
    let selectors = entry
        .selectors
        .iter()
        .map(|selector| Selector::new(&selector.r#type, &selector.value));
    let selectors = selectors.collect::<Result<Selectors, _>>()?;
    // The empty set is contained in every set: such an entry would be everybody's.
    if selectors.is_empty() {
        return Err(EntryFault::NoSelectors);
    }
    let attributes = entry.additional_attributes.unwrap_or_default();
    Ok(Entry {
        id,
        spiffe_id,
        // Not asked for: it is this agent, or an alias of it, or a workload below it.
        parent_id: own.clone(),
        selectors,
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: entry
            .federates_with
            .iter()
            .map(|name| TrustDomain::parse(name))
            .collect::<Result<_, _>>()?,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: seconds(entry.expires_at),
        dns_names: Vec::new(),
        store_svid: entry.store_svid,
        hint: Hint::from_wire(&entry.hint)?,
        revision: entry.revision_number,
        created_at: seconds(entry.created_at).unwrap_or(UNIX_EPOCH),
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
    })
}

/// Seconds since 1970, where 0 is "not said".
pub(super) fn seconds(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
