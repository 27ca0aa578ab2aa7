//! Entries between the wire and the server.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use identity::entry::{DnsName, Entry, EntryDraft, EntryError, EntryId, Hint};
use identity::namespace::Role;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use proto::spire::types;
use proto::spire::types::entry::AdditionalAttributes;

use super::{IdError, id_to_proto, selectors, selectors_to_proto, spiffe_id};
use crate::records::{from_seconds, to_seconds};

/// The mask of a request; none means all fields.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Mask<'a>(pub(in crate::api) Option<&'a types::EntryMask>);

impl Mask<'_> {
    fn has(self, field: fn(&types::EntryMask) -> bool) -> bool {
        self.0.is_none_or(field)
    }
}

/// Why an entry of a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum PatchError {
    #[error("{what}: request must specify SPIFFE ID")]
    NoId { what: &'static str },
    #[error(transparent)]
    Invalid(#[from] EntryError),
}

/// The fields that a request sets.
#[derive(Clone, Debug)]
pub(in crate::api) struct Patch {
    parent_id: Option<SpiffeId>,
    spiffe_id: Option<SpiffeId>,
    selectors: Option<Selectors>,
    x509_svid_ttl: Option<Option<Duration>>,
    jwt_svid_ttl: Option<Option<Duration>>,
    federates_with: Option<BTreeSet<TrustDomain>>,
    admin: Option<bool>,
    downstream: Option<bool>,
    expires_at: Option<Option<SystemTime>>,
    dns_names: Option<Vec<DnsName>>,
    store_svid: Option<bool>,
    hint: Option<Option<Hint>>,
    attributes: Option<AdditionalAttributes>,
}

impl Patch {
    /// Reads the fields that the mask names, in SPIRE's order, so that an entry with two faults is
    /// refused for the same one.
    pub(in crate::api) fn parse(
        own: &TrustDomain,
        entry: &types::Entry,
        mask: Mask<'_>,
    ) -> Result<Self, PatchError> {
        let parent_id = mask
            .has(|m| m.parent_id)
            .then(|| parent(own, entry))
            .transpose()?;
        let spiffe_id = mask
            .has(|m| m.spiffe_id)
            .then(|| workload(own, entry))
            .transpose()?;
        let dns_names = mask
            .has(|m| m.dns_names)
            .then(|| dns_names(entry))
            .transpose()?;
        let federates_with = mask
            .has(|m| m.federates_with)
            .then(|| federates_with(entry))
            .transpose()?;
        let selectors = mask.has(|m| m.selectors).then(|| set(entry)).transpose()?;
        let hint = mask
            .has(|m| m.hint)
            .then(|| Hint::from_wire(&entry.hint))
            .transpose();
        let ttl = |wanted: bool, seconds: i32, error: EntryError| {
            wanted.then(|| ttl(seconds).ok_or(error)).transpose()
        };
        Ok(Self {
            parent_id,
            spiffe_id,
            selectors,
            x509_svid_ttl: ttl(
                mask.has(|m| m.x509_svid_ttl),
                entry.x509_svid_ttl,
                EntryError::X509SvidTtl,
            )?,
            jwt_svid_ttl: ttl(
                mask.has(|m| m.jwt_svid_ttl),
                entry.jwt_svid_ttl,
                EntryError::JwtSvidTtl,
            )?,
            federates_with,
            admin: mask.has(|m| m.admin).then_some(entry.admin),
            downstream: mask.has(|m| m.downstream).then_some(entry.downstream),
            expires_at: mask
                .has(|m| m.expires_at)
                .then(|| expiry(entry))
                .transpose()?,
            dns_names,
            store_svid: mask.has(|m| m.store_svid).then_some(entry.store_svid),
            hint: hint.map_err(EntryError::from)?,
            attributes: mask
                .has(|m| m.additional_attributes)
                .then(|| entry.additional_attributes.unwrap_or_default()),
        })
    }

    /// Makes a draft of a patch that was read without a mask, with the id that the request chose.
    pub(in crate::api) fn into_draft(self, id: &str) -> Result<EntryDraft, EntryError> {
        let (Some(spiffe_id), Some(parent_id)) = (&self.spiffe_id, &self.parent_id) else {
            return Err(EntryError::NoSelectors);
        };
        let selectors = self.selectors.clone().unwrap_or_default();
        let mut draft = EntryDraft::new(spiffe_id.clone(), parent_id.clone(), selectors);
        if !id.is_empty() {
            draft.id = Some(EntryId::parse(id)?);
        }
        self.apply(&mut draft);
        Ok(draft)
    }

    /// Sets the fields of a draft.
    pub(in crate::api) fn apply(self, draft: &mut EntryDraft) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut draft.parent_id, self.parent_id);
        set(&mut draft.spiffe_id, self.spiffe_id);
        set(&mut draft.selectors, self.selectors);
        set(&mut draft.x509_svid_ttl, self.x509_svid_ttl);
        set(&mut draft.jwt_svid_ttl, self.jwt_svid_ttl);
        set(&mut draft.federates_with, self.federates_with);
        set(&mut draft.admin, self.admin);
        set(&mut draft.downstream, self.downstream);
        set(&mut draft.expires_at, self.expires_at);
        set(&mut draft.dns_names, self.dns_names);
        set(&mut draft.store_svid, self.store_svid);
        set(&mut draft.hint, self.hint);
        if let Some(attributes) = self.attributes {
            draft.disable_x509_svid_prefetch = attributes.disable_x509_svid_prefetch;
            draft.jwt_svid_include_jti = attributes.jwt_svid_include_jti;
        }
    }
}

