//! What the agent holds for its workloads: entries, SVIDs, bundles, and who waits for them.
//!
//! [`State`] decides and does nothing: events go in with the time, actions come out. The
//! [`driver`] performs the actions and brings their results back as events.

pub mod account;
mod authorized;
pub mod driver;
mod event;
mod flights;
mod index;
mod issue;
pub mod jwt;
mod metrics;
mod publish;
mod restore;
mod signing;
mod slot;
mod slots;
mod subscribers;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use identity::bundle::Bundle;
use identity::entry::Entry;
use identity::jwt::JwtSvid;
use identity::selector::Selectors;
use identity::validity::Schedule;
use workload_api::source::Bundles;

use self::account::Memory;
pub use self::event::{Action, Event, Refused, Restored};
use self::index::Index;
use self::jwt::{JwtKey, JwtSvids};
pub use self::metrics::Metrics;
pub use self::signing::BatchId;
use self::signing::Signing;
pub use self::slot::Signed;
use self::slot::Slot;
use self::slots::Slots;
use self::subscribers::Subscribers;
use self::trust::Trust;
use self::views::Views;

/// How much the cache may hold. Entries are not limited: the server decides how many there are.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// X509-SVIDs. Only SVIDs that open streams need are kept beyond it.
    pub x509_svids: usize,
    /// JWT-SVIDs.
    pub jwt_svids: usize,
}

impl Default for Capacity {
    /// SPIRE's sizes.
    fn default() -> Self {
        Self {
            x509_svids: 1000,
            jwt_svids: 1000,
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct State {
    capacity: Capacity,
    slots: Slots,
    index: Index,
    gone: Memory,
    signing: Signing,
    subscribers: Subscribers,
    trust: Trust,
    views: Views,
    jwt: JwtSvids,
    phase: Phase,
    // Counts uses, for the order of eviction.
    uses: u64,
    // INVARIANT: both are empty between two events.
    changed: BTreeSet<Selectors>,
    actions: Vec<Action>,
}

/// What the server has said about this agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Nothing yet, so nobody can be told that it has no identity.
    Starting,
    /// Nothing yet, but there is what it said before the agent's restart.
    Restored,
    /// Its entries.
    Synced,
    /// That it is banned: nothing is served any more, whatever comes in.
    Banned,
}

impl State {
    /// An agent that knows its own bundle and no entries yet.
    pub fn new(own: Arc<Bundle>, capacity: Capacity) -> Self {
        Self {
            capacity,
            slots: Slots::default(),
            index: Index::default(),
            gone: Memory::default(),
            signing: Signing::default(),
            subscribers: Subscribers::default(),
            trust: Trust::new(own),
            views: Views::default(),
            jwt: JwtSvids::new(capacity.jwt_svids),
            phase: Phase::Starting,
            uses: 0,
            changed: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Takes an event. The actions are to be performed in their order.
    pub fn apply(&mut self, event: Event, now: SystemTime) -> Vec<Action> {
        match event {
            Event::Joined(selectors) => self.join(&selectors, now),
            Event::Left(selectors) => self.leave(&selectors, now),
            _ if self.phase == Phase::Banned => {}
            Event::Restored(items) => self.restore(items, now),
            Event::Synced(entries) => self.sync(&entries, now),
            Event::Changed { entries, removed } => self.change(&entries, &removed, now),
            Event::Reached => self.reached(now),
            Event::Bundles { own, federated } => self.take_bundles(own, federated, now),
            Event::Answered { batch, answers } => self.take_answers(batch, answers, now),
            Event::Unanswered { batch, spread } => self.postpone(batch, spread, now),
            Event::Expected(selectors) => self.expect(&selectors, now),
            Event::TimePassed => {}
            Event::ClockSet => self.end_pauses(now),
            Event::Banned => self.wipe(),
        }
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::TimePassed`] is due.
    pub fn alarm(&self, now: SystemTime) -> Option<SystemTime> {
        [self.slots.alarm(), self.signing.alarm(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// The entries that a caller with these selectors matches, sorted by id.
    pub fn entries_of(&self, caller: &Selectors) -> Vec<Arc<Entry>> {
        let matching = self.index.matching(caller);
        matching
            .iter()
            .filter_map(|id| self.slots.get(id))
            .map(|slot| Arc::clone(&slot.entry))
            .collect()
    }

    /// Whether there is an entry whose selectors are such. It walks all entries.
    pub fn any_entry(&self, such: impl Fn(&Selectors) -> bool) -> bool {
        self.index.any(such)
    }

    /// The bundles that a caller with these selectors may see, whether or not its SVIDs are signed.
    pub fn bundles_of(&mut self, caller: &Selectors) -> Arc<Bundles> {
        let federated = self
            .entries_of(caller)
            .iter()
            .flat_map(|entry| entry.federates_with.iter().cloned())
            .collect();
        self.trust.select(federated)
    }

    /// The bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> &Arc<Bundle> {
        self.trust.own()
    }

    /// Every bundle that the agent has.
    pub fn all_bundles(&self) -> Vec<Arc<Bundle>> {
        self.trust.all()
    }

    /// How often the bundles were replaced.
    pub fn bundles_version(&self) -> u64 {
        self.trust.version()
    }

    /// Whether the server has told the entries: before that nobody can be told that it has none.
    pub fn knows_entries(&self) -> bool {
        self.phase != Phase::Starting
    }

    /// The JWT-SVIDs.
    pub fn jwt(&mut self) -> &mut JwtSvids {
        &mut self.jwt
    }

    /// Whether an SVID waits for a bundle that has its authority. It walks all entries.
    pub fn lacks_bundle(&self) -> bool {
        self.slots.iter().any(Slot::is_held)
    }

    /// Keeps a JWT-SVID, if its entry is still what it was when the token was requested, and its
    /// authority was not given up meanwhile.
    pub fn keep_jwt(&mut self, key: JwtKey, entry: &Entry, svid: JwtSvid, schedule: Schedule) {
        let slot = self.slots.get(&entry.id);
        let is_as_asked = slot.is_some_and(|slot| *slot.entry == *entry);
        if is_as_asked && !self.trust.distrusts(svid.key_id()) {
            self.jwt.insert(key, svid, schedule);
        }
    }

    /// How much it holds.
    pub fn census(&self) -> Census {
        Census {
            entries: self.slots.len(),
            x509_svids: self.slots.filled(),
            jwt_svids: self.jwt.len(),
            subscribers: self.subscribers.len(),
            queued: self.signing.queued(),
        }
    }

    /// Does what every event may make necessary.
    fn settle(&mut self, now: SystemTime) {
        for id in self.slots.due(now) {
            self.review(&id, now);
        }
        while self.slots.filled() > self.capacity.x509_svids
            && let Some(id) = self.slots.least_used()
        {
            self.slots.edit(&id, now, Slot::evict);
            self.review(&id, now);
        }
        for selectors in std::mem::take(&mut self.changed) {
            self.publish(selectors, now);
        }
        while let Some((batch, ids)) = self.signing.next_batch(now) {
            let entries = ids
                .iter()
                .filter_map(|id| self.depart(batch, id, now))
                .collect();
            self.actions.push(Action::Sign { batch, entries });
        }
    }
}

/// How much the cache holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Census {
    pub entries: usize,
    pub x509_svids: usize,
    pub jwt_svids: usize,
    pub subscribers: usize,
    /// X509-SVIDs that wait for a batch.
    pub queued: usize,
}
