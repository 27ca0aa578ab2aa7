//! Facts about listeners, seen by clients that know nothing of our side of hyper.

mod bind;
mod client;
mod hostile;
mod names;
mod shares;
mod tls;
mod unix;

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Frame};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::body::Body;

use super::*;
use crate::shutdown::{Reason, ShutdownTrigger};
use crate::unix::{Credentials, Peer};

/// Longer than any test, for limits that it is not about.
const LONG: Duration = Duration::from_secs(600);
/// A hang guard.
const GUARD: Duration = Duration::from_secs(30);

/// A service that says who asks, hangs, or panics, as its path wants.
#[derive(Clone)]
struct Probe {
    /// How many answers hang.
    hanging: watch::Sender<usize>,
}

impl tonic::server::NamedService for Probe {
    const NAME: &'static str = "test.Probe";
}

impl tower_service::Service<Request<Body>> for Probe {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let hanging = self.hanging.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/test.Probe/Who" => who(&request),
                "/test.Probe/Talk" => Response::new(Body::new(Endless)),
                "/test.Probe/Hang" => Response::new(Body::new(Hanging::new(hanging))),
                // A handler that does not even begin to answer.
                "/test.Probe/Think" => {
                    let _hanging = Hanging::new(hanging);
                    std::future::pending().await
                }
                other => panic!("on purpose: {other}"),
            })
        })
    }
}

fn who(request: &Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let mut tell = |name: &'static str, value: String| {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_str(&value).unwrap());
    };
    if let Some(credentials) = request.extensions().get::<Credentials>() {
        tell("uid", credentials.uid.to_string());
    }
    if let Some(peer) = request.extensions().get::<Arc<Peer>>() {
        tell("pid", peer.pid().to_string());
    }
    if let Some(peer) = request.extensions().get::<Arc<TlsPeer>>() {
        tell("certificates", peer.certificates.len().to_string());
        tell("ip", peer.addr.ip().to_string());
    }
    tell(
        "authority",
        request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default(),
    );
    response
}

/// A body that never ends by itself.
struct Hanging(watch::Sender<usize>);

impl Hanging {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl HttpBody for Hanging {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, tonic::Status>>> {
        Poll::Pending
    }
}

/// A body that always has more to say.
struct Endless;

impl HttpBody for Endless {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, tonic::Status>>> {
        Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::from_static(&[0; 1024])))))
    }
}

/// A listener in its own folder.
struct Served {
    path: PathBuf,
    addr: Option<std::net::SocketAddr>,
    hanging: watch::Receiver<usize>,
    metrics: SocketMetrics,
    tasks: TaskGroup,
    trigger: ShutdownTrigger,
    done: tokio::sync::oneshot::Receiver<()>,
    _folder: TempDir,
}

/// Limits that nothing reaches.
fn patient() -> Limits {
    Limits {
        preface: LONG,
        handshake: LONG,
        first_request: LONG,
        idle: LONG,
        leave: LONG,
        write: LONG,
        drain: LONG,
        ..Limits::workload()
    }
}

fn served_on_unix(limits: Limits) -> Served {
    served(limits, |path| {
        let bound = bind_unix(path, 0o777).unwrap();
        (None, move |routes, serve| serve_unix(bound, routes, serve))
    })
}

fn served<F>(
    limits: Limits,
    open: impl FnOnce(&std::path::Path) -> (Option<std::net::SocketAddr>, F),
) -> Served
where
    F: AsyncFnOnceSend,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let (addr, serve_it) = open(&path);
    let (hang, hanging) = watch::channel(0);
    let routes = Routes::new(Probe { hanging: hang });
    let (trigger, shutdown) = Shutdown::new();
    let tasks = TaskGroup::new(trigger.clone());
    let metrics = ListenMetrics::register(&mut Registry::default()).socket("test");
    let serve = Serve {
        limits,
        shutdown,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
    };
    let serving = serve_it.serve(routes, serve);
    let (finish, done) = tokio::sync::oneshot::channel();
    tasks.spawn("listener", async move {
        serving.await.unwrap();
        let _ = finish.send(());
    });
    Served {
        path,
        addr,
        hanging,
        metrics,
        tasks,
        trigger,
        done,
        _folder: folder,
    }
}

/// What [`served`] runs: a serve function with its socket.
trait AsyncFnOnceSend {
    fn serve(
        self,
        routes: Routes,
        serve: Serve,
    ) -> Pin<Box<dyn Future<Output = Result<(), ListenError>> + Send>>;
}

impl<F, R> AsyncFnOnceSend for F
where
    F: FnOnce(Routes, Serve) -> R,
    R: Future<Output = Result<(), ListenError>> + Send + 'static,
{
    fn serve(
        self,
        routes: Routes,
        serve: Serve,
    ) -> Pin<Box<dyn Future<Output = Result<(), ListenError>> + Send>> {
        Box::pin(self(routes, serve))
    }
}

impl Served {
    /// Waits until so many answers hang.
    async fn until_hanging(&mut self, count: usize) {
        let reached = self.hanging.wait_for(|hanging| *hanging == count);
        tokio::time::timeout(GUARD, reached).await.unwrap().unwrap();
    }

    /// Waits until no connection is open.
    async fn until_closed(&self) {
        let closed = async {
            while self.metrics.open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(GUARD, closed).await.unwrap();
    }

    fn stop(&self) {
        self.trigger.trigger(Reason::Requested("test"));
    }
}
