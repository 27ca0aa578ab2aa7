//! The Pods API, and what takes its place while it is not there.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;

use super::super::fake::{Answer, FakeKubelet, FakePod, FakePodsApi};
use super::super::watch::uid as pod_uid;
use super::super::{KubeletError, KubeletOptions, Snapshot};
use super::{Bench, id, options, uid};

impl Bench {
    fn watched(&self) -> (PathBuf, KubeletOptions) {
        let path = self.path("pods-api.sock");
        let options = KubeletOptions {
            pods_api_socket: Some(path.clone()),
            ..options(None)
        };
        (path, options)
    }

    /// A list over HTTP beside it.
    async fn both(&self, answer: Answer) -> (FakeKubelet, PathBuf, KubeletOptions) {
        let (fake, listed) = self.plain(answer).await;
        let (path, mut options) = self.watched();
        options.endpoint = listed.endpoint;
        (fake, path, options)
    }
}

fn has(snapshot: &Snapshot, pod: &FakePod) -> bool {
    let by_uid = snapshot.pod(&uid(pod)).unwrap().is_some();
    assert_eq!(snapshot.by_container(&id(pod)).unwrap().is_some(), by_uid);
    by_uid
}

#[tokio::test]
async fn tells_of_pods_that_come_run_and_go() {
    let bench = Bench::new();
    let (path, options) = bench.watched();
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let mut changes = kubelet.changes();
    let first = kubelet.snapshot().await.unwrap();
    assert!(has(&first, &one) && !has(&first, &two));

    api.put(&two.clone().waiting());
    let second = kubelet.newer_than(first.version).await.unwrap();
    assert!(second.pod(&uid(&two)).unwrap().is_some());
    assert!(second.by_container(&id(&two)).unwrap().is_none());
    api.put(&two);
    let third = kubelet.newer_than(second.version).await.unwrap();
    assert!(has(&third, &two));
    api.remove(&one);
    let fourth = kubelet.newer_than(third.version).await.unwrap();
    assert!(!has(&fourth, &one) && has(&fourth, &two));

    // What was given out stays as it was.
    assert!(has(&first, &one) && !has(&first, &two));
    assert_eq!(*changes.borrow_and_update(), fourth.version);
}

#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let bench = Bench::new();
    let (path, options) = bench.watched();
    let one = FakePod::new(1);
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let first = kubelet.snapshot().await.unwrap();
    api.put(&one);
    api.put(&FakePod::new(2));
    let second = kubelet.newer_than(first.version).await.unwrap();
    assert_eq!(second.version, first.version + 1);
    assert_eq!(second.len(), 2);
}

#[tokio::test]
async fn what_is_not_told_is_seen_when_all_is_told_anew() {
    let bench = Bench::new();
    let (path, mut options) = bench.watched();
    options.resync_interval = Duration::ZERO;
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let first = kubelet.snapshot().await.unwrap();
    api.put_silently(&two);
    kubelet.snapshot().await.unwrap();
    let second = kubelet.newer_than(first.version).await.unwrap();
    assert!(has(&second, &one) && has(&second, &two));
    // The new stream is followed like the one before.
    api.remove(&one);
    let third = kubelet.newer_than(second.version).await.unwrap();
    assert!(!has(&third, &one));
}

#[tokio::test]
async fn a_socket_that_appears_later_is_found() {
    let bench = Bench::new();
    let one = FakePod::new(1);
    let (_fake, path, options) = bench.both(Answer::Pods(Vec::new())).await;
    let kubelet = bench.kubelet(&options);
    let listed = kubelet.snapshot().await.unwrap();
    assert!(!has(&listed, &one));
    let _api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let mut snapshot = kubelet.newer_than(listed.version).await.unwrap();
    while !has(&snapshot, &one) {
        snapshot = kubelet.newer_than(snapshot.version).await.unwrap();
    }
}

/// Whoever got the late list must not wait for a change to hear of what was told before it came.
#[tokio::test]
async fn a_list_that_was_asked_for_before_the_pods_api_told_is_older_than_that() {
    let bench = Bench::new();
    let one = FakePod::new(1);
    let (fake, path, options) = bench.both(Answer::Hang).await;
    let kubelet = bench.kubelet(&options);
    let asked = kubelet.snapshot();
    let tells = async {
        fake.requested(1).await;
        let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
        let told = kubelet.newer_than(0).await.unwrap();
        assert!(has(&told, &one));
        fake.answer(Answer::Pods(Vec::new()));
        api
    };
    let (listed, _api) = tokio::join!(asked, tells);
    let listed = listed.unwrap();
    assert!(!has(&listed, &one));
    let newer = kubelet.newer_than(listed.version);
    let newer = tokio::time::timeout(Duration::from_secs(30), newer).await;
    assert!(has(&newer.unwrap().unwrap(), &one));
}

