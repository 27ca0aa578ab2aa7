//! Takes connections in, and gives each its task.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::service::Routes;
use tracing::{debug, error, info};

use super::activity::Activity;
use super::bind::BoundUnix;
use super::callers::Callers;
use super::connection::{Bounds, Ended};
use super::descriptors::Descriptors;
use super::gate::{Admission, Gate, Holder, Refused};
use super::limits::{ContainerKey, Peers};
use super::metrics::Open;
use super::names::{LOOK_EVERY, Lost};
use super::pace::Refusals;
use super::preface::Filter;
use super::service::{Caller, ConnectionService};
use super::tls::{H2, TlsPeer};
use super::{Serve, TlsConfigSource};
use crate::memory::Departures;
use crate::quota::Quota;
use crate::report;
use crate::unix::{Credentials, Peer, PeerError, SoleWriter};

/// How long to wait when the process or the machine has no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// One listener while it serves.
pub(super) struct Listener {
    shared: Arc<Shared>,
    callers: Callers,
    connections: TaskTracker,
    descriptors: Descriptors,
}

struct Shared {
    routes: Routes,
    serve: Serve,
    gate: Arc<Gate>,
    bounds: Bounds,
    quota: Arc<Quota>,
}

/// What one connection holds until it ends.
struct Place {
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    _open: Open,
    _connection: TaskTrackerToken,
}

/// What is known of who connected, before anything is read of it.
type Identified = (Credentials, Option<Arc<Peer>>, Option<ContainerKey>);

/// Why a connection is not taken.
enum Refusal {
    Peer(PeerError),
    Share(Refused),
}

impl From<PeerError> for Refusal {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::Share(refused)
    }
}

impl Listener {
    pub(super) fn new(routes: Routes, serve: Serve) -> Self {
        let bounds = Bounds {
            limits: serve.limits.clone(),
            shutdown: serve.shutdown.clone(),
            tasks: serve.tasks.clone(),
            metrics: serve.metrics.clone(),
            departures: Departures::new(serve.tasks.clone()),
        };
        let descriptors = Descriptors::new(serve.metrics.name());
        let gate = Gate::new(serve.limits.clone());
        let shared = Shared {
            routes: routes.prepare(),
            serve,
            gate,
            bounds,
            quota: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
            callers: Callers::default(),
            connections: TaskTracker::new(),
            descriptors,
        }
    }

