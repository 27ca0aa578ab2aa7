//! Who is shown what.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::EntryId;
use identity::selector::Selectors;
use workload_api::source::{Identity, Update};

use super::slot::Slot;
use super::subscribers::Shown;
use super::{Action, Phase, State, views};

impl State {
    pub(super) fn join(&mut self, selectors: &Selectors, now: SystemTime) {
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

    pub(super) fn leave(&mut self, selectors: &Selectors, now: SystemTime) {
        let Some(subscriber) = self.subscribers.remove(selectors) else {
            return;
        };
        for id in &subscriber.matching {
            self.slots.edit(id, now, |slot| slot.pins.remove(selectors));
            self.review(id, now);
        }
    }

    /// The subscribers of an entry may have to be told something.
    pub(super) fn touch(&mut self, id: &EntryId) {
        self.changed.extend(
            self.slots
                .get(id)
                .into_iter()
                .flat_map(|slot| slot.pins.iter().cloned()),
        );
    }

    /// Tells a subscriber what it has now, if that differs from what it was told.
    pub(super) fn publish(&mut self, selectors: Selectors, now: SystemTime) {
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
        if self.phase == Phase::Restored && slots.is_empty() {
            // Its entry may be newer than what was kept: the server is to say that it has none.
            return;
        }
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
            Shown::Nothing => complete || self.is_on_its_own(&slots),
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

    /// Whether what is missing cannot be had, for the server has not been reached since the agent's
    /// restart. Before the restart, what was left would have been served.
    fn is_on_its_own(&self, slots: &[&Slot]) -> bool {
        self.phase == Phase::Restored && !slots.iter().any(|slot| slot.awaiting)
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
