//! The attestor against a kubelet that does what it is told.

mod spoof;

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::StatusCode;
use identity::selector::Selector;
use runtime::clock::Clock;
use runtime::metrics::Metrics;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tempfile::TempDir;

use super::kubelet::fake::{Answer, FakeKubelet, FakePod, FakePodsApi};
use super::kubelet::{Endpoint, KubeletMetrics, KubeletOptions};
use super::*;
use crate::node::k8s_psat::fake::FakeApiServer;

/// Entries that all callers are of interest to, or none.
struct Entries(bool);

impl Interest for Entries {
    fn may_match(&self, _: &Selectors) -> bool {
        self.0
    }
}

const WAITED_FOR: Entries = Entries(true);
const SATISFIED: Entries = Entries(false);

struct Bench {
    tasks: TaskGroup,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            tasks: TaskGroup::new(Shutdown::new().0),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn k8s(&self, kubelet: &KubeletOptions, options: Options) -> K8s {
        let clock = Clock::system();
        let metrics =
            Metrics::new().register(|registry| KubeletMetrics::register(registry, clock.clone()));
        let kubelet = Kubelet::start(kubelet, &clock, &self.tasks, &metrics);
        // Wherever the tests run, nothing runs below this.
        let agent = format!(
            "0::/nowhere/kubepods/pod{}/{}",
            "5e".repeat(16),
            "5e".repeat(32)
        );
        let viewpoint = Viewpoint::of_agent(agent.as_bytes()).unwrap();
        K8s::new(options, viewpoint, kubelet, Volumes::new())
    }

    /// Over HTTP, with lists that stay current.
    async fn listed(&self, answer: Answer, options: Options) -> (FakeKubelet, K8s) {
        let fake = FakeKubelet::start(None, answer, &self.tasks).await.unwrap();
        let kubelet = KubeletOptions {
            endpoint: Some(Endpoint::ReadOnly {
                port: fake.addr.port(),
            }),
            pods_api_socket: None,
            poll_retry_interval: Duration::from_secs(3600),
            ..KubeletOptions::default()
        };
        let k8s = self.k8s(&kubelet, options);
        (fake, k8s)
    }

    /// Over the Pods API.
    fn watched(&self, pods: Vec<FakePod>, options: Options) -> (FakePodsApi, K8s) {
        let path = self.folder.path().join("pods-api.sock");
        let api = FakePodsApi::start(&path, pods, &self.tasks).unwrap();
        let kubelet = KubeletOptions {
            endpoint: None,
            pods_api_socket: Some(path),
            ..KubeletOptions::default()
        };
        let k8s = self.k8s(&kubelet, options);
        (api, k8s)
    }
}

async fn find(k8s: &K8s, pod: &FakePod, entries: &Entries) -> Result<Verdict, K8sError> {
    let uid = PodUid::parse(&pod.uid).unwrap();
    k8s.find(Some(&uid), &id(pod), entries).await
}

fn id(pod: &FakePod) -> ContainerId {
    ContainerId::parse(pod.container.as_ref().unwrap()).unwrap()
}

fn has(verdict: &Verdict, selector: &str) -> bool {
    let Verdict::Attested(found) = verdict else {
        panic!("{verdict:?}")
    };
    found.contains(&Selector::parse(selector).unwrap())
}

#[tokio::test]
async fn a_reported_container_is_answered_at_once() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let (_fake, k8s) = bench
        .listed(Answer::Pods(vec![pod.clone()]), Options::default())
        .await;
    let found = find(&k8s, &pod, &WAITED_FOR).await.unwrap();
    assert!(has(&found, "k8s:sa:web") && has(&found, "k8s:container-name:app"));
}

#[tokio::test]
async fn a_container_that_is_not_reported_is_answered_early_if_no_entry_needs_more() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let waiting = vec![pod.clone().waiting()];
    let (_api, watched) = bench.watched(waiting.clone(), Options::default());
    let (_fake, listed) = bench
        .listed(Answer::Pods(waiting), Options::default())
        .await;
    for k8s in [watched, listed] {
        let found = find(&k8s, &pod, &SATISFIED).await.unwrap();
        assert!(has(&found, "k8s:sa:web") && !has(&found, "k8s:container-name:app"));
        assert!(!has(&found, "k8s:pod-image-count:1"));
    }
}

