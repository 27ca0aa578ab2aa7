//! The one way to serve documents over HTTPS to strangers, with every limit set.
//!
//! HTTP/1.1 over TLS 1.3, without client certificates. A peer has few connections, must say what it
//! wants in time, and none lasts long whatever it does.

mod certificate;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use runtime::listen::{self, BoundTcp, ListenError, harden, tls13};
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub(crate) use self::certificate::FileCertificate;
pub use self::certificate::{CertificateError, CertificateFiles};

/// Whoever federates with us asks every minute or so, and is gone at once.
const MAX_CONNECTIONS: usize = 256;
/// What one address (of IPv6, one /64) may have of them.
const MAX_OF_ADDRESS: usize = 16;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A request's head must arrive within this; SPIRE's limit. It also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection lasts longer, whatever it does.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long to wait when no connection can be accepted.
const EXHAUSTED: Duration = Duration::from_millis(100);

const HTTP11: &[u8] = b"http/1.1";

pub(crate) type Answer = Response<Full<Bytes>>;

/// What is served: an answer to the head of a request. Bodies are not read.
pub(crate) trait Document: fmt::Debug + Send + Sync + 'static {
    fn answer(&self, request: &request::Parts) -> Answer;
}

/// A JSON document.
pub(crate) fn json(document: String) -> Answer {
    answer(StatusCode::OK, "application/json", document)
}

/// A line for whoever asked for something that is not there.
pub(crate) fn text(status: StatusCode, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", line.to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The TLS of such a listener. No client certificate is asked for (SPIFFE Federation 5.2.1.3, 5.2.2.3).
pub(crate) fn tls(
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = tls13()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    harden(&mut config);
    config.alpn_protocols = vec![HTTP11.to_vec()];
    Ok(Arc::new(config))
}

/// Starts to serve a document, until shutdown. A listener that fails is seen in the log.
pub(crate) fn start(
    name: &'static str,
    bound: BoundTcp,
    tls: Arc<ServerConfig>,
    document: Arc<dyn Document>,
    tasks: &TaskGroup,
) {
    let served = serve(name, bound, tls, document, tasks.shutdown(), tasks.clone());
    tasks.spawn(name, listen::told(name, served));
}

async fn serve(
    name: &'static str,
    bound: BoundTcp,
    tls: Arc<ServerConfig>,
    document: Arc<dyn Document>,
    shutdown: Shutdown,
    tasks: TaskGroup,
) -> Result<(), ListenError> {
    let addr = bound.addr();
    let listener = TcpListener::from_std(bound.into_std()).map_err(ListenError::Register)?;
    let tls = TlsAcceptor::from(tls);
    let places = Places::default();
    info!(listener = name, listener.addr = %addr, "Listening");
    loop {
        let (stream, place) = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        let connection = connection(stream, tls.clone(), Arc::clone(&document));
        let shutdown = shutdown.clone();
        tasks.spawn_contained("document connection", async move {
            tokio::select! {
                ended = tokio::time::timeout(LONGEST_CONNECTION, connection) => {
                    if ended.is_err() {
                        debug!(listener = name, "Ended a connection that lasted too long");
                    }
                }
                () = shutdown.requested() => {}
            }
            drop(place);
        });
    }
}

async fn accept(listener: &TcpListener, places: &Places) -> (TcpStream, Place) {
    let all = places.any().await;
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                // A peer that has too many is closed at once, and waits for nobody else.
                if let Some(of_address) = places.of(addr) {
                    return (
                        stream,
                        Place {
                            _all: all,
                            _of_address: of_address,
                        },
                    );
                }
                debug!(peer.addr = %addr.ip(), "Refused a connection of a peer that has too many");
            }
            Err(error) => {
                warn!(%error, "Could not accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, document: Arc<dyn Document>) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%error, "A TLS handshake failed");
            return;
        }
        Err(_elapsed) => return,
    };
    let service = service_fn(|request: Request<Incoming>| {
        let answer = document.answer(&request.into_parts().0);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(error = runtime::report::chain(&error), "Connection failed");
    }
}

/// Room for connections.
struct Places {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// What a connection holds of it.
struct Place {
    _all: Option<OwnedSemaphorePermit>,
    _of_address: OfAddress,
}

struct OfAddress {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            by_address: Arc::default(),
        }
    }
}

impl Places {
    /// Nobody closes this semaphore, so there is always a permit.
    async fn any(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    fn of(&self, addr: SocketAddr) -> Option<OfAddress> {
        let address = listen::site(addr.ip());
        let mut by_address = self.by_address.lock();
        let held = by_address.entry(address).or_default();
        if *held >= MAX_OF_ADDRESS {
            return None;
        }
        *held += 1;
        drop(by_address);
        Some(OfAddress {
            address,
            by_address: Arc::clone(&self.by_address),
        })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock();
        if let Some(held) = by_address.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_connections_and_gets_them_back() {
        let places = Places::default();
        let addr = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let mut held: Vec<_> = (0..MAX_OF_ADDRESS)
            .map(|_| places.of(addr("2001:db8::1")).unwrap())
            .collect();
        assert!(
            places.of(addr("2001:db8::ffff")).is_none(),
            "the same network"
        );
        assert!(places.of(addr("2001:db8:0:1::1")).is_some());
        assert!(places.of(addr("192.0.2.1")).is_some());
        held.pop();
        assert!(places.of(addr("2001:db8::2")).is_some());
        held.clear();
        assert!(places.by_address.lock().is_empty());
    }
}
