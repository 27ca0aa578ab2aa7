//! A kubelet that does what a test tells it to: its list over HTTP, and its Pods API.

mod api;
mod pods;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::tasks::TaskGroup;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use self::api::FakePodsApi;
pub use self::pods::FakePod;

/// What the next requests are answered with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The list of these pods.
    Pods(Vec<FakePod>),
    /// Nothing, until another answer is told.
    Hang,
    /// A status without a body.
    Status(StatusCode),
    /// A body, whatever it is.
    Body(Bytes),
    /// The beginning of a body; then the connection breaks.
    Broken(Bytes),
    /// A list that does not end.
    Endless,
}

/// The list over HTTP. It is gone when its task group is.
#[derive(Debug)]
pub struct FakeKubelet {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    answer: watch::Sender<Answer>,
    // The token that is known; `None` lets everybody in.
    token: watch::Sender<Option<String>>,
    requests: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    // Bytes of endless lists that were asked for.
    produced: watch::Sender<usize>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl FakeKubelet {
    /// Listens on a port of 127.0.0.1, with TLS if there is a configuration for it.
    pub async fn start(
        tls: Option<ServerConfig>,
        answer: Answer,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State {
            answer: watch::Sender::new(answer),
            token: watch::Sender::new(None),
            requests: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            produced: watch::Sender::new(0),
        });
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let accepting = accept(listener, tls, Arc::clone(&state), tasks.clone());
        let shutdown = tasks.shutdown();
        tasks.spawn("fake-kubelet", async move {
            tokio::select! {
                () = accepting => {}
                () = shutdown.requested() => {}
            }
        });
        Ok(Self { addr, state })
    }

    /// Answers so from now on, requests that hang included.
    pub fn answer(&self, answer: Answer) {
        self.state.answer.send_replace(answer);
    }

    /// Lets in who shows this token, and answers 401 to all others.
    pub fn know(&self, token: &str) {
        self.state.token.send_replace(Some(token.to_owned()));
    }

    /// How many requests have come.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits until `count` requests have come.
    pub async fn requested(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        // The sender lives as long as this.
        let _ = requests.wait_for(|come| *come >= count).await;
    }

    /// How many connections have been made.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// How many bytes of endless lists somebody was ready to take.
    #[must_use]
    pub fn produced(&self) -> usize {
        *self.state.produced.borrow()
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    tasks: TaskGroup,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        state.connections.send_modify(|count| *count += 1);
        let (tls, state, shutdown) = (tls.clone(), Arc::clone(&state), tasks.shutdown());
        tasks.spawn_contained("fake-kubelet-connection", async move {
            let serving = async {
                match tls {
                    None => serve(tcp, state).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp).await {
                            serve(stream, state).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = serving => {}
                () = shutdown.requested() => {}
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&request, &state).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A client that goes away is part of the play.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(request: &Request<Incoming>, state: &State) -> Response<Body> {
    state.requests.send_modify(|count| *count += 1);
    if request.uri().path() != "/pods" {
        return status(StatusCode::NOT_FOUND);
    }
    let known = state.token.borrow().clone();
    let shown = request.headers().get(AUTHORIZATION);
    if let Some(token) = known
        && shown.is_none_or(|shown| shown.as_bytes() != format!("Bearer {token}").as_bytes())
    {
        return status(StatusCode::UNAUTHORIZED);
    }
    let mut answers = state.answer.subscribe();
    let answer = answers
        .wait_for(|answer| !matches!(answer, Answer::Hang))
        .await;
    match answer.map_or(Answer::Hang, |answer| answer.clone()) {
        Answer::Pods(pods) => whole(FakePod::list(&pods).into()),
        Answer::Hang => std::future::pending().await,
        Answer::Status(code) => status(code),
        Answer::Body(body) => whole(body),
        Answer::Broken(beginning) => broken(beginning),
        Answer::Endless => endless(state.produced.clone()),
    }
}

fn whole(body: Bytes) -> Response<Body> {
    Response::new(
        Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync(),
    )
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = whole(Bytes::new());
    *response.status_mut() = code;
    response
}

fn broken(beginning: Bytes) -> Response<Body> {
    let announced = beginning.len() + 1;
    let frames = [
        Ok(Frame::data(beginning)),
        Err(io::ErrorKind::BrokenPipe.into()),
    ];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, announced.into());
    response
}

fn endless(produced: watch::Sender<usize>) -> Response<Body> {
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let frames = stream::repeat(chunk).map(move |chunk| {
        produced.send_modify(|bytes| *bytes += chunk.len());
        Ok(Frame::data(chunk))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}
