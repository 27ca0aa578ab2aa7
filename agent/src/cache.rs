//! What the agent holds for its workloads: entries, SVIDs, bundles, and who waits for them.
//!
//! [`State`] decides and does nothing: events go in with the time, actions come out. The
//! [`driver`] performs the actions and brings their results back as events.

pub mod driver;
mod flights;
mod index;
pub mod jwt;
mod metrics;
mod signing;
mod slot;
mod slots;
mod subscribers;
#[cfg(test)]
mod tests;
mod trust;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::jwt::JwtSvid;
use identity::selector::Selectors;
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::validity::Schedule;
use workload_api::source::{Bundles, Identity, Update};

use self::index::Index;
use self::jwt::{JwtKey, JwtSvids};
pub use self::metrics::Metrics;
pub use self::signing::BatchId;
use self::signing::Signing;
pub use self::slot::Signed;
use self::slot::{Arrival, Slot, Work};
use self::slots::Slots;
use self::subscribers::{Shown, Subscribers};
use self::trust::Trust;
use self::views::Views;
use crate::upstream::EntrySet;

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

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The server told all entries of this agent.
    Synced(EntrySet),
    /// All bundles as the server has them. Fed before the entries of the same synchronization.
    Bundles {
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
    },
    /// The server answered a batch. An entry without an answer counts as refused.
    Answered {
        batch: BatchId,
        answers: BTreeMap<EntryId, Result<Signed, Refused>>,
    },
    /// A batch got no answer at all. `spread` is drawn at random, up to the caller.
    Unanswered { batch: BatchId, spread: Duration },
    /// Somebody with these selectors opened a stream.
    Joined(Selectors),
    /// The last stream with these selectors ended.
    Left(Selectors),
    /// The time has come that [`State::alarm`] named, or the clock was set.
    TimePassed,
    /// The server banned this agent.
    Banned,
}

/// The server did not sign this entry's SVID, or signed what is of no use.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Added to the wait before the next try; drawn at random.
    pub spread: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Have X509-SVIDs signed, each with a new key, and answer with the same batch id.
    Sign {
        batch: BatchId,
        entries: Vec<Arc<Entry>>,
    },
    /// Show this to every stream of the subscriber.
    Publish {
        subscriber: Selectors,
        update: Arc<Update>,
    },
    /// Show nothing to the subscriber's new streams until the next update.
    Withdraw { subscriber: Selectors },
    /// Fetch the bundles now: an SVID was signed by an authority that they do not have.
    FetchBundles,
    /// Tell the operator that an SVID expired before the server renewed it.
    Expired {
        entry_id: EntryId,
        spiffe_id: SpiffeId,
    },
}

/// The cache.
#[derive(Debug)]
pub struct State {
    capacity: Capacity,
    slots: Slots,
    index: Index,
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
enum Phase {
    /// Nothing yet, so nobody can be told that it has no identity.
    Starting,
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
            Event::Synced(entries) => self.sync(&entries, now),
            Event::Bundles { own, federated } => self.take_bundles(own, federated, now),
            Event::Answered { batch, answers } => self.take_answers(batch, answers, now),
            Event::Unanswered { batch, spread } => self.postpone(batch, spread, now),
            Event::TimePassed => {}
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

    /// The JWT-SVIDs.
    pub fn jwt(&mut self) -> &mut JwtSvids {
        &mut self.jwt
    }

