//! The driver over its sockets: a kubelet on the one side, an agent on the other.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::csi::identity_client::IdentityClient;
use proto::csi::node_client::NodeClient;
use proto::csi::node_service_capability::Type as Kind;
use proto::csi::{
    GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
    NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, ProbeRequest,
};
use proto::pluginregistration::registration_client::RegistrationClient;
use proto::pluginregistration::{InfoRequest, RegistrationStatus};
use proto::signet::node::report_request::Change;
use proto::signet::node::volumes_server::{Volumes as Agent, VolumesServer};
use proto::signet::node::{ReportRequest, ReportResponse};
use runtime::shutdown::Shutdown;
use runtime::tasks::Drained;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, Streaming};

use super::request::tests::{UID, request};
use super::sandbox::Sandbox;
use super::*;

fn config(sandbox: &Sandbox) -> Config {
    let plugins = sandbox.kubelet().join("plugins").join(DEFAULT_PLUGIN);
    Config {
        node: "node-1".to_owned(),
        plugin: DEFAULT_PLUGIN.to_owned(),
        sockets: sandbox.sockets(),
        socket: plugins.join("csi.sock"),
        endpoint: plugins.join("csi.sock"),
        registration: Some(sandbox.kubelet().join("plugins_registry")),
        kubelet: sandbox.kubelet(),
        agent: Some(sandbox.path().join("admin.sock")),
    }
}

fn deps() -> Deps {
    Deps {
        clock: Clock::system(),
        metrics: Metrics::new(),
        tasks: TaskGroup::new(Shutdown::new().0),
        readiness: Readiness::new(),
    }
}

async fn stop(deps: Deps) {
    deps.tasks.trigger().trigger(Reason::Requested("test"));
    let drained = deps.tasks.drain(Duration::from_secs(20)).await;
    assert_eq!(drained, Drained::InTime);
}

/// Runs a test on a thread with its own mounts, in a runtime whose threads have them too.
fn with_driver<F: Future<Output = ()>>(test: impl FnOnce(Arc<Sandbox>) -> F + Send + 'static) {
    Sandbox::enter(|sandbox| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(Arc::new(sandbox.clone())));
    });
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

fn unpublish(publish: &NodePublishVolumeRequest) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest {
        volume_id: publish.volume_id.clone(),
        target_path: publish.target_path.clone(),
    }
}

#[test]
fn a_kubelet_finds_the_driver_and_asks_it_who_it_is() {
    with_driver(|sandbox| async move {
        let (config, deps) = (config(&sandbox), deps());
        start(&config, &deps).unwrap();
        let registry = sandbox.kubelet().join("plugins_registry");
        let names: Vec<_> = std::fs::read_dir(&registry).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        let mut registration = RegistrationClient::new(dial(&names[0].path()).await);
        let found = registration.get_info(InfoRequest {}).await.unwrap();
        let found = found.into_inner();
        assert_eq!(
            (found.r#type.as_str(), found.name.as_str()),
            ("CSIPlugin", "csi.spiffe.io")
        );
        assert_eq!(found.supported_versions, ["1.0.0"]);
        let channel = dial(Path::new(&found.endpoint)).await;
        let mut node = NodeClient::new(channel.clone());
        let info = node.node_get_info(NodeGetInfoRequest {}).await.unwrap();
        assert_eq!(info.into_inner().node_id, "node-1");
        let mut identity = IdentityClient::new(channel);
        let info = identity.get_plugin_info(GetPluginInfoRequest {}).await;
        assert_eq!(info.unwrap().into_inner().name, "csi.spiffe.io");
        let alive = identity.probe(ProbeRequest {}).await.unwrap();
        assert_eq!(alive.into_inner().ready, Some(true));
        let able = node
            .node_get_capabilities(NodeGetCapabilitiesRequest {})
            .await
            .unwrap();
        let able: Vec<i32> = able
            .into_inner()
            .capabilities
            .iter()
            .map(|able| match &able.r#type {
                Some(Kind::Rpc(rpc)) => rpc.r#type,
                None => 0,
            })
            .collect();
        assert_eq!(able, [2, 4, 7]);

        assert!(!deps.readiness.is_ready());
        for (plugin_registered, error) in [(false, "no"), (true, "")] {
            let status = RegistrationStatus {
                plugin_registered,
                error: error.to_owned(),
            };
            let told = registration.notify_registration_status(status).await;
            told.unwrap();
            assert_eq!(deps.readiness.is_ready(), plugin_registered);
        }
        stop(deps).await;
        // The kubelet learns that the driver is gone by the socket that goes.
        assert_eq!(std::fs::read_dir(&registry).unwrap().count(), 0);
    });
}

