//! Keeps the authorities of one kind: performs what is due, and stores it before it counts.
//!
//! Every step is one commit. A preparation puts the journal's record and the bundle together, so that
//! no journal names an authority which the bundle lacks; an activation writes both slots, so that no
//! two are ever active.

use std::time::SystemTime;

use bytes::Bytes;
use identity::bundle::Bundle;
use runtime::{failpoint, report};
use tracing::{info, warn};

use super::{
    Config, CreateError, Kind, RotateError, Unusable, Visible,
    slots::{Held, SlotId, Slots, State, Step, Term},
};
use crate::{
    bundles::{self, Updated},
    keys::{KeyType, Keys, Signer},
    records::authorities::{self as codec, Entry},
    store::{Committed, Expect, Key, Revision, Store, Txn},
};

/// The journal's owner. An embedded store has one server; shared ones will name theirs.
const SERVER: &str = "local";

/// What differs between the kinds of authorities.
pub(crate) trait Authority: Term + Clone + Sized {
    const KIND: Kind;

    fn key_type(config: &Config) -> KeyType;

    /// Makes an authority around a new key.
    fn create(
        signer: Signer,
        config: &Config,
        now: SystemTime,
    ) -> impl Future<Output = Result<Self, CreateError>> + Send;

    /// Takes up one from the journal, if the bundle still holds it.
    fn restore(
        entry: &Entry,
        signer: Signer,
        bundle: &Bundle,
        now: SystemTime,
    ) -> Result<Self, Unusable>;

    /// What the journal keeps beside the key's name.
    fn certificates(&self) -> Vec<Bytes>;

    /// Adds it, or what it leads to, to a bundle. Tells whether anything was missing.
    fn publish(&self, bundle: &mut Bundle) -> bool;
}

/// The authorities of one kind, and how to store what becomes of them.
#[derive(Debug)]
pub(crate) struct Keeper<A> {
    store: Store,
    keys: Keys,
    visible: Visible,
    slots: Slots<A>,
    revisions: [Option<Revision>; 2],
    /// The commit that published the newest authority.
    published: Revision,
    /// Whether there was a journal at the start.
    is_found: bool,
}

impl<A: Authority> Keeper<A> {
    /// Restores what the journal holds and custody and bundle still know.
    pub(crate) async fn restore(
        store: Store,
        keys: Keys,
        visible: Visible,
        config: &Config,
        now: SystemTime,
    ) -> Result<Self, RotateError> {
        let stored = bundles::read(&store, &config.trust_domain).await?;
        let (bundle, published) = stored.map_or_else(
            || (Bundle::new(config.trust_domain.clone()), Revision::ZERO),
            |stored| (stored.bundle, stored.revision),
        );
        let mut revisions = [None, None];
        let mut held = [None, None];
        for (slot, (revision, held)) in SlotId::ALL
            .into_iter()
            .zip(revisions.iter_mut().zip(&mut held))
        {
            let Some(record) = store.read(&record_key::<A>(slot)).await? else {
                continue;
            };
            *revision = Some(record.revision);
            let entry = codec::decode(&record.value).map_err(|source| RotateError::Journal {
                source: Box::new(source),
            })?;
            *held = restore_entry(&entry, &keys, &bundle, now);
        }
        let [a, b] = held;
        let slots = Slots::restore(a, b);
        let is_found = revisions.iter().any(Option::is_some);
        Ok(Self {
            store,
            keys,
            visible,
            slots,
            revisions,
            published,
            is_found,
        })
    }

    /// The same, as the store has it now.
    pub(crate) async fn again(
        &self,
        config: &Config,
        now: SystemTime,
    ) -> Result<Self, RotateError> {
        let (store, keys) = (self.store.clone(), self.keys.clone());
        Self::restore(store, keys, self.visible.clone(), config, now).await
    }

    pub(crate) fn slots(&self) -> &Slots<A> {
        &self.slots
    }

    pub(crate) fn visible(&self) -> &Visible {
        &self.visible
    }

    /// Takes keys out of custody that no authority has: of a preparation that was cut short, or of an
    /// authority that has ended. Where no journal was found nothing is taken: the keys may be another
    /// program's, whose folder this was.
    pub(crate) async fn forget_orphans(&self) {
        if !self.is_found {
            return;
        }
        for slot in SlotId::ALL {
            if self.slots.get(slot).is_some() {
                continue;
            }
            match self.keys.forget(&key_id::<A>(slot)).await {
                Ok(false) => {}
                Ok(true) => {
                    reach::<A>("orphan.forgotten");
                    info!(
                        authority.kind = A::KIND.name(),
                        authority.slot = slot.name(),
                        "Forgot a key that no authority has"
                    );
                }
                // It is never used either way.
                Err(cause) => warn!(
                    error.reason = cause.reason(),
                    error = %report::chain(&cause),
                    "Could not forget a key that no authority has"
                ),
            }
        }
    }

    /// Performs everything that is due.
    pub(crate) async fn settle(
        &mut self,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        while let Some(step) = self.slots.due(now) {
            match step {
                Step::Prepare(slot) => self.prepare(slot, config, now).await?,
                Step::Activate(slot) => self.activate(slot).await?,
            }
        }
        Ok(())
    }

