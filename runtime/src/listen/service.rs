//! What a connection does with a request: counts it, says who asks, and hands it on.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service as _;
use tracing::warn;

use super::activity::{Activity, OpenStream};
use super::gate::{Admission, Refused, StreamPlace};
use super::metrics::SocketMetrics;
use super::pace::Refusals;
use super::tls::TlsPeer;
use super::writing;
use crate::quota::Quota;
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
    pub(super) refusals: Refusals,
    pub(super) metrics: SocketMetrics,
    /// Room in the log for refusals of this listener.
    pub(super) quota: Arc<Quota>,
}

/// An answer's body, which keeps its stream counted until it is sent or dropped.
pub(super) struct CountedBody {
    body: Body,
    _stream: Option<(StreamPlace, OpenStream)>,
}

impl Caller {
    /// The process id and the user id, if it has them.
    fn process(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Unix(credentials, _) => (credentials.pid, Some(credentials.uid)),
            Self::Tls(_) => (None, None),
        }
    }

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
        let place = match self.admission.call(Instant::now()) {
            Ok(place) => place,
            Err(refused) => {
                self.refused(refused);
                return Box::pin(std::future::ready(Ok(exhausted(refused))));
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

impl ConnectionService {
    /// Counts a refusal, lets the peer wait, and tells the log of a few of them.
    fn refused(&self, refused: Refused) {
        self.refusals.one_more();
        self.metrics.refused_stream(refused.reason());
        if let Some(passed_over) = self.quota.take() {
            let (pid, uid) = self.caller.process();
            warn!(
                listener = self.metrics.name(),
                peer.pid = pid,
                peer.uid = uid,
                error.reason = refused.reason(),
                passed_over,
                "Refused a call of a peer that has or makes too many"
            );
        }
    }
}

impl HttpBody for CountedBody {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        writing::room_for_more();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            writing::something_to_send();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn exhausted(refused: Refused) -> Response<CountedBody> {
    let status = tonic::Status::resource_exhausted(refused.message());
    status.into_http::<Body>().map(|body| CountedBody {
        body,
        _stream: None,
    })
}