#[test]
fn twenty_calls_at_once_make_one_mount_and_one_call_takes_it_away() {
    with_driver(|sandbox| async move {
        let (config, deps) = (config(&sandbox), deps());
        start(&config, &deps).unwrap();
        let node = NodeClient::new(dial(&config.socket).await);
        let publish = request(&sandbox.pods(), "csi-1");
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let (mut node, publish) = (node.clone(), publish.clone());
            calls.spawn(async move { node.node_publish_volume(publish).await });
        }
        for answer in calls.join_all().await {
            answer.unwrap();
        }
        assert_eq!(sandbox.mounts(), 1);
        for _ in 0..2 {
            let mut node = node.clone();
            let gone = node.node_unpublish_volume(unpublish(&publish)).await;
            gone.unwrap();
            assert_eq!(sandbox.mounts(), 0);
        }
        let files = config.socket.with_file_name(VOLUMES_FOLDER);
        assert_eq!(std::fs::read_dir(files).unwrap().count(), 0);
        stop(deps).await;
    });
}

#[test]
fn a_volume_says_how_it_is() {
    with_driver(|sandbox| async move {
        let (config, deps) = (config(&sandbox), deps());
        start(&config, &deps).unwrap();
        let mut node = NodeClient::new(dial(&config.socket).await);
        let publish = request(&sandbox.pods(), "csi-1");
        let stats = NodeGetVolumeStatsRequest {
            volume_id: publish.volume_id.clone(),
            volume_path: publish.target_path.clone(),
            ..NodeGetVolumeStatsRequest::default()
        };
        let health = NodeGetVolumeHealthRequest {
            volume_id: publish.volume_id.clone(),
            volume_publish_path: publish.target_path.clone(),
            ..NodeGetVolumeHealthRequest::default()
        };
        for mounted in [false, true] {
            if mounted {
                node.node_publish_volume(publish.clone()).await.unwrap();
            }
            let found = node.node_get_volume_stats(stats.clone()).await.unwrap();
            let found = found.into_inner();
            assert_eq!(found.usage.len(), 1);
            let condition = found.volume_condition.unwrap();
            assert_eq!(condition.abnormal, !mounted);
            let expected = match mounted {
                true => "mounted",
                false => "volume path is not mounted",
            };
            assert_eq!(condition.message, expected);
            let found = node.node_get_volume_health(health.clone()).await.unwrap();
            let found = found.into_inner().volume_health.unwrap();
            assert_eq!(found.health_statuses.is_empty(), mounted);
        }
        stop(deps).await;
    });
}

#[test]
fn a_refusal_is_told_and_nothing_is_mounted() {
    with_driver(|sandbox| async move {
        let (config, deps) = (config(&sandbox), deps());
        start(&config, &deps).unwrap();
        let mut node = NodeClient::new(dial(&config.socket).await);
        let writable = NodePublishVolumeRequest {
            readonly: false,
            ..request(&sandbox.pods(), "csi-1")
        };
        let status = node.node_publish_volume(writable).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "pod.spec.volumes[].csi.readOnly must be set to 'true'"
        );
        std::fs::remove_dir(sandbox.sockets()).unwrap();
        let unservable = request(&sandbox.pods(), "csi-1");
        let status = node.node_publish_volume(unservable).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("sockets"), "{status:?}");
        assert_eq!(sandbox.mounts(), 0);
        stop(deps).await;
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_the_start() {
    Sandbox::enter(|sandbox| {
        let reason = |change: fn(&mut Config)| {
            let mut config = config(sandbox);
            change(&mut config);
            check(&config).unwrap_err().reason()
        };
        assert_eq!(reason(|config| config.node.clear()), "no_node");
        assert_eq!(
            reason(|config| config.sockets = PathBuf::new()),
            "no_sockets_folder"
        );
        assert_eq!(
            reason(|config| config.plugin = "../x".to_owned()),
            "plugin_name"
        );
        assert_eq!(
            reason(|config| config.endpoint = "csi.sock".into()),
            "relative_path"
        );
        assert_eq!(
            reason(|config| config.kubelet = "/nowhere".into()),
            "no_pods_folder"
        );
    });
}

/// An agent that remembers what it was told.
#[derive(Clone, Debug, Default)]
struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    news: Arc<watch::Sender<usize>>,
}

