//! The one way to open a gRPC listener, with every limit set.
//!
//! A stock server has no bound on connections, streams or silence, so one workload could take its
//! node's agent down. Here each connection and each call is counted by who made it, must say something
//! in time and read what it is told,
//! is dropped when its process exits, and lives in a task that can panic without harm to others.
//! A handler finds its caller in the request's extensions: [`Credentials`] and `Arc<`[`Peer`]`>` on
//! a Unix socket, `Arc<`[`TlsPeer`]`>` on TLS.
//!
//! [`Credentials`]: crate::unix::Credentials
//! [`Peer`]: crate::unix::Peer

mod accept;
mod activity;
mod bind;
mod callers;
mod connection;
mod descriptors;
mod gate;
mod limits;
mod metrics;
mod names;
mod pace;
mod preface;
mod service;
mod tls;
mod writing;

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tonic::service::Routes;
use tracing::error;

pub use self::bind::{BoundTcp, BoundUnix, ListenError, bind_host, bind_tcp, bind_unix};
pub use self::gate::site;
pub use self::limits::{ContainerKey, Containers, Limits, Peers, Rate, Share};
pub use self::metrics::{ListenMetrics, SocketMetrics};
pub use self::tls::{TlsPeer, harden, tls13};

use self::accept::Listener;
use crate::report;
use crate::shutdown::Shutdown;
use crate::tasks::TaskGroup;

/// What a listener needs besides its socket and its services.
#[derive(Clone, Debug)]
pub struct Serve {
    /// How much of everything a peer may have.
    pub limits: Limits,
    /// Ends the listener: no new connection, GOAWAY to the open ones, then the drain deadline.
    pub shutdown: Shutdown,
    /// Owns every connection and stream.
    pub tasks: TaskGroup,
    /// Counts of this socket.
    pub metrics: SocketMetrics,
}

/// The TLS configuration for the next handshake. It is asked each time, so certificates can rotate.
pub type TlsConfigSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// Serves a Unix socket until shutdown, and returns when its last connection has ended.
///
/// The `:authority` of requests is made valid; see [`crate::authority`].
pub async fn serve_unix(bound: BoundUnix, routes: Routes, serve: Serve) -> Result<(), ListenError> {
    let listener = bound.listener().and_then(UnixListener::from_std);
    let listener = listener.map_err(ListenError::Register)?;
    Listener::new(routes, serve)
        .accept_unix(listener, bound)
        .await;
    Ok(())
}

/// Serves a TCP port over TLS until shutdown, and returns when its last connection has ended.
///
/// What `config` gives is hardened with [`harden`] by its maker; clients without ALPN `h2` are
/// refused here.
pub async fn serve_tls(
    bound: BoundTcp,
    config: TlsConfigSource,
    routes: Routes,
    serve: Serve,
) -> Result<(), ListenError> {
    let listener = TcpListener::from_std(bound.into_std()).map_err(ListenError::Register)?;
    Listener::new(routes, serve)
        .accept_tls(listener, config)
        .await;
    Ok(())
}

/// Runs a listener, and tells the log if it fails; its socket stays silent then.
pub async fn told(name: &'static str, listener: impl Future<Output = Result<(), ListenError>>) {
    if let Err(cause) = listener.await {
        error!(
            listener = name,
            error = report::chain(&cause),
            error.reason = cause.reason(),
            "A listener failed"
        );
    }
}

#[cfg(test)]
mod tests;
