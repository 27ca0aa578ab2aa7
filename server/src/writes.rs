//! How the server writes: plan on what the index shows, commit, wait until the index shows it.
//!
//! A plan is a pure function of a snapshot. Its transaction expects what the snapshot showed, so a
//! commit that was overtaken is a conflict; then the plan is made again on what is there now.

pub(crate) mod agents;
pub(crate) mod bundles;
pub(crate) mod entries;
pub(crate) mod relationships;

use std::time::Duration;

use tokio::time::timeout;

use crate::index::{Index, Snapshot, StalledFeed};
use crate::store::{Committed, Key, Store, StoreError, Txn};

/// How often a plan is made again. Each round means that somebody else's commit of the same key
/// went through, so this many in a row is not contention but a defect.
const ROUNDS: usize = 128;

/// How long a commit may wait for the disk before its caller is told that it is slow.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done, seen one snapshot.
#[derive(Debug)]
pub(crate) enum Plan<T> {
    /// Nothing; this is the answer.
    Nothing(T),
    /// This transaction; the answer holds once it is committed.
    Commit(Txn, T),
}

impl<T> Plan<T> {
    /// What would be answered, without anything being done.
    pub(crate) fn into_answer(self) -> T {
        match self {
            Self::Nothing(answer) | Self::Commit(_, answer) => answer,
        }
    }
}

/// What becomes of something that is taken over from another server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Takeover {
    Created,
    /// It was here, and is now as it is there.
    Updated,
    Unchanged,
    /// What is here is newer than what is there, and stays.
    Kept,
}

/// Why a write was not made, or is not visible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("could not write to the datastore")]
    Store(#[from] StoreError),
    #[error(
        "the datastore did not answer within {} s; the write may still be made",
        COMMIT_PATIENCE.as_secs()
    )]
    Slow,
    #[error(transparent)]
    Stalled(#[from] StalledFeed),
    #[error("the write was cut short; it may have been made")]
    CutShort,
    #[error("the record `{0}` kept changing, or does not match what the index shows")]
    Contended(Key),
}

impl WriteError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => error.reason(),
            Self::Slow => "store_slow",
            Self::Stalled(_) => "feed_stalled",
            Self::CutShort => "cut_short",
            Self::Contended(_) => "contended",
        }
    }
}

/// Writes for the RPCs and the housekeeping.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    store: Store,
    index: Index,
}

impl Writer {
    pub(crate) fn new(store: Store, index: Index) -> Self {
        Self { store, index }
    }

    /// Makes a plan and commits it, again for each conflict, and answers once it is visible.
    pub(crate) async fn write<T>(
        &self,
        mut plan: impl FnMut(&Snapshot) -> Plan<T>,
    ) -> Result<T, WriteError> {
        let mut contended = None;
        for _ in 0..ROUNDS {
            let snapshot = self.index.snapshot();
            let (txn, answer) = match plan(&snapshot) {
                Plan::Nothing(answer) => return Ok(answer),
                Plan::Commit(txn, answer) => (txn, answer),
            };
            let commit = timeout(COMMIT_PATIENCE, self.store.commit(txn));
            match commit.await.map_err(|_elapsed| WriteError::Slow)?? {
                Committed::At(revision) => {
                    self.index.reached(revision).await?;
                    return Ok(answer);
                }
                Committed::Conflict { key } => {
                    if self.index.newer_than(snapshot.revision).await.is_err() {
                        return Err(WriteError::Contended(key));
                    }
                    contended = Some(key);
                }
            }
        }
        contended.map_or(Err(WriteError::Slow), |key| Err(WriteError::Contended(key)))
    }
}

#[cfg(test)]
mod tests;
