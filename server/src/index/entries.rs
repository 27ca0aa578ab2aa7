//! The entries, found by id, by parent, by SPIFFE ID, by alias and by expiry.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{Entry, EntryId};
use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use imbl::{HashMap, OrdMap, OrdSet};

use super::{Changed, Stored, changes};
use crate::records::CodecError;
use crate::records::entries::decode;
use crate::store::Revision;

pub(crate) type StoredEntry = Arc<Stored<Entry>>;
type ById = OrdMap<EntryId, StoredEntry>;

/// All entries, and the ways to find them.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    server: SpiffeId,
    by_id: ById,
    by_parent: HashMap<SpiffeId, ById>,
    by_spiffe_id: HashMap<SpiffeId, ById>,
    // An alias applies to an agent that has all of its selectors, so it is enough to file it under
    // one of them: whoever has all has this one.
    aliases: HashMap<Selector, ById>,
    by_expiry: OrdSet<(SystemTime, EntryId)>,
}

impl Entries {
    pub(crate) fn new(trust_domain: &TrustDomain) -> Self {
        Self {
            server: SpiffeId::server(trust_domain),
            by_id: OrdMap::new(),
            by_parent: HashMap::new(),
            by_spiffe_id: HashMap::new(),
            aliases: HashMap::new(),
            by_expiry: OrdSet::new(),
        }
    }

    /// The entry of this id.
    pub(crate) fn get(&self, id: &EntryId) -> Option<&StoredEntry> {
        self.by_id.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All entries, ordered by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &StoredEntry> {
        self.by_id.values()
    }

    /// The entries after this id, ordered by id.
    pub(crate) fn after(&self, id: &EntryId) -> impl Iterator<Item = &StoredEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id
            .range((Excluded(id.clone()), Unbounded))
            .map(|(_, entry)| entry)
    }

    /// The entries of this parent, ordered by id.
    pub(crate) fn children_of(&self, parent: &SpiffeId) -> impl Iterator<Item = &StoredEntry> {
        self.by_parent
            .get(parent)
            .into_iter()
            .flat_map(OrdMap::values)
    }

    /// The entries that issue this SPIFFE ID, ordered by id.
    pub(crate) fn of_spiffe_id<'a>(
        &'a self,
        id: &SpiffeId,
    ) -> impl Iterator<Item = &'a StoredEntry> + use<'a> {
        self.by_spiffe_id
            .get(id)
            .into_iter()
            .flat_map(OrdMap::values)
    }

    /// The entry with this very parent, SPIFFE ID and set of selectors: there is at most one.
    pub(crate) fn similar(
        &self,
        parent: &SpiffeId,
        id: &SpiffeId,
        selectors: &Selectors,
    ) -> Option<&StoredEntry> {
        self.of_spiffe_id(id)
            .find(|entry| entry.value.parent_id == *parent && entry.value.selectors == *selectors)
    }

    /// The aliases that an agent with these selectors goes by.
    pub(crate) fn aliases_of<'a>(
        &'a self,
        selectors: &'a Selectors,
    ) -> impl Iterator<Item = &'a StoredEntry> {
        selectors
            .iter()
            .filter_map(|selector| self.aliases.get(selector))
            .flat_map(OrdMap::values)
            .filter(|alias| alias.value.selectors.is_subset_of(selectors))
    }

    /// Whether this entry is an alias: it names a set of agents, and is never delivered to one.
    pub(crate) fn is_alias(&self, entry: &Entry) -> bool {
        entry.parent_id == self.server
    }

    /// The entries that expired at or before `now`.
    pub(crate) fn expired(&self, now: SystemTime) -> impl Iterator<Item = &StoredEntry> {
        self.by_expiry
            .iter()
            .take_while(move |(at, _)| *at <= now)
            .filter_map(|(_, id)| self.by_id.get(id))
    }

    /// What is different in `newer`.
    pub(crate) fn changes_to<'a>(
        &'a self,
        newer: &'a Self,
    ) -> impl Iterator<Item = Changed<'a, StoredEntry>> {
        changes(&self.by_id, &newer.by_id)
    }

    pub(super) fn put(&mut self, revision: Revision, value: &[u8]) -> Result<(), CodecError> {
        let entry = decode(value)?;
        self.insert(revision, entry);
        Ok(())
    }

    pub(crate) fn insert(&mut self, revision: Revision, entry: Entry) {
        self.remove(&entry.id);
        let id = entry.id.clone();
        let entry = Arc::new(Stored {
            revision,
            value: entry,
        });
        let file = |map: &mut HashMap<SpiffeId, ById>, under: &SpiffeId| {
            map.entry(under.clone())
                .or_default()
                .insert(id.clone(), Arc::clone(&entry));
        };
        file(&mut self.by_parent, &entry.value.parent_id);
        file(&mut self.by_spiffe_id, &entry.value.spiffe_id);
        if self.is_alias(&entry.value)
            && let Some(selector) = entry.value.selectors.iter().next()
        {
            self.aliases
                .entry(selector.clone())
                .or_default()
                .insert(id.clone(), Arc::clone(&entry));
        }
        if let Some(at) = entry.value.expires_at {
            self.by_expiry.insert((at, id.clone()));
        }
        self.by_id.insert(id, entry);
    }

    pub(super) fn delete(&mut self, id: &str) {
        if let Ok(id) = EntryId::parse(id) {
            self.remove(&id);
        }
    }

    pub(crate) fn remove(&mut self, id: &EntryId) {
        let Some(entry) = self.by_id.remove(id) else {
            return;
        };
        unfile(&mut self.by_parent, &entry.value.parent_id, id);
        unfile(&mut self.by_spiffe_id, &entry.value.spiffe_id, id);
        if self.is_alias(&entry.value)
            && let Some(selector) = entry.value.selectors.iter().next()
        {
            unfile(&mut self.aliases, selector, id);
        }
        if let Some(at) = entry.value.expires_at {
            self.by_expiry.remove(&(at, id.clone()));
        }
    }
}

/// Takes an entry out of a map of maps, and the inner map with it when it was the last.
fn unfile<K: std::hash::Hash + Eq + Clone>(map: &mut HashMap<K, ById>, under: &K, id: &EntryId) {
    if let Some(entries) = map.get_mut(under) {
        entries.remove(id);
        if entries.is_empty() {
            map.remove(under);
        }
    }
}
