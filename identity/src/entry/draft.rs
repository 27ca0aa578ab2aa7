//! An entry as asked for, and the rules that it must keep.

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{DnsName, DnsNameError, Entry, EntryId, EntryIdError, Hint, HintError};
use crate::{
    namespace::{NamespaceError, Role},
    selector::{SelectorError, Selectors},
    spiffe_id::{SpiffeId, SpiffeIdError},
    trust_domain::{TrustDomain, TrustDomainError},
};

/// An entry as an operator asks for it. The fields mean what they mean in [`Entry`].
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the registration API"
)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntryDraft {
    /// The id of the operator's choice; the server draws one where absent.
    pub id: Option<EntryId>,
    /// See [`Entry::spiffe_id`].
    pub spiffe_id: SpiffeId,
    /// See [`Entry::parent_id`].
    pub parent_id: SpiffeId,
    /// See [`Entry::selectors`].
    pub selectors: Selectors,
    /// See [`Entry::x509_svid_ttl`].
    pub x509_svid_ttl: Option<Duration>,
    /// See [`Entry::jwt_svid_ttl`].
    pub jwt_svid_ttl: Option<Duration>,
    /// See [`Entry::federates_with`].
    pub federates_with: BTreeSet<TrustDomain>,
    /// See [`Entry::admin`].
    pub admin: bool,
    /// See [`Entry::downstream`].
    pub downstream: bool,
    /// See [`Entry::expires_at`].
    pub expires_at: Option<SystemTime>,
    /// See [`Entry::dns_names`].
    pub dns_names: Vec<DnsName>,
    /// See [`Entry::store_svid`].
    pub store_svid: bool,
    /// See [`Entry::hint`].
    pub hint: Option<Hint>,
    /// See [`Entry::disable_x509_svid_prefetch`].
    pub disable_x509_svid_prefetch: bool,
    /// See [`Entry::jwt_svid_include_jti`].
    pub jwt_svid_include_jti: bool,
}