fn parent(own: &TrustDomain, entry: &types::Entry) -> Result<SpiffeId, PatchError> {
    let id = spiffe_id(entry.parent_id.as_ref())
        .map_err(|error| id_error("invalid parent ID", EntryError::ParentId, error))?;
    Role::Member.check(&id, own).map_err(EntryError::Parent)?;
    Ok(id)
}

fn workload(own: &TrustDomain, entry: &types::Entry) -> Result<SpiffeId, PatchError> {
    let id = spiffe_id(entry.spiffe_id.as_ref())
        .map_err(|error| id_error("invalid spiffe ID", EntryError::SpiffeId, error))?;
    Role::Workload
        .check(&id, own)
        .map_err(EntryError::Workload)?;
    Ok(id)
}

fn id_error(
    what: &'static str,
    malformed: fn(identity::spiffe_id::SpiffeIdError) -> EntryError,
    error: IdError,
) -> PatchError {
    match error {
        IdError::Malformed(error) => PatchError::Invalid(malformed(error)),
        IdError::Missing | IdError::Refused(_) => PatchError::NoId { what },
    }
}

fn dns_names(entry: &types::Entry) -> Result<Vec<DnsName>, EntryError> {
    let names = entry.dns_names.iter().map(|name| DnsName::parse(name));
    names.collect::<Result<_, _>>().map_err(EntryError::DnsName)
}

fn federates_with(entry: &types::Entry) -> Result<BTreeSet<TrustDomain>, EntryError> {
    let names = entry
        .federates_with
        .iter()
        .map(|name| TrustDomain::parse(name));
    names
        .collect::<Result<_, _>>()
        .map_err(EntryError::FederatedTrustDomain)
}

fn set(entry: &types::Entry) -> Result<Selectors, EntryError> {
    if entry.selectors.is_empty() {
        return Err(EntryError::NoSelectors);
    }
    Ok(selectors(&entry.selectors)?)
}

/// Zero means the default; less than zero means nothing.
#[expect(
    clippy::option_option,
    reason = "invalid, default, and a lifetime are three things"
)]
fn ttl(seconds: i32) -> Option<Option<Duration>> {
    let seconds = u64::try_from(seconds).ok()?;
    Some((seconds > 0).then(|| Duration::from_secs(seconds)))
}

fn expiry(entry: &types::Entry) -> Result<Option<SystemTime>, EntryError> {
    match entry.expires_at {
        ..0 => Err(EntryError::ExpiresAt),
        0 => Ok(None),
        seconds => Ok(Some(from_seconds(seconds))),
    }
}

/// An entry, as far as the mask asks for it. The id is always there.
pub(in crate::api) fn to_proto(entry: &Entry, mask: Mask<'_>) -> types::Entry {
    let mut message = types::Entry {
        id: entry.id.as_str().to_owned(),
        ..Default::default()
    };
    if mask.has(|m| m.spiffe_id) {
        message.spiffe_id = Some(id_to_proto(&entry.spiffe_id));
    }
    if mask.has(|m| m.parent_id) {
        message.parent_id = Some(id_to_proto(&entry.parent_id));
    }
    if mask.has(|m| m.selectors) {
        message.selectors = selectors_to_proto(&entry.selectors);
    }
    if mask.has(|m| m.x509_svid_ttl) {
        message.x509_svid_ttl = ttl_to_proto(entry.x509_svid_ttl);
    }
    if mask.has(|m| m.jwt_svid_ttl) {
        message.jwt_svid_ttl = ttl_to_proto(entry.jwt_svid_ttl);
    }
    if mask.has(|m| m.federates_with) {
        message.federates_with = entry
            .federates_with
            .iter()
            .map(|domain| domain.name().to_owned())
            .collect();
    }
    if mask.has(|m| m.dns_names) {
        message.dns_names = entry
            .dns_names
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect();
    }
    message.admin = mask.has(|m| m.admin) && entry.admin;
    message.downstream = mask.has(|m| m.downstream) && entry.downstream;
    message.store_svid = mask.has(|m| m.store_svid) && entry.store_svid;
    if mask.has(|m| m.expires_at) {
        message.expires_at = entry.expires_at.map_or(0, to_seconds);
    }
    if mask.has(|m| m.revision_number) {
        message.revision_number = entry.revision;
    }
    if mask.has(|m| m.hint) {
        message.hint = entry
            .hint
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
    }
    if mask.has(|m| m.created_at) {
        message.created_at = to_seconds(entry.created_at);
    }
    if mask.has(|m| m.additional_attributes) {
        message.additional_attributes = attributes(entry);
    }
    message
}

fn ttl_to_proto(ttl: Option<Duration>) -> i32 {
    // INVARIANT: a checked entry's lifetime fits.
    ttl.map_or(0, |ttl| i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX))
}

/// SPIRE leaves the message out of an entry that was made without it.
fn attributes(entry: &Entry) -> Option<AdditionalAttributes> {
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    (attributes != AdditionalAttributes::default()).then_some(attributes)
}
