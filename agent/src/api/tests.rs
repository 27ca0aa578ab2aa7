//! The admin socket as a storage driver meets it.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::signet::node::report_request::Change;
use proto::signet::node::volumes_client::VolumesClient;
use proto::signet::node::{Complete, ReportRequest, Unpublished};
use runtime::listen::{Limits, ListenMetrics};
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::{Drained, TaskGroup};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Streaming};

use super::*;

/// An admin socket that serves.
struct Admin {
    folder: TempDir,
    volumes: Arc<Volumes>,
    started: Arc<Mutex<Vec<String>>>,
    tasks: TaskGroup,
}

/// A driver's end of a stream.
pub(crate) struct Driver {
    changes: mpsc::Sender<ReportRequest>,
    answers: Streaming<proto::signet::node::ReportResponse>,
}

impl Admin {
    fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new(Shutdown::new().0);
        let started = Arc::new(Mutex::new(Vec::new()));
        let starts = Arc::clone(&started);
        let services = Services {
            volumes: Volumes::new(),
            starts: Arc::new(move |volume| starts.lock().push(volume.id.clone())),
        };
        let volumes = Arc::clone(&services.volumes);
        let bound = listen::bind_unix(&folder.path().join("admin.sock"), 0o770).unwrap();
        let shared = Serve {
            limits: Limits::admin(),
            shutdown: tasks.shutdown(),
            tasks: tasks.clone(),
            metrics: ListenMetrics::default().socket("admin"),
        };
        let served = serve(bound, services, shared);
        tasks.spawn("test", async { served.await.unwrap() });
        Self {
            folder,
            volumes,
            started,
            tasks,
        }
    }

    async fn channel(&self) -> Channel {
        dial(&self.folder.path().join("admin.sock")).await
    }

    async fn driver(&self) -> Driver {
        Driver::connect(&self.folder.path().join("admin.sock")).await
    }

    async fn stop(self) {
        self.tasks.trigger().trigger(Reason::Requested("test"));
        let drained = self.tasks.drain(Duration::from_secs(20)).await;
        assert_eq!(drained, Drained::InTime);
    }
}

impl Driver {
    pub(crate) async fn connect(socket: &Path) -> Self {
        let (changes, queued) = mpsc::channel(100);
        let mut client = VolumesClient::new(dial(socket).await);
        let answers = client.report(ReceiverStream::new(queued)).await.unwrap();
        Self {
            changes,
            answers: answers.into_inner(),
        }
    }

    pub(crate) async fn tell(&self, change: Change) {
        let change = Some(change);
        self.changes.send(ReportRequest { change }).await.unwrap();
    }

    /// Waits until so many messages have taken effect.
    pub(crate) async fn applied(&mut self, count: u64) {
        while self.answers.message().await.unwrap().unwrap().applied < count {}
    }
}

async fn dial(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .unwrap()
}

pub(crate) fn published(id: &str, pod_uid: &str) -> Change {
    Change::Published(proto::signet::node::Volume {
        volume_id: id.to_owned(),
        pod_uid: pod_uid.to_owned(),
        pod_name: "web-0".to_owned(),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
    })
}

pub(crate) const UID: &str = "b2a1f0de-7f4c-4c6e-9d51-0a2b3c4d5e6f";

#[tokio::test]
async fn a_driver_reports_and_the_starts_of_new_pods_are_told() {
    let admin = Admin::serve();
    let mut driver = admin.driver().await;
    driver.tell(published("a", UID)).await;
    driver.tell(published("b", UID)).await;
    driver.tell(Change::Complete(Complete {})).await;
    driver.tell(published("a", UID)).await;
    let volume_id = "b".to_owned();
    driver
        .tell(Change::Unpublished(Unpublished { volume_id }))
        .await;
    driver.applied(5).await;
    assert_eq!(*admin.started.lock(), ["a", "b"]);
    let uid = attestors::workload::cgroup::PodUid::parse(UID).unwrap();
    let volume = admin.volumes.of(&uid).unwrap();
    assert_eq!((volume.id.as_str(), admin.volumes.count()), ("a", 1));
    admin.stop().await;
}

#[tokio::test]
async fn a_driver_that_comes_back_is_not_taken_for_new_pods() {
    let admin = Admin::serve();
    let mut first = admin.driver().await;
    first.tell(published("a", UID)).await;
    first.tell(published("b", UID)).await;
    first.tell(Change::Complete(Complete {})).await;
    first.applied(3).await;
    let mut second = admin.driver().await;
    second.tell(published("b", UID)).await;
    second.applied(1).await;
    // The older one is told to go when it speaks.
    first.tell(published("c", UID)).await;
    let ended = loop {
        match first.answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted);
    assert_eq!(admin.volumes.count(), 2);
    second.tell(Change::Complete(Complete {})).await;
    second.applied(2).await;
    assert_eq!(admin.volumes.count(), 1);
    assert_eq!(*admin.started.lock(), ["a", "b"]);
    admin.stop().await;
}

#[tokio::test]
async fn one_volume_that_makes_no_sense_takes_no_other_with_it() {
    let admin = Admin::serve();
    let mut driver = admin.driver().await;
    for (id, uid) in [("a", "not a uid"), ("", UID), ("b", UID)] {
        driver.tell(published(id, uid)).await;
    }
    driver
        .changes
        .send(ReportRequest { change: None })
        .await
        .unwrap();
    driver.applied(4).await;
    assert_eq!(*admin.started.lock(), ["b"]);
    admin.stop().await;
}

#[tokio::test]
async fn a_driver_that_reads_no_answers_is_heard_to_the_end() {
    let admin = Admin::serve();
    let mut driver = admin.driver().await;
    // More answers than the windows of a connection hold.
    for n in 0..10_000 {
        driver.tell(published(&n.to_string(), UID)).await;
    }
    driver.applied(10_000).await;
    assert_eq!(admin.volumes.count(), 10_000);
    admin.stop().await;
}

#[tokio::test]
async fn other_services_are_not_there() {
    let admin = Admin::serve();
    let mut client = workload_client(admin.channel().await);
    let status = client
        .fetch_x509_bundles(proto::workload::X509BundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    admin.stop().await;
}

fn workload_client(
    channel: Channel,
) -> proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient<Channel> {
    proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel)
}

#[test]
fn only_root_and_the_agents_own_user_are_heard() {
    let own = geteuid().as_raw();
    let code = |credentials: Option<Credentials>| {
        let mut request = Request::new(());
        if let Some(credentials) = credentials {
            request.extensions_mut().insert(credentials);
        }
        authorize(&request).map_err(|status| status.code())
    };
    let user = |uid| {
        Some(Credentials {
            pid: None,
            uid,
            gid: 0,
        })
    };
    assert_eq!(code(user(0)), Ok(()));
    assert_eq!(code(user(own)), Ok(()));
    assert_eq!(code(user(own + 1)), Err(Code::PermissionDenied));
    assert_eq!(code(None), Err(Code::PermissionDenied));
}
