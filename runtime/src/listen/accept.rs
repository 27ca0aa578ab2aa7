//! Takes connections in, and gives each its task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::service::Routes;
use tracing::{debug, info, warn};

use super::bind::BoundUnix;
use super::connection::{Bounds, Ended};
use super::gate::{Admission, Gate, Holder};
use super::limits::Peers;
use super::metrics::Open;
use super::service::{Activity, Caller, ConnectionService};
use super::tls::{H2, TlsPeer};
use super::{Serve, TlsConfigSource};
use crate::authority::AuthorityFilter;
use crate::report;
use crate::unix::{Credentials, Peer, PeerError};

/// How long to wait when the process or the machine has no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// One listener while it serves.
pub(super) struct Listener {
    shared: Arc<Shared>,
    connections: TaskTracker,
}

struct Shared {
    routes: Routes,
    serve: Serve,
    gate: Arc<Gate>,
    bounds: Bounds,
}

/// What one connection holds until it ends.
struct Place {
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    _open: Open,
    _connection: TaskTrackerToken,
}

impl Listener {
    pub(super) fn new(routes: Routes, serve: Serve) -> Self {
        let bounds = Bounds {
            limits: serve.limits.clone(),
            shutdown: serve.shutdown.clone(),
            tasks: serve.tasks.clone(),
        };
        let gate = Gate::new(serve.limits.clone());
        let shared = Shared {
            routes: routes.prepare(),
            serve,
            gate,
            bounds,
        };
        Self {
            shared: Arc::new(shared),
            connections: TaskTracker::new(),
        }
    }

    pub(super) async fn accept_unix(self, listener: UnixListener, bound: BoundUnix) {
        let name = self.shared.serve.metrics.name();
        info!(listener = name, listener.path = %bound.path().display(), "Listening");
        while let Some(accepted) = self.next(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => self.take_unix(stream),
                Err(error) => self.accept_failed(&error).await,
            }
        }
        // First nobody new can connect, then those who did are let go.
        drop((listener, bound));
        self.drained().await;
    }

    pub(super) async fn accept_tls(self, listener: TcpListener, config: TlsConfigSource) {
        let name = self.shared.serve.metrics.name();
        let addr = listener.local_addr().ok();
        info!(
            listener = name,
            listener.addr = addr.map(tracing::field::display),
            "Listening"
        );
        while let Some(accepted) = self.next(listener.accept()).await {
            match accepted {
                Ok((stream, addr)) => self.take_tcp(stream, addr, &config),
                Err(error) => self.accept_failed(&error).await,
            }
        }
        drop(listener);
        self.drained().await;
    }

    /// What `accept` gives, or none on shutdown.
    async fn next<T>(&self, accept: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
        tokio::select! {
            biased;
            () = self.shared.serve.shutdown.requested() => None,
            accepted = accept => Some(accepted),
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        use nix::errno::Errno;
        let name = self.shared.serve.metrics.name();
        let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
        if exhausted
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32))
        {
            warn!(listener = name, %error, "No resources left to accept a connection");
            tokio::time::sleep(EXHAUSTED).await;
        } else {
            // The connection was gone before it was taken: the next one is as good as ever.
            debug!(listener = name, %error, "Could not accept a connection");
        }
    }

    async fn drained(&self) {
        self.connections.close();
        self.connections.wait().await;
        info!(listener = self.shared.serve.metrics.name(), "Closed");
    }

    fn take_unix(&self, stream: UnixStream) {
        let caller = match self.identify(&stream) {
            Ok(caller) => caller,
            Err(error) => {
                debug!(error = report::chain(&error), "Refused a connection");
                self.shared.serve.metrics.ended(error.reason());
                return;
            }
        };
        let (credentials, peer) = caller;
        let Some(place) = self.admit(Holder::of_unix(&credentials)) else {
            return;
        };
        self.shared
            .serve
            .tasks
            .spawn_contained("connection", async move {
                let work = place.unix(stream, credentials, peer.clone());
                let ended = tokio::select! {
                    ended = work => ended,
                    () = exited(peer.as_deref()) => Ended::PeerExited,
                };
                place.end(ended);
            });
    }

    fn take_tcp(&self, stream: TcpStream, addr: SocketAddr, config: &TlsConfigSource) {
        let Some(place) = self.admit(Holder::of_ip(addr.ip())) else {
            return;
        };
        let config = Arc::clone(config);
        self.shared
            .serve
            .tasks
            .spawn_contained("connection", async move {
                let ended = place.tls(stream, addr, config).await;
                place.end(ended);
            });
    }

    fn identify(&self, stream: &UnixStream) -> Result<(Credentials, Option<Arc<Peer>>), PeerError> {
        let credentials = Credentials::of(stream)?;
        match (Peer::of(stream), self.shared.serve.limits.peers) {
            (Ok(peer), _) => Ok((credentials, Some(Arc::new(peer)))),
            (Err(PeerError::ForeignPidNamespace), Peers::Known) => Ok((credentials, None)),
            (Err(error), _) => Err(error),
        }
    }

    fn admit(&self, holders: Vec<Holder>) -> Option<Place> {
        let shared = Arc::clone(&self.shared);
        match shared.gate.admit(holders) {
            Ok(admission) => Some(Place {
                admission: Arc::new(admission),
                _open: shared.serve.metrics.opened(),
                _connection: self.connections.token(),
                shared,
            }),
            Err(full) => {
                shared.serve.metrics.ended(full.reason());
                None
            }
        }
    }
}

