//! What the kubelet says of the pods on this node.
//!
//! Two ways lead to it. Over its Pods API it tells of each change as it happens, and a lookup costs
//! nothing but itself; that way is taken where the kubelet has it. Else its list is fetched over HTTP
//! when somebody asks, once for all who wait, and walked rather than decoded.
//!
//! Whoever waits learns of a failure with its reason as soon as it is known. While the kubelet cannot
//! be asked, what it said at most half a minute ago still proves that a pod was there, and proves
//! nothing of a pod that it did not name.

mod credentials;
mod error;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod http;
pub mod list;
mod lists;
mod metrics;
mod options;
mod scan;
mod snapshot;
#[cfg(test)]
mod tests;
mod tls;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::clock::Clock;
use runtime::tasks::TaskGroup;
use tokio::sync::Notify;
use tokio::sync::watch as told;
use tokio::time::Instant;
use tracing::warn;

use super::followers::Followers;

pub use self::error::KubeletError;
use self::http::Client;
pub use self::list::PodLookupError;
use self::lists::Lists;
pub use self::metrics::KubeletMetrics;
pub use self::options::{Authentication, Endpoint, KubeletOptions, Secure, Verification};
pub use self::snapshot::Snapshot;
use self::watch::{Watcher, Watching};

/// How long what the kubelet said proves that a pod was there, while it cannot be asked.
const STALE_LIMIT: Duration = Duration::from_secs(30);
/// How long a caller waits for an answer before it takes what was said before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the first callers wait for the Pods API before they ask over HTTP.
const FIRST_SYNC: Duration = Duration::from_millis(500);

/// The kubelet of this node. Clones share everything.
#[derive(Clone, Debug)]
pub struct Kubelet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    poll_retry_interval: Duration,
    followers: Arc<Followers>,
    lists: Option<Lists>,
    watching: Option<Arc<told::Sender<Watching>>>,
    wanted: Arc<Notify>,
    versions: Versions,
    metrics: KubeletMetrics,
}

/// A caller that waits.
struct Wait {
    since: Instant,
    metrics: KubeletMetrics,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.metrics.waited(self.since.elapsed());
    }
}

/// Counts the answers of all sources, so that newer is newer whatever it came from.
#[derive(Clone, Debug)]
struct Versions {
    last: Arc<AtomicU64>,
    changed: Arc<told::Sender<u64>>,
}

/// Where a source tells what is new.
#[derive(Clone, Debug)]
struct News {
    versions: Versions,
    followers: Arc<Followers>,
}

impl Versions {
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn changed(&self, version: u64) {
        self.changed
            .send_modify(|newest| *newest = version.max(*newest));
    }
}

impl Kubelet {
    /// Begins to follow the kubelet. Nothing that is wrong with it or with the files ends this:
    /// callers are told.
    #[must_use]
    pub fn start(
        options: &KubeletOptions,
        clock: &Clock,
        tasks: &TaskGroup,
        metrics: &KubeletMetrics,
    ) -> Self {
        let versions = Versions {
            last: Arc::default(),
            changed: Arc::new(told::Sender::new(0)),
        };
        let wanted = Arc::new(Notify::new());
        let followers = Arc::<Followers>::default();
        let lists = options.endpoint.clone().map(|endpoint| {
            warn_of(&endpoint);
            let client = Client::new(endpoint, options, clock.clone(), tasks.clone());
            let pause = options.poll_retry_interval;
            let news = News {
                versions: versions.clone(),
                followers: Arc::clone(&followers),
            };
            let (lists, lister) = lists::channel(client, pause, news, metrics.clone());
            tasks.spawn("kubelet-lists", lister.run(tasks.shutdown()));
            lists
        });
        let watching = options.pods_api_socket.clone().map(|socket| {
            let told = Arc::new(told::Sender::new(Watching::Beginning));
            let watcher = Watcher {
                socket,
                resync_interval: options.resync_interval,
                news: News {
                    versions: versions.clone(),
                    followers: Arc::clone(&followers),
                },
                metrics: metrics.clone(),
                told: Arc::clone(&told),
                wanted: Arc::clone(&wanted),
            };
            tasks.spawn("kubelet-watch", watcher.run(tasks.shutdown()));
            told
        });
        Self(Arc::new(Shared {
            poll_retry_interval: options.poll_retry_interval,
            followers,
            lists,
            watching,
            wanted,
            versions,
            metrics: metrics.clone(),
        }))
    }

