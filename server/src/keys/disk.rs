//! Keys in one file of the shape of SPIRE's `disk` key manager, so that its operators find them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use identity::key::{MAX_KEY_FILE_BYTES, PrivateKey, encode_key_file, parse_key_file};
use parking_lot::{Mutex, RwLock};
use runtime::{failpoint, files};
use zeroize::Zeroizing;

use super::KeysError;

#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    // Held over a write, which readers need not wait for.
    writing: Mutex<()>,
    keys: RwLock<BTreeMap<String, Arc<PrivateKey>>>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, KeysError> {
        let text = files::read_limited(path, MAX_KEY_FILE_BYTES)?.map(Zeroizing::new);
        let keys = text.map_or_else(|| Ok(BTreeMap::new()), |text| parse_key_file(&text));
        let keys = keys.map_err(|source| KeysError::Damaged {
            path: path.display().to_string(),
            source,
        })?;
        let keys = keys
            .into_iter()
            .map(|(id, key)| (id, Arc::new(key)))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            writing: Mutex::new(()),
            keys: RwLock::new(keys),
        })
    }

    /// Writes the file anew, and only then takes the key.
    pub(super) fn insert(&self, id: &str, key: Arc<PrivateKey>) -> Result<(), KeysError> {
        let _one_at_a_time = self.writing.lock();
        let mut keys = self.keys.read().clone();
        keys.insert(id.to_owned(), key);
        self.replace(keys)
    }

    /// Writes the file anew without the key, if it has it.
    pub(super) fn remove(&self, id: &str) -> Result<bool, KeysError> {
        let _one_at_a_time = self.writing.lock();
        let mut keys = self.keys.read().clone();
        if keys.remove(id).is_none() {
            return Ok(false);
        }
        self.replace(keys)?;
        Ok(true)
    }

    fn replace(&self, keys: BTreeMap<String, Arc<PrivateKey>>) -> Result<(), KeysError> {
        let text = encode_key_file(keys.iter().map(|(id, key)| (id.as_str(), &**key)));
        files::write_private(&self.path, text.as_bytes())?;
        failpoint::reach("keys", "kept");
        *self.keys.write() = keys;
        Ok(())
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<PrivateKey>> {
        self.keys.read().get(id).cloned()
    }
}
