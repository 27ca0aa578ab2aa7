//! What callers learn when the kubelet does not do what it should.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::super::fake::{Answer, FakePod};
use super::super::list::MAX_LIST_BYTES;
use super::super::{KubeletError, PodLookupError, Snapshot};
use super::{Bench, id, uid};

fn reason(answer: &Result<Arc<Snapshot>, KubeletError>) -> &'static str {
    answer.as_ref().err().map_or("ok", KubeletError::reason)
}

/// What the first caller learns of a kubelet that answers so.
async fn outcome(answer: Answer) -> &'static str {
    let bench = Bench::new();
    let (_fake, options) = bench.plain(answer).await;
    reason(&bench.kubelet(&options).snapshot().await)
}

#[tokio::test]
async fn each_failure_has_its_reason() {
    let half = FakePod::list(&[FakePod::new(1)]);
    let half = Bytes::copy_from_slice(&half[..half.len() / 2]);
    let cases = [
        (Answer::Pods(Vec::new()), "ok"),
        (
            Answer::Status(StatusCode::UNAUTHORIZED),
            "kubelet_unauthorized",
        ),
        (Answer::Status(StatusCode::FORBIDDEN), "kubelet_forbidden"),
        (
            Answer::Status(StatusCode::INTERNAL_SERVER_ERROR),
            "kubelet_status",
        ),
        (
            Answer::Body(Bytes::from_static(b"<html>")),
            "kubelet_garbage",
        ),
        (Answer::Body(Bytes::from_static(b"{}")), "kubelet_garbage"),
        (Answer::Body(half.clone()), "kubelet_garbage"),
        (Answer::Broken(half), "kubelet_interrupted"),
    ];
    for (answer, expected) in cases {
        assert_eq!(outcome(answer.clone()).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_unreachable() {
    let bench = Bench::new();
    let (fake, options) = bench.plain(Answer::Hang).await;
    drop(fake);
    bench
        .tasks
        .trigger()
        .trigger(runtime::shutdown::Reason::Requested("test"));
    bench.tasks.drain(Duration::from_secs(10)).await;
    let other = Bench::new();
    assert_eq!(
        reason(&other.kubelet(&options).snapshot().await),
        "kubelet_unreachable"
    );
}

#[tokio::test]
async fn a_list_that_does_not_end_is_refused_while_it_comes() {
    let bench = Bench::new();
    let (fake, options) = bench.plain(Answer::Endless).await;
    let kubelet = bench.kubelet(&options);
    assert_eq!(reason(&kubelet.snapshot().await), "kubelet_too_large");
    // What was not taken lay in buffers between the two ends.
    assert!(
        fake.produced() < MAX_LIST_BYTES + (32 << 20),
        "{}",
        fake.produced()
    );
}

#[tokio::test]
async fn all_who_wait_for_a_hanging_kubelet_learn_it_from_one_request() {
    let bench = Bench::new();
    let (fake, mut options) = bench.plain(Answer::Hang).await;
    options.request_timeout = Duration::from_millis(300);
    let kubelet = bench.kubelet(&options);
    let (one, two, three) = tokio::join!(
        kubelet.snapshot(),
        kubelet.snapshot(),
        kubelet.newer_than(0)
    );
    for answer in [one, two, three] {
        assert_eq!(reason(&answer), "kubelet_timeout");
    }
    assert_eq!(fake.requests(), 1);
}

#[tokio::test]
async fn a_failure_does_not_outlive_its_cause() {
    let bench = Bench::new();
    let (fake, options) = bench
        .plain(Answer::Status(StatusCode::INTERNAL_SERVER_ERROR))
        .await;
    let kubelet = bench.kubelet(&options);
    assert_eq!(reason(&kubelet.snapshot().await), "kubelet_status");
    fake.answer(Answer::Pods(vec![FakePod::new(1)]));
    let snapshot = kubelet.snapshot().await.unwrap();
    assert!(snapshot.pod(&uid(&FakePod::new(1))).unwrap().is_some());
    assert_eq!(bench.metrics.requests(false, "kubelet_status"), 1);
    assert_eq!(bench.metrics.requests(false, "ok"), 1);
}

#[tokio::test]
async fn a_current_list_is_shared_and_not_fetched_again() {
    let bench = Bench::new();
    let (fake, options) = bench.plain(Answer::Pods(vec![FakePod::new(1)])).await;
    let kubelet = bench.kubelet(&options);
    let (one, two) = tokio::join!(kubelet.snapshot(), kubelet.snapshot());
    let three = kubelet.snapshot().await.unwrap();
    assert_eq!(fake.requests(), 1);
    assert_eq!(one.unwrap().version, three.version);
    assert_eq!(two.unwrap().version, three.version);
}

#[tokio::test]
async fn a_pod_that_the_list_lags_behind_is_found_in_a_newer_one() {
    let bench = Bench::new();
    let pod = FakePod::new(1);
    let container = id(&pod);
    let (fake, options) = bench.plain(Answer::Pods(vec![pod.clone().waiting()])).await;
    let kubelet = bench.kubelet(&options);
    let mut snapshot = kubelet.snapshot().await.unwrap();
    assert!(snapshot.pod(&uid(&pod)).unwrap().is_some());
    assert!(snapshot.by_container(&container).unwrap().is_none());

    // Two more lists without it, then one with it.
    snapshot = kubelet.newer_than(snapshot.version).await.unwrap();
    snapshot = kubelet.newer_than(snapshot.version).await.unwrap();
    assert!(snapshot.by_container(&container).unwrap().is_none());
    fake.answer(Answer::Pods(vec![pod]));
    snapshot = kubelet.newer_than(snapshot.version).await.unwrap();
    assert!(snapshot.by_container(&container).unwrap().is_some());
    assert_eq!(fake.requests(), 4);
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn an_old_list_proves_a_pod_and_never_its_absence() {
    let bench = Bench::new();
    let (known, unknown) = (FakePod::new(1), FakePod::new(2));
    let (fake, mut options) = bench.plain(Answer::Pods(vec![known.clone()])).await;
    options.poll_retry_interval = Duration::ZERO;
    let kubelet = bench.kubelet(&options);
    let version = kubelet.snapshot().await.unwrap().version;

    fake.answer(Answer::Status(StatusCode::FORBIDDEN));
    let stale = kubelet.snapshot().await.unwrap();
    assert_eq!(
        stale.stale().map(KubeletError::reason),
        Some("kubelet_forbidden")
    );
    assert!(stale.pod(&uid(&known)).unwrap().is_some());
    assert!(stale.by_container(&id(&known)).unwrap().is_some());
    let told = stale
        .pod(&uid(&unknown))
        .map(|_| ())
        .map_err(|error| error.reason());
    assert_eq!(told, Err("kubelet_forbidden"));
    assert!(matches!(
        stale.by_container(&id(&unknown)),
        Err(PodLookupError::Stale(_))
    ));
    assert_eq!(
        reason(&kubelet.newer_than(version).await),
        "kubelet_forbidden"
    );
}

#[tokio::test]
async fn a_caller_of_a_hanging_kubelet_is_served_what_was_told_before() {
    let bench = Bench::new();
    let (fake, mut options) = bench.plain(Answer::Pods(vec![FakePod::new(1)])).await;
    options.poll_retry_interval = Duration::ZERO;
    let kubelet = bench.kubelet(&options);
    kubelet.snapshot().await.unwrap();
    fake.answer(Answer::Hang);
    let stale = kubelet.snapshot().await.unwrap();
    assert_eq!(
        stale.stale().map(KubeletError::reason),
        Some("kubelet_slow")
    );
}

#[tokio::test]
async fn changes_are_told_once_each() {
    let bench = Bench::new();
    let (fake, mut options) = bench.plain(Answer::Pods(vec![FakePod::new(1)])).await;
    options.poll_retry_interval = Duration::ZERO;
    let kubelet = bench.kubelet(&options);
    let mut changes = kubelet.changes();
    let first = kubelet.snapshot().await.unwrap().version;
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), first);
    kubelet.snapshot().await.unwrap();
    assert!(!changes.has_changed().unwrap());
    fake.answer(Answer::Pods(Vec::new()));
    let third = kubelet.snapshot().await.unwrap().version;
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), third);
}
