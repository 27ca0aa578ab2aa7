//! The trust bundles: our own, and those of the trust domains we federate with.

use std::sync::Arc;

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use imbl::OrdMap;

use super::{Changed, Stored, changes};
use crate::records::CodecError;
use crate::records::bundles::decode;
use crate::store::Revision;

pub(crate) type StoredBundle = Arc<Stored<Bundle>>;

/// All bundles.
#[derive(Clone, Debug)]
pub(crate) struct Bundles {
    own: TrustDomain,
    by_trust_domain: OrdMap<TrustDomain, StoredBundle>,
    /// When the last entry was written that federates with a trust domain.
    references: OrdMap<TrustDomain, Revision>,
}

impl Bundles {
    pub(crate) fn new(own: &TrustDomain) -> Self {
        Self {
            own: own.clone(),
            by_trust_domain: OrdMap::new(),
            references: OrdMap::new(),
        }
    }

    /// The bundle of a trust domain, our own included.
    pub(crate) fn get(&self, trust_domain: &TrustDomain) -> Option<&StoredBundle> {
        self.by_trust_domain.get(trust_domain)
    }

    /// Our own bundle: there is one from the moment the first authority is published.
    pub(crate) fn own(&self) -> Option<&StoredBundle> {
        self.get(&self.own)
    }

    pub(crate) fn own_trust_domain(&self) -> &TrustDomain {
        &self.own
    }

    /// The revision of the guard of a trust domain, which the end of its bundle expects.
    pub(crate) fn reference(&self, trust_domain: &TrustDomain) -> Option<Revision> {
        self.references.get(trust_domain).copied()
    }

    /// The number of bundles, our own included.
    pub(crate) fn len(&self) -> usize {
        self.by_trust_domain.len()
    }

    /// The bundles of other trust domains, ordered by name.
    pub(crate) fn federated(&self) -> impl Iterator<Item = &StoredBundle> {
        self.by_trust_domain
            .iter()
            .filter(|(trust_domain, _)| **trust_domain != self.own)
            .map(|(_, bundle)| bundle)
    }

    /// What is different in `newer`.
    pub(crate) fn changes_to<'a>(
        &'a self,
        newer: &'a Self,
    ) -> impl Iterator<Item = Changed<'a, StoredBundle>> {
        changes(&self.by_trust_domain, &newer.by_trust_domain)
    }

    pub(super) fn put(&mut self, revision: Revision, value: &[u8]) -> Result<(), CodecError> {
        let bundle = decode(value)?;
        let stored = Stored {
            revision,
            value: bundle,
        };
        self.by_trust_domain
            .insert(stored.value.trust_domain.clone(), Arc::new(stored));
        Ok(())
    }

    pub(super) fn refer(&mut self, name: &str, revision: Revision) {
        if let Ok(trust_domain) = TrustDomain::parse(name) {
            self.references.insert(trust_domain, revision);
        }
    }

    pub(super) fn unrefer(&mut self, name: &str) {
        if let Ok(trust_domain) = TrustDomain::parse(name) {
            self.references.remove(&trust_domain);
        }
    }

    pub(super) fn delete(&mut self, name: &str) {
        if let Ok(trust_domain) = TrustDomain::parse(name) {
            self.by_trust_domain.remove(&trust_domain);
        }
    }
}
