//! The admin socket as a storage driver meets it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use attestors::workload::unix::{self, Unix};
use identity::entry::Entry;
use identity::key::KeyAlgorithm;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::signet::node::explain_client::ExplainClient;
use proto::signet::node::explain_request::Subject;
use proto::signet::node::report_request::Change;
use proto::signet::node::volumes_client::VolumesClient;
use proto::signet::node::{Complete, ExplainRequest, PodName, ReportRequest, Unpublished};
use proto::spire::agent::debug::GetInfoRequest;
use proto::spire::agent::debug::debug_client::DebugClient;
use proto::spire::agent::logger::logger_client::LoggerClient;
use proto::spire::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::types::{self, LogLevel};
use runtime::clock::Clock;
use runtime::listen::{Limits, ListenMetrics};
use runtime::log::LogConfig;
use runtime::shutdown::{Reason, Shutdown};
use runtime::tasks::{Drained, TaskGroup};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Streaming};

use super::*;
use crate::attest::{self, Attestors, WorkloadAttestor};
use crate::cache::Metrics;
use crate::cache::driver::{self, Options};
use crate::credentials::AgentSvid;
use crate::keys::{WorkloadKey, new_workload_key};
use crate::sync::Status;
use crate::upstream::EntrySet;
use crate::upstream::Upstream;
use crate::upstream::fake::{self, Ca, FakeServer};

const TTL: Duration = Duration::from_secs(3600);

/// An admin socket that serves.
pub(super) struct Admin {
    folder: TempDir,
    volumes: Arc<Volumes>,
    started: Arc<Mutex<Vec<String>>>,
    tasks: TaskGroup,
    pub(super) server: Arc<FakeServer>,
    pub(super) driver: Arc<driver::Driver<FakeServer>>,
    pub(super) status: watch::Sender<Status>,
}

/// A driver's end of a stream.
pub(crate) struct Driver {
    changes: mpsc::Sender<ReportRequest>,
    answers: Streaming<proto::signet::node::ReportResponse>,
}

impl Admin {
    fn serve() -> Self {
        Self::with(&[])
    }

    /// One with these delegates, by their paths, and an agent that has not synchronized.
    pub(super) fn with(delegates: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new(Shutdown::new().0);
        let started = Arc::new(Mutex::new(Vec::new()));
        let starts = Arc::clone(&started);
        let server = FakeServer::new(Clock::system(), TTL);
        let deps = driver::Deps {
            upstream: Arc::clone(&server),
            clock: Clock::system(),
            tasks: tasks.clone(),
            metrics: Metrics::default(),
            denials: mpsc::channel(1).0,
            sealed: crate::sealed::SealedCache::default(),
        };
        let driver = driver::Driver::new(Arc::new(server.own_bundle()), Options::default(), deps);
        let unix = vec![WorkloadAttestor::Unix(Unix::new(unix::Options::default()))];
        let attestors = Attestors::new(unix, Vec::new(), attest::Metrics::default());
        let status = watch::Sender::default();
        let delegate = |path: &&str| SpiffeId::parse(&format!("spiffe://example.org{path}"));
        let services = Services {
            volumes: Volumes::new(),
            starts: Arc::new(move |volume| starts.lock().push(volume.id.clone())),
            source: Arc::new(Source::new(
                Arc::new(attestors),
                Arc::clone(&driver),
                status.subscribe(),
            )),
            credentials: Arc::new(credentials()),
            log: Some(LogHandle::for_test(&LogConfig::default()).unwrap()),
            started: Instant::now(),
            delegates: delegates
                .iter()
                .map(delegate)
                .collect::<Result<_, _>>()
                .unwrap(),
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
            server,
            driver,
            status,
        }
    }

    /// Brings the agent these entries, and the bundles of these trust domains.
    pub(super) async fn sync(&self, entries: impl IntoIterator<Item = Entry>, federated: &[&str]) {
        self.server.set_entries(entries);
        let mut bundles = BTreeMap::new();
        for name in federated {
            let trust_domain = TrustDomain::parse(name).unwrap();
            self.server.federate(&trust_domain);
            let bundle = self.server.bundle(&trust_domain).await.unwrap().unwrap();
            bundles.insert(trust_domain, Arc::new(bundle));
        }
        let entries = self
            .server
            .sync_entries(&EntrySet::default())
            .await
            .unwrap();
        let own = Arc::new(self.server.own_bundle());
        self.driver.synced((own, bundles), entries);
    }

