//! The kubelet's Pods API: it tells of each change of a pod as it happens.
//!
//! The stream tells of changes of status. A change of a pod's labels alone comes with its next change
//! of status, and a kubelet that cannot keep up drops changes; so while somebody asks, the stream is
//! begun anew each `resync_interval`, and what it then tells replaces what was known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use imbl::ordmap::DiffItem;
use proto::pods::pods_client::PodsClient;
use proto::pods::{EventType, WatchPodsEvent, WatchPodsRequest};
use runtime::backoff::Backoff;
use runtime::report;
use runtime::shutdown::Shutdown;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};

use super::list::MAX_LIST_BYTES;
use super::metrics::{KubeletMetrics, Source};
use super::snapshot::{Pods, Snapshot, Taken, Watched, WatchedPod};
use super::{KubeletError, News};
use crate::workload::cgroup::PodUid;

/// How long the connection and the first telling of all pods may take.
const SYNC_DEADLINE: Duration = Duration::from_secs(5);
/// Pauses between attempts. A caller shortens one to the first.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One pod. The API server takes no larger one than about 1.5 MB.
const MAX_POD_BYTES: usize = 4 << 20;
/// How often a failure that goes on is a warning.
const WARNINGS: u32 = 3;

/// What is known over the Pods API.
#[derive(Clone, Debug)]
pub(super) enum Watching {
    /// The first attempt has not ended yet.
    Beginning,
    /// All pods are known, and each change will be told.
    Live(Arc<Snapshot>),
    /// Nothing is told now.
    Down {
        why: KubeletError,
        /// What was known, and until when.
        last: Option<(Arc<Snapshot>, Instant)>,
    },
}

/// Follows the stream.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) socket: PathBuf,
    pub(super) resync_interval: Duration,
    pub(super) news: News,
    pub(super) metrics: KubeletMetrics,
    pub(super) told: Arc<watch::Sender<Watching>>,
    /// Somebody wants to know.
    pub(super) wanted: Arc<Notify>,
}

/// A stream that has told of all pods.
struct Synced {
    stream: Streaming<WatchPodsEvent>,
    pods: Watched,
    at: Instant,
}

impl Watcher {
    /// Follows the stream, and begins again when it ends, until the process ends.
    pub(super) async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.attempts() => {}
        }
    }

    async fn attempts(&self) {
        let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        loop {
            let why = match self.sync().await {
                Ok(synced) => {
                    if backoff.failures() > 0 {
                        info!("Kubelet tells of its pods again");
                    }
                    backoff.reset();
                    self.metrics.answered(Source::Watch, "ok");
                    self.follow(synced).await
                }
                Err(why) => why,
            };
            self.down(&why, backoff.failures());
            let pause = backoff.next_delay();
            tokio::time::sleep(pause.min(SHORTEST_PAUSE)).await;
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(SHORTEST_PAUSE)) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Begins a stream and reads it up to where all pods are told.
    async fn sync(&self) -> Result<Synced, KubeletError> {
        match tokio::time::timeout(SYNC_DEADLINE, self.begin()).await {
            Ok(synced) => synced,
            Err(_) => Err(KubeletError::Timeout(SYNC_DEADLINE)),
        }
    }

    async fn begin(&self) -> Result<Synced, KubeletError> {
        let mut client =
            PodsClient::new(connect(&self.socket).await?).max_decoding_message_size(MAX_POD_BYTES);
        let at = Instant::now();
        let stream = client
            .watch_pods(WatchPodsRequest {})
            .await
            .map_err(failed)?;
        let mut synced = Synced {
            stream: stream.into_inner(),
            pods: Watched::new(),
            at,
        };
        loop {
            let event = synced.next().await?;
            if event.r#type() == EventType::InitialSyncComplete {
                return Ok(synced);
            }
            apply(&mut synced.pods, &event)?;
        }
    }

    /// Tells of each change, until the stream ends.
    async fn follow(&self, mut synced: Synced) -> KubeletError {
        self.live(&synced.pods);
        // What was wanted before is answered by what was just told.
        let _ = futures_util::FutureExt::now_or_never(self.wanted.notified());
        loop {
            let at = synced.at;
            let changed = tokio::select! {
                event = synced.next() => event.and_then(|event| apply(&mut synced.pods, &event)),
                () = self.is_due(at) => self.resync(&mut synced).await,
            };
            match changed {
                Ok(true) => self.live(&synced.pods),
                Ok(false) => {}
                Err(why) => return why,
            }
        }
    }

    /// Waits until somebody asks, and what was told is no longer believed to be complete.
    async fn is_due(&self, at: Instant) {
        tokio::time::sleep_until(at + self.resync_interval).await;
        self.wanted.notified().await;
    }

    /// Lets all pods be told anew. Whether something has changed.
    async fn resync(&self, synced: &mut Synced) -> Result<bool, KubeletError> {
        let fresh = self.sync().await?;
        let is_same = fresh.pods.len() == synced.pods.len()
            && fresh
                .pods
                .iter()
                .zip(&synced.pods)
                .all(|(new, old)| new.0 == old.0 && new.1.bytes() == old.1.bytes());
        self.metrics.taken(Source::Watch, fresh.pods.len());
        if is_same {
            // The pods that were decoded stay so.
            (synced.stream, synced.at) = (fresh.stream, fresh.at);
        } else {
            *synced = fresh;
        }
        Ok(!is_same)
    }

    fn live(&self, pods: &Watched) {
        let version = self.news.versions.next();
        let before = match &*self.told.borrow() {
            Watching::Live(snapshot) => snapshot.watched(),
            Watching::Down { last, .. } => last.as_ref().and_then(|(last, _)| last.watched()),
            Watching::Beginning => None,
        };
        let snapshot = Arc::new(Snapshot {
            version,
            pods: Pods::Watched(pods.clone()),
            taken: Taken::Live,
        });
        self.metrics.taken(Source::Watch, pods.len());
        self.told.send_replace(Watching::Live(snapshot));
        self.news.versions.changed(version);
        let before = before.unwrap_or_default();
        let changed = before.diff(pods).map(|change| match change {
            DiffItem::Add(uid, _) | DiffItem::Remove(uid, _) => uid,
            DiffItem::Update { new: (uid, _), .. } => uid,
        });
        let changed: Vec<_> = changed.filter_map(|uid| PodUid::parse(uid)).collect();
        self.news.followers.changed(&changed);
    }

    fn down(&self, why: &KubeletError, failures: u32) {
        let reason = why.reason();
        self.metrics.answered(Source::Watch, reason);
        let text = report::chain(why);
        let path = self.socket.display();
        // Most kubelets have no such socket yet: that is no failure.
        let is_usual = matches!(why, KubeletError::NoSocket(_)) || failures >= WARNINGS;
        if is_usual {
            debug!(path = %path, error = %text, error.reason = reason, "Kubelet does not tell of its pods");
        } else {
            warn!(path = %path, error = %text, error.reason = reason, "Kubelet does not tell of its pods");
        }
        self.told.send_modify(|told| {
            let last = match told {
                Watching::Beginning => None,
                Watching::Live(snapshot) => Some((Arc::clone(snapshot), Instant::now())),
                Watching::Down { last, .. } => last.take(),
            };
            *told = Watching::Down {
                why: why.clone(),
                last,
            };
        });
    }
}