impl Place {
    async fn unix(
        &self,
        mut stream: UnixStream,
        credentials: Credentials,
        peer: Option<Arc<Peer>>,
    ) -> Ended {
        if let Err(ended) = self.shared.bounds.greet(&mut stream).await {
            return ended;
        }
        let service = self.service(Caller::Unix(credentials, peer));
        let filter = Some(AuthorityFilter::new());
        self.shared.bounds.serve(stream, filter, service).await
    }

    async fn tls(&self, stream: TcpStream, addr: SocketAddr, config: TlsConfigSource) -> Ended {
        let mut stream = match self.handshake(stream, config).await {
            Ok(stream) => stream,
            Err(ended) => return ended,
        };
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(H2) {
            return Ended::NotHttp2;
        }
        let shown = session.peer_certificates().unwrap_or_default();
        let certificates = shown
            .iter()
            .map(|shown| shown.clone().into_owned())
            .collect();
        if let Err(ended) = self.shared.bounds.greet(&mut stream).await {
            return ended;
        }
        let service = self.service(Caller::Tls(Arc::new(TlsPeer { certificates, addr })));
        self.shared.bounds.serve(stream, None, service).await
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        config: TlsConfigSource,
    ) -> Result<TlsStream<TcpStream>, Ended> {
        // Small answers must not wait for more; a socket that refuses is a little slower.
        let _ = stream.set_nodelay(true);
        let handshake = TlsAcceptor::from(config()).accept(stream);
        tokio::select! {
            done = tokio::time::timeout(self.shared.serve.limits.handshake, handshake) => match done {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => {
                    debug!(error = report::chain(&error), "TLS handshake failed");
                    Err(Ended::HandshakeFailed)
                }
                Err(_) => Err(Ended::HandshakeTimeout),
            },
            () = self.shared.serve.shutdown.requested() => Err(Ended::Closed),
        }
    }

    fn service(&self, caller: Caller) -> ConnectionService {
        ConnectionService {
            routes: self.shared.routes.clone(),
            caller,
            admission: Arc::clone(&self.admission),
            activity: Activity::new(),
            metrics: self.shared.serve.metrics.clone(),
        }
    }

    fn end(&self, ended: Ended) {
        self.shared.serve.metrics.ended(ended.reason());
    }
}

async fn exited(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.exited().await,
        None => std::future::pending().await,
    }
}