#[tonic::async_trait]
impl Agent for Listener {
    type ReportStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (this, mut applied) = (self.clone(), 0);
        let answers = request.into_inner().map(move |message| {
            this.heard.lock().push(match message?.change.unwrap() {
                Change::Published(volume) => format!(
                    "+{} {} {}/{}/{}",
                    volume.volume_id,
                    volume.pod_uid,
                    volume.namespace,
                    volume.service_account,
                    volume.pod_name
                ),
                Change::Unpublished(volume) => format!("-{}", volume.volume_id),
                Change::Complete(_) => "complete".to_owned(),
            });
            this.news.send_modify(|count| *count += 1);
            applied += 1;
            Ok(ReportResponse { applied })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Listener {
    fn listen(&self, sandbox: &Sandbox) -> Deps {
        let deps = deps();
        let bound = listen::bind_unix(&sandbox.path().join("admin.sock"), 0o600).unwrap();
        let routes = Routes::new(VolumesServer::new(self.clone()));
        let metrics = deps.metrics.register(ListenMetrics::register);
        serve("agent", bound, routes, metrics.socket("admin"), &deps);
        deps
    }

    async fn hears(&self, expected: &[String]) {
        let mut news = self.news.subscribe();
        let all = news.wait_for(|count| *count >= expected.len());
        // What it waits for is borrowed until then, and nobody could bring news.
        let waited = tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .is_ok();
        let heard = std::mem::take(&mut *self.heard.lock());
        assert!(waited, "{heard:?}");
        assert_eq!(heard, expected);
        self.news.send_replace(0);
    }
}

#[test]
fn an_agent_is_told_of_each_volume_and_of_all_after_it_or_the_driver_restarts() {
    with_driver(|sandbox| async move {
        let (config, first) = (config(&sandbox), deps());
        start(&config, &first).unwrap();
        let mut node = NodeClient::new(dial(&config.socket).await);
        let publish = request(&sandbox.pods(), "csi-1");
        // Nobody listens yet, and the volume is there all the same.
        node.node_publish_volume(publish.clone()).await.unwrap();
        assert_eq!(sandbox.mounts(), 1);

        let published = format!("+csi-1 {UID} shop/web/web-0");
        let all = [published.clone(), "complete".to_owned()];
        let agent = Listener::default();
        let serving = agent.listen(&sandbox);
        agent.hears(&all).await;

        // The agent restarts.
        stop(serving).await;
        let serving = agent.listen(&sandbox);
        agent.hears(&all).await;

        // The driver restarts; the mount is still there, and nothing is mounted anew.
        drop(node);
        stop(first).await;
        assert_eq!(sandbox.mounts(), 1);
        let second = deps();
        start(&config, &second).unwrap();
        agent.hears(&all).await;
        let mut node = NodeClient::new(dial(&config.socket).await);
        node.node_publish_volume(publish.clone()).await.unwrap();
        assert_eq!(sandbox.mounts(), 1);

        let gone = node.node_unpublish_volume(unpublish(&publish)).await;
        gone.unwrap();
        agent.hears(&["-csi-1".to_owned()]).await;
        node.node_publish_volume(publish).await.unwrap();
        agent.hears(&[published]).await;
        drop(node);
        stop(second).await;
        stop(serving).await;
    });
}