impl EntryDraft {
    /// A draft with nothing but what every entry has.
    pub fn new(spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: Selectors) -> Self {
        Self {
            id: None,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: BTreeSet::new(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: Vec::new(),
            store_svid: false,
            hint: None,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    /// Checks the draft against the rules for entries of the trust domain `own`.
    ///
    /// Fails with the first rule that is broken, in the order in which SPIRE looks at them.
    pub fn check(self, own: &TrustDomain) -> Result<CheckedEntry, EntryError> {
        Role::Member
            .check(&self.parent_id, own)
            .map_err(EntryError::Parent)?;
        // X509-SVID 3.1: the ID of a leaf has a path. `/spire` is the server's and the agents'.
        Role::Workload
            .check(&self.spiffe_id, own)
            .map_err(EntryError::Workload)?;
        if self.federates_with.contains(own) {
            return Err(EntryError::FederatesWithSelf { own: own.clone() });
        }
        let Some(first) = self.selectors.iter().next() else {
            return Err(EntryError::NoSelectors);
        };
        if self.store_svid {
            if self.disable_x509_svid_prefetch {
                return Err(EntryError::StoredWithoutPrefetch);
            }
            // The selector kind names the store that the SVID is pushed to.
            if self
                .selectors
                .iter()
                .any(|selector| selector.kind() != first.kind())
            {
                return Err(EntryError::StoredWithMixedSelectors);
            }
        }
        check_ttl(self.x509_svid_ttl).map_err(|Unfit| EntryError::X509SvidTtl)?;
        check_ttl(self.jwt_svid_ttl).map_err(|Unfit| EntryError::JwtSvidTtl)?;
        check_expiry(self.expires_at).map_err(|Unfit| EntryError::ExpiresAt)?;
        Ok(CheckedEntry(self))
    }
}

struct Unfit;

/// Protobuf carries a lifetime as `int32` seconds, where zero means the default.
fn check_ttl(ttl: Option<Duration>) -> Result<(), Unfit> {
    let Some(ttl) = ttl else { return Ok(()) };
    let fits = ttl.subsec_nanos() == 0 && i32::try_from(ttl.as_secs()).is_ok_and(|s| s > 0);
    if fits { Ok(()) } else { Err(Unfit) }
}

/// Protobuf carries the expiry as `int64` seconds since 1970, where zero means never.
fn check_expiry(expires_at: Option<SystemTime>) -> Result<(), Unfit> {
    let Some(end) = expires_at else { return Ok(()) };
    let Ok(since) = end.duration_since(UNIX_EPOCH) else {
        return Err(Unfit);
    };
    let fits = since.subsec_nanos() == 0 && i64::try_from(since.as_secs()).is_ok_and(|s| s > 0);
    if fits { Ok(()) } else { Err(Unfit) }
}

/// A draft that keeps every rule, ready to be stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckedEntry(EntryDraft);

impl CheckedEntry {
    /// What was checked.
    pub fn draft(&self) -> &EntryDraft {
        &self.0
    }

    /// The id that was asked for.
    pub fn id(&self) -> Option<&EntryId> {
        self.0.id.as_ref()
    }

    /// Makes the entry. `id` stands in for a draft without one, and is dropped otherwise.
    pub fn into_entry(self, id: EntryId, revision: i64, created_at: SystemTime) -> Entry {
        let draft = self.0;
        Entry {
            id: draft.id.unwrap_or(id),
            spiffe_id: draft.spiffe_id,
            parent_id: draft.parent_id,
            selectors: draft.selectors,
            x509_svid_ttl: draft.x509_svid_ttl,
            jwt_svid_ttl: draft.jwt_svid_ttl,
            federates_with: draft.federates_with,
            admin: draft.admin,
            downstream: draft.downstream,
            expires_at: draft.expires_at,
            dns_names: draft.dns_names,
            store_svid: draft.store_svid,
            hint: draft.hint,
            revision,
            created_at,
            disable_x509_svid_prefetch: draft.disable_x509_svid_prefetch,
            jwt_svid_include_jti: draft.jwt_svid_include_jti,
        }
    }
}

/// Why an entry is refused.
///
/// The variants with a cause wrap the errors of the parts, for whoever reads an entry from the
/// wire; [`EntryError::message`] is then SPIRE's message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The parent ID is not a SPIFFE ID.
    #[error("invalid parent ID")]
    ParentId(#[source] SpiffeIdError),
    /// The parent ID is foreign or without a path.
    #[error("invalid parent ID")]
    Parent(#[source] NamespaceError),
    /// The SPIFFE ID is not one.
    #[error("invalid spiffe ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The SPIFFE ID is foreign, reserved or without a path.
    #[error("invalid spiffe ID")]
    Workload(#[source] NamespaceError),
    /// A DNS name is not one.
    #[error("invalid DNS name")]
    DnsName(#[source] DnsNameError),
    /// A federated trust domain is not one.
    #[error("invalid federated trust domain")]
    FederatedTrustDomain(#[source] TrustDomainError),
    /// The entry federates with its own trust domain (SPIFFE-ID 2.1.1).
    #[error("invalid federated trust domain: {:?} is the server's own trust domain", own.name())]
    FederatesWithSelf {
        /// The trust domain of the server.
        own: TrustDomain,
    },
    /// There are no selectors.
    #[error("selector list is empty")]
    NoSelectors,
    /// A selector is not one.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The hint is too long.
    #[error(transparent)]
    Hint(#[from] HintError),
    /// The entry's id is too long or has odd characters.
    #[error(transparent)]
    Id(#[from] EntryIdError),
    /// The lifetime of X509-SVIDs is not from 1 to 2147483647 whole seconds.
    #[error("invalid registration entry: X509SvidTtl is out of range")]
    X509SvidTtl,
    /// The lifetime of JWT-SVIDs is not from 1 to 2147483647 whole seconds.
    #[error("invalid registration entry: JwtSvidTtl is out of range")]
    JwtSvidTtl,
    /// The expiry is not a whole second after 1970 that 64 bits hold.
    #[error("invalid registration entry: expiry is out of range")]
    ExpiresAt,
    /// A stored SVID has no cache whose behavior could be chosen.
    #[error("specifying cache behaviour is incompatible with storable SVIDs")]
    StoredWithoutPrefetch,
    /// An entry whose SVID is stored has selectors of several kinds.
    #[error(
        "invalid registration entry: selector types must be the same when store SVID is enabled"
    )]
    StoredWithMixedSelectors,
}

impl EntryError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ParentId(_) => "parent_id_invalid",
            Self::Parent(_) => "parent_id_refused",
            Self::SpiffeId(_) => "spiffe_id_invalid",
            Self::Workload(_) => "spiffe_id_refused",
            Self::DnsName(_) => "dns_name_invalid",
            Self::FederatedTrustDomain(_) => "federated_trust_domain_invalid",
            Self::FederatesWithSelf { .. } => "federates_with_self",
            Self::NoSelectors => "selectors_empty",
            Self::Selector(error) => error.reason(),
            Self::Hint(error) => error.reason(),
            Self::Id(error) => error.reason(),
            Self::X509SvidTtl => "x509_svid_ttl_range",
            Self::JwtSvidTtl => "jwt_svid_ttl_range",
            Self::ExpiresAt => "expires_at_range",
            Self::StoredWithoutPrefetch => "store_svid_prefetch",
            Self::StoredWithMixedSelectors => "store_svid_selectors",
        }
    }

    /// The error and its cause in one sentence, safe to show to the caller.
    pub fn message(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}
