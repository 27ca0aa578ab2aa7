//! Keys that are gone with the process.

use std::{collections::BTreeMap, sync::Arc};

use identity::key::PrivateKey;
use parking_lot::RwLock;

#[derive(Debug, Default)]
pub(super) struct Memory {
    keys: RwLock<BTreeMap<String, Arc<PrivateKey>>>,
}

impl Memory {
    pub(super) fn insert(&self, id: &str, key: Arc<PrivateKey>) {
        self.keys.write().insert(id.to_owned(), key);
    }

    pub(super) fn remove(&self, id: &str) -> bool {
        self.keys.write().remove(id).is_some()
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<PrivateKey>> {
        self.keys.read().get(id).cloned()
    }
}