    /// Keeps a JWT-SVID, if its entry is still what it was when the token was requested.
    pub fn keep_jwt(&mut self, key: JwtKey, entry: &Entry, svid: JwtSvid, schedule: Schedule) {
        if self
            .slots
            .get(&entry.id)
            .is_some_and(|slot| *slot.entry == *entry)
        {
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

    fn join(&mut self, selectors: &Selectors, now: SystemTime) {
        let matching = self.index.matching(selectors);
        self.uses += 1;
        let uses = self.uses;
        for id in &matching {
            self.slots.edit(id, now, |slot| {
                slot.pins.insert(selectors.clone());
                slot.used = uses;
            });
            self.review(id, now);
        }
        self.subscribers.insert(selectors, matching);
        self.changed.insert(selectors.clone());
    }

    fn leave(&mut self, selectors: &Selectors, now: SystemTime) {
        let Some(subscriber) = self.subscribers.remove(selectors) else {
            return;
        };
        for id in &subscriber.matching {
            self.slots.edit(id, now, |slot| slot.pins.remove(selectors));
            self.review(id, now);
        }
    }

    fn sync(&mut self, entries: &EntrySet, now: SystemTime) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Synced;
            self.changed.extend(self.subscribers.keys().cloned());
        }
        let gone: Vec<_> = self
            .slots
            .ids()
            .filter(|id| entries.get(id).is_none_or(|entry| entry.store_svid))
            .cloned()
            .collect();
        for id in &gone {
            self.remove_entry(id);
        }
        // A `store_svid` entry is for a store, and never for a socket.
        for entry in entries.iter().filter(|entry| !entry.store_svid) {
            self.put_entry(entry, now);
        }
        self.signing.resume();
        let unreachable = |slot: &&Slot| {
            matches!(
                slot.work,
                Work::Retry {
                    unreachable: true,
                    ..
                }
            )
        };
        let postponed: Vec<_> = self
            .slots
            .iter()
            .filter(unreachable)
            .map(|slot| slot.id().clone())
            .collect();
        for id in &postponed {
            self.slots.edit(id, now, |slot| slot.work = Work::Idle);
            self.review(id, now);
        }
        self.prefetch(now);
        self.views.sweep();
    }

    fn remove_entry(&mut self, id: &EntryId) {
        let Some(slot) = self.slots.remove(id) else {
            return;
        };
        self.index.remove(id);
        self.jwt.forget(id);
        if let Work::Queued(ticket) = &slot.work {
            self.signing.withdraw(ticket);
        }
        for selectors in slot.pins {
            if let Some(subscriber) = self.subscribers.get_mut(&selectors) {
                subscriber.matching.remove(id);
            }
            self.changed.insert(selectors);
        }
    }

    fn put_entry(&mut self, entry: &Arc<Entry>, now: SystemTime) {
        let known = self
            .slots
            .get(&entry.id)
            .map(|slot| Arc::clone(&slot.entry));
        match &known {
            Some(old) if Arc::ptr_eq(old, entry) || old == entry => return,
            Some(_) => {
                self.jwt.forget(&entry.id);
                self.slots
                    .edit(&entry.id, now, |slot| slot.update(Arc::clone(entry)));
            }
            None => self.slots.insert(Slot::new(Arc::clone(entry))),
        }
        if known.is_none_or(|old| old.selectors != entry.selectors) {
            self.match_entry(entry, now);
        }
        let pins = self.slots.get(&entry.id).map(|slot| slot.pins.clone());
        self.changed.extend(pins.unwrap_or_default());
        self.review(&entry.id, now);
    }

    /// Finds the subscribers of an entry whose selectors are new.
    fn match_entry(&mut self, entry: &Entry, now: SystemTime) {
        self.index.insert(&entry.id, &entry.selectors);
        let pins = self.subscribers.entitled_to(&entry.selectors);
        let before = self
            .slots
            .edit(&entry.id, now, |slot| {
                std::mem::replace(&mut slot.pins, pins.clone())
            })
            .unwrap_or_default();
        for selectors in before.difference(&pins) {
            if let Some(subscriber) = self.subscribers.get_mut(selectors) {
                subscriber.matching.remove(&entry.id);
            }
            self.changed.insert(selectors.clone());
        }
        for selectors in pins.difference(&before) {
            if let Some(subscriber) = self.subscribers.get_mut(selectors) {
                subscriber.matching.insert(entry.id.clone());
            }
        }
    }

