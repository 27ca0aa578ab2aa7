//! The agent's half: a port, opened for as long as one attestation takes.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use runtime::files::{self, FileError};
use tokio::net::{TcpListener, TcpStream};

use super::messages::{Challenge, Payload, PayloadError};
use super::places::{Place, Places};
use super::target::{AgentName, HostName, TargetError};

/// The name of this host, as the kernel has it.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
/// How long a connection may take. SPIRE's agent gives reading and writing as much.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// A request's head must be there by then: the server asks at once.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How many connections are served at a time; one more waits for one to end.
const MAX_CONNECTIONS: usize = 16;
/// How many of them from one address; one more is closed.
const MAX_OF_ADDRESS: usize = 2;
/// How long to wait when no connection can be accepted: without descriptors, that fails at once.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Requests with longer heads are refused.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Proves by being where a name leads to.
#[derive(Clone, Debug)]
pub struct Prover {
    /// The name of this host, if it is another one than the kernel has.
    pub hostname: Option<HostName>,
    /// The name of the agent on it.
    pub agent: AgentName,
    /// The port to open; 0 for any.
    pub port: u16,
    /// The port to tell, where something in between leads it to ours.
    pub advertised_port: Option<u16>,
}

/// An open port, for one try.
#[derive(Debug)]
pub struct Listening {
    payload: Vec<u8>,
    path: String,
    listener: TcpListener,
    nonce: Mutex<Option<Bytes>>,
}

impl Prover {
    /// Opens the port.
    pub fn open(&self) -> Result<Listening, ProverError> {
        let hostname = match &self.hostname {
            Some(name) => name.clone(),
            None => own_name()?,
        };
        let listener = self.bind().map_err(|source| ProverError::Bind {
            port: self.port,
            source,
        })?;
        let own = listener.local_addr().map_err(|source| ProverError::Bind {
            port: self.port,
            source,
        })?;
        let payload = Payload {
            hostname,
            agent: self.agent.clone(),
            port: self.advertised_port.unwrap_or_else(|| own.port()),
        };
        Ok(Listening {
            payload: payload.encode(),
            path: super::path(&self.agent),
            listener,
            nonce: Mutex::default(),
        })
    }

    /// All addresses, of both kinds where there are both.
    fn bind(&self) -> io::Result<TcpListener> {
        let bind = |addr: SocketAddr| {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        bind((Ipv6Addr::UNSPECIFIED, self.port).into())
            .or_else(|_no_ipv6| bind((Ipv4Addr::UNSPECIFIED, self.port).into()))
    }
}

fn own_name() -> Result<HostName, ProverError> {
    let content = files::read_limited(HOSTNAME_FILE.as_ref(), 1024)?.unwrap_or_default();
    let name = String::from_utf8_lossy(&content);
    Ok(HostName::parse(name.trim_ascii())?)
}

impl Listening {
    /// What the agent shows: where it is.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Serves what the server drew from now on, and says so: SPIRE's agent sends a line end.
    pub fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, ProverError> {
        let challenge = Challenge::parse(challenge).map_err(ProverError::Challenge)?;
        *self.nonce.lock() = Some(format!("{}\n", challenge.nonce).into());
        Ok(b"\n".to_vec())
    }

    /// Serves while something else goes on, and ends with it.
    pub async fn serve_during<T>(&self, other: impl Future<Output = T>) -> T {
        let mut connections = FuturesUnordered::new();
        let places = Places::new(MAX_CONNECTIONS, MAX_OF_ADDRESS);
        tokio::pin!(other);
        loop {
            let has_room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                done = &mut other => return done,
                (stream, peer) = accepted(|| self.listener.accept()), if has_room => {
                    if let Some(place) = places.take(Some(peer.ip())) {
                        connections.push(self.serve(stream, place));
                    }
                }
                Some(()) = connections.next() => {}
            }
        }
    }

    async fn serve(&self, stream: TcpStream, _place: Place) {
        let answer =
            service_fn(|request| async move { Ok::<_, Infallible>(self.respond(&request)) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .keep_alive(false)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), answer);
        // Whoever connects learns the nonce or nothing; what becomes of it shows at the server.
        let _ended = tokio::time::timeout(CONNECTION_TIME, connection).await;
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let nonce = self.nonce.lock().clone();
        let asked = request.method() == Method::GET && request.uri().path() == self.path;
        let mut response = Response::default();
        match nonce.filter(|_| asked) {
            Some(nonce) => *response.body_mut() = Full::new(nonce),
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }
}

/// The next one that can be accepted. What fails is one connection: the next may be the server's.
async fn accepted<T, A>(mut accept: impl FnMut() -> A) -> T
where
    A: Future<Output = io::Result<T>>,
{
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(_one) => tokio::time::sleep(EXHAUSTED).await,
        }
    }
}

/// Why there is no evidence, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// The name of the host cannot be read.
    #[error("could not read the name of this host")]
    File(#[from] FileError),
    /// The name of the host is none that a server takes.
    #[error("the name of this host cannot be used; set `hostname`")]
    HostName(#[from] TargetError),
    /// The port is not to be had.
    #[error("could not listen on port {port}")]
    Bind {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The server's challenge is none.
    #[error("the server's challenge cannot be read")]
    Challenge(#[source] PayloadError),
}

impl ProverError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::File(error) => error.reason(),
            Self::HostName(error) => error.reason(),
            Self::Bind { .. } => "bind",
            Self::Challenge(error) => error.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as Client;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn listening() -> (Listening, u16) {
        let prover = Prover {
            hostname: Some(HostName::parse("127.0.0.1").unwrap()),
            agent: AgentName::parse("default").unwrap(),
            port: 0,
            advertised_port: None,
        };
        let listening = prover.open().unwrap();
        let port = listening.listener.local_addr().unwrap().port();
        (listening, port)
    }

    #[tokio::test(start_paused = true)]
    async fn adv_one_address_has_two_connections_and_two_seconds_to_say_what_it_wants() {
        let (listening, port) = listening();
        // Simulated time stands while a blocking task runs, so that nobody runs out of it in there.
        let held = tokio::task::spawn_blocking(move || {
            let connect = || Client::connect(("127.0.0.1", port)).unwrap();
            let held = [connect(), connect()];
            let mut third = connect();
            let _closed = third.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut answer = Vec::new();
            let _closed = third.read_to_end(&mut answer);
            assert!(answer.is_empty(), "it was answered");
            held
        });
        let silent = async {
            for held in held.await.unwrap() {
                held.set_nonblocking(true).unwrap();
                let mut held = TcpStream::from_std(held).unwrap();
                let _ended = held.read_to_end(&mut Vec::new()).await;
            }
        };
        let both = listening.serve_during(tokio::time::timeout(CONNECTION_TIME / 2, silent));
        assert!(both.await.is_ok(), "silence was waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_accept_comes_a_pause() {
        let started = tokio::time::Instant::now();
        let mut failures = 4;
        let outcome = accepted(|| {
            failures -= 1;
            std::future::ready(match failures {
                0 => Ok("connection"),
                _ => Err(io::Error::other("no descriptors")),
            })
        });
        assert_eq!(outcome.await, "connection");
        assert!(started.elapsed() >= 3 * EXHAUSTED);
    }
}
