//! Which entries an agent may have.
//!
//! An agent may have the entries whose parent it is, those of the aliases it goes by, and, from
//! there on, the entries whose parent is the SPIFFE ID of an entry that it may have. An alias
//! itself is never delivered. The graph is the operator's and may have cycles and long chains:
//! both directions are loops with a set of what was seen, never recursion.

use std::collections::HashSet;
use std::time::SystemTime;

use identity::entry::{Entry, EntryId};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;

use super::entries::{Entries, StoredEntry};

/// An agent as the question sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) id: &'a SpiffeId,
    pub(crate) selectors: &'a Selectors,
}

impl Entries {
    /// The entries that this agent may have and that have not expired at `now`, each once.
    pub(crate) fn authorized(&self, asker: Asker<'_>, now: SystemTime) -> Vec<StoredEntry> {
        let mut found = Vec::new();
        let mut seen: HashSet<&SpiffeId> = HashSet::new();
        let mut parents: Vec<&SpiffeId> = vec![asker.id];
        parents.extend(
            self.aliases_of(asker.selectors)
                .map(|alias| &alias.value.spiffe_id),
        );
        while let Some(parent) = parents.pop() {
            if !seen.insert(parent) {
                continue;
            }
            for entry in self.children_of(parent) {
                if entry.value.expires_at.is_none_or(|at| now < at) {
                    found.push(StoredEntry::clone(entry));
                }
                parents.push(&entry.value.spiffe_id);
            }
        }
        found
    }

    /// The entry of this id, if this agent may have it.
    ///
    /// Walks from the entry upwards: most entries have the agent or one of its aliases for parent,
    /// so one signature does not pay for a walk over all entries of the agent.
    pub(crate) fn authorized_one(
        &self,
        asker: Asker<'_>,
        id: &EntryId,
        now: SystemTime,
    ) -> Option<StoredEntry> {
        let entry = self.get(id)?;
        (!entry.value.is_expired(now) && self.reaches(asker, &entry.value))
            .then(|| StoredEntry::clone(entry))
    }

    /// Whether this agent may have this entry, were it not for the time.
    pub(crate) fn reaches(&self, asker: Asker<'_>, entry: &Entry) -> bool {
        if self.is_alias(entry) {
            return false;
        }
        let aliases: HashSet<&SpiffeId> = self
            .aliases_of(asker.selectors)
            .map(|alias| &alias.value.spiffe_id)
            .collect();
        let mut seen: HashSet<&SpiffeId> = HashSet::new();
        let mut parents: Vec<&SpiffeId> = vec![&entry.parent_id];
        while let Some(parent) = parents.pop() {
            if parent == asker.id || aliases.contains(parent) {
                return true;
            }
            if !seen.insert(parent) {
                continue;
            }
            parents.extend(self.above(parent));
        }
        false
    }

    /// The names of those who may have this entry: an agent that has one of them, itself or by an
    /// alias, and nobody else. An alias is nobody's.
    pub(crate) fn names_above(&self, entry: &Entry) -> HashSet<SpiffeId> {
        let mut seen = HashSet::new();
        if self.is_alias(entry) {
            return seen;
        }
        let mut parents: Vec<&SpiffeId> = vec![&entry.parent_id];
        while let Some(parent) = parents.pop() {
            if seen.insert(parent.clone()) {
                parents.extend(self.above(parent));
            }
        }
        seen
    }

    /// Whoever may have an entry with this SPIFFE ID may have its children too.
    fn above<'a>(&'a self, parent: &SpiffeId) -> impl Iterator<Item = &'a SpiffeId> + use<'a> {
        self.of_spiffe_id(parent)
            .filter(|above| !self.is_alias(&above.value))
            .map(|above| &above.value.parent_id)
    }
}

#[cfg(test)]
mod tests;
