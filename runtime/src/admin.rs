//! Health and metrics for those who watch the process, over plain HTTP.
//!
//! The paths and answers are SPIRE's: 200 or 500, and a JSON object with a member for each
//! component. These listeners tell nothing secret and take no input but a path; they are bounded
//! all the same.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use crate::listen::{self, BoundTcp, ListenError};
use crate::metrics::{self, Metrics};
use crate::readiness::{Readiness, State};
use crate::shutdown::Shutdown;
use crate::tasks::TaskGroup;

/// A kubelet, a scraper or two, and a person.
const MAX_CONNECTIONS: usize = 32;
/// A request's head must arrive within this; SPIRE's limit. It also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection lasts longer, whatever it does.
const LONGEST_CONNECTION: Duration = Duration::from_secs(120);
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long to wait when no connection can be accepted.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What a listener shows.
#[derive(Clone, Debug)]
pub enum Pages {
    /// Whether the process is live and ready.
    Health {
        /// `health_checks.live_path`.
        live_path: String,
        /// `health_checks.ready_path`.
        ready_path: String,
        /// What they tell.
        readiness: Readiness,
    },
    /// The metrics, at every path.
    Metrics(Metrics),
}

type Answer = Response<Full<Bytes>>;

/// Starts to serve pages, until shutdown. A listener that fails is seen in the log.
pub fn start(bound: BoundTcp, pages: Pages, tasks: &TaskGroup) -> SocketAddr {
    let (addr, name) = (bound.addr(), pages.name());
    let served = serve(bound, pages, tasks.shutdown(), tasks.clone());
    tasks.spawn(name, listen::told(name, served));
    addr
}

async fn serve(
    bound: BoundTcp,
    pages: Pages,
    shutdown: Shutdown,
    tasks: TaskGroup,
) -> Result<(), ListenError> {
    let addr = bound.addr();
    let listener = TcpListener::from_std(bound.into_std()).map_err(ListenError::Register)?;
    let pages = Arc::new(pages);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    info!(listener = pages.name(), listener.addr = %addr, "Listening");
    loop {
        let (stream, place) = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        let connection = connection(stream, Arc::clone(&pages), shutdown.clone(), place);
        tasks.spawn_contained("admin connection", connection);
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // Nobody closes this semaphore, so there is always a permit.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                warn!(%error, "Could not accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    pages: Arc<Pages>,
    shutdown: Shutdown,
    _place: Option<OwnedSemaphorePermit>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = tokio::time::timeout(LONGEST_CONNECTION, connection) => {
            if let Ok(Err(error)) = ended {
                debug!(error = crate::report::chain(&error), "Connection failed");
            }
        }
        () = shutdown.requested() => {}
    }
}

impl Pages {
    fn name(&self) -> &'static str {
        match self {
            Self::Health { .. } => "health",
            Self::Metrics(_) => "metrics",
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new());
        }
        match self {
            Self::Health {
                live_path,
                readiness,
                ..
            } if path == live_path => {
                let not_live = |state: &State| matches!(state, State::NotLive(_));
                health(readiness, readiness.is_live(), not_live)
            }
            Self::Health {
                ready_path,
                readiness,
                ..
            } if path == ready_path => health(readiness, readiness.is_ready(), |_| true),
            Self::Metrics(metrics) => {
                answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics.encode())
            }
            Self::Health { .. } => answer(
                StatusCode::NOT_FOUND,
                "text/plain",
                "404 page not found\n".to_owned(),
            ),
        }
    }
}

/// A member for each component, with the reason of those whose state is told here.
fn health(readiness: &Readiness, healthy: bool, told: impl Fn(&State) -> bool) -> Answer {
    let details = readiness.states().into_iter().map(|(name, state)| {
        let detail = match &state {
            State::NotReady(why) | State::NotLive(why) if told(&state) => json!({ "err": why }),
            _ => json!({}),
        };
        (name.to_owned(), detail)
    });
    let details = Value::Object(details.collect::<Map<_, _>>());
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    answer(status, "application/json", format!("{details}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests;
