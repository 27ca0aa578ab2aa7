//! One number for a set of entries, so that two sides can tell whether they hold the same.
//!
//! It is a sum, so the order does not matter, and a change costs as much as what changed. It finds
//! out whoever missed a change; it is no proof against one who makes up entries.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};

use super::{Entry, EntryId};

/// The digest of a set of entries; that of the empty set is 0.
///
/// An entry counts by its id, its revision number and its time of creation: the same three by which
/// SPIRE's agents tell whether an entry changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EntriesDigest(u128);

impl EntriesDigest {
    /// The digest as it goes over the wire, in bytes.
    pub const BYTES: usize = 16;

    /// Takes an entry into the set. The caller sees to it that the set does not have it.
    pub fn add(&mut self, id: &EntryId, revision: i64, created_at: SystemTime) {
        self.0 = self.0.wrapping_add(term(id, revision, created_at));
    }

    /// Takes an entry, as it was added, out of the set.
    pub fn remove(&mut self, id: &EntryId, revision: i64, created_at: SystemTime) {
        self.0 = self.0.wrapping_sub(term(id, revision, created_at));
    }

    /// The digest as it goes over the wire.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }
}

impl<'a> FromIterator<&'a Entry> for EntriesDigest {
    fn from_iter<I: IntoIterator<Item = &'a Entry>>(entries: I) -> Self {
        let mut digest = Self::default();
        for entry in entries {
            digest.add(&entry.id, entry.revision, entry.created_at);
        }
        digest
    }
}

fn term(id: &EntryId, revision: i64, created_at: SystemTime) -> u128 {
    let id = id.as_str().as_bytes();
    let since = created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    // An id has at most 255 bytes, and no time of ours is so late.
    let length = u32::try_from(id.len()).unwrap_or(u32::MAX);
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let mut bytes = Vec::with_capacity(4 + id.len() + 16);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(id);
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes.extend_from_slice(&seconds.to_be_bytes());
    digest(&SHA256, &bytes)
        .as_ref()
        .first_chunk()
        .map_or(0, |half| u128::from_be_bytes(*half))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn of(entries: &[(String, i64, u32)]) -> EntriesDigest {
        let mut digest = EntriesDigest::default();
        for (id, revision, seconds) in entries {
            let created_at = UNIX_EPOCH + Duration::from_secs(u64::from(*seconds));
            digest.add(&EntryId::parse(id).unwrap(), *revision, created_at);
        }
        digest
    }

    #[test]
    fn the_digest_of_one_entry_is_half_of_a_hash_over_its_three_parts() {
        let mut bytes = vec![0, 0, 0, 1, b'a'];
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7]);
        bytes.extend([0, 0, 0, 0, 0, 0, 1, 0]);
        let expected = digest(&SHA256, &bytes);
        let digest = of(&[("a".to_owned(), 7, 256)]);
        assert_eq!(digest.to_bytes(), expected.as_ref()[..16]);
        assert_eq!(EntriesDigest::default().to_bytes(), [0; 16]);
    }

    proptest! {
        #[test]
        fn the_order_of_entries_does_not_matter_and_each_of_their_parts_does(
            entries in prop::collection::btree_map("[a-z]{1,9}", (0..9_i64, any::<u32>()), 1..9),
            part in 0..3,
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(id, (r, at))| (id, r, at)).collect();
            let reversed: Vec<_> = entries.iter().rev().cloned().collect();
            prop_assert_eq!(of(&entries), of(&reversed));
            let mut other = entries.clone();
            match part {
                0 => other[0].0.push('1'),
                1 => other[0].1 += 1,
                _ => other[0].2 ^= 1,
            }
            prop_assert_ne!(of(&entries), of(&other));
            let mut less = of(&entries);
            let (id, revision, at) = &entries[0];
            let at = UNIX_EPOCH + Duration::from_secs(u64::from(*at));
            less.remove(&EntryId::parse(id).unwrap(), *revision, at);
            prop_assert_eq!(less, of(&entries[1..]));
        }
    }
}