#[tokio::test]
async fn a_container_that_an_entry_asks_for_is_awaited() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let (api, k8s) = bench.watched(vec![pod.clone().waiting()], Options::default());
    let found = find(&k8s, &pod, &WAITED_FOR);
    tokio::pin!(found);
    // It has been asked for before it is reported.
    api.called(1).await;
    assert!(futures_util::poll!(&mut found).is_pending());
    api.put(&pod);
    assert!(has(&found.await.unwrap(), "k8s:container-name:app"));
}

#[tokio::test]
async fn a_pod_that_is_not_listed_is_awaited_whatever_the_entries_ask_for() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let (api, k8s) = bench.watched(vec![FakePod::new(2)], Options::default());
    let found = find(&k8s, &pod, &SATISFIED);
    tokio::pin!(found);
    api.called(1).await;
    assert!(futures_util::poll!(&mut found).is_pending());
    api.put(&pod.clone().waiting());
    assert!(has(&found.await.unwrap(), "k8s:sa:web"));
}

#[tokio::test]
async fn a_container_is_awaited_no_longer_than_the_settings_say() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let options = Options {
        patience: Duration::from_millis(1),
        ..Options::default()
    };
    let (_api, k8s) = bench.watched(vec![pod.clone().waiting()], options);
    let error = find(&k8s, &pod, &WAITED_FOR).await.unwrap_err();
    assert_eq!(error.reason(), "container_not_reported");
}

#[tokio::test]
async fn callers_that_wait_for_what_never_comes_keep_no_other_pod_waiting() {
    let bench = Bench::new();
    let (never, other) = (FakePod::new(1), FakePod::new(2));
    let pods = vec![never.clone().waiting(), other.clone()];
    let (_api, watched) = bench.watched(pods.clone(), Options::default());
    let (fake, listed) = bench.listed(Answer::Pods(pods), Options::default()).await;
    for k8s in [watched, listed] {
        find(&k8s, &other, &WAITED_FOR).await.unwrap();
        let mut waiting: Vec<_> = (0..64)
            .map(|_| Box::pin(find(&k8s, &never, &WAITED_FOR)))
            .collect();
        for caller in &mut waiting {
            assert!(futures_util::poll!(caller).is_pending());
        }
        // What is known already is told without any waiting, not even for a lock or a turn.
        let found = find(&k8s, &other, &WAITED_FOR).now_or_never();
        assert!(has(&found.unwrap().unwrap(), "k8s:sa:web"));
    }
    // The 64 that wait share each request.
    assert!(fake.requests() < 64, "{}", fake.requests());
}

#[tokio::test]
async fn a_failure_of_the_kubelet_is_told_at_once_by_its_reason() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    for (answer, reason) in [
        (Answer::Status(StatusCode::FORBIDDEN), "kubelet_forbidden"),
        (
            Answer::Status(StatusCode::UNAUTHORIZED),
            "kubelet_unauthorized",
        ),
        (Answer::Body(Bytes::from_static(b"no")), "kubelet_garbage"),
    ] {
        let (_fake, k8s) = bench.listed(answer, Options::default()).await;
        let error = find(&k8s, &pod, &WAITED_FOR).await.unwrap_err();
        assert_eq!(error.reason(), reason);
    }
    // Also if it comes while a container is awaited.
    let (fake, k8s) = bench
        .listed(
            Answer::Pods(vec![pod.clone().waiting()]),
            Options::default(),
        )
        .await;
    let found = find(&k8s, &pod, &WAITED_FOR);
    let breaks = async {
        fake.requested(1).await;
        fake.answer(Answer::Status(StatusCode::FORBIDDEN));
    };
    let (found, ()) = tokio::join!(found, breaks);
    assert_eq!(found.unwrap_err().reason(), "kubelet_forbidden");
}