    /// The pods as they are now: as the Pods API told, or as a list says that is at most
    /// `poll_retry_interval` old. While the kubelet cannot be asked, what it said before, marked so.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, KubeletError> {
        if let Some(live) = self.live().await {
            return Ok(live);
        }
        self.0.wanted.notify_one();
        let Some(lists) = &self.0.lists else {
            return self.stale(self.down());
        };
        lists.hurry();
        let now = Instant::now();
        if let Some(last) = lists.last()
            && last.age(now) <= self.0.poll_retry_interval
        {
            return Ok(last);
        }
        let next = lists.next();
        tokio::pin!(next);
        match tokio::time::timeout(PATIENCE, &mut next).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(why)) => self.stale(why),
            Err(_) => match self.stale(KubeletError::Slow) {
                Ok(stale) => Ok(stale),
                Err(_) => next.await.or_else(|why| self.stale(why)),
            },
        }
    }

    /// The first state that is newer than `version`. Over HTTP, requests follow each other after
    /// pauses of 50 ms up to `poll_retry_interval`; over the Pods API this waits for a change,
    /// however long. Never a stale one: a failure is returned as soon as it is known.
    pub async fn newer_than(&self, version: u64) -> Result<Arc<Snapshot>, KubeletError> {
        let mut watching = self.0.watching.as_ref().map(|told| told.subscribe());
        loop {
            if let Some(told) = &mut watching {
                let is_live = match &*told.borrow_and_update() {
                    Watching::Live(snapshot) if snapshot.version > version => {
                        return Ok(Arc::clone(snapshot));
                    }
                    Watching::Live(_) => true,
                    Watching::Beginning | Watching::Down { .. } => false,
                };
                if is_live {
                    self.changed(told).await?;
                    continue;
                }
            }
            self.0.wanted.notify_one();
            let Some(lists) = &self.0.lists else {
                let Some(told) = &mut watching else {
                    return Err(KubeletError::Shutdown);
                };
                self.changed(told).await?;
                continue;
            };
            tokio::select! {
                // The Pods API may come back meanwhile.
                () = came_alive(watching.as_mut()) => {}
                newer = newer_list(lists, version, self.0.poll_retry_interval) => return newer,
            }
        }
    }

    /// Counts how long a caller waits whose container the kubelet has not reported, until the returned value is dropped.
    pub(super) fn awaited(&self) -> impl Drop + Send {
        Wait {
            since: Instant::now(),
            metrics: self.0.metrics.clone(),
        }
    }

    /// The version of the newest state in which something has changed. Over HTTP, changes are seen
    /// only while somebody asks.
    #[must_use]
    pub fn changes(&self) -> told::Receiver<u64> {
        self.0.versions.changed.subscribe()
    }

    /// Those who follow pods. Over HTTP, changes are seen only while somebody asks.
    pub(super) fn followers(&self) -> &Arc<Followers> {
        &self.0.followers
    }

    /// What the Pods API tells, if it does. The first callers wait a little for its first word.
    async fn live(&self) -> Option<Arc<Snapshot>> {
        let mut told = self.0.watching.as_ref()?.subscribe();
        let decided = told.wait_for(|told| !matches!(told, Watching::Beginning));
        let decided = tokio::time::timeout(FIRST_SYNC, decided).await.ok()?.ok()?;
        match &*decided {
            Watching::Live(snapshot) => {
                self.0.wanted.notify_one();
                Some(Arc::clone(snapshot))
            }
            Watching::Beginning | Watching::Down { .. } => None,
        }
    }

    /// Waits for the Pods API's next word. That it is down is an answer where nothing else is asked.
    async fn changed(&self, told: &mut told::Receiver<Watching>) -> Result<(), KubeletError> {
        let gone = told.changed().await.is_err();
        if gone {
            return Err(KubeletError::Shutdown);
        }
        let is_down = matches!(*told.borrow(), Watching::Down { .. });
        if is_down && self.0.lists.is_none() {
            return Err(self.down());
        }
        Ok(())
    }

    /// Why the Pods API does not tell.
    fn down(&self) -> KubeletError {
        let told = self.0.watching.as_ref().map(|told| told.borrow().clone());
        match told {
            Some(Watching::Down { why, .. }) => why,
            Some(Watching::Beginning | Watching::Live(_)) => KubeletError::Slow,
            None => KubeletError::Shutdown,
        }
    }

    /// The newest thing that the kubelet said, if it is young enough to prove anything.
    fn stale(&self, why: KubeletError) -> Result<Arc<Snapshot>, KubeletError> {
        let now = Instant::now();
        let list = self.0.lists.as_ref().and_then(Lists::last);
        let list = list.map(|list| (now - list.age(now), list));
        let told = self.0.watching.as_ref().map(|told| told.borrow().clone());
        let watched = match told {
            Some(Watching::Down { last, .. }) => last.map(|(snapshot, until)| (until, snapshot)),
            _ => None,
        };
        let newest = list.into_iter().chain(watched).max_by_key(|(at, _)| *at);
        match newest {
            Some((at, snapshot)) if now - at <= STALE_LIMIT => {
                Ok(Arc::new(snapshot.stale_since(at, why)))
            }
            _ => Err(why),
        }
    }
}

async fn newer_list(
    lists: &Lists,
    version: u64,
    max_age: Duration,
) -> Result<Arc<Snapshot>, KubeletError> {
    let now = Instant::now();
    if let Some(last) = lists.last()
        && last.version > version
        && last.age(now) <= max_age
    {
        return Ok(last);
    }
    loop {
        // The one on its way may have been asked for before what is known was told.
        let next = lists.next().await?;
        if next.version > version {
            return Ok(next);
        }
    }
}

/// Waits until the Pods API tells of all pods; forever where it is not used.
async fn came_alive(told: Option<&mut told::Receiver<Watching>>) {
    let Some(told) = told else {
        return std::future::pending().await;
    };
    if told
        .wait_for(|told| matches!(told, Watching::Live(_)))
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// What an operator has switched off is said once, at the start.
fn warn_of(endpoint: &Endpoint) {
    let Endpoint::Secure(secure) = endpoint else {
        return;
    };
    match &secure.verification {
        Verification::Skip => {
            warn!("Kubelet's certificate is not checked: whoever holds its port is believed");
        }
        Verification::Auto { .. } if secure.node_name.is_none() && secure.address.is_none() => {
            warn!("Kubelet's certificate is checked without a name: set the node's name");
        }
        Verification::Auto { .. } => {}
    }
}
