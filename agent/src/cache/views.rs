//! One `Update` for all subscribers that see the same identities.
//!
//! An `Update` holds its encoded response: shared, a rotation under a thousand streams costs one.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use identity::entry::EntryId;
use workload_api::source::{Bundles, Identity, Update};

/// The updates that some stream still holds, by the entries in them.
#[derive(Debug, Default)]
pub(super) struct Views(BTreeMap<Vec<EntryId>, Weak<Update>>);

impl Views {
    /// The update with these identities, which are sorted by entry id, and these bundles.
    pub(super) fn of(
        &mut self,
        identities: Vec<Arc<Identity>>,
        bundles: &Arc<Bundles>,
    ) -> Arc<Update> {
        let key: Vec<_> = identities
            .iter()
            .map(|identity| identity.entry_id.clone())
            .collect();
        if let Some(known) = self.0.get(&key).and_then(Weak::upgrade)
            && shows(&known, &identities, bundles)
        {
            return known;
        }
        let update = Arc::new(Update::new(identities, Arc::clone(bundles)));
        self.0.insert(key, Arc::downgrade(&update));
        update
    }

    /// Forgets the updates that nobody holds any more.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, update| update.strong_count() > 0);
    }
}

/// Whether an update shows exactly these identities and bundles.
pub(super) fn shows(update: &Update, identities: &[Arc<Identity>], bundles: &Arc<Bundles>) -> bool {
    Arc::ptr_eq(update.bundles(), bundles)
        && update.identities().len() == identities.len()
        && update
            .identities()
            .iter()
            .zip(identities)
            .all(|(a, b)| Arc::ptr_eq(a, b))
}