    pub(super) async fn channel(&self) -> Channel {
        dial(&self.folder.path().join("admin.sock")).await
    }

    async fn driver(&self) -> Driver {
        Driver::connect(&self.folder.path().join("admin.sock")).await
    }

    pub(super) async fn stop(self) {
        self.tasks.trigger().trigger(Reason::Requested("test"));
        let drained = self.tasks.drain(Duration::from_secs(20)).await;
        assert_eq!(drained, Drained::InTime);
    }
}

/// The identity of an agent, of a trust domain of its own.
fn credentials() -> Credentials {
    let ca = Ca::new();
    let id = SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap();
    let WorkloadKey { key, csr } = new_workload_key(KeyAlgorithm::EcP256, &id).unwrap();
    let chain = ca.sign(&csr, &id, Clock::system().now(), TTL);
    let own = AgentSvid {
        svid: X509Svid::new(chain, key).unwrap(),
        reattestable: false,
    };
    let trust = fake::bundle(&[&ca.certificate]);
    Credentials::new(Arc::new(own), Arc::new(trust))
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
    let code = |credentials: Option<runtime::unix::Credentials>| {
        let mut request = Request::new(());
        if let Some(credentials) = credentials {
            request.extensions_mut().insert(credentials);
        }
        authorize(&request).map_err(|status| status.code())
    };
    let user = |uid| {
        Some(runtime::unix::Credentials {
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

#[tokio::test]
async fn a_process_is_explained_and_one_that_is_none_is_not_found() {
    let admin = Admin::with(&[]);
    let other = fake::entry("web", &[&format!("unix:uid:{}", geteuid().as_raw() + 1)]);
    admin.sync([other], &[]).await;
    let mut client = ExplainClient::new(admin.channel().await);
    let mut ask = async |subject| {
        let request = ExplainRequest {
            subject: Some(subject),
        };
        client
            .explain(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let answer = ask(Subject::Pid(own)).await.unwrap();
    let process = &answer.processes[0];
    assert_eq!(process.pid, own);
    assert!(!process.has_identity && process.verdict.contains("also asks for unix:uid:"));
    assert_eq!(process.attestors[0].outcome, "attested");
    let missing = &process.nearest[0].missing[0];
    assert_eq!(missing.instead, [format!("unix:uid:{}", geteuid())]);
    assert_eq!(
        answer.agent.unwrap().spiffe_id,
        "spiffe://example.org/spire/agent/x"
    );
    for (subject, code) in [
        (Subject::Pid(-1), Code::NotFound),
        (Subject::Pid(0), Code::NotFound),
        (Subject::Pod(PodName::default()), Code::FailedPrecondition),
    ] {
        assert_eq!(ask(subject).await.unwrap_err().code(), code);
    }
    admin.stop().await;
}

#[tokio::test]
async fn the_agent_tells_of_itself() {
    let admin = Admin::with(&[]);
    admin.sync([fake::entry("web", &["x:1"])], &[]).await;
    let last_success = Some(std::time::UNIX_EPOCH + Duration::from_secs(7));
    admin
        .status
        .send_modify(|status| status.last_success = last_success);
    let mut client = DebugClient::new(admin.channel().await);
    let info = client
        .get_info(GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.last_sync_success, 7);
    let ids: Vec<_> = (info.svid_chain.iter())
        .map(|cert| cert.id.as_ref().unwrap().path.as_str())
        .collect();
    assert_eq!(ids, ["/spire/agent/x", ""], "the chain ends with its root");
    admin.stop().await;
}

#[tokio::test]
async fn the_log_level_is_set_and_set_back() {
    let admin = Admin::with(&[]);
    let mut client = LoggerClient::new(admin.channel().await);
    let levels = |logger: tonic::Response<types::Logger>| {
        let logger = logger.into_inner();
        (logger.current_level(), logger.launch_level())
    };
    let (info, debug) = (LogLevel::Info, LogLevel::Debug);
    let got = client.get_logger(GetLoggerRequest {}).await.unwrap();
    assert_eq!(levels(got), (info, info));
    let set = |level: LogLevel| SetLogLevelRequest {
        new_level: level.into(),
    };
    let got = client.set_log_level(set(debug)).await.unwrap();
    assert_eq!(levels(got), (debug, info));
    let refused = client.set_log_level(set(LogLevel::Unspecified)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let got = client
        .reset_log_level(ResetLogLevelRequest {})
        .await
        .unwrap();
    assert_eq!(levels(got), (info, info));
    admin.stop().await;
}
