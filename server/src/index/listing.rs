//! Filters and pages of the list and count questions.

use std::collections::BTreeSet;
use std::time::SystemTime;

use identity::entry::{Entry, EntryId};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;

use super::agents::{Agents, StoredAgent};
use super::bundles::{Bundles, StoredBundle};
use super::entries::{Entries, StoredEntry};
use super::relationships::{Relationships, StoredRelationship};
use crate::records::agents::Agent;

/// How a set is compared with the set asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Match {
    /// The same set.
    Exact,
    /// Nothing but what was asked for, and something of it.
    Subset,
    /// All that was asked for, and perhaps more.
    Superset,
    /// Something of what was asked for.
    Any,
}

impl Match {
    fn selectors(self, have: &Selectors, asked: &Selectors) -> bool {
        match self {
            Self::Exact => have == asked,
            Self::Subset => !have.is_empty() && have.is_subset_of(asked),
            Self::Superset => asked.is_subset_of(have),
            Self::Any => asked.iter().any(|selector| have.contains(selector)),
        }
    }

    fn trust_domains(self, have: &BTreeSet<TrustDomain>, asked: &BTreeSet<TrustDomain>) -> bool {
        match self {
            Self::Exact => have == asked,
            Self::Subset => !have.is_empty() && have.is_subset(asked),
            Self::Superset => asked.is_subset(have),
            Self::Any => !have.is_disjoint(asked),
        }
    }
}

/// Which entries are asked for: all conditions that are set must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryFilter {
    pub(crate) spiffe_id: Option<SpiffeId>,
    pub(crate) parent_id: Option<SpiffeId>,
    pub(crate) selectors: Option<(Match, Selectors)>,
    pub(crate) federates_with: Option<(Match, BTreeSet<TrustDomain>)>,
    pub(crate) hint: Option<String>,
    /// Those of servers below alone.
    pub(crate) downstream: bool,
}

impl EntryFilter {
    fn accepts(&self, entry: &Entry) -> bool {
        self.spiffe_id
            .as_ref()
            .is_none_or(|id| entry.spiffe_id == *id)
            && self
                .parent_id
                .as_ref()
                .is_none_or(|id| entry.parent_id == *id)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, asked)| how.selectors(&entry.selectors, asked))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|(how, asked)| how.trust_domains(&entry.federates_with, asked))
            && self.hint.as_ref().is_none_or(|hint| {
                entry
                    .hint
                    .as_ref()
                    .is_some_and(|have| have.as_str() == hint)
            })
            && (!self.downstream || entry.downstream)
    }
}

/// Which agents are asked for: all conditions that are set must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentFilter {
    pub(crate) attestation_type: Option<String>,
    pub(crate) selectors: Option<(Match, Selectors)>,
    pub(crate) banned: Option<bool>,
    pub(crate) can_reattest: Option<bool>,
    pub(crate) expires_before: Option<SystemTime>,
}

impl AgentFilter {
    fn accepts(&self, agent: &Agent) -> bool {
        self.attestation_type
            .as_ref()
            .is_none_or(|kind| *agent.attestation_type == **kind)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, asked)| how.selectors(&agent.selectors, asked))
            && self.banned.is_none_or(|banned| agent.is_banned() == banned)
            && self
                .can_reattest
                .is_none_or(|can| agent.can_reattest == can)
            && self.expires_before.is_none_or(|at| agent.expires_at < at)
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Page<K> {
    /// The whole list.
    Whole,
    /// At most so many items, after this key or from the start.
    Part { size: usize, after: Option<K> },
}

/// A part of a list, and the key to go on after when there is more.
#[derive(Debug)]
pub(crate) struct Listed<T, K> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<K>,
}

