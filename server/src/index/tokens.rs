//! The join tokens that nobody has used yet, by hash: the token itself is never stored.

use std::sync::Arc;
use std::time::SystemTime;

use imbl::{HashMap, OrdSet};

use super::Stored;
use crate::records::CodecError;
use crate::records::tokens::{JoinToken, decode};
use crate::store::Revision;

/// All unused join tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    by_hash: HashMap<Arc<str>, Stored<JoinToken>>,
    by_expiry: OrdSet<(SystemTime, Arc<str>)>,
}

impl Tokens {
    /// The token of this hash.
    pub(crate) fn get(&self, hash: &str) -> Option<&Stored<JoinToken>> {
        self.by_hash.get(hash)
    }

    /// The tokens that expired at or before `now`, and the revision of each.
    pub(crate) fn expired(&self, now: SystemTime) -> impl Iterator<Item = (&str, Revision)> {
        self.by_expiry
            .iter()
            .take_while(move |(at, _)| *at <= now)
            .filter_map(|(_, hash)| Some((&**hash, self.by_hash.get(hash)?.revision)))
    }

    pub(super) fn put(
        &mut self,
        hash: &str,
        revision: Revision,
        value: &[u8],
    ) -> Result<(), CodecError> {
        let token = decode(value)?;
        self.delete(hash);
        let hash: Arc<str> = hash.into();
        self.by_expiry.insert((token.expires_at, Arc::clone(&hash)));
        self.by_hash.insert(
            hash,
            Stored {
                revision,
                value: token,
            },
        );
        Ok(())
    }

    pub(super) fn delete(&mut self, hash: &str) {
        if let Some((hash, token)) = self.by_hash.remove_with_key(hash) {
            self.by_expiry.remove(&(token.value.expires_at, hash));
        }
    }
}