    pub(super) async fn accept_unix(self, mut listener: UnixListener, mut bound: BoundUnix) {
        let name = self.shared.serve.metrics.name();
        info!(listener = name, listener.path = %bound.path().display(), "Listening");
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                biased;
                () = self.shared.serve.shutdown.requested() => break,
                // Before the connections: a flood of them must not keep the names unseen.
                _ = looks.tick() => None,
                accepted = listener.accept() => Some(accepted),
            };
            match next {
                None => {
                    self.callers.sweep();
                    self.look_at_names(&mut listener, &mut bound);
                }
                Some(Ok((stream, _))) => {
                    self.have_descriptors(&stream).await;
                    self.take_unix(stream);
                }
                Some(Err(error)) => self.accept_failed(&error).await,
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
                Ok((stream, addr)) => {
                    self.have_descriptors(&stream).await;
                    self.take_tcp(stream, addr, &config);
                }
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
        let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
        if exhausted
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32))
        {
            self.descriptors.scarce();
            tokio::time::sleep(EXHAUSTED).await;
        } else {
            // The connection was gone before it was taken: the next one is as good as ever.
            let name = self.shared.serve.metrics.name();
            debug!(listener = name, %error, "Could not accept a connection");
        }
    }

    /// Waits until there are descriptors to spare, or until shutdown. The connection that was accepted
    /// last is kept meanwhile.
    async fn have_descriptors(&self, newest: &impl AsFd) {
        while !self.descriptors.are_enough(newest) {
            // Who is only remembered has to make room first.
            if self.callers.clear() {
                continue;
            }
            self.descriptors.scarce();
            tokio::select! {
                () = self.shared.serve.shutdown.requested() => return,
                () = tokio::time::sleep(EXHAUSTED) => {}
            }
        }
        self.descriptors.plenty();
    }

    /// Takes back what somebody took of the socket's names, and listens anew if it was the first.
    fn look_at_names(&self, listener: &mut UnixListener, bound: &mut BoundUnix) {
        let lost = bound.restore();
        if lost.is_empty() {
            return;
        }
        for lost in &lost {
            self.tell_of(lost);
        }
        match bound.listener().and_then(UnixListener::from_std) {
            Ok(anew) => {
                *listener = anew;
                // What was connected to the old one comes in no order with what is connected to this.
                self.callers.clear();
            }
            Err(error) => {
                let name = self.shared.serve.metrics.name();
                error!(listener = name, %error, "Could not listen on a socket that was taken back");
            }
        }
    }

    fn tell_of(&self, lost: &Lost) {
        let metrics = &self.shared.serve.metrics;
        let reason = lost.loss.reason();
        metrics.lost_name(reason);
        match &lost.restored {
            Ok(()) => error!(
                listener = metrics.name(),
                listener.path = %lost.name.display(),
                error.reason = reason,
                "Somebody took a name of the socket, and it was taken back"
            ),
            Err(error) => error!(
                listener = metrics.name(),
                listener.path = %lost.name.display(),
                error.reason = error.reason(),
                error = %report::chain(error),
                "Somebody took a name of the socket, and it cannot be taken back"
            ),
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
            Err(Refusal::Peer(error)) => {
                debug!(error = report::chain(&error), "Refused a connection");
                self.shared.serve.metrics.ended(error.reason());
                return;
            }
            Err(Refusal::Share(refused)) => {
                self.shared.serve.metrics.ended(refused.reason());
                return;
            }
        };
        let (credentials, peer, container) = caller;
        let Some(place) = self.admit(Holder::of_unix(&credentials, container)) else {
            return;
        };
        self.shared
            .serve
            .tasks
            .spawn_contained("connection", async move {
                let work = pin!(place.unix(stream, credentials, peer.clone()));
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

    /// Who connected, and in which container it is.
    fn identify(&self, stream: &UnixStream) -> Result<Identified, Refusal> {
        let credentials = Credentials::of(stream)?;
        self.shared.gate.precheck(credentials.pid, Instant::now())?;
        if let Some((peer, container)) = self.callers.again(credentials) {
            return Ok((credentials, Some(peer), container));
        }
        let limits = &self.shared.serve.limits;
        match (Peer::with_credentials(stream, credentials), limits.peers) {
            (Ok(peer), _) => {
                let peer = Arc::new(peer);
                let container = limits.containers.of(&peer);
                self.callers.remember(&peer, container);
                Ok((credentials, Some(peer), container))
            }
            (Err(PeerError::ForeignPidNamespace), Peers::Known) => Ok((credentials, None, None)),
            (Err(error), _) => Err(error.into()),
        }
    }

    fn admit(&self, holders: Vec<Holder>) -> Option<Place> {
        let shared = Arc::clone(&self.shared);
        match shared.gate.admit(holders, Instant::now()) {
            Ok(admission) => Some(Place {
                admission: Arc::new(admission),
                _open: shared.serve.metrics.opened(),
                _connection: self.connections.token(),
                shared,
            }),
            Err(refused) => {
                shared.serve.metrics.ended(refused.reason());
                None
            }
        }
    }
}

impl Place {
    async fn unix(
        &self,
        stream: UnixStream,
        credentials: Credentials,
        peer: Option<Arc<Peer>>,
    ) -> Ended {
        let Some(pid) = peer.as_ref().map(|peer| peer.pid()) else {
            // Who has no pid here has none as a writer either.
            return self.unix_stream(stream, credentials, peer).await;
        };
        let (stream, breach) = SoleWriter::new(stream, pid);
        let ended = self.unix_stream(stream, credentials, peer).await;
        if breach.is_seen() {
            let name = self.shared.serve.metrics.name();
            debug!(
                listener = name,
                peer.pid = pid,
                "Another process wrote to a connection"
            );
            return Ended::ForeignWriter;
        }
        ended
    }

    async fn unix_stream<T>(
        &self,
        mut stream: T,
        credentials: Credentials,
        peer: Option<Arc<Peer>>,
    ) -> Ended
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Err(ended) = self.shared.bounds.greet(&mut stream).await {
            return ended;
        }
        let service = self.service(Caller::Unix(credentials, peer));
        let filter = Some(Filter::new(self.shared.serve.limits.idle_frames));
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
        let refusals = Refusals::default();
        if self.admission.has_no_call(Instant::now()) {
            // Its first call would be refused, and to connect again is not to gain by it.
            refusals.one_more();
        }
        ConnectionService {
            refusals,
            routes: self.shared.routes.clone(),
            caller,
            admission: Arc::clone(&self.admission),
            activity: Activity::new(),
            metrics: self.shared.serve.metrics.clone(),
            quota: Arc::clone(&self.shared.quota),
        }
    }

    fn end(&self, ended: Ended) {
        if ended == Ended::BrokeRules {
            self.admission.fine(Instant::now());
        }
        self.shared.serve.metrics.ended(ended.reason());
    }
}

async fn exited(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.exited().await,
        None => std::future::pending().await,
    }
}
