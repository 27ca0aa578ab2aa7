//! Follows the store, and publishes each snapshot.

use identity::trust_domain::TrustDomain;
use runtime::tasks::TaskGroup;
use tracing::{error, info, warn};

use super::{Index, IndexError, Snapshot};
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
        let index = Self::new(snapshot);
        let feed = Feed {
            index: index.clone(),
            store,
            trust_domain: trust_domain.clone(),
        };
        tasks.spawn("index-feed", feed.run(watch));
        Ok(index)
    }
}

struct Feed {
    index: Index,
    store: Store,
    trust_domain: TrustDomain,
}

impl Feed {
    /// Runs until the store closes its feed. When the store gives what cannot be read, the index
    /// stays at the last good revision: reads go on, and every write says that it is not visible.
    async fn run(self, mut watch: Watch) {
        loop {
            let applied = match watch.next().await {
                WatchEvent::Closed => return self.index.stall(),
                WatchEvent::Change(change) => self.index.snapshot().after(&change),
                WatchEvent::Restart => {
                    warn!("The feed of the store has a gap: loading the index again");
                    let served = self.index.snapshot().revision;
                    let loaded = load(&self.store, &self.trust_domain, Some(served)).await;
                    if let Ok(snapshot) = &loaded {
                        watch = self.store.watch(snapshot.revision);
                    }
                    loaded
                }
            };
            match applied {
                Ok(snapshot) => self.index.publish(snapshot),
                Err(error) => {
                    error!(
                        error = runtime::report::chain(&error),
                        error.reason = error.reason(),
                        "The index cannot follow the store"
                    );
                    self.index.stall();
                    return;
                }
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