impl Entries {
    /// The entries that a filter accepts, ordered by id.
    pub(crate) fn list(
        &self,
        filter: &EntryFilter,
        page: &Page<EntryId>,
    ) -> Listed<StoredEntry, EntryId> {
        let key = |entry: &StoredEntry| entry.value.id.clone();
        let after = page.after().cloned();
        let later =
            move |entry: &&StoredEntry| after.as_ref().is_none_or(|id| entry.value.id > *id);
        let accepted = |entry: &&StoredEntry| filter.accepts(&entry.value);
        // The narrowest map that the filter names; all of them are ordered by id.
        if let Some(id) = &filter.spiffe_id {
            return page.take(self.of_spiffe_id(id).filter(later).filter(accepted), key);
        }
        if let Some(id) = &filter.parent_id {
            return page.take(self.children_of(id).filter(later).filter(accepted), key);
        }
        match page.after() {
            Some(id) => page.take(self.after(id).filter(accepted), key),
            None => page.take(self.iter().filter(accepted), key),
        }
    }

    /// The number of entries that a filter accepts.
    pub(crate) fn count(&self, filter: &EntryFilter) -> usize {
        if let Some(id) = &filter.spiffe_id {
            return self
                .of_spiffe_id(id)
                .filter(|entry| filter.accepts(&entry.value))
                .count();
        }
        if let Some(id) = &filter.parent_id {
            return self
                .children_of(id)
                .filter(|entry| filter.accepts(&entry.value))
                .count();
        }
        self.iter()
            .filter(|entry| filter.accepts(&entry.value))
            .count()
    }
}

impl Agents {
    /// The agents that a filter accepts, ordered by SPIFFE ID.
    pub(crate) fn list(
        &self,
        filter: &AgentFilter,
        page: &Page<SpiffeId>,
    ) -> Listed<StoredAgent, SpiffeId> {
        let key = |agent: &StoredAgent| agent.value.id.clone();
        let accepted = |agent: &&StoredAgent| filter.accepts(&agent.value);
        match page.after() {
            Some(id) => page.take(self.after(id).filter(accepted), key),
            None => page.take(self.iter().filter(accepted), key),
        }
    }

    /// The number of agents that a filter accepts.
    pub(crate) fn count(&self, filter: &AgentFilter) -> usize {
        self.iter()
            .filter(|agent| filter.accepts(&agent.value))
            .count()
    }
}

impl Bundles {
    /// The bundles of other trust domains, ordered by name.
    pub(crate) fn list(&self, page: &Page<TrustDomain>) -> Listed<StoredBundle, TrustDomain> {
        let after = page.after().cloned();
        let later = move |bundle: &&StoredBundle| {
            after
                .as_ref()
                .is_none_or(|name| bundle.value.trust_domain > *name)
        };
        page.take(self.federated().filter(later), |bundle| {
            bundle.value.trust_domain.clone()
        })
    }
}

impl Relationships {
    /// The relationships, ordered by trust domain.
    pub(crate) fn list(&self, page: &Page<TrustDomain>) -> Listed<StoredRelationship, TrustDomain> {
        let after = page.after().cloned();
        let later = move |stored: &&StoredRelationship| {
            after
                .as_ref()
                .is_none_or(|name| stored.value.trust_domain > *name)
        };
        page.take(self.iter().filter(later), |stored| {
            stored.value.trust_domain.clone()
        })
    }
}

impl<K> Page<K> {
    fn after(&self) -> Option<&K> {
        match self {
            Self::Whole => None,
            Self::Part { after, .. } => after.as_ref(),
        }
    }

    fn take<'a, T: Clone + 'a>(
        &self,
        mut items: impl Iterator<Item = &'a T>,
        key: impl Fn(&T) -> K,
    ) -> Listed<T, K> {
        let size = match self {
            Self::Whole => usize::MAX,
            Self::Part { size, .. } => *size,
        };
        let taken: Vec<T> = items.by_ref().take(size).cloned().collect();
        let more = items.next().is_some();
        let next = taken.last().filter(|_| more).map(key);
        Listed { items: taken, next }
    }
}
