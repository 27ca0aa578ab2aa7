//! Entries come, change and go.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::{Entry, EntryId};
use identity::selector::Selectors;

use super::slot::{Slot, Work};
use super::{Phase, State};
use crate::upstream::EntrySet;

impl State {
    pub(super) fn sync(&mut self, entries: &EntrySet, now: SystemTime) {
        if matches!(self.phase, Phase::Starting | Phase::Restored) {
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
            self.withdraw(id, now);
        }
        // A `store_svid` entry is for a store, and never for a socket.
        for entry in entries.iter().filter(|entry| !entry.store_svid) {
            self.put_entry(entry, now);
        }
        self.reached(now);
        self.prefetch(now);
        self.views.sweep();
    }

    /// Takes what changed. Its cost goes with the change, not with the number of entries.
    pub(super) fn change(&mut self, entries: &[Arc<Entry>], removed: &[EntryId], now: SystemTime) {
        // Without the list that it is a change of, it says nothing about who has no identity.
        if matches!(self.phase, Phase::Starting | Phase::Restored) {
            return;
        }
        for id in removed {
            self.withdraw(id, now);
        }
        for entry in entries {
            if entry.store_svid {
                self.withdraw(&entry.id, now);
            } else {
                self.put_entry(entry, now);
            }
        }
        self.reached(now);
        self.prefetch(now);
        self.views.sweep();
    }

    /// The server answers, so what failed because it did not is tried again.
    pub(super) fn reached(&mut self, now: SystemTime) {
        let postponed = self.slots.postponed();
        self.try_again(&postponed, now);
    }

    /// Ends all pauses: the times at which they were to end were times of another clock.
    pub(super) fn end_pauses(&mut self, now: SystemTime) {
        let waits = |slot: &&Slot| matches!(slot.work, Work::Retry { .. });
        let waiting = self.slots.iter().filter(waits);
        let waiting: Vec<_> = waiting.map(|slot| slot.id().clone()).collect();
        self.try_again(&waiting, now);
    }

    fn try_again(&mut self, ids: &[EntryId], now: SystemTime) {
        self.signing.resume();
        for id in ids {
            self.slots.edit(id, now, |slot| slot.work = Work::Idle);
            self.review(id, now);
        }
    }

    /// Takes away what the server took away, and remembers it for those who ask.
    fn withdraw(&mut self, id: &EntryId, now: SystemTime) {
        if let Some(slot) = self.slots.get(id) {
            self.gone.went(Arc::clone(&slot.entry), now);
        }
        self.remove_entry(id);
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

    pub(super) fn put_entry(&mut self, entry: &Arc<Entry>, now: SystemTime) {
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
            None => {
                self.gone.came_back(&entry.id);
                self.slots.insert(Slot::new(Arc::clone(entry)));
            }
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
        let claimed = self.slots.claimed();
        let room = self.capacity.x509_svids.saturating_sub(claimed);
        if room == 0 || claimed == self.slots.len() {
            return;
        }
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

    /// Has the SVIDs signed that callers are about to ask for, in place of those used longest ago.
    pub(super) fn expect(&mut self, selectors: &Selectors, now: SystemTime) {
        self.uses += 1;
        let uses = self.uses;
        for id in self.index.matching(selectors) {
            self.slots.edit(&id, now, |slot| {
                slot.used = uses;
                slot.prefetch |= !slot.entry.disable_x509_svid_prefetch;
            });
            self.review(&id, now);
        }
    }

    pub(super) fn wipe(&mut self) {
        self.phase = Phase::Banned;
        let ids: Vec<_> = self.slots.ids().cloned().collect();
        for id in &ids {
            self.remove_entry(id);
        }
        self.signing.clear();
        self.jwt.clear();
        self.changed.extend(self.subscribers.keys().cloned());
    }
}
