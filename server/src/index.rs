//! What the server knows, in memory: the one thing that requests read.
//!
//! The index is fed by the store's change feed alone, also for this server's own writes. Readers
//! take an `Arc<Snapshot>` and never wait. A writer waits until the index has reached the revision
//! of its commit, so every client reads its own writes.
//!
//! The maps are persistent (`imbl`): a commit copies the few nodes on its path and shares the rest
//! with the snapshots that readers still hold. A lock with a generation would let one long listing
//! hold up every commit.

pub(crate) mod agents;
pub(crate) mod authorized;
pub(crate) mod bundles;
pub(crate) mod entries;
mod feed;
pub(crate) mod listing;
pub(crate) mod relationships;
pub(crate) mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use identity::trust_domain::TrustDomain;
use tokio::sync::{oneshot, watch};

use crate::records::CodecError;
use crate::store::{Change, Family, Key, Record, Revision, StoreError};

use self::agents::Agents;
use self::bundles::Bundles;
use self::entries::Entries;
use self::relationships::Relationships;
use self::tokens::Tokens;

/// How long a writer waits for the index to show its commit. The feed is a channel within the
/// process or a notification from the database: if it takes this long, something is broken.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// A record as the index holds it: the value, and the revision of its last write, which the next
/// write of the same key expects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stored<T> {
    pub(crate) revision: Revision,
    pub(crate) value: T,
}

/// A record before and after; one of the two may be missing.
pub(crate) type Changed<'a, T> = (Option<&'a T>, Option<&'a T>);

/// The differences of two maps. What they share is passed over, so one commit costs what it changed.
fn changes<'a, K: Ord + Clone, V: PartialEq + Clone>(
    older: &'a imbl::OrdMap<K, V>,
    newer: &'a imbl::OrdMap<K, V>,
) -> impl Iterator<Item = Changed<'a, V>> {
    use imbl::ordmap::DiffItem;
    older.diff(newer).map(|item| match item {
        DiffItem::Add(_, new) => (None, Some(new)),
        DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
        DiffItem::Remove(_, old) => (Some(old), None),
    })
}

/// All that is stored, as of one revision.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) entries: Entries,
    pub(crate) agents: Agents,
    pub(crate) tokens: Tokens,
    pub(crate) bundles: Bundles,
    pub(crate) relationships: Relationships,
}

/// Why the index could not take what the store gave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("could not read the store")]
    Store(#[source] StoreError),
    #[error("could not decode the record `{key}`")]
    Record {
        key: Key,
        #[source]
        source: CodecError,
    },
    #[error("the store went back from revision {served} to {offered}")]
    WentBack { served: Revision, offered: Revision },
}

impl IndexError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Record { .. } => "record_undecodable",
            Self::WentBack { .. } => "store_went_back",
        }
    }
}

/// The feed did not bring a commit in time. The commit stands all the same.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the change is stored, but not yet visible: the index has not caught up with the store")]
pub(crate) struct StalledFeed;

/// The index: a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Snapshot>,
    reached: watch::Sender<Revision>,
    stalled: AtomicBool,
    /// Dropped with the last handle; that is how the feed learns that nobody asks any more.
    _in_use: oneshot::Sender<Never>,
}

/// Nothing is ever sent.
#[derive(Debug)]
enum Never {}

impl Index {
    fn new(snapshot: Snapshot) -> (Self, oneshot::Receiver<Never>) {
        let (in_use, unused) = oneshot::channel();
        let (reached, _) = watch::channel(snapshot.revision);
        let current = ArcSwap::from_pointee(snapshot);
        let inner = Inner {
            current,
            reached,
            stalled: AtomicBool::new(false),
            _in_use: in_use,
        };
        let index = Self {
            inner: Arc::new(inner),
        };
        (index, unused)
    }

