//! Registration entries: which selectors make which identity, and with what in it.

mod digest;
mod draft;
mod names;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

pub use digest::EntriesDigest;
pub use draft::{CheckedEntry, EntryDraft, EntryError};
pub use names::{
    DnsName, DnsNameError, EntryId, EntryIdError, Hint, HintError, MAX_DNS_LABEL_BYTES,
    MAX_DNS_NAME_BYTES, MAX_HINT_BYTES, MAX_ID_BYTES,
};

use crate::{selector::Selectors, spiffe_id::SpiffeId, trust_domain::TrustDomain};

/// A stored registration entry. It was checked when it was created; see [`EntryDraft::check`].
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the registration API"
)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its id, unique in the trust domain.
    pub id: EntryId,
    /// The identity that it grants.
    pub spiffe_id: SpiffeId,
    /// Who may obtain that identity: an agent, the server (for node aliases), or another entry.
    pub parent_id: SpiffeId,
    /// What the caller must have, all of it.
    pub selectors: Selectors,
    /// Lifetime of X509-SVIDs in whole seconds; the server's default where absent.
    pub x509_svid_ttl: Option<Duration>,
    /// Lifetime of JWT-SVIDs in whole seconds; the server's default where absent.
    pub jwt_svid_ttl: Option<Duration>,
    /// Foreign trust domains whose bundles the workload gets as well.
    pub federates_with: BTreeSet<TrustDomain>,
    /// Whether the identity may call the server's administrative API.
    pub admin: bool,
    /// Whether the identity belongs to a server below this one.
    pub downstream: bool,
    /// When the entry ceases to count; never where absent. Whole seconds.
    pub expires_at: Option<SystemTime>,
    /// DNS names for the X509-SVID, in order; the first becomes the common name.
    pub dns_names: Vec<DnsName>,
    /// Whether the agent pushes the SVID to a store instead of serving it.
    pub store_svid: bool,
    /// Tells identities of one workload apart.
    pub hint: Option<Hint>,
    /// 0 at creation, one more with every update.
    pub revision: i64,
    /// When the entry was created. Whole seconds.
    pub created_at: SystemTime,
    /// Whether the agent waits for a request before it asks for an X509-SVID.
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs carry the claim `jti`.
    pub jwt_svid_include_jti: bool,
}

impl Entry {
    /// Whether the entry has ceased to count at `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }

    /// The entry as it would be written down, to change and check again.
    pub fn to_draft(&self) -> EntryDraft {
        EntryDraft {
            id: Some(self.id.clone()),
            spiffe_id: self.spiffe_id.clone(),
            parent_id: self.parent_id.clone(),
            selectors: self.selectors.clone(),
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at,
            dns_names: self.dns_names.clone(),
            store_svid: self.store_svid,
            hint: self.hint.clone(),
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        }
    }
}

#[cfg(test)]
mod tests;
