//! Writing the bundles of other trust domains: a batch becomes one transaction.
//!
//! Items are applied in order to a copy, as those of entries are. A bundle that goes takes the
//! references to it along; that no entry begins to federate meanwhile is held by a guard, which
//! whoever writes such an entry writes too.

use std::collections::BTreeMap;

use identity::bundle::Bundle;
use identity::entry::{Entry, EntryId};
use identity::trust_domain::TrustDomain;

use super::Plan;
use super::entries::EntryWrites;
use crate::index::Snapshot;
use crate::records::bundles::encode;
use crate::records::entries::encode as encode_entry;
use crate::store::{Expect, Key, MAX_TXN_BYTES, Txn};

/// Why a bundle is not written. None of these is a failure of the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("bundle already exists")]
    Exists,
    #[error("bundle not found")]
    NotFound,
    #[error("cannot delete bundle; federated with {0} registration entries")]
    Referenced(usize),
}

/// What is to become of the entries that federate with a trust domain whose bundle goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// Nothing: the bundle stays if there are any.
    Restrict,
    /// They stay, and do not federate with it any more.
    Dissociate,
    /// They go too.
    Delete,
}

/// The entries that changed with the deletion of a bundle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entailed {
    pub(crate) dissociated: Vec<Entry>,
    pub(crate) deleted: Vec<Entry>,
}

/// The most that the entries of one commit which go or change with a bundle are long, as stored. Below the
/// limit of a transaction by far: what is left of it is for their keys and guards.
pub(crate) const MAX_ENTAILED_BYTES: usize = MAX_TXN_BYTES / 16;

/// What is written ahead of the deletion of a bundle that more entries federate with than fit into `room`
/// bytes of one commit: the first of them go, or stay without the bundle.
///
/// The bundle itself goes with the last commit, so a deletion that was cut short is gone on with by asking
/// for it again. `None` if what federates with it fits.
pub(crate) fn ahead(
    snapshot: &Snapshot,
    trust_domain: &TrustDomain,
    mode: Mode,
    room: usize,
) -> Plan<Option<Entailed>> {
    let mut writes = BundleWrites::new(snapshot);
    let federating = writes.entries.federating_with(trust_domain);
    let is_left = |bytes| first_of(snapshot, &federating, bytes).len() < federating.len();
    if mode == Mode::Restrict || writes.now(trust_domain).is_none() || !is_left(room) {
        return Plan::Nothing(None);
    }
    let first = first_of(snapshot, &federating, MAX_ENTAILED_BYTES);
    let entailed = writes.entail(first, trust_domain, mode);
    writes.into_plan(Some(entailed))
}

/// The first of these entries that are together no longer than so many bytes, and one at least.
fn first_of<'a>(snapshot: &Snapshot, ids: &'a [EntryId], bytes: usize) -> &'a [EntryId] {
    let mut length = 0_usize;
    let fitting = ids.iter().take_while(|id| {
        let entry = snapshot.entries.get(id);
        length = length.saturating_add(entry.map_or(0, |entry| encode_entry(&entry.value).len()));
        length <= bytes
    });
    let count = fitting.count().max(1);
    ids.get(..count).unwrap_or(ids)
}

/// The changes of one batch.
#[derive(Debug)]
pub(crate) struct BundleWrites<'a> {
    snapshot: &'a Snapshot,
    entries: EntryWrites<'a>,
    after: BTreeMap<TrustDomain, Option<Bundle>>,
}

impl<'a> BundleWrites<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            entries: EntryWrites::new(snapshot),
            after: BTreeMap::new(),
        }
    }

    /// Adds a bundle.
    pub(crate) fn create(&mut self, bundle: &Bundle) -> Result<Bundle, Refusal> {
        match self.now(&bundle.trust_domain) {
            Some(_) => Err(Refusal::Exists),
            None => Ok(self.set(bundle)),
        }
    }

    /// Adds a bundle, or replaces the one that is there.
    pub(crate) fn set(&mut self, bundle: &Bundle) -> Bundle {
        let trust_domain = bundle.trust_domain.clone();
        self.after.insert(trust_domain, Some(bundle.clone()));
        bundle.clone()
    }

    /// Changes a bundle.
    pub(crate) fn update(
        &mut self,
        trust_domain: &TrustDomain,
        change: impl FnOnce(&mut Bundle),
    ) -> Result<Bundle, Refusal> {
        let mut bundle = self.now(trust_domain).ok_or(Refusal::NotFound)?.clone();
        change(&mut bundle);
        Ok(self.set(&bundle))
    }

    /// Removes a bundle.
    pub(crate) fn delete(
        &mut self,
        trust_domain: &TrustDomain,
        mode: Mode,
    ) -> Result<Entailed, Refusal> {
        if self.now(trust_domain).is_none() {
            return Err(Refusal::NotFound);
        }
        let federating = self.entries.federating_with(trust_domain);
        if mode == Mode::Restrict && !federating.is_empty() {
            return Err(Refusal::Referenced(federating.len()));
        }
        let entailed = self.entail(&federating, trust_domain, mode);
        self.after.insert(trust_domain.clone(), None);
        Ok(entailed)
    }

    /// Does with these entries what the mode has in store for them.
    fn entail(&mut self, ids: &[EntryId], trust_domain: &TrustDomain, mode: Mode) -> Entailed {
        let mut entailed = Entailed::default();
        match mode {
            Mode::Restrict => {}
            Mode::Dissociate => {
                let changed = ids.iter();
                let changed = changed.filter_map(|id| self.entries.dissociate(id, trust_domain));
                entailed.dissociated = changed.collect();
            }
            Mode::Delete => {
                let gone = ids.iter();
                entailed.deleted = gone.filter_map(|id| self.entries.delete(id).ok()).collect();
            }
        }
        entailed
    }

    /// All changes in one transaction, with what they rest on; then `answer` holds.
    pub(crate) fn into_plan<T>(self, answer: T) -> Plan<T> {
        let mut txn = Txn::new();
        for (trust_domain, after) in &self.after {
            let before = self.snapshot.bundles.get(trust_domain);
            if before.map(|stored| &stored.value) == after.as_ref() {
                continue;
            }
            let key = Key::bundle(trust_domain);
            let seen = Expect::seen(before.map(|stored| stored.revision));
            txn = txn.expect(key.clone(), seen);
            if let Some(bundle) = after {
                txn = txn.put(key, encode(bundle));
                continue;
            }
            let guard = Key::reference(trust_domain);
            let seen = self.snapshot.bundles.reference(trust_domain);
            txn = txn.expect(guard.clone(), Expect::seen(seen)).delete(key);
            if seen.is_some() {
                txn = txn.delete(guard);
            }
        }
        let txn = self.entries.add_to(txn);
        if txn.is_read_only() {
            return Plan::Nothing(answer);
        }
        Plan::Commit(txn, answer)
    }

    /// The bundle, as the items before leave it.
    fn now(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        match self.after.get(trust_domain) {
            Some(after) => after.as_ref(),
            None => {
                let stored = self.snapshot.bundles.get(trust_domain);
                stored.map(|stored| &stored.value)
            }
        }
    }
}
