//! Writing entries: a batch becomes one transaction.
//!
//! The items of a batch are applied in order to a copy of the index, which costs nothing (the maps
//! are persistent), so each item sees what the ones before it did. What differs in the end is the
//! transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use identity::entry::{CheckedEntry, Entry, EntryDraft, EntryError, EntryId};
use identity::trust_domain::TrustDomain;

use super::Takeover;
use crate::index::Snapshot;
use crate::index::bundles::Bundles;
use crate::index::entries::Entries;
use crate::records::entries::{encode, unique_hash};
use crate::store::{Expect, Key, Revision, Txn};

/// Why an entry is not written. None of these is a failure of the server.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The same parent, SPIFFE ID and selectors: this entry has them.
    #[error("similar entry already exists")]
    Similar(Box<Entry>),
    #[error("entry ID already exists")]
    IdTaken,
    #[error("unable to find federated bundle {:?}", .0.id().as_str())]
    NoBundle(TrustDomain),
    #[error("entry not found")]
    NotFound,
    #[error(transparent)]
    Invalid(#[from] EntryError),
}

/// The changes of one batch.
#[derive(Debug)]
pub(crate) struct EntryWrites<'a> {
    before: &'a Entries,
    bundles: &'a Bundles,
    after: Entries,
    touched: BTreeSet<EntryId>,
}

impl<'a> EntryWrites<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            before: &snapshot.entries,
            bundles: &snapshot.bundles,
            after: snapshot.entries.clone(),
            touched: BTreeSet::new(),
        }
    }

    /// Adds an entry. `id` is used unless the draft brings its own.
    pub(crate) fn create(
        &mut self,
        draft: CheckedEntry,
        id: EntryId,
        now: SystemTime,
    ) -> Result<Entry, Refusal> {
        let entry = draft.into_entry(id, 0, now);
        if let Some(similar) =
            self.after
                .similar(&entry.parent_id, &entry.spiffe_id, &entry.selectors)
        {
            return Err(Refusal::Similar(Box::new(similar.value.clone())));
        }
        if self.after.get(&entry.id).is_some() {
            return Err(Refusal::IdTaken);
        }
        self.federate(&entry)?;
        self.put(entry.clone());
        Ok(entry)
    }

    /// Changes an entry; `change` edits its draft. Its revision rises by one.
    pub(crate) fn update(
        &mut self,
        id: &EntryId,
        own: &TrustDomain,
        change: impl FnOnce(&mut EntryDraft),
    ) -> Result<Entry, Refusal> {
        let stored = self.after.get(id).ok_or(Refusal::NotFound)?;
        let mut draft = stored.value.to_draft();
        change(&mut draft);
        let revision = stored.value.revision.saturating_add(1);
        let entry = draft
            .check(own)?
            .into_entry(id.clone(), revision, stored.value.created_at);
        let similar = self
            .after
            .similar(&entry.parent_id, &entry.spiffe_id, &entry.selectors);
        if let Some(similar) = similar.filter(|similar| similar.value.id != *id) {
            return Err(Refusal::Similar(Box::new(similar.value.clone())));
        }
        self.federate(&entry)?;
        self.put(entry.clone());
        Ok(entry)
    }

    /// Takes an entry over as it is at another server: with its id, its revision and its creation. One
    /// that was changed here since, and so has a higher revision, stays. Whether the bundles are here that
    /// it federates with is for [`Self::federate`] to say.
    pub(crate) fn import(&mut self, entry: &Entry) -> Result<Takeover, Refusal> {
        let stored = self.after.get(&entry.id).map(|stored| &stored.value);
        let takeover = match stored {
            None => Takeover::Created,
            Some(stored) if stored == entry => return Ok(Takeover::Unchanged),
            Some(stored) if stored.revision > entry.revision => return Ok(Takeover::Kept),
            Some(_) => Takeover::Updated,
        };
        let similar = self
            .after
            .similar(&entry.parent_id, &entry.spiffe_id, &entry.selectors);
        if let Some(similar) = similar.filter(|similar| similar.value.id != entry.id) {
            return Err(Refusal::Similar(Box::new(similar.value.clone())));
        }
        self.put(entry.clone());
        Ok(takeover)
    }

    /// Removes an entry.
    pub(crate) fn delete(&mut self, id: &EntryId) -> Result<Entry, Refusal> {
        let entry = self.after.get(id).ok_or(Refusal::NotFound)?.value.clone();
        self.touched.insert(id.clone());
        self.after.remove(id);
        Ok(entry)
    }

    /// The entries that federate with a trust domain.
    pub(crate) fn federating_with(&self, trust_domain: &TrustDomain) -> Vec<EntryId> {
        let entries = self.after.iter().map(|entry| &entry.value);
        entries
            .filter(|entry| entry.federates_with.contains(trust_domain))
            .map(|entry| entry.id.clone())
            .collect()
    }

    /// Lets an entry federate with this trust domain no more. Its revision rises by one, so that
    /// agents hear of it.
    pub(crate) fn dissociate(&mut self, id: &EntryId, from: &TrustDomain) -> Option<Entry> {
        let mut entry = self.after.get(id)?.value.clone();
        entry.federates_with.remove(from);
        entry.revision = entry.revision.saturating_add(1);
        self.put(entry.clone());
        Some(entry)
    }

    /// Whether nothing is to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// Adds all changes to a transaction, with what they rest on.
    pub(crate) fn add_to(self, mut txn: Txn) -> Txn {
        let mut guards_before = BTreeSet::new();
        let mut guards_after = BTreeMap::new();
        let mut federates_with = BTreeSet::new();
        for id in &self.touched {
            let before = self.before.get(id);
            let after = self.after.get(id);
            txn = txn.expect(
                Key::entry(id),
                Expect::seen(before.map(|entry| entry.revision)),
            );
            if let Some(before) = before {
                guards_before.insert(unique_hash(&before.value));
            }
            if let Some(after) = after {
                guards_after.insert(unique_hash(&after.value), id);
                federates_with.extend(&after.value.federates_with);
                txn = txn.put(Key::entry(id), encode(&after.value));
            } else if before.is_some() {
                txn = txn.delete(Key::entry(id));
            }
        }
        for (hash, id) in &guards_after {
            let guard = Key::entry_unique(hash);
            if !guards_before.contains(hash) {
                txn = txn.expect(guard.clone(), Expect::Absent);
            }
            txn = txn.put(guard, id.as_str().as_bytes().to_vec());
        }
        for hash in guards_before
            .iter()
            .filter(|hash| !guards_after.contains_key(*hash))
        {
            txn = txn.delete(Key::entry_unique(hash));
        }
        for trust_domain in federates_with {
            // Whoever deletes the bundle expects that nobody has written the guard meanwhile.
            txn = txn
                .expect(Key::bundle(trust_domain), Expect::Present)
                .put(Key::reference(trust_domain), Vec::new());
        }
        txn
    }

    fn put(&mut self, entry: Entry) {
        self.touched.insert(entry.id.clone());
        self.after.insert(Revision::ZERO, entry);
    }

    /// An entry may federate only with whom we have a bundle of.
    pub(crate) fn federate(&self, entry: &Entry) -> Result<(), Refusal> {
        for trust_domain in &entry.federates_with {
            if self.bundles.get(trust_domain).is_none() {
                return Err(Refusal::NoBundle(trust_domain.clone()));
            }
        }
        Ok(())
    }
}