#[tokio::test]
async fn a_socket_that_vanishes_is_replaced_by_the_list_until_it_comes_back() {
    let bench = Bench::new();
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let (_fake, path, options) = bench.both(Answer::Pods(vec![two.clone()])).await;
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let first = kubelet.snapshot().await.unwrap();
    assert!(has(&first, &one));

    drop(api);
    let second = kubelet.newer_than(first.version).await.unwrap();
    assert!(has(&second, &two) && !has(&second, &one));

    let _api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let mut snapshot = kubelet.newer_than(second.version).await.unwrap();
    while !has(&snapshot, &one) {
        snapshot = kubelet.newer_than(snapshot.version).await.unwrap();
    }
}

#[tokio::test]
async fn while_nothing_answers_what_was_told_proves_a_pod_and_never_its_absence() {
    let bench = Bench::new();
    let (one, two) = (FakePod::new(1), FakePod::new(2));
    let (_fake, path, options) = bench.both(Answer::Status(StatusCode::UNAUTHORIZED)).await;
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let first = kubelet.snapshot().await.unwrap();
    drop(api);
    let gone = kubelet.newer_than(first.version).await;
    assert_eq!(gone.unwrap_err().reason(), "kubelet_unauthorized");
    let stale = kubelet.snapshot().await.unwrap();
    assert!(has(&stale, &one));
    assert_eq!(
        stale.stale().map(KubeletError::reason),
        Some("kubelet_unauthorized")
    );
    assert_eq!(
        stale.pod(&uid(&two)).unwrap_err().reason(),
        "kubelet_unauthorized"
    );
}

#[tokio::test]
async fn without_a_list_the_failure_of_the_pods_api_is_told() {
    let bench = Bench::new();
    let (path, options) = bench.watched();
    let kubelet = bench.kubelet(&options);
    let missing = kubelet.snapshot().await.unwrap_err();
    assert_eq!(missing.reason(), "pods_api_no_socket");
    let again = kubelet.newer_than(0).await.unwrap_err();
    assert_eq!(again.reason(), "pods_api_no_socket");

    // A socket of a kubelet that is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let refused = kubelet.newer_than(0).await.unwrap_err();
    assert_eq!(refused.reason(), "kubelet_unreachable");
}

#[tokio::test]
async fn a_kubelet_that_begins_is_waited_for() {
    let bench = Bench::new();
    let (path, options) = bench.watched();
    let api = FakePodsApi::start(&path, vec![FakePod::new(1)], &bench.tasks).unwrap();
    api.set_initializing(true);
    let kubelet = bench.kubelet(&options);
    let beginning = kubelet.snapshot().await.unwrap_err();
    assert_eq!(beginning.reason(), "pods_api_initializing");
    api.set_initializing(false);
    let first = loop {
        match kubelet.newer_than(0).await {
            Ok(first) => break first,
            Err(error) => assert_eq!(error.reason(), "pods_api_initializing"),
        }
    };
    assert!(has(&first, &FakePod::new(1)));
}

#[tokio::test]
async fn nonsense_ends_the_stream_and_is_not_taken_in() {
    let bench = Bench::new();
    let (path, options) = bench.watched();
    let one = FakePod::new(1);
    let api = FakePodsApi::start(&path, vec![one.clone()], &bench.tasks).unwrap();
    let kubelet = bench.kubelet(&options);
    let first = kubelet.snapshot().await.unwrap();
    api.tell_nonsense();
    assert_eq!(
        kubelet
            .newer_than(first.version)
            .await
            .unwrap_err()
            .reason(),
        "pods_api_not_a_pod"
    );
    let again = kubelet.newer_than(first.version).await.unwrap();
    assert!(has(&again, &one));
    api.called(2).await;
}

proptest! {
    #[test]
    fn a_uid_is_found_in_any_pod_and_in_nothing_else(
        name in "[a-z]{0,40}", rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let pod = FakePod { name, ..FakePod::new(7) };
        prop_assert_eq!(pod_uid(&pod.protobuf()), Some(pod.uid));
        let _ = pod_uid(&rest);
    }
}
