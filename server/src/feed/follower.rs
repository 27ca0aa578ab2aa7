//! One agent that follows: where it begins, and what it is told next.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{EntriesDigest, EntryId};
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;

use super::effects::Effect;
use super::holding::{Delta, Holding};
use super::{Begun, Hub, News, Ticket, Touched};
use crate::index::Snapshot;
use crate::index::authorized::Asker;
use crate::store::Revision;

/// Where an agent says that it is.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) lineage: Vec<u8>,
    pub(crate) revision: Revision,
    pub(crate) digest: Vec<u8>,
}

/// What an agent is told, and how far that brings it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) delta: Delta,
    pub(crate) digest: EntriesDigest,
}

/// The server's end of a stream.
#[derive(Debug)]
pub(crate) struct Follower {
    agent: SpiffeId,
    ticket: Ticket,
    holding: Holding,
    needed: BTreeSet<TrustDomain>,
}

impl Follower {
    /// Begins a stream; tells whether the agent goes on from what it holds.
    pub(crate) fn begin(
        hub: &Hub,
        agent: &SpiffeId,
        seen: Arc<Snapshot>,
        held: Option<&Held>,
        now: SystemTime,
    ) -> (Self, bool, Told) {
        let known = held.filter(|held| held.lineage == hub.lineage());
        let Begun {
            ticket,
            snapshot,
            since,
        } = hub.begin(agent, seen, known.map(|held| held.revision));
        let selectors = selectors(&snapshot, agent);
        let asker = Asker {
            id: agent,
            selectors: &selectors,
        };
        let holding = Holding::of(snapshot.entries.authorized(asker, now));
        let touched = since.and_then(|since| touched_since(&since, asker, &snapshot));
        let mut delta = Delta::default();
        let resumed = match (touched, held) {
            (Some(touched), _) => {
                holding.tell(touched, &mut delta);
                // What expired while the agent was away may stand in the index still.
                let expired = snapshot.entries.expired(now);
                let expired = expired.filter(|e| snapshot.entries.reaches(asker, &e.value));
                let expired = expired.map(|entry| entry.value.id.clone());
                holding.tell(expired.collect(), &mut delta);
                true
            }
            (None, Some(held)) if held.digest == holding.digest().to_bytes() => true,
            (None, _) => {
                delta.entries = holding.entries().to_vec();
                false
            }
        };
        let mut follower = Self {
            agent: agent.clone(),
            ticket,
            holding,
            needed: BTreeSet::new(),
        };
        let told = follower.told(snapshot, delta);
        (follower, resumed, told)
    }

    /// What the agent is to be told now, which may be nothing; `None` once it has another stream.
    pub(crate) fn catch_up(&mut self, now: SystemTime) -> Option<Told> {
        let News::Look { snapshot, touched } = self.ticket.news() else {
            return None;
        };
        let mut delta = Delta::default();
        let selectors = selectors(&snapshot, &self.agent);
        let asker = Asker {
            id: &self.agent,
            selectors: &selectors,
        };
        match touched {
            Touched::All => {
                let entries = snapshot.entries.authorized(asker, now);
                self.holding.take_all(entries, &mut delta);
            }
            Touched::Some(ids) => {
                for id in ids {
                    let entry = snapshot.entries.authorized_one(asker, &id, now);
                    self.holding.take(&id, entry, &mut delta);
                }
            }
        }
        self.holding.expire(now, &mut delta);
        Some(self.told(snapshot, delta))
    }

    /// Waits until there may be something to tell. Cancelling the wait loses nothing.
    pub(crate) async fn changed(&self) {
        self.ticket.changed().await;
    }

    /// When something is to be told although nothing changes.
    pub(crate) fn next_expiry(&self) -> Option<SystemTime> {
        self.holding.next_expiry()
    }

    fn told(&mut self, snapshot: Arc<Snapshot>, mut delta: Delta) -> Told {
        self.holding.take_bundles(&snapshot.bundles, &mut delta);
        if !self.holding.needs_only(&self.needed) {
            self.needed = self.holding.federated();
            self.ticket.needs(self.needed.clone(), &snapshot);
        }
        Told {
            snapshot,
            delta,
            digest: self.holding.digest(),
        }
    }
}

fn selectors(snapshot: &Snapshot, agent: &SpiffeId) -> Selectors {
    let record = snapshot.agents.get(agent);
    record.map_or_else(Selectors::default, |agent| agent.value.selectors.clone())
}

/// The entries to look at for what happened, where that can be said without counting all of them.
fn touched_since(
    batches: &[Arc<[Effect]>],
    asker: Asker<'_>,
    snapshot: &Snapshot,
) -> Option<HashSet<EntryId>> {
    let aliases: HashSet<&SpiffeId> = snapshot
        .entries
        .aliases_of(asker.selectors)
        .map(|alias| &alias.value.spiffe_id)
        .collect();
    let is_named = |names: &[SpiffeId]| {
        let mut names = names.iter();
        names.any(|name| name == asker.id || aliases.contains(name))
    };
    let mut touched = HashSet::new();
    for effect in batches.iter().flat_map(|batch| batch.iter()) {
        match effect {
            Effect::Entry { id, names } if is_named(names) => {
                touched.insert(id.clone());
            }
            Effect::Path { names } if is_named(names) => return None,
            Effect::Alias { selectors } if selectors.is_subset_of(asker.selectors) => return None,
            Effect::Agent { id, selectors } if *selectors && id == asker.id => return None,
            Effect::Entry { .. }
            | Effect::Path { .. }
            | Effect::Alias { .. }
            | Effect::Agent { .. }
            | Effect::Bundle(_) => {}
        }
    }
    Some(touched)
}
