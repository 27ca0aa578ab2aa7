//! One connection, from its preface to its end.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::activity::Activity;
use super::limits::Limits;
use super::metrics::SocketMetrics;
use super::pace::Pace;
use super::preface::{self, AfterPreface, Filter};
use super::service::ConnectionService;
use super::writing::{Written, taken_in_time};
use crate::memory::Departures;
use crate::report;
use crate::shutdown::Shutdown;
use crate::tasks::TaskGroup;

/// The label of what ended because its peer does not read.
const NOT_READ: &str = "not_read";

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// By the peer, or after GOAWAY.
    Closed,
    /// The socket failed, or no ping was answered.
    Failed,
    /// The peer broke the rules of HTTP/2, or sent too much that asks for nothing.
    BrokeRules,
    /// The peer read nothing of what it was sent.
    NotRead,
    NotHttp2,
    PrefaceTimeout,
    HandshakeFailed,
    HandshakeTimeout,
    PeerExited,
    /// Another process than the one that connected wrote to it.
    ForeignWriter,
    NoRequest,
    Idle,
    /// Streams were left at the drain deadline.
    DrainDeadline,
}

impl Ended {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::BrokeRules => "broke_rules",
            Self::NotRead => NOT_READ,
            Self::NotHttp2 => "not_http2",
            Self::PrefaceTimeout => "preface_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::PeerExited => "peer_exited",
            Self::ForeignWriter => "foreign_writer",
            Self::NoRequest => "no_request",
            Self::Idle => "idle",
            Self::DrainDeadline => "drain_deadline",
        }
    }
}

/// What a connection is bound by.
pub(super) struct Bounds {
    pub(super) limits: Limits,
    pub(super) shutdown: Shutdown,
    pub(super) tasks: TaskGroup,
    pub(super) metrics: SocketMetrics,
    /// Who left, of streams.
    pub(super) departures: Departures,
}

impl Bounds {
    /// Reads the preface in time.
    pub(super) async fn greet(&self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Ended> {
        let read = tokio::time::timeout(self.limits.preface, preface::read(stream));
        tokio::select! {
            read = read => match read {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err(Ended::NotHttp2),
                // A probe that connects and leaves is no failure.
                Ok(Err(_)) => Err(Ended::Closed),
                Err(_) => Err(Ended::PrefaceTimeout),
            },
            () = self.shutdown.requested() => Err(Ended::Closed),
        }
    }

    /// Serves a connection whose preface has been read.
    pub(super) async fn serve<T>(
        &self,
        stream: T,
        filter: Option<Filter>,
        service: ConnectionService,
    ) -> Ended
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = service.activity.clone();
        let executor = StreamExecutor::new(self);
        // The streams are dropped with the connection, whether or not they ask h2 for its state.
        let _streams_end = executor.end_with_guard();
        let stream = Written::new(stream, self.limits.write);
        let pace = Pace::new(service.refusals.clone());
        let io = TokioIo::new(AfterPreface::new(stream, filter, pace));
        let mut connection = pin!(self.http2(executor).serve_connection(io, service));

        let ended = tokio::select! {
            ended = &mut connection => return closed(ended),
            ended = self.quiet(&activity) => ended,
            () = self.shutdown.requested() => Ended::DrainDeadline,
        };
        Pin::as_mut(&mut connection).graceful_shutdown();
        tokio::select! {
            closed = connection => match (closed, ended) {
                (Ok(()), Ended::DrainDeadline) => Ended::Closed,
                _ => ended,
            },
            () = self.overdue(ended, &activity) => ended,
        }
    }

    /// Waits until the connection has been without a stream for too long.
    async fn quiet(&self, activity: &Activity) -> Ended {
        let start = Instant::now();
        let due = start + self.limits.first_request;
        while !activity.is_any() {
            let now = Instant::now();
            if due <= now {
                return Ended::NoRequest;
            }
            // Nobody is woken by a first request, and not before this can one be gone for too long.
            sleep_until(due.min(now + self.limits.idle)).await;
        }
        activity.without_streams(self.limits.idle, start).await;
        Ended::Idle
    }

    /// Waits until a peer that was told to go has had its time. A stream that crossed the word on
    /// its way is let go on.
    async fn overdue(&self, ended: Ended, activity: &Activity) {
        if ended != Ended::DrainDeadline {
            tokio::select! {
                () = activity.without_streams(self.limits.leave, Instant::now()) => return,
                () = self.shutdown.requested() => {}
            }
        }
        sleep(self.limits.drain).await;
    }

    fn http2(&self, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
        let limits = &self.limits;
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.header_list_bytes)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_send_buf_size(limits.send_buffer_bytes)
            .max_pending_accept_reset_streams(limits.pending_reset_streams)
            .max_local_error_reset_streams(limits.error_reset_streams)
            .keep_alive_interval(limits.keepalive)
            .keep_alive_timeout(limits.keepalive_timeout)
            .auto_date_header(false);
        builder
    }
}

fn closed(ended: hyper::Result<()>) -> Ended {
    match ended {
        Ok(()) => Ended::Closed,
        Err(error) => {
            debug!(error = report::chain(&error), "Connection failed");
            judged(&error)
        }
    }
}

/// Whose fault it was.
fn judged(error: &hyper::Error) -> Ended {
    let Some(cause) = std::error::Error::source(error) else {
        return Ended::Failed;
    };
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return match io.kind() {
            io::ErrorKind::QuotaExceeded => Ended::BrokeRules,
            io::ErrorKind::TimedOut => Ended::NotRead,
            _ => Ended::Failed,
        };
    }
    match cause.downcast_ref::<h2::Error>() {
        Some(broken) if !broken.is_remote() => Ended::BrokeRules,
        _ => Ended::Failed,
    }
}

/// Runs the streams of one connection in the task group, and ends them with the connection.
#[derive(Clone)]
struct StreamExecutor {
    tasks: TaskGroup,
    metrics: SocketMetrics,
    departures: Departures,
    patience: Duration,
    end: CancellationToken,
}

impl StreamExecutor {
    fn new(bounds: &Bounds) -> Self {
        Self {
            tasks: bounds.tasks.clone(),
            metrics: bounds.metrics.clone(),
            departures: bounds.departures.clone(),
            patience: bounds.limits.write,
            end: CancellationToken::new(),
        }
    }

    fn end_with_guard(&self) -> DropGuard {
        self.end.clone().drop_guard()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let Self {
            tasks: _,
            metrics,
            departures,
            patience,
            end,
        } = self.clone();
        // In a box, for each future around it would hold it once more.
        let stream: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(stream);
        self.tasks.spawn_contained("stream", async move {
            tokio::select! {
                in_time = taken_in_time(stream, patience) => if !in_time {
                    metrics.refused_stream(NOT_READ);
                },
                () = end.cancelled() => {}
            }
            departures.one_left();
        });
    }
}
