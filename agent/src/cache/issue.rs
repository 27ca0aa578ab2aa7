//! SVIDs are signed, judged, renewed and withdrawn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::trust_domain::TrustDomain;

use super::signing::BatchId;
use super::slot::{Arrival, Signed, Slot, Work};
use super::{Action, Refused, State};

impl State {
    pub(super) fn take_bundles(
        &mut self,
        own: Arc<Bundle>,
        federated: BTreeMap<TrustDomain, Arc<Bundle>>,
        now: SystemTime,
    ) {
        let changed = self.trust.replace(own, federated);
        if changed {
            self.changed.extend(self.subscribers.keys().cloned());
            self.jwt.distrust(|key_id| self.trust.distrusts(key_id));
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

    pub(super) fn take_answers(
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

    pub(super) fn postpone(&mut self, batch: BatchId, spread: Duration, now: SystemTime) {
        let slots = &self.slots;
        let ends = |id: &EntryId| slots.get(id).and_then(Slot::served_until);
        let (ids, at) = self.signing.failed(batch, spread, now, ends);
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

    /// Brings the work for an entry in line with what it wants now.
    pub(super) fn review(&mut self, id: &EntryId, now: SystemTime) {
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

    pub(super) fn depart(
        &mut self,
        batch: BatchId,
        id: &EntryId,
        now: SystemTime,
    ) -> Option<Arc<Entry>> {
        self.slots.edit(id, now, |slot| {
            slot.work = Work::InFlight {
                batch,
                revision: slot.revision(),
            };
            Arc::clone(&slot.entry)
        })
    }
}
