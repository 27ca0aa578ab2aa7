//! The Pods API of the kubelet that does what a test tells it to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use proto::pods::pods_server::{Pods, PodsServer};
use proto::pods::{EventType, WatchPodsEvent, WatchPodsRequest};
use runtime::tasks::TaskGroup;
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tonic::{Request, Response, Status};

use super::FakePod;

/// More changes than any test makes before somebody reads them.
const CHANGES: usize = 1024;

/// The Pods API on a Unix socket, until it is stopped or dropped.
#[derive(Debug)]
pub struct FakePodsApi {
    path: PathBuf,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    pods: Mutex<BTreeMap<String, FakePod>>,
    changes: broadcast::Sender<WatchPodsEvent>,
    initializing: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
    calls: watch::Sender<usize>,
}

type Events = Pin<Box<dyn Stream<Item = Result<WatchPodsEvent, Status>> + Send>>;

impl FakePodsApi {
    /// Listens at `path`.
    pub fn start(path: &Path, pods: Vec<FakePod>, tasks: &TaskGroup) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let state = Arc::new(State {
            pods: Mutex::new(pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect()),
            changes: broadcast::Sender::new(CHANGES),
            initializing: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            calls: watch::Sender::new(0),
        });
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let (shutdown, stop) = (tasks.shutdown(), Arc::clone(&state));
        let server = tonic::transport::Server::builder()
            .add_service(PodsServer::new(Service(Arc::clone(&state))))
            .serve_with_incoming_shutdown(incoming, async move {
                tokio::select! {
                    () = stop.stopped() => {}
                    () = shutdown.requested() => stop.stop(),
                }
            });
        tasks.spawn("fake-pods-api", async move {
            // A client that goes away is part of the play.
            let _ = server.await;
        });
        let path = path.to_owned();
        Ok(Self { path, state })
    }

    /// Adds a pod, or changes it.
    pub fn put(&self, pod: &FakePod) {
        let known = self.state.pods.lock().insert(pod.uid.clone(), pod.clone());
        let kind = known.map_or(EventType::Added, |_| EventType::Modified);
        self.tell(kind, pod.protobuf());
    }

    /// Changes a pod without telling of it, as a kubelet does whose pod got another label.
    pub fn put_silently(&self, pod: &FakePod) {
        self.state.pods.lock().insert(pod.uid.clone(), pod.clone());
    }

    /// Removes a pod.
    pub fn remove(&self, pod: &FakePod) {
        self.state.pods.lock().remove(&pod.uid);
        self.tell(EventType::Deleted, pod.clone().waiting().protobuf());
    }

    /// Tells of something that is no pod.
    pub fn tell_nonsense(&self) {
        self.tell(EventType::Added, vec![0xff; 7]);
    }

    /// Refuses calls as a kubelet does that has not heard of its pods yet.
    pub fn set_initializing(&self, initializing: bool) {
        self.state.initializing.send_replace(initializing);
    }

    /// Waits until `count` calls have come.
    pub async fn called(&self, count: usize) {
        let mut calls = self.state.calls.subscribe();
        // The sender lives as long as this.
        let _ = calls.wait_for(|come| *come >= count).await;
    }

    fn tell(&self, kind: EventType, pod: Vec<u8>) {
        // Nobody may be listening.
        let _ = self.state.changes.send(event(kind, pod));
    }
}

impl Drop for FakePodsApi {
    fn drop(&mut self) {
        self.state.stop();
        // A test may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl State {
    fn stop(&self) {
        self.stopped.send_replace(true);
    }

    async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives as long as this.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl Pods for Service {
    type WatchPodsStream = Events;

    async fn watch_pods(
        &self,
        _request: Request<WatchPodsRequest>,
    ) -> Result<Response<Events>, Status> {
        let state = Arc::clone(&self.0);
        state.calls.send_modify(|calls| *calls += 1);
        if *state.initializing.borrow() {
            return Err(Status::failed_precondition("Kubelet is initializing"));
        }
        let changes = state.changes.subscribe();
        let mut first: Vec<_> = state
            .pods
            .lock()
            .values()
            .map(|pod| Ok(event(EventType::Added, pod.protobuf())))
            .collect();
        first.push(Ok(event(EventType::InitialSyncComplete, Vec::new())));
        let changes = stream::unfold(changes, |mut changes| async {
            let next = changes.recv().await.ok()?;
            Some((Ok(next), changes))
        });
        let events = stream::iter(first)
            .chain(changes)
            .take_until(async move { state.stopped().await });
        Ok(Response::new(Box::pin(events)))
    }
}

fn event(kind: EventType, pod: Vec<u8>) -> WatchPodsEvent {
    WatchPodsEvent {
        r#type: kind.into(),
        pod: pod.into(),
    }
}
