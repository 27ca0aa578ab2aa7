//! What happens to a stream when nothing happens: simulated time, no socket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use runtime::clock::Clock;
use runtime::quota::Quota;
use runtime::shutdown::ShutdownTrigger;
use runtime::unix::Peer;
use tokio::net::UnixStream;
use tonic::body::Body;
use tower::ServiceExt;

use crate::fake::FakeSource;
use crate::metrics::Method;
use crate::options::SocketOptions;
use crate::routes::routes;
use crate::session::{Context, Session};
use crate::testing::{Pki, deps};

/// An answered stream, read frame by frame.
struct Stream {
    body: Body,
    _trigger: ShutdownTrigger,
}

impl Stream {
    async fn open(source: &Arc<FakeSource>, peer: Option<&Arc<Peer>>) -> Self {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let (deps, trigger) = deps(clock);
        let routes = routes(Arc::clone(source), SocketOptions::default(), deps).unwrap();
        let mut request = Request::post("/SpiffeWorkloadAPI/FetchX509SVID")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("workload.spiffe.io", "true")
            .body(Body::new(http_body_util::Full::new(
                bytes::Bytes::from_static(&[0; 5]),
            )))
            .unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Arc::clone(peer));
        }
        let response = routes.oneshot(request).await.unwrap();
        Self {
            body: response.into_body(),
            _trigger: trigger,
        }
    }

    /// The next message within a time; `None` if there is none.
    async fn message(&mut self, within: Duration) -> Option<bytes::Bytes> {
        let frame = tokio::time::timeout(within, self.body.frame()).await.ok()?;
        frame.unwrap().unwrap().into_data().ok()
    }
}

fn peer() -> (Arc<Peer>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Arc::new(Peer::of(&ours).unwrap()), theirs)
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_has_exactly_one_message_and_its_caller_is_attested_again() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    let (peer, _other_end) = peer();
    let mut stream = Stream::open(&source, Some(&peer)).await;
    assert!(stream.message(Duration::from_secs(1)).await.is_some());
    assert!(stream.message(Duration::from_secs(3605)).await.is_none());
    assert_eq!(source.attestations(), 1 + 60);
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    assert!(stream.message(Duration::from_secs(1)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_caller_cannot_be_attested_again() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    let (peer, _other_end) = peer();
    let mut stream = Stream::open(&source, Some(&peer)).await;
    assert!(stream.message(Duration::from_secs(1)).await.is_some());
    source.fail_attestation(true);
    let end = stream.body.frame().await.unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "14");
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_whom_something_new_was_said_is_attested_again_before_it_is_told_anything() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    let (peer, _other_end) = peer();
    let mut stream = Stream::open(&source, Some(&peer)).await;
    assert!(stream.message(Duration::from_secs(1)).await.is_some());
    source.suspect();
    // Once, and not as often as it can.
    assert!(stream.message(Duration::from_secs(50)).await.is_none());
    assert_eq!(source.attestations(), 2);
    source.fail_attestation(true);
    source.suspect();
    source.publish(vec![pki.identity("b", "/other", "", 1)]);
    let suspected = tokio::time::Instant::now();
    let end = stream.body.frame().await.unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "14");
    assert_eq!(suspected.elapsed(), Duration::ZERO);
}

/// Each request of an Envoy ends the waiting for what comes next, and begins it anew.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_rests_does_not_put_its_attestation_off() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    let (deps, _trigger) = deps(Clock::simulated(SystemTime::UNIX_EPOCH));
    let context = Arc::new(Context {
        source: Arc::clone(&source),
        options: SocketOptions::default(),
        clock: deps.clock,
        shutdown: deps.shutdown,
        metrics: deps.metrics,
        quota: Quota::default(),
    });
    let (peer, _other_end) = peer();
    let mut extensions = http::Extensions::new();
    extensions.insert(peer);
    let opened = Session::open(&context, Method::StreamSecrets, &extensions).await;
    let mut session = opened.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    session.next().await.unwrap();
    source.slow_attestation(true);
    source.suspect();
    for _ in 0..20 {
        let _ = session.next().now_or_never();
    }
    assert_eq!(source.attestations(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_update_and_is_woken_by_it() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    let (peer, _other_end) = peer();
    let mut stream = Stream::open(&source, Some(&peer)).await;
    assert!(stream.message(Duration::from_secs(5)).await.is_none());
    source.publish(vec![pki.identity("a", "/only", "", 1)]);
    let woken = tokio::time::Instant::now();
    assert!(stream.message(Duration::from_secs(5)).await.is_some());
    assert_eq!(woken.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_request_without_a_held_peer_is_refused_unattested() {
    let pki = Pki::new("example.org");
    let source = FakeSource::new(Arc::clone(&pki.bundle));
    let mut stream = Stream::open(&source, None).await;
    assert!(stream.body.frame().await.is_none());
    assert_eq!(source.attestations(), 0);
}
