//! Follows the store, and publishes each snapshot.

use std::sync::{Arc, Weak};

use identity::trust_domain::TrustDomain;
use runtime::tasks::TaskGroup;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{Index, IndexError, Inner, Never, Snapshot};
use crate::store::{Revision, Store, Watch, WatchEvent};

impl Index {
    /// Reads the store once, then follows it in a task of its own.
    pub(crate) async fn start(
        store: Store,
        trust_domain: &TrustDomain,
        tasks: &TaskGroup,
    ) -> Result<Self, IndexError> {
        let snapshot = load(&store, trust_domain, None).await?;
        info!(
            store.revision = %snapshot.revision,
            entries = snapshot.entries.len(),
            agents = snapshot.agents.len(),
            "Loaded the index"
        );
        let watch = store.watch(snapshot.revision);
        let (index, unused) = Self::new(snapshot);
        let feed = Feed {
            index: Arc::downgrade(&index.inner),
            store,
            trust_domain: trust_domain.clone(),
        };
        tasks.spawn("index-feed", feed.run(watch, unused));
        Ok(index)
    }
}

struct Feed {
    // Weak, so that the feed goes on for those who wait for a write, through the whole drain, and
    // ends with the last of them.
    index: Weak<Inner>,
    store: Store,
    trust_domain: TrustDomain,
}

impl Feed {
    /// Runs while somebody holds the index and the store is open. When the store gives what cannot
    /// be read, the index stays at the last good revision: reads go on, and every write says that it
    /// is not visible.
    async fn run(self, mut watch: Watch, mut unused: oneshot::Receiver<Never>) {
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                _ = &mut unused => return,
            };
            let Some(inner) = self.index.upgrade() else {
                return;
            };
            let index = Index { inner };
            match self.apply(&index, event, &mut watch).await {
                Ok(Some(snapshot)) => index.publish(snapshot),
                Ok(None) => return index.stall(),
                Err(error) => {
                    error!(
                        error = runtime::report::chain(&error),
                        error.reason = error.reason(),
                        "The index cannot follow the store"
                    );
                    return index.stall();
                }
            }
        }
    }

    /// The snapshot after an event; none when the store was closed.
    async fn apply(
        &self,
        index: &Index,
        event: WatchEvent,
        watch: &mut Watch,
    ) -> Result<Option<Snapshot>, IndexError> {
        match event {
            WatchEvent::Closed => Ok(None),
            WatchEvent::Change(change) => index.snapshot().after(&change).map(Some),
            WatchEvent::Restart => {
                warn!("The feed of the store has a gap: loading the index again");
                let served = index.snapshot().revision;
                let snapshot = load(&self.store, &self.trust_domain, Some(served)).await?;
                *watch = self.store.watch(snapshot.revision);
                Ok(Some(snapshot))
            }
        }
    }
}

/// Loads all records. Never goes back behind what was served: a restored or lagging store must not
/// bring back what was deleted, or lose what was acknowledged.
async fn load(
    store: &Store,
    trust_domain: &TrustDomain,
    served: Option<Revision>,
) -> Result<Snapshot, IndexError> {
    let (revision, records) = store.snapshot().await.map_err(IndexError::Store)?;
    match served {
        Some(served) if revision < served => Err(IndexError::WentBack {
            served,
            offered: revision,
        }),
        Some(_) | None => Snapshot::from_records(trust_domain, revision, &records),
    }
}