    /// Has SVIDs signed before anybody asks, as long as there is room.
    fn prefetch(&mut self, now: SystemTime) {
        let room = self
            .capacity
            .x509_svids
            .saturating_sub(self.slots.claimed());
        let candidate = |slot: &&Slot| {
            !slot.has_svid() && slot.work == Work::Idle && !slot.entry.disable_x509_svid_prefetch
        };
        let chosen: Vec<_> = self
            .slots
            .iter()
            .filter(candidate)
            .take(room)
            .map(|slot| slot.id().clone())
            .collect();
        for id in &chosen {
            self.slots.edit(id, now, |slot| slot.prefetch = true);
            self.review(id, now);
        }
    }

    fn take_bundles(
        &mut self,
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: SystemTime,
    ) {
        let changed = self.trust.replace(own, federated);
        if changed {
            self.changed.extend(self.subscribers.keys().cloned());
            self.jwt.distrust(&self.trust.tainted_jwt_keys().collect());
        }
        let concerned: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| changed && slot.has_svid() || slot.is_held())
            .map(|slot| slot.id().clone())
            .collect();
        for id in &concerned {
            let trust = &self.trust;
            let arrival = self
                .slots
                .edit(id, now, |slot| {
                    slot.judge(|svid| trust.standing(svid, now), now)
                })
                .flatten();
            self.arrived(id, arrival);
            self.review(id, now);
        }
    }

    fn take_answers(
        &mut self,
        batch: BatchId,
        mut answers: BTreeMap<EntryId, Result<Signed, Refused>>,
        now: SystemTime,
    ) {
        for id in self.signing.answered(batch) {
            let answer = answers.remove(&id).unwrap_or(Err(Refused {
                spread: Duration::ZERO,
            }));
            self.take_answer(batch, &id, answer, now);
            self.review(&id, now);
        }
    }

    fn take_answer(
        &mut self,
        batch: BatchId,
        id: &EntryId,
        answer: Result<Signed, Refused>,
        now: SystemTime,
    ) {
        // An entry that was deleted, or deleted and created again meanwhile, waits for no answer.
        let Some(revision) = self.slots.get(id).and_then(|slot| slot.is_in(batch)) else {
            return;
        };
        let trust = &self.trust;
        let arrival = self.slots.edit(id, now, |slot| match answer {
            Ok(signed) => {
                let standing = trust.standing(&signed.svid, now);
                Some(slot.arrive(signed, revision, standing, now))
            }
            Err(Refused { spread }) => {
                slot.refuse(spread, now);
                None
            }
        });
        self.arrived(id, arrival.flatten());
        self.touch(id);
    }

    fn arrived(&mut self, id: &EntryId, arrival: Option<Arrival>) {
        match arrival {
            Some(Arrival::Held) => self.actions.push(Action::FetchBundles),
            Some(Arrival::Served) => self.touch(id),
            Some(Arrival::Dropped) | None => {}
        }
    }

    /// The subscribers of an entry may have to be told something.
    fn touch(&mut self, id: &EntryId) {
        self.changed.extend(
            self.slots
                .get(id)
                .into_iter()
                .flat_map(|slot| slot.pins.iter().cloned()),
        );
    }

    fn postpone(&mut self, batch: BatchId, spread: Duration, now: SystemTime) {
        let (ids, at) = self.signing.failed(batch, spread, now);
        for id in &ids {
            if self
                .slots
                .get(id)
                .is_some_and(|slot| slot.is_in(batch).is_some())
            {
                self.slots.edit(id, now, |slot| slot.postpone(at));
                self.touch(id);
                self.review(id, now);
            }
        }
    }

    fn wipe(&mut self) {
        self.phase = Phase::Banned;
        let ids: Vec<_> = self.slots.ids().cloned().collect();
        for id in &ids {
            self.remove_entry(id);
        }
        self.signing.clear();
        self.jwt.clear();
        self.changed.extend(self.subscribers.keys().cloned());
    }