impl Synced {
    async fn next(&mut self) -> Result<WatchPodsEvent, KubeletError> {
        let event = self.stream.message().await.map_err(failed)?;
        event.ok_or(KubeletError::StreamEnded)
    }
}

async fn connect(socket: &Path) -> Result<Channel, KubeletError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            KubeletError::NoSocket(socket.to_owned())
        } else {
            KubeletError::Unreachable {
                address: socket.display().to_string(),
                source: Arc::new(error),
            }
        }
    })?;
    // One connection for one stream: the next attempt looks for the socket anew.
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    // HTTP/2 refuses a path as authority. No pings: a kubelet ends connections that send them.
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| failed(tonic::Status::from_error(error.into())))
}

/// Takes in one event. Whether it changed anything.
fn apply(pods: &mut Watched, event: &WatchPodsEvent) -> Result<bool, KubeletError> {
    let is_deleted = match event.r#type() {
        EventType::Added | EventType::Modified => false,
        EventType::Deleted => true,
        // A kind of a later version says nothing that we know.
        EventType::InitialSyncComplete | EventType::Unspecified => return Ok(false),
    };
    let uid = uid(&event.pod).ok_or(KubeletError::NotAPod)?;
    if is_deleted {
        return Ok(pods.remove(uid.as_str()).is_some());
    }
    if pods
        .get(uid.as_str())
        .is_some_and(|known| known.bytes() == event.pod)
    {
        return Ok(false);
    }
    pods.insert(uid.into(), Arc::new(WatchedPod::new(&event.pod)));
    let bytes: usize = pods.values().map(|pod| pod.bytes().len()).sum();
    if bytes > MAX_LIST_BYTES {
        return Err(KubeletError::TooLarge);
    }
    Ok(true)
}

fn failed(status: tonic::Status) -> KubeletError {
    match status.code() {
        Code::FailedPrecondition => KubeletError::Initializing,
        _ => KubeletError::PodsApi(Arc::new(status)),
    }
}

/// The uid of a `v1.Pod`, of which nothing else is decoded.
#[must_use]
pub fn uid(pod: &[u8]) -> Option<String> {
    let key: PodKey = prost::Message::decode(pod).ok()?;
    let uid = key.metadata?.uid;
    (!uid.is_empty()).then_some(uid)
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodKey {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodKeyMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodKeyMetadata {
    #[prost(string, tag = "5")]
    uid: String,
}
