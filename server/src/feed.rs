//! Tells agents what they may have, and every change of it as it happens.
//!
//! One dispatcher follows the index. For each step of the index it finds the agents that are concerned
//! ([`effects`]), marks their streams and wakes them; nobody else does anything. A stream holds the
//! marks until its peer reads again: a set of entries, or *all* when they are too many. Then it counts
//! what the agent may have now ([`holding`]), and sends the difference.
//!
//! An agent that comes back says where it was. The number of its revision counts only for the process
//! that gave it: the lineage is drawn at each start. A store that was restored, or copied, or whose
//! past was otherwise rewritten, can so never be taken for the one that the agent knew; after a restart
//! of the server agents are compared by the digest of what they hold, which needs no history.

mod effects;
mod follower;
mod holding;
mod metrics;
mod recent;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use identity::entry::EntryId;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use parking_lot::Mutex;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::Notify;

pub(crate) use self::follower::{Follower, Held, Told};
pub(crate) use self::holding::Delta;
pub(crate) use self::metrics::{Extent, Kind, Metrics};

use self::effects::{Effect, between};
use self::recent::Recent;
use crate::index::{Index, Snapshot};
use crate::store::Revision;

/// A stream with more entries to look at than this looks at all of its entries.
const MAX_TOUCHED: usize = 1_024;

/// Where revisions were counted: 16 random bytes, drawn at each start.
pub(crate) type Lineage = [u8; 16];

/// The streams, and what they have yet to look at. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    lineage: Lineage,
    metrics: Metrics,
    /// Held by whoever moves the streams on to a newer snapshot: one at a time, and not under the lock
    /// that streams need.
    moving: Arc<Mutex<()>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// The snapshot up to which all streams are marked.
    current: Arc<Snapshot>,
    recent: Recent,
    // One stream for each agent.
    streams: HashMap<SpiffeId, Slot>,
    by_alias: HashMap<SpiffeId, HashSet<SpiffeId>>,
    by_trust_domain: HashMap<TrustDomain, HashSet<SpiffeId>>,
    next_number: u64,
}

/// A stream, as the dispatcher sees it.
#[derive(Debug)]
struct Slot {
    number: u64,
    selectors: Selectors,
    aliases: BTreeSet<SpiffeId>,
    trust_domains: BTreeSet<TrustDomain>,
    touched: Touched,
    wake: Arc<Notify>,
}

/// The entries that a stream has to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Touched {
    Some(HashSet<EntryId>),
    All,
}

impl Default for Touched {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl Touched {
    fn add(&mut self, id: &EntryId) {
        if let Self::Some(ids) = self {
            ids.insert(id.clone());
            if ids.len() > MAX_TOUCHED {
                *self = Self::All;
            }
        }
    }
}

/// What is new for a stream.
#[derive(Debug)]
enum News {
    /// Something may have changed; this is how it is now.
    Look {
        snapshot: Arc<Snapshot>,
        touched: Touched,
    },
    /// The same agent has another stream.
    Superseded,
}

/// The place of one stream. Dropped with it.
#[derive(Debug)]
struct Ticket {
    hub: Hub,
    agent: SpiffeId,
    number: u64,
    wake: Arc<Notify>,
}

/// How a stream begins.
#[derive(Debug)]
struct Begun {
    ticket: Ticket,
    snapshot: Arc<Snapshot>,
    /// What happened since the revision that the agent holds, if that is known.
    since: Option<Vec<Arc<[Effect]>>>,
}

impl Hub {
    /// Follows the index in a task of its own.
    pub(crate) fn start(index: &Index, metrics: Metrics, tasks: &TaskGroup) -> Self {
        let mut revisions = index.revisions();
        // From here on each newer snapshot is announced.
        revisions.mark_unchanged();
        let hub = Self::new(index.snapshot(), metrics);
        let (follower, index) = (hub.clone(), index.clone());
        let shutdown = tasks.shutdown();
        tasks.spawn("feed", async move {
            follower.run(index, revisions, shutdown).await;
        });
        hub
    }

