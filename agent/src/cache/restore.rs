//! What is kept over a restart, and what of it is still good afterwards.

use std::sync::Arc;
use std::time::SystemTime;

use identity::entry::EntryId;
use identity::jwt::JwtSvid;
use identity::validity::Schedule;

use super::event::Restored;
use super::jwt::JwtKey;
use super::slot::Signed;
use super::trust::Standing;
use super::{Phase, State};
use crate::sealed::{Item, Revision};

impl State {
    /// Takes what was kept, as far as it may be served: never what is over or has not begun, what a
    /// tainted or unknown authority signed, and what is for an entry that was changed since or is gone.
    pub(super) fn restore(&mut self, items: Vec<Restored>, now: SystemTime) {
        if self.phase != Phase::Starting {
            return;
        }
        self.phase = Phase::Restored;
        for item in items {
            match item {
                Restored::Bundles { own, federated } => {
                    self.trust.replace(own, federated);
                }
                Restored::Entry(entry) => {
                    if !entry.store_svid && !entry.is_expired(now) {
                        self.put_entry(&entry, now);
                    }
                }
                Restored::X509 {
                    entry_id,
                    revision,
                    signed,
                } => self.restore_x509(&entry_id, revision, signed, now),
                Restored::Jwt {
                    entry_id,
                    revision,
                    svid,
                    schedule,
                } => self.restore_jwt(entry_id, revision, svid, schedule, now),
            }
        }
        self.changed.extend(self.subscribers.keys().cloned());
    }

    fn restore_x509(&mut self, id: &EntryId, revision: Revision, signed: Signed, now: SystemTime) {
        let is_its_own = self.slots.get(id).is_some_and(|slot| {
            slot.revision() == revision && slot.entry.spiffe_id == *signed.svid.id()
        });
        // A clock that was set back makes an SVID one of the future: peers would refuse it as well.
        let is_now = signed.svid.validity().contains(now);
        let standing = self.trust.standing(&signed.svid, now);
        if is_its_own && is_now && standing == Standing::Trusted {
            self.slots
                .edit(id, now, |slot| slot.arrive(signed, revision, standing, now));
            self.review(id, now);
        }
    }

    fn restore_jwt(
        &mut self,
        id: EntryId,
        revision: Revision,
        svid: JwtSvid,
        schedule: Schedule,
        now: SystemTime,
    ) {
        let is_its_own = self
            .slots
            .get(&id)
            .is_some_and(|slot| slot.revision() == revision && slot.entry.spiffe_id == *svid.id());
        let is_now = now < svid.expires_at() && svid.issued_at().is_none_or(|issued| issued <= now);
        let authority = self.trust.own().jwt_authority(svid.key_id());
        if is_its_own && is_now && authority.is_some_and(|authority| !authority.tainted) {
            let key = JwtKey::new(id, svid.audience().to_vec());
            self.jwt.insert(key, svid, schedule);
        }
    }

    /// What is to be kept. `None` before the server has spoken: what was kept before may still be needed.
    pub fn keepsakes(&self, now: SystemTime) -> Option<Vec<Item>> {
        if self.phase != Phase::Synced {
            return None;
        }
        let mut items = self.bundles_to_keep();
        for slot in self.slots.iter() {
            items.push(Item::Entry(Arc::clone(&slot.entry)));
            items.extend(slot.keepsake(now).map(|(revision, svid)| Item::X509 {
                entry_id: slot.entry.id.clone(),
                revision,
                svid: svid.clone(),
            }));
        }
        let tokens = self.jwt.iter(now).filter_map(|(entry_id, svid)| {
            let slot = self.slots.get(entry_id)?;
            Some(Item::Jwt {
                entry_id: entry_id.clone(),
                revision: slot.revision(),
                svid: svid.clone(),
            })
        });
        items.extend(tokens);
        Some(items)
    }

    /// The bundles, which are kept with the first SVID that they verify.
    pub fn bundles_to_keep(&self) -> Vec<Item> {
        let own = Item::Own(Arc::clone(self.trust.own()));
        let federated = self.trust.federated().map(Arc::clone).map(Item::Federated);
        std::iter::once(own).chain(federated).collect()
    }
}