    pub(crate) async fn prepare(
        &mut self,
        slot: SlotId,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        // The key that is replaced signs no more, or never did: the slot is empty, or holds an old
        // authority, or one that was only prepared. That is so in the journal too, and not in memory alone.
        for slot in SlotId::ALL {
            let key = record_key::<A>(slot);
            let stored = self.store.read(&key).await?;
            if stored.map(|record| record.revision) != self.revision(slot) {
                return Err(RotateError::JournalTaken { key });
            }
        }
        reach::<A>("prepare.begun");
        let signer = self
            .keys
            .generate(&key_id::<A>(slot), A::key_type(config))
            .await?;
        reach::<A>("prepare.key_kept");
        let prepared = self.publish(slot, signer, config, now).await;
        if prepared.is_err() {
            // Its key is replaced: it could sign until the next restart, and not be taken up after it.
            self.slots = self.slots.without_prepared(slot);
        }
        prepared
    }

    async fn publish(
        &mut self,
        slot: SlotId,
        signer: Signer,
        config: &Config,
        now: SystemTime,
    ) -> Result<(), RotateError> {
        let authority = A::create(signer, config, now).await?;
        reach::<A>("prepare.signed");
        let key = record_key::<A>(slot);
        let entry = entry(slot, State::Prepared, &authority);
        let with = Txn::new()
            .expect(key.clone(), Expect::seen(self.revision(slot)))
            .put(key, codec::encode(&entry));
        let updated = bundles::update(&self.store, &config.trust_domain, &with, |bundle| {
            authority.publish(bundle)
        });
        let revision = match updated.await? {
            Updated::Made { revision, .. } => revision,
            Updated::Conflict { key } => return Err(RotateError::JournalTaken { key }),
        };
        reach::<A>("prepare.stored");
        info!(
            authority.kind = A::KIND.name(),
            authority.id = authority.authority_id(),
            authority.slot = slot.name(),
            "Authority prepared"
        );
        self.published = revision;
        self.set_revision(slot, revision);
        self.slots = self.slots.with_prepared(slot, authority);
        reach::<A>("prepare.taken");
        Ok(())
    }

    pub(crate) async fn activate(&mut self, slot: SlotId) -> Result<(), RotateError> {
        let Some(held) = self.slots.get(slot) else {
            return Ok(());
        };
        let authority = held.authority.clone();
        let next = self.slots.with_active(authority.authority_id())?;
        reach::<A>("activate.begun");
        // Nothing is signed with it before everybody who asks this server can learn of it.
        self.visible.reached(self.published).await?;
        reach::<A>("activate.visible");
        let mut txn = Txn::new();
        for slot in SlotId::ALL {
            let key = record_key::<A>(slot);
            txn = txn.expect(key.clone(), Expect::seen(self.revision(slot)));
            txn = match next.get(slot) {
                Some(held) => txn.put(
                    key,
                    codec::encode(&entry(slot, held.state, &held.authority)),
                ),
                // What could not be taken up after a restart may still stand there as active.
                None => txn.delete(key),
            };
        }
        match self.store.commit(txn).await? {
            Committed::At(revision) => {
                reach::<A>("activate.stored");
                self.revisions = SlotId::ALL.map(|slot| next.get(slot).map(|_| revision));
            }
            Committed::Conflict { key } => return Err(RotateError::JournalTaken { key }),
        }
        info!(
            authority.kind = A::KIND.name(),
            authority.id = authority.authority_id(),
            authority.slot = slot.name(),
            "Authority activated"
        );
        self.slots = next;
        reach::<A>("activate.taken");
        Ok(())
    }

    fn revision(&self, slot: SlotId) -> Option<Revision> {
        let [a, b] = self.revisions;
        match slot {
            SlotId::A => a,
            SlotId::B => b,
        }
    }

    fn set_revision(&mut self, slot: SlotId, revision: Revision) {
        let [a, b] = &mut self.revisions;
        match slot {
            SlotId::A => *a = Some(revision),
            SlotId::B => *b = Some(revision),
        }
    }
}

fn restore_entry<A: Authority>(
    entry: &Entry,
    keys: &Keys,
    bundle: &Bundle,
    now: SystemTime,
) -> Option<Held<A>> {
    let restored = if entry.not_after <= now {
        Err(Unusable::Ended)
    } else {
        let signer = keys.signer(&entry.key_id).ok_or(Unusable::NoKey);
        signer.and_then(|signer| A::restore(entry, signer, bundle, now))
    };
    match restored {
        Ok(authority) => Some(Held {
            state: entry.state,
            authority,
        }),
        // An old authority's key is replaced by the next one's; only the others are missed.
        Err(_) if entry.state == State::Old => None,
        Err(cause) => {
            warn!(
                authority.kind = A::KIND.name(),
                authority.id = entry.authority_id,
                authority.slot = entry.slot.name(),
                error.reason = cause.reason(),
                error = %cause,
                "Authority of the journal cannot be used; a new one takes its place, and the bundle keeps it until it ends"
            );
            None
        }
    }
}

fn entry<A: Authority>(slot: SlotId, state: State, authority: &A) -> Entry {
    Entry {
        kind: A::KIND,
        slot,
        state,
        authority_id: authority.authority_id().to_owned(),
        issued_at: authority.issued_at(),
        not_after: authority.not_after(),
        certificates: authority.certificates(),
        key_id: key_id::<A>(slot),
    }
}

/// The name of a slot's key in custody; SPIRE's, so that its operators find it.
fn key_id<A: Authority>(slot: SlotId) -> String {
    match A::KIND {
        Kind::X509 => format!("x509-CA-{slot}"),
        Kind::Jwt => format!("JWT-Signer-{slot}"),
    }
}

fn reach<A: Authority>(point: &str) {
    failpoint::reach(A::KIND.name(), point);
}

fn record_key<A: Authority>(slot: SlotId) -> Key {
    Key::authority(SERVER, format_args!("{}-{slot}", A::KIND.name()))
}
