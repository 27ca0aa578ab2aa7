//! What a connection does with a request: counts it, says who asks, and hands it on.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service as _;

use super::gate::{Admission, StreamPlace};
use super::metrics::SocketMetrics;
use super::tls::TlsPeer;
use crate::unix::{Credentials, Peer};

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Unix(Credentials, Option<Arc<Peer>>),
    Tls(Arc<TlsPeer>),
}

/// The service of one connection.
pub(super) struct ConnectionService {
    pub(super) routes: Routes,
    pub(super) caller: Caller,
    pub(super) admission: Arc<Admission>,
    pub(super) activity: Activity,
    pub(super) metrics: SocketMetrics,
}

/// How many streams a connection has, and whether it ever had one.
#[derive(Clone, Debug)]
pub(super) struct Activity(watch::Sender<Streams>);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Streams {
    pub(super) open: usize,
    pub(super) any: bool,
}

/// An answer's body, which keeps its stream counted until it is sent or dropped.
pub(super) struct CountedBody {
    body: Body,
    _stream: Option<(StreamPlace, OpenStream)>,
}

struct OpenStream(watch::Sender<Streams>);

impl Caller {
    fn introduce(&self, extensions: &mut Extensions) {
        match self {
            Self::Unix(credentials, peer) => {
                extensions.insert(*credentials);
                if let Some(peer) = peer {
                    extensions.insert(Arc::clone(peer));
                }
            }
            Self::Tls(peer) => {
                extensions.insert(Arc::clone(peer));
            }
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = self.activity.open();
        let place = match self.admission.stream() {
            Ok(place) => place,
            Err(full) => {
                self.metrics.refused_stream(full.reason());
                return Box::pin(std::future::ready(Ok(too_many_streams())));
            }
        };
        self.caller.introduce(request.extensions_mut());
        // The router behind `Routes` is always ready.
        let answer = self.routes.clone().call(request);
        Box::pin(async move {
            let stream = Some((place, open));
            Ok(answer.await?.map(|body| CountedBody {
                body,
                _stream: stream,
            }))
        })
    }
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Streams> {
        self.0.subscribe()
    }

    fn open(&self) -> OpenStream {
        self.0.send_modify(|streams| {
            streams.open += 1;
            streams.any = true;
        });
        OpenStream(self.0.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|streams| streams.open -= 1);
    }
}

impl HttpBody for CountedBody {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_many_streams() -> Response<CountedBody> {
    let status = tonic::Status::resource_exhausted("too many concurrent streams");
    status.into_http::<Body>().map(|body| CountedBody {
        body,
        _stream: None,
    })
}