    fn new(snapshot: Arc<Snapshot>, metrics: Metrics) -> Self {
        let state = State {
            recent: Recent::new(snapshot.revision),
            current: snapshot,
            streams: HashMap::new(),
            by_alias: HashMap::new(),
            by_trust_domain: HashMap::new(),
            next_number: 0,
        };
        Self {
            lineage: runtime::random::bytes(),
            metrics,
            moving: Arc::default(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    async fn run(
        self,
        index: Index,
        mut revisions: tokio::sync::watch::Receiver<Revision>,
        shutdown: Shutdown,
    ) {
        loop {
            self.advance(index.snapshot());
            tokio::select! {
                () = shutdown.requested() => return,
                changed = revisions.changed() => if changed.is_err() { return },
            }
        }
    }

    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Marks whom the way to `snapshot` concerns.
    fn advance(&self, snapshot: Arc<Snapshot>) {
        let _one_at_a_time = self.moving.lock();
        let current = Arc::clone(&self.state.lock().current);
        if snapshot.revision <= current.revision {
            return;
        }
        let effects: Arc<[Effect]> = between(&current, &snapshot).collect();
        let mut state = self.state.lock();
        state.current = snapshot;
        for effect in effects.iter() {
            state.mark(effect);
        }
        let revision = state.current.revision;
        state.recent.push(revision, effects);
    }

    /// Begins the stream of an agent; an older one of the same agent learns of it, and ends. It begins
    /// no earlier than `seen`, the snapshot that the agent was admitted by.
    fn begin(&self, agent: &SpiffeId, seen: Arc<Snapshot>, held: Option<Revision>) -> Begun {
        self.advance(seen);
        let mut state = self.state.lock();
        state.remove(agent);
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        let wake = Arc::new(Notify::new());
        let slot = Slot {
            number,
            selectors: Selectors::default(),
            aliases: BTreeSet::new(),
            trust_domains: BTreeSet::new(),
            touched: Touched::default(),
            wake: Arc::clone(&wake),
        };
        state.streams.insert(agent.clone(), slot);
        state.name(agent);
        self.metrics.open(state.streams.len());
        Begun {
            ticket: Ticket {
                hub: self.clone(),
                agent: agent.clone(),
                number,
                wake,
            },
            snapshot: Arc::clone(&state.current),
            since: held.and_then(|revision| state.recent.since(revision)),
        }
    }

    /// The number of streams.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().streams.len()
    }
}

impl State {
    fn mark(&mut self, effect: &Effect) {
        match effect {
            Effect::Entry { id, names } => {
                for agent in self.named(names) {
                    self.touch(&agent, |touched| touched.add(id));
                }
            }
            Effect::Path { names } => {
                for agent in self.named(names) {
                    self.touch(&agent, |touched| *touched = Touched::All);
                }
            }
            Effect::Alias { selectors } => {
                let has = |slot: &Slot| selectors.is_subset_of(&slot.selectors);
                let having = self.streams.iter().filter(|(_, slot)| has(slot));
                let agents: Vec<SpiffeId> = having.map(|(agent, _)| agent.clone()).collect();
                for agent in agents {
                    self.name(&agent);
                    self.touch(&agent, |touched| *touched = Touched::All);
                }
            }
            Effect::Agent { id, selectors } => {
                if *selectors && self.streams.contains_key(id) {
                    self.name(id);
                    self.touch(id, |touched| *touched = Touched::All);
                }
                self.touch(id, |_| {});
            }
            Effect::Bundle(trust_domain) => {
                let own = self.current.bundles.own();
                if own.is_some_and(|own| own.value.trust_domain == *trust_domain) {
                    for slot in self.streams.values() {
                        slot.wake.notify_one();
                    }
                } else {
                    let agents = self.by_trust_domain.get(trust_domain);
                    for agent in agents.into_iter().flatten() {
                        if let Some(slot) = self.streams.get(agent) {
                            slot.wake.notify_one();
                        }
                    }
                }
            }
        }
    }

    /// The agents with a stream that have one of these names.
    fn named(&self, names: &[SpiffeId]) -> HashSet<SpiffeId> {
        let mut agents = HashSet::new();
        for name in names {
            if self.streams.contains_key(name) {
                agents.insert(name.clone());
            }
            agents.extend(self.by_alias.get(name).into_iter().flatten().cloned());
        }
        agents
    }

    fn touch(&mut self, agent: &SpiffeId, mark: impl FnOnce(&mut Touched)) {
        if let Some(slot) = self.streams.get_mut(agent) {
            mark(&mut slot.touched);
            slot.wake.notify_one();
        }
    }

    /// Files a stream under the aliases that its agent goes by now.
    fn name(&mut self, agent: &SpiffeId) {
        let Some(slot) = self.streams.get_mut(agent) else {
            return;
        };
        let record = self.current.agents.get(agent);
        slot.selectors = record.map_or_else(Selectors::default, |a| a.value.selectors.clone());
        let aliases = self.current.entries.aliases_of(&slot.selectors);
        let aliases: BTreeSet<SpiffeId> =
            aliases.map(|alias| alias.value.spiffe_id.clone()).collect();
        refile(&mut self.by_alias, &slot.aliases, &aliases, agent);
        slot.aliases = aliases;
    }

    /// Takes out a stream, and tells it.
    fn remove(&mut self, agent: &SpiffeId) {
        if let Some(slot) = self.streams.remove(agent) {
            refile(&mut self.by_alias, &slot.aliases, &BTreeSet::new(), agent);
            let none = BTreeSet::new();
            refile(&mut self.by_trust_domain, &slot.trust_domains, &none, agent);
            slot.wake.notify_one();
        }
    }
}

/// Files an agent under other keys than before.
fn refile<K: Clone + Eq + std::hash::Hash + Ord>(
    map: &mut HashMap<K, HashSet<SpiffeId>>,
    before: &BTreeSet<K>,
    after: &BTreeSet<K>,
    agent: &SpiffeId,
) {
    for key in before.difference(after) {
        if let Some(agents) = map.get_mut(key) {
            agents.remove(agent);
            if agents.is_empty() {
                map.remove(key);
            }
        }
    }
    for key in after.difference(before) {
        map.entry(key.clone()).or_default().insert(agent.clone());
    }
}

impl Ticket {
    /// What is new. A stream that was told of it is marked as having seen it.
    fn news(&self) -> News {
        let mut state = self.hub.state.lock();
        let snapshot = Arc::clone(&state.current);
        match state.streams.get_mut(&self.agent) {
            Some(slot) if slot.number == self.number => News::Look {
                snapshot,
                touched: std::mem::take(&mut slot.touched),
            },
            Some(_) | None => News::Superseded,
        }
    }

    /// Waits until there may be news. Cancelling the wait loses nothing.
    async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Says whose bundles this stream is to be woken for, seen from `snapshot`.
    fn needs(&self, trust_domains: BTreeSet<TrustDomain>, snapshot: &Snapshot) {
        let mut state = self.hub.state.lock();
        let State {
            streams,
            by_trust_domain,
            current,
            ..
        } = &mut *state;
        let slot = streams.get_mut(&self.agent);
        let Some(slot) = slot.filter(|slot| slot.number == self.number) else {
            return;
        };
        if slot.trust_domains == trust_domains {
            return;
        }
        refile(
            by_trust_domain,
            &slot.trust_domains,
            &trust_domains,
            &self.agent,
        );
        slot.trust_domains = trust_domains;
        // One of them may have changed since, when nobody knew that it matters.
        if current.revision != snapshot.revision {
            slot.wake.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        let slot = state.streams.get(&self.agent);
        if slot.is_some_and(|slot| slot.number == self.number) {
            state.remove(&self.agent);
            self.hub.metrics.open(state.streams.len());
        }
    }
}