#[tokio::test]
async fn a_list_that_is_older_than_the_call_proves_no_container_to_be_no_ephemeral_one() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let other = FakePod::new(2);
    let with_debugger = format!(
        r#"{{"items":[{{"metadata":{{"name":"pod-1","namespace":"default","uid":"{}"}},
        "spec":{{"nodeName":"n1","serviceAccountName":"web","ephemeralContainers":[{{"name":"debug"}}]}},
        "status":{{"ephemeralContainerStatuses":[{{"name":"debug","containerID":"containerd://{}"}}]}}}}]}}"#,
        pod.uid,
        "d".repeat(64)
    );
    let before = Answer::Pods(vec![pod.clone(), other.clone()]);
    let (fake, k8s) = bench.listed(before, Options::default()).await;
    // The list without the ephemeral container is kept, and current by its age.
    assert!(has(
        &find(&k8s, &other, &WAITED_FOR).await.unwrap(),
        "k8s:sa:web"
    ));
    fake.answer(Answer::Body(Bytes::from(with_debugger)));
    let uid = PodUid::parse(&pod.uid).unwrap();
    let debugger = ContainerId::parse(&"d".repeat(64)).unwrap();
    let found = k8s.find(Some(&uid), &debugger, &SATISFIED).await.unwrap();
    assert_eq!(found, Verdict::Denied(Denial::EphemeralContainer));
}

#[tokio::test]
async fn the_labels_of_the_namespace_are_selectors_where_they_are_wanted_and_else_nothing_is_known()
{
    let bench = Bench::new();
    let api = FakeApiServer::start(&bench.tasks, None).await.unwrap();
    api.put_namespace("default", &[("team", "a"), ("empty", "")]);
    let kubeconfig = bench.folder.path().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig, None).unwrap();
    let options = Options {
        namespace_labels: Some(KubeConfig::File(kubeconfig)),
        ..Options::default()
    };
    let pod = FakePod::new(1);
    for pods in [vec![pod.clone()], vec![pod.clone().waiting()]] {
        let (_fake, k8s) = bench.listed(Answer::Pods(pods), options.clone()).await;
        let found = find(&k8s, &pod, &SATISFIED).await.unwrap();
        assert!(has(&found, "k8s:ns-label:team:a") && has(&found, "k8s:ns-label:empty:"));
        assert_eq!(api.asked(), ["/api/v1/namespaces/default"]);
        api.forbid(&["namespaces"]);
        let error = find(&k8s, &pod, &SATISFIED).await.unwrap_err();
        assert_eq!(error.reason(), "api_server_forbidden");
        assert!(error.is_unasked());
        api.forbid(&[]);
        assert_eq!(api.asked().len(), 1);
    }
    let answer = Answer::Pods(vec![pod.clone()]);
    let (_fake, k8s) = bench.listed(answer, Options::default()).await;
    find(&k8s, &pod, &SATISFIED).await.unwrap();
    assert_eq!(api.asked(), [""; 0]);
}

#[tokio::test]
async fn two_pods_that_have_the_container_are_a_contradiction() {
    let bench = Bench::new();
    let one = FakePod::new(1);
    let mut two = FakePod::new(2);
    two.container.clone_from(&one.container);
    let (_fake, k8s) = bench
        .listed(Answer::Pods(vec![one.clone(), two]), Options::default())
        .await;
    let found = k8s.find(None, &id(&one), &SATISFIED).await.unwrap();
    assert_eq!(found, Verdict::Denied(Denial::PodAmbiguous));
}

#[tokio::test]
async fn a_process_of_the_host_has_no_selectors_and_asks_no_kubelet() {
    let bench = Bench::new();
    let (fake, k8s) = bench.listed(Answer::Hang, Options::default()).await;
    let peer = Arc::new(Peer::for_test(std::process::id(), 0, 0).unwrap());
    assert_eq!(
        k8s.attest(&peer, &WAITED_FOR).await.unwrap().verdict,
        Verdict::Attested(Selectors::default())
    );
    assert_eq!(fake.requests(), 0);
}
