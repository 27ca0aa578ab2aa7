//! The agent's half: a port, opened for as long as one attestation takes.

use std::convert::Infallible;
use std::future::Future;
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
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::files::{self, FileError};
use tokio::net::{TcpListener, TcpStream};

use super::messages::{Challenge, Payload, PayloadError};
use super::target::{AgentName, HostName, TargetError};

/// The name of this host, as the kernel has it.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
/// How long a connection may take. SPIRE's agent gives reading and writing as much.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How many connections are served at a time; one more waits for one to end.
const MAX_CONNECTIONS: usize = 16;
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
    fn bind(&self) -> std::io::Result<TcpListener> {
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
        tokio::pin!(other);
        loop {
            let has_room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                done = &mut other => return done,
                accepted = self.listener.accept(), if has_room => {
                    // What fails here is one connection: the next one may be the server's.
                    connections.extend(accepted.ok().map(|(stream, _)| self.serve(stream)));
                }
                Some(()) = connections.next() => {}
            }
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let answer =
            service_fn(|request| async move { Ok::<_, Infallible>(self.respond(&request)) });
        let connection = http1::Builder::new()
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
        source: std::io::Error,
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
