//! Writing federation relationships: a batch becomes one transaction, as with entries.

use std::collections::{BTreeMap, BTreeSet};

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;

use crate::federation::{Endpoint, EndpointUrl, Profile, Relationship};
use crate::index::Snapshot;
use crate::index::relationships::Relationships;
use crate::records::{bundles, relationships};
use crate::store::{Expect, Key, Revision, Txn};

/// Why a relationship is not written. None of these is a failure of the server.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is a federation relationship with this trust domain already")]
    Exists,
    #[error("federation relationship not found")]
    NotFound,
}

/// What an update changes.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) url: Option<EndpointUrl>,
    pub(crate) profile: Option<Profile>,
}

/// The changes of one batch.
#[derive(Debug)]
pub(crate) struct RelationshipWrites<'a> {
    before: &'a Snapshot,
    after: Relationships,
    touched: BTreeSet<TrustDomain>,
    /// Of two bundles of one trust domain the later one stays, as if they came one after the other.
    seeds: BTreeMap<TrustDomain, Bundle>,
}

impl<'a> RelationshipWrites<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            before: snapshot,
            after: snapshot.relationships.clone(),
            touched: BTreeSet::new(),
            seeds: BTreeMap::new(),
        }
    }

    /// Adds a relationship, and puts the bundle that it begins with, if there is one.
    pub(crate) fn create(
        &mut self,
        relationship: &Relationship,
        seed: Option<&Bundle>,
    ) -> Result<Relationship, Refusal> {
        let trust_domain = &relationship.trust_domain;
        if self.after.get(trust_domain).is_some() {
            return Err(Refusal::Exists);
        }
        self.put(relationship.clone(), seed);
        Ok(relationship.clone())
    }

    /// Changes a relationship, and puts a bundle.
    pub(crate) fn update(
        &mut self,
        patch: &Patch,
        seed: Option<&Bundle>,
    ) -> Result<Relationship, Refusal> {
        let stored = self.after.get(&patch.trust_domain);
        let stored = &stored.ok_or(Refusal::NotFound)?.value;
        let url = patch.url.as_ref().unwrap_or(&stored.endpoint.url);
        let profile = patch.profile.as_ref().unwrap_or(&stored.endpoint.profile);
        let relationship = Relationship {
            trust_domain: patch.trust_domain.clone(),
            endpoint: Endpoint {
                url: url.clone(),
                profile: profile.clone(),
            },
        };
        self.put(relationship.clone(), seed);
        Ok(relationship)
    }

    /// Removes a relationship. The bundle stays: entries may federate with it, and an operator says
    /// when it goes.
    pub(crate) fn delete(&mut self, trust_domain: &TrustDomain) -> Result<(), Refusal> {
        self.after.get(trust_domain).ok_or(Refusal::NotFound)?;
        self.touched.insert(trust_domain.clone());
        self.after.remove(trust_domain);
        Ok(())
    }

    /// Whether nothing is to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// The bundle of a trust domain as of these changes.
    pub(crate) fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        let stored = || Some(&self.before.bundles.get(trust_domain)?.value);
        self.seeds.get(trust_domain).or_else(stored)
    }

    /// All changes as a transaction, with what they rest on.
    pub(crate) fn into_txn(self) -> Txn {
        let mut txn = Txn::new();
        for trust_domain in &self.touched {
            let key = Key::relationship(trust_domain);
            let before = self.before.relationships.get(trust_domain);
            txn = txn.expect(
                key.clone(),
                Expect::seen(before.map(|stored| stored.revision)),
            );
            if let Some(after) = self.after.get(trust_domain) {
                txn = txn.put(key, relationships::encode(&after.value));
            } else if before.is_some() {
                txn = txn.delete(key);
            }
        }
        for (trust_domain, bundle) in &self.seeds {
            let key = Key::bundle(trust_domain);
            let before = self.before.bundles.get(trust_domain);
            let seen = Expect::seen(before.map(|stored| stored.revision));
            txn = txn
                .expect(key.clone(), seen)
                .put(key, bundles::encode(bundle));
        }
        txn
    }

    fn put(&mut self, relationship: Relationship, seed: Option<&Bundle>) {
        let trust_domain = relationship.trust_domain.clone();
        if let Some(bundle) = seed {
            self.seeds.insert(trust_domain.clone(), bundle.clone());
        }
        self.touched.insert(trust_domain);
        self.after.insert(Revision::ZERO, relationship);
    }
}