    /// What is known now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.current.load_full()
    }

    /// Waits until the index shows the commit of this revision.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<(), StalledFeed> {
        self.wait_until(|reached| reached >= revision).await
    }

    /// Waits until the index shows more than `snapshot`, after a commit based on it met a conflict.
    pub(crate) async fn newer_than(&self, revision: Revision) -> Result<(), StalledFeed> {
        self.wait_until(|reached| reached > revision).await
    }

    /// Tells of each new revision, once its snapshot is there.
    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.reached.subscribe()
    }

    /// Whether the feed broke off; then nothing newer will be seen until a restart.
    pub(crate) fn is_stalled(&self) -> bool {
        self.inner.stalled.load(Ordering::Relaxed)
    }

    async fn wait_until(&self, done: impl Fn(Revision) -> bool) -> Result<(), StalledFeed> {
        let mut reached = self.inner.reached.subscribe();
        let wait = reached.wait_for(|revision| done(*revision));
        match tokio::time::timeout(VISIBLE_WITHIN, wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StalledFeed),
        }
    }

    fn stall(&self) {
        self.inner.stalled.store(true, Ordering::Relaxed);
    }

    fn publish(&self, snapshot: Snapshot) {
        let revision = snapshot.revision;
        self.inner.current.store(Arc::new(snapshot));
        // After the snapshot, so that who is woken finds it.
        self.inner.reached.send_replace(revision);
    }
}

impl Snapshot {
    /// Builds the index of a trust domain from all records of its store.
    pub(crate) fn from_records(
        trust_domain: &TrustDomain,
        revision: Revision,
        records: &[Record],
    ) -> Result<Self, IndexError> {
        let mut snapshot = Self {
            revision,
            entries: Entries::new(trust_domain),
            agents: Agents::default(),
            tokens: Tokens::default(),
            bundles: Bundles::new(trust_domain),
            relationships: Relationships::default(),
        };
        for record in records {
            snapshot.put(record)?;
        }
        Ok(snapshot)
    }

    /// The snapshot after one more commit.
    pub(crate) fn after(&self, change: &Change) -> Result<Self, IndexError> {
        let mut next = self.clone();
        for key in &change.deletes {
            next.delete(key);
        }
        for record in &change.puts {
            next.put(record)?;
        }
        next.revision = change.revision;
        Ok(next)
    }

    fn put(&mut self, record: &Record) -> Result<(), IndexError> {
        let Record {
            key,
            value,
            revision,
        } = record;
        let put = match key.family() {
            Some(Family::Entry) => self.entries.put(*revision, value),
            Some(Family::Agent) => self.agents.put(*revision, value),
            Some(Family::Token) => self.tokens.put(key.name(), *revision, value),
            Some(Family::Bundle) => self.bundles.put(*revision, value),
            Some(Family::Reference) => {
                self.bundles.refer(key.name(), *revision);
                Ok(())
            }
            Some(Family::Relationship) => self.relationships.put(*revision, value),
            // The other guards, authorities and logs are for their writers alone.
            Some(Family::EntryUnique | Family::Authority | Family::Log) | None => Ok(()),
        };
        put.map_err(|source| IndexError::Record {
            key: key.clone(),
            source,
        })
    }

    fn delete(&mut self, key: &Key) {
        match key.family() {
            Some(Family::Entry) => self.entries.delete(key.name()),
            Some(Family::Agent) => self.agents.delete(key.name()),
            Some(Family::Token) => self.tokens.delete(key.name()),
            Some(Family::Bundle) => self.bundles.delete(key.name()),
            Some(Family::Reference) => self.bundles.unrefer(key.name()),
            Some(Family::Relationship) => self.relationships.delete(key.name()),
            Some(Family::EntryUnique | Family::Authority | Family::Log) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_of_a_large_map_is_passed_over() {
        // Far apart and in no order, as drawn ids are.
        let keys: Vec<u64> = (1..=2_000_u64)
            .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        let mut map: imbl::OrdMap<u64, u64> = keys.iter().map(|key| (*key, 0_u64)).collect();
        for key in &keys {
            let older = map.clone();
            map.insert(*key, 1);
            let found: Vec<_> = changes(&older, &map).collect();
            assert_eq!(found, [(Some(&0), Some(&1))], "update of {key}");
            let without = map.without(key);
            let found: Vec<_> = changes(&map, &without).collect();
            assert_eq!(found, [(Some(&1), None)], "removal of {key}");
            let found: Vec<_> = changes(&without, &map).collect();
            assert_eq!(found, [(None, Some(&1))], "addition of {key}");
        }
    }
}
