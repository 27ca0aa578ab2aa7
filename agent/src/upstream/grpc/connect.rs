//! One connection to the server: name, TCP, TLS 1.3, and who the other end is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};
use runtime::clock::Clock;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::verify::{Anchor, NotTheServer, Verifier};
use crate::config::ServerAddress;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// How long the agent waits for what may never come: a dead network tells nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a connection may take to be made, all addresses together.
    pub connect: Duration,
    /// How long sent bytes may stay unacknowledged, and how long a network may be silent that carries
    /// nothing. It is the kernel that asks, so this holds towards any server.
    pub silence: Duration,
    /// How often a server that takes HTTP/2 pings gets one: not only its kernel, it has to answer itself.
    /// SPIRE's answers them with GOAWAY.
    pub ping: Duration,
    /// How long a ping may be unanswered.
    pub pong: Duration,
    /// How long any call may take, answers in many parts included.
    pub call: Duration,
}

impl Patience {
    /// What agents have. SPIRE's bound of calls; and a server that is lost is left for the next after at
    /// most 35 s.
    pub const USUAL: Self = Self {
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(20),
        ping: Duration::from_secs(15),
        pong: Duration::from_secs(10),
        call: Duration::from_secs(30),
    };
}

/// Where the server is, and whose it is.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    /// Where servers of the same trust domain are, for when that one does not answer.
    pub more: Vec<ServerAddress>,
    pub trust_domain: TrustDomain,
    pub patience: Patience,
    /// Whether only a key exchange that a quantum computer could not undo is offered (SPIRE's
    /// `require_pq_kem`).
    pub demands_pq: bool,
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
        let (pings, patience) = (self.pings, self.target.patience);
        let dialer = Arc::new(self);
        let connector = tower::service_fn(move |_uri| {
            let (dialer, used) = (Arc::clone(&dialer), Arc::clone(&used));
            async move {
                if used.swap(true, Ordering::Relaxed) && once {
                    return Err(ConnectError::Broken);
                }
                let connected = tokio::time::timeout(patience.connect, dialer.connect()).await;
                connected
                    .unwrap_or(Err(ConnectError::Deadline))
                    .map(TokioIo::new)
            }
        });
        // Servers of SPIRE do not look at the authority, and certificates name none.
        let mut endpoint = Endpoint::from_static("https://spire-server");
        if pings {
            endpoint = endpoint
                .http2_keep_alive_interval(patience.ping)
                .keep_alive_timeout(patience.pong);
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
        let share = self.target.patience.connect / u32::try_from(hosts.len()).unwrap_or(u32::MAX);
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
        watch(&stream, self.target.patience.silence).map_err(tcp)?;
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
        let mut provider = aws_lc_rs::default_provider();
        if self.target.demands_pq {
            // Those of SPIRE's `require_pq_kem` that our library has.
            provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
        }
        let provider = Arc::new(provider);
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

/// Has the kernel end a connection whose other end has been silent for too long: while bytes are under
/// way, and by probes while none are.
fn watch(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    // The kernel takes whole seconds, and no zero.
    let seconds = |length: Duration| u32::try_from(length.as_secs()).unwrap_or(u32::MAX).max(1);
    setsockopt(stream, TcpUserTimeout, &millis)?;
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &seconds(silence / 2))?;
    setsockopt(stream, TcpKeepInterval, &seconds(silence / 4))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn an_agent_that_demands_post_quantum_keys_offers_nothing_else() {
        let offered = |demands_pq| {
            let dialer = Dialer {
                target: Target {
                    host: "localhost".to_owned(),
                    port: 1,
                    more: Vec::new(),
                    trust_domain: TrustDomain::parse("example.org").unwrap(),
                    patience: Patience::USUAL,
                    demands_pq,
                },
                anchor: Anchor::Nothing,
                own: None,
                clock: Clock::system(),
                pings: false,
            };
            let config = dialer.tls().unwrap();
            let groups = config.crypto_provider().kx_groups.iter();
            groups
                .map(|group| format!("{:?}", group.name()))
                .collect::<Vec<_>>()
        };
        assert_eq!(offered(true), ["X25519MLKEM768", "secp256r1MLKEM768"]);
        assert!(offered(false).contains(&"X25519".to_owned()));
    }

    #[test]
    fn a_lost_server_is_left_for_the_next_within_35_seconds() {
        let Patience {
            connect,
            silence,
            ping,
            pong,
            ..
        } = Patience::USUAL;
        for noticed in [silence, ping + pong] {
            assert!(noticed + connect <= Duration::from_secs(35));
        }
    }

    #[tokio::test]
    async fn the_kernel_watches_connections_that_carry_something_and_those_that_carry_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        watch(&stream, Duration::from_secs(20)).unwrap();
        assert_eq!(getsockopt(&stream, TcpUserTimeout).unwrap(), 20_000);
        assert!(getsockopt(&stream, KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, TcpKeepIdle).unwrap(), 10);
        assert_eq!(getsockopt(&stream, TcpKeepInterval).unwrap(), 5);
    }
}
