//! The federation relationships that were made through the API.

use std::sync::Arc;

use identity::trust_domain::TrustDomain;
use imbl::OrdMap;

use super::Stored;
use crate::federation::Relationship;
use crate::records::CodecError;
use crate::records::relationships::decode;
use crate::store::Revision;

pub(crate) type StoredRelationship = Arc<Stored<Relationship>>;

/// All relationships.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relationships {
    by_trust_domain: OrdMap<TrustDomain, StoredRelationship>,
}

impl Relationships {
    /// The relationship with a trust domain.
    pub(crate) fn get(&self, trust_domain: &TrustDomain) -> Option<&StoredRelationship> {
        self.by_trust_domain.get(trust_domain)
    }

    /// Whether `other` is the same list, unchanged.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.by_trust_domain.ptr_eq(&other.by_trust_domain)
    }

    /// All of them, ordered by trust domain.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &StoredRelationship> {
        self.by_trust_domain.values()
    }

    pub(crate) fn insert(&mut self, revision: Revision, relationship: Relationship) {
        let trust_domain = relationship.trust_domain.clone();
        let stored = Stored {
            revision,
            value: relationship,
        };
        self.by_trust_domain.insert(trust_domain, Arc::new(stored));
    }

    pub(crate) fn remove(&mut self, trust_domain: &TrustDomain) {
        self.by_trust_domain.remove(trust_domain);
    }

    pub(super) fn put(&mut self, revision: Revision, value: &[u8]) -> Result<(), CodecError> {
        self.insert(revision, decode(value)?);
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Ok(trust_domain) = TrustDomain::parse(name) {
            self.remove(&trust_domain);
        }
    }
}
