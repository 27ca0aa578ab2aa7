//! One connection to the server: name, TCP, TLS 1.3, and who the other end is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use runtime::clock::Clock;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::verify::{Anchor, NotTheServer, Verifier};
use crate::config::ServerAddress;

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged. A server behind a dead network is noticed by this,
/// for SPIRE's answers HTTP/2 pings with GOAWAY.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How often a server that takes HTTP/2 pings gets one, so that a connection whose other end is gone
/// is noticed while nothing is sent over it.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a ping may be unanswered.
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Where the server is, and whose it is.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    /// Where servers of the same trust domain are, for when that one does not answer.
    pub more: Vec<ServerAddress>,
    pub trust_domain: TrustDomain,
}

/// Makes connections of one kind: with one identity, against one anchor.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) target: Target,
    pub(super) anchor: Anchor,
    /// `None` shows no certificate, as during attestation.
    pub(super) own: Option<X509Svid>,
    pub(super) clock: Clock,
    /// Whether the server takes HTTP/2 pings.
    pub(super) pings: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("could not resolve `{host}`")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("`{host}` has no address")]
    NoAddress { host: String },
    #[error("could not connect to `{addr}`")]
    Tcp {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the TLS handshake with `{addr}` failed")]
    Handshake {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("`{addr}` is not the server")]
    NotTheServer {
        addr: SocketAddr,
        #[source]
        source: NotTheServer,
    },
    #[error("`{addr}` did not answer in time")]
    Silent { addr: SocketAddr },
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("the server did not answer in time")]
    Deadline,
    #[error("the connection broke off, and another one could lead to somebody else")]
    Broken,
}

impl Dialer {
    /// A channel that connects when it is used, and again when the connection is lost.
    pub(super) fn channel(self) -> Channel {
        self.lazily(false)
    }

    /// A channel of one connection. Where the server is not authenticated, a second connection
    /// could lead to somebody else.
    pub(super) fn channel_of_one_connection(self) -> Channel {
        self.lazily(true)
    }

    fn lazily(self, once: bool) -> Channel {
        let used = Arc::new(AtomicBool::new(false));
        let pings = self.pings;
        let dialer = Arc::new(self);
        let connector = tower::service_fn(move |_uri| {
            let (dialer, used) = (Arc::clone(&dialer), Arc::clone(&used));
            async move {
                if used.swap(true, Ordering::Relaxed) && once {
                    return Err(ConnectError::Broken);
                }
                let connected = tokio::time::timeout(CONNECT_DEADLINE, dialer.connect()).await;
                connected
                    .unwrap_or(Err(ConnectError::Deadline))
                    .map(TokioIo::new)
            }
        });
        // Servers of SPIRE do not look at the authority, and certificates name none.
        let mut endpoint = Endpoint::from_static("https://spire-server");
        if pings {
            endpoint = endpoint
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_DEADLINE);
        }
        endpoint.connect_with_connector_lazy(connector)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let host = self.target.host.as_str();
        let more = self.target.more.iter();
        let hosts: Vec<_> = std::iter::once((host, self.target.port))
            .chain(more.map(|server| (server.host.as_str(), server.port)))
            .collect();
        // Each gets its part of the time: behind one that is silent stands one that answers.
        let share = CONNECT_DEADLINE / u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let mut last = ConnectError::Deadline;
        for (host, port) in hosts {
            match self.connect_to_host(host, port, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to_host(
        &self,
        host: &str,
        port: u16,
        time: Duration,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let resolved = tokio::time::timeout(time, lookup_host((host, port))).await;
        let resolved = resolved.map_err(|_late| ConnectError::Deadline)?;
        let addresses = resolved.map_err(|source| ConnectError::Resolve {
            host: host.to_owned(),
            source,
        })?;
        let addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
        let share = time / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = ConnectError::NoAddress {
            host: host.to_owned(),
        };
        for addr in addresses {
            let connected = tokio::time::timeout(share, self.connect_to(host, addr)).await;
            match connected.unwrap_or(Err(ConnectError::Silent { addr })) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        host: &str,
        addr: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let tcp = |source| ConnectError::Tcp { addr, source };
        let stream = TcpStream::connect(addr).await.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        setsockopt(&stream, TcpUserTimeout, &unacknowledged).map_err(|errno| tcp(errno.into()))?;
        let connector = TlsConnector::from(Arc::new(self.tls().map_err(ConnectError::Tls)?));
        let name = ServerName::try_from(host.to_owned())
            .unwrap_or_else(|_odd| ServerName::from(addr.ip()));
        connector
            .connect(name, stream)
            .await
            .map_err(|source| match NotTheServer::find(&source) {
                Some(found) => ConnectError::NotTheServer {
                    addr,
                    source: found.clone(),
                },
                None => ConnectError::Handshake { addr, source },
            })
    }

    fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier {
            trust_domain: self.target.trust_domain.clone(),
            anchor: self.anchor.clone(),
            clock: self.clock.clone(),
            provider: Arc::clone(&provider),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let chain = own
                    .chain()
                    .iter()
                    .map(|certificate| certificate.der().clone())
                    .collect();
                let key = PrivatePkcs8KeyDer::from(own.key().pkcs8_der().to_vec());
                config.with_client_auth_cert(chain, PrivateKeyDer::from(key))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would outlive the bundle that its first handshake was checked against.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
