//! One connection to the server: name, TCP, TLS 1.3, and who the other end is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::trust_domain::TrustDomain;
use identity::x509::X509Svid;
use runtime::clock::Clock;
use runtime::dial::{self, DialError, client_config};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::verify::{Anchor, NotTheServer, OurServer};
use crate::config::ServerAddress;

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
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("the connection broke off, and another one could lead to somebody else")]
    Broken,
}

impl ConnectError {
    /// Whether the other end has shown a certificate of an authority that the bundle lacks.
    pub(super) fn is_unknown_authority(&self) -> bool {
        let Self::Dial(DialError::NotTheServer { source, .. }) = self else {
            return false;
        };
        let found = source.downcast_ref();
        matches!(found, Some(NotTheServer::UnknownAuthority(_)))
    }
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
                Ok(TokioIo::new(dialer.connect().await?))
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
        let Target {
            host, port, more, ..
        } = &self.target;
        let more = more.iter();
        let hosts = std::iter::once((host.clone(), *port))
            .chain(more.map(|server| (server.host.clone(), server.port)))
            .collect();
        let dialer = dial::Dialer {
            hosts,
            tls: Arc::new(self.tls().map_err(ConnectError::Tls)?),
            connect: self.target.patience.connect,
            silence: self.target.patience.silence,
        };
        Ok(dialer.dial().await?)
    }

    fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        let mut provider = aws_lc_rs::default_provider();
        if self.target.demands_pq {
            // Those of SPIRE's `require_pq_kem` that our library has.
            provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
        }
        let server = OurServer {
            trust_domain: self.target.trust_domain.clone(),
            anchor: self.anchor.clone(),
            clock: self.clock.clone(),
        };
        let shown = self.own.as_ref().map(X509Svid::to_tls);
        let mut config = client_config(provider, server, shown)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
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
}
