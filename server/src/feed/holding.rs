//! What one agent holds, and what it is to be told. Pure.
//!
//! The entries are those of the index, not copies, so an agent of a hundred entries costs a few hundred
//! bytes here. What is told is the difference between what the agent holds and what it may have when
//! the message is made; however many commits lie between, it comes out right.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{EntriesDigest, EntryId};
use identity::trust_domain::TrustDomain;

use crate::index::bundles::{Bundles, StoredBundle};
use crate::index::entries::StoredEntry;
use crate::store::Revision;

/// What an agent holds once it has all that it was told.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    // INVARIANT: ordered by id, each id once.
    entries: Vec<StoredEntry>,
    digest: EntriesDigest,
    /// How many of its entries federate with each trust domain.
    federated: BTreeMap<TrustDomain, usize>,
    bundles: BTreeMap<TrustDomain, Revision>,
    /// No entry expires before; an entry that did may be gone already.
    next_expiry: Option<SystemTime>,
}

/// What an agent is to be told.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) entries: Vec<StoredEntry>,
    pub(crate) removed: Vec<EntryId>,
    pub(crate) bundles: Vec<StoredBundle>,
    pub(crate) removed_bundles: Vec<TrustDomain>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.removed.is_empty()
            && self.bundles.is_empty()
            && self.removed_bundles.is_empty()
    }
}

impl Holding {
    /// What an agent holds that has all these entries, and no bundle.
    pub(crate) fn of(mut entries: Vec<StoredEntry>) -> Self {
        entries.sort_unstable_by(|a, b| a.value.id.cmp(&b.value.id));
        let mut holding = Self::default();
        for entry in &entries {
            holding.count(entry);
        }
        holding.entries = entries;
        holding
    }

    pub(crate) fn entries(&self) -> &[StoredEntry] {
        &self.entries
    }

    pub(crate) fn digest(&self) -> EntriesDigest {
        self.digest
    }

    /// The trust domains whose bundles it needs beside our own.
    pub(crate) fn federated(&self) -> BTreeSet<TrustDomain> {
        self.federated.keys().cloned().collect()
    }

    /// Whether it needs the bundles of these trust domains, and no other.
    pub(crate) fn needs_only(&self, trust_domains: &BTreeSet<TrustDomain>) -> bool {
        self.federated.keys().eq(trust_domains)
    }

    /// Tells what it has of these entries, and that it has not the others.
    pub(crate) fn tell(&self, ids: HashSet<EntryId>, delta: &mut Delta) {
        for id in ids {
            match self.find(&id) {
                Ok(place) => delta.entries.extend(self.entries.get(place).cloned()),
                Err(_) => delta.removed.push(id),
            }
        }
    }

    fn find(&self, id: &EntryId) -> Result<usize, usize> {
        self.entries.binary_search_by(|held| held.value.id.cmp(id))
    }

    /// When an entry expires next, or did.
    pub(crate) fn next_expiry(&self) -> Option<SystemTime> {
        self.next_expiry
    }

    /// Takes in all entries that the agent may have now.
    pub(crate) fn take_all(&mut self, entries: Vec<StoredEntry>, delta: &mut Delta) {
        let bundles = std::mem::take(&mut self.bundles);
        let next = Self {
            bundles,
            ..Self::of(entries)
        };
        let before = std::mem::replace(self, next).entries;
        let mut old = before.into_iter().peekable();
        for new in &self.entries {
            while let Some(gone) = old.next_if(|old| old.value.id < new.value.id) {
                delta.removed.push(gone.value.id.clone());
            }
            match old.next_if(|old| old.value.id == new.value.id) {
                Some(same) if Arc::ptr_eq(&same, new) || same == *new => {}
                Some(_) | None => delta.entries.push(Arc::clone(new)),
            }
        }
        delta.removed.extend(old.map(|gone| gone.value.id.clone()));
    }

    /// Takes in what the agent may have now of the entry `id`.
    pub(crate) fn take(&mut self, id: &EntryId, entry: Option<StoredEntry>, delta: &mut Delta) {
        match (self.find(id), entry) {
            (Ok(place), Some(entry)) => {
                let Some(held) = self.entries.get_mut(place) else {
                    return;
                };
                if *held == entry {
                    return;
                }
                let old = std::mem::replace(held, Arc::clone(&entry));
                self.discount(&old);
                self.count(&entry);
                delta.entries.push(entry);
            }
            (Ok(place), None) => {
                let old = self.entries.remove(place);
                self.discount(&old);
                delta.removed.push(id.clone());
            }
            (Err(place), Some(entry)) => {
                self.count(&entry);
                self.entries.insert(place, Arc::clone(&entry));
                delta.entries.push(entry);
            }
            (Err(_), None) => {}
        }
    }

    /// Lets go what has expired by `now`.
    pub(crate) fn expire(&mut self, now: SystemTime, delta: &mut Delta) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        let held = std::mem::take(&mut self.entries);
        self.next_expiry = None;
        for entry in held {
            if entry.value.is_expired(now) {
                self.discount(&entry);
                delta.removed.push(entry.value.id.clone());
            } else {
                self.note_expiry(entry.value.expires_at);
                self.entries.push(entry);
            }
        }
    }

    /// Takes in the bundles that the agent needs: our own, and those its entries federate with.
    pub(crate) fn take_bundles(&mut self, bundles: &Bundles, delta: &mut Delta) {
        let federated = self.federated.keys();
        let needed = federated.filter_map(|trust_domain| bundles.get(trust_domain));
        let mut held = BTreeMap::new();
        for bundle in bundles.own().into_iter().chain(needed) {
            let trust_domain = &bundle.value.trust_domain;
            let before = held.insert(trust_domain.clone(), bundle.revision);
            let is_known = self.bundles.get(trust_domain) == Some(&bundle.revision);
            // An entry may federate with our own trust domain.
            if before.is_none() && !is_known {
                delta.bundles.push(Arc::clone(bundle));
            }
        }
        let gone = self.bundles.keys().filter(|name| !held.contains_key(*name));
        delta.removed_bundles.extend(gone.cloned());
        self.bundles = held;
    }

    fn count(&mut self, entry: &StoredEntry) {
        let value = &entry.value;
        self.digest.add(&value.id, value.revision, value.created_at);
        for trust_domain in &value.federates_with {
            *self.federated.entry(trust_domain.clone()).or_default() += 1;
        }
        self.note_expiry(value.expires_at);
    }

    fn discount(&mut self, entry: &StoredEntry) {
        let value = &entry.value;
        self.digest
            .remove(&value.id, value.revision, value.created_at);
        for trust_domain in &value.federates_with {
            if let Some(number) = self.federated.get_mut(trust_domain) {
                *number -= 1;
                if *number == 0 {
                    self.federated.remove(trust_domain);
                }
            }
        }
    }

    fn note_expiry(&mut self, at: Option<SystemTime>) {
        self.next_expiry = match (self.next_expiry, at) {
            (Some(next), Some(at)) => Some(next.min(at)),
            (next, at) => next.or(at),
        };
    }
}