    /// Brings the work for an entry in line with what it wants now.
    fn review(&mut self, id: &EntryId, now: SystemTime) {
        if self.slots.edit(id, now, |slot| slot.expire(now)) == Some(true) {
            self.touch(id);
            self.report_expiry(id);
        }
        let signing = &mut self.signing;
        self.slots.edit(id, now, |slot| {
            if slot.is_unwanted(now) {
                slot.evict();
            }
            let wanted = slot.wants(now).map(|lane| slot.ticket(lane));
            match (&slot.work, wanted) {
                (Work::Queued(ticket), Some(wanted)) if *ticket == wanted => {}
                (Work::InFlight { .. }, _) => {}
                (Work::Retry { at, .. }, Some(_)) if now < *at => {}
                (work, wanted) => {
                    if let Work::Queued(ticket) = work {
                        signing.withdraw(ticket);
                    }
                    slot.work = wanted.map_or(Work::Idle, |ticket| {
                        signing.push(ticket.clone());
                        Work::Queued(ticket)
                    });
                }
            }
        });
    }

    fn report_expiry(&mut self, id: &EntryId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let expired = Action::Expired {
            entry_id: id.clone(),
            spiffe_id: slot.entry.spiffe_id.clone(),
        };
        self.actions.push(expired);
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

    fn depart(&mut self, batch: BatchId, id: &EntryId, now: SystemTime) -> Option<Arc<Entry>> {
        self.slots.edit(id, now, |slot| {
            slot.work = Work::InFlight {
                batch,
                revision: slot.revision(),
            };
            Arc::clone(&slot.entry)
        })
    }

    /// Tells a subscriber what it has now, if that differs from what it was told.
    fn publish(&mut self, selectors: Selectors, now: SystemTime) {
        if self.phase == Phase::Starting {
            return;
        }
        let Some(subscriber) = self.subscribers.get(&selectors) else {
            return;
        };
        let slots: Vec<_> = subscriber
            .matching
            .iter()
            .filter_map(|id| self.slots.get(id))
            .collect();
        let signed: Vec<_> = slots
            .iter()
            .filter(|slot| slot.identity(now).is_some())
            .collect();
        let federated = signed
            .iter()
            .flat_map(|slot| slot.entry.federates_with.iter().cloned())
            .collect();
        let identities: Vec<_> = signed
            .iter()
            .filter_map(|slot| slot.identity(now))
            .map(Arc::clone)
            .collect();
        let complete = identities.len() == slots.len();
        let bundles = self.trust.select(federated);
        let show = match &subscriber.shown {
            // With half of its identities a workload might pick the wrong one.
            Shown::Nothing => complete,
            Shown::Update(last) if views::shows(last, &identities, &bundles) => return,
            Shown::Update(last) => !self.is_renaming(&selectors, last, &identities),
            Shown::Withdrawn => complete || !slots.iter().any(|slot| slot.awaiting),
        };
        // A caller whose SVIDs have all expired has identities all the same: it waits for new ones.
        let update = (show && (complete || !identities.is_empty()))
            .then(|| self.views.of(identities, &bundles));
        let Some(subscriber) = self.subscribers.get_mut(&selectors) else {
            return;
        };
        match (update, &subscriber.shown) {
            (Some(update), _) => {
                subscriber.shown = Shown::Update(Arc::clone(&update));
                self.actions.push(Action::Publish {
                    subscriber: selectors,
                    update,
                });
            }
            (None, Shown::Update(_)) => {
                subscriber.shown = Shown::Withdrawn;
                self.actions.push(Action::Withdraw {
                    subscriber: selectors,
                });
            }
            (None, Shown::Nothing | Shown::Withdrawn) => {}
        }
    }

    /// Whether identities are missing only because their entries were renamed a moment ago.
    ///
    /// Then the new SVIDs are a moment away, and open streams are spared a state without any.
    fn is_renaming(
        &self,
        selectors: &Selectors,
        last: &Update,
        identities: &[Arc<Identity>],
    ) -> bool {
        let mut gone = last
            .identities()
            .iter()
            .filter(|old| {
                !identities
                    .iter()
                    .any(|identity| identity.entry_id == old.entry_id)
            })
            .map(|old| self.slots.get(&old.entry_id))
            .peekable();
        gone.peek().is_some()
            && gone
                .all(|slot| slot.is_some_and(|slot| slot.awaiting && slot.pins.contains(selectors)))
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
