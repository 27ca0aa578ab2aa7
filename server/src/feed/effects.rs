//! Whom a commit concerns. Pure: two snapshots in, effects out.
//!
//! What an agent may have hangs on paths from its own name, or from the name of an alias, down to an
//! entry. An entry comes to an agent or leaves it because it was written itself, or because a piece of
//! the path was. The first concerns the entry alone. The second concerns all below that piece, and
//! whoever is above it, before or after, counts its entries again.

use std::collections::HashSet;
use std::sync::Arc;

use identity::entry::{Entry, EntryId};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;

use crate::index::entries::{Entries, StoredEntry};
use crate::index::{Changed, Snapshot};

/// What a commit did, as far as agents are concerned by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// This entry is another one now, for the agents with one of these names.
    Entry { id: EntryId, names: Names },
    /// A path was changed: agents with one of these names count their entries again.
    Path { names: Names },
    /// An alias was changed: so do the agents that have all of these selectors.
    Alias { selectors: Selectors },
    /// The record of this agent is another one now; its selectors may be others too.
    Agent { id: SpiffeId, selectors: bool },
    /// The bundle of this trust domain is another one now.
    Bundle(TrustDomain),
}

/// The SPIFFE IDs of agents, of aliases, and of what lies between them and an entry.
pub(crate) type Names = Arc<[SpiffeId]>;

/// What is different between two snapshots.
pub(crate) fn between<'a>(
    older: &'a Snapshot,
    newer: &'a Snapshot,
) -> impl Iterator<Item = Effect> + 'a {
    let entries = older.entries.changes_to(&newer.entries);
    let agents = older.agents.changes_to(&newer.agents);
    let bundles = older.bundles.changes_to(&newer.bundles);
    entries
        .flat_map(|changed| of_entry(&older.entries, &newer.entries, changed))
        .chain(agents.filter_map(|(old, new)| {
            Some(Effect::Agent {
                id: new.or(old)?.value.id.clone(),
                selectors: old.map(|agent| &agent.value.selectors)
                    != new.map(|agent| &agent.value.selectors),
            })
        }))
        .chain(
            bundles.filter_map(|(old, new)| {
                Some(Effect::Bundle(new.or(old)?.value.trust_domain.clone()))
            }),
        )
}

fn of_entry(older: &Entries, newer: &Entries, changed: Changed<'_, StoredEntry>) -> Vec<Effect> {
    let (old, new) = changed;
    let versions = [(older, old), (newer, new)];
    let versions = versions.map(|(entries, entry)| entry.map(|entry| (entries, &entry.value)));
    // Where nothing of the path was written, all below it is as it was.
    let edge = |entry: &StoredEntry| (entry.value.parent_id.clone(), entry.value.spiffe_id.clone());
    let is_moved = old.map(edge) != new.map(edge);
    let mut effects = Vec::new();
    let mut names: HashSet<SpiffeId> = HashSet::new();
    let mut is_parent = false;
    for (entries, entry) in versions.into_iter().flatten() {
        if entries.is_alias(entry) {
            effects.push(Effect::Alias {
                selectors: entry.selectors.clone(),
            });
        } else {
            names.extend(entries.names_above(entry));
            is_parent |= entries.children_of(&entry.spiffe_id).next().is_some();
        }
    }
    if names.is_empty() {
        return effects;
    }
    let names: Names = names.into_iter().collect();
    if is_moved && is_parent {
        effects.push(Effect::Path {
            names: Arc::clone(&names),
        });
    }
    if let Some(id) = new.or(old).map(|entry: &StoredEntry| id_of(&entry.value)) {
        effects.push(Effect::Entry { id, names });
    }
    effects
}

fn id_of(entry: &Entry) -> EntryId {
    entry.id.clone()
}
