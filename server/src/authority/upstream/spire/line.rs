//! The connection to the server above: made when it is needed, and anew with each identity of ours.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::spiffe_id::SpiffeId;
use parking_lot::Mutex;
use runtime::clock::Clock;
use runtime::config::HostPort;
use runtime::dial::{DialError, Dialer, client_config};
use rustls::crypto::aws_lc_rs;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::source::{Identity, Source};
use super::{DEADLINE, SpireError};
use crate::tls::NamedPeer;

const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may be silent: the kernel's probes hold towards any server, while SPIRE's answers
/// HTTP/2 pings with GOAWAY.
const SILENCE: Duration = Duration::from_secs(20);
/// How much of a server's words is kept.
const MAX_MESSAGE_CHARS: usize = 1024;

#[derive(Debug)]
pub(super) struct Line {
    server: HostPort,
    source: Source,
    clock: Clock,
    made: Mutex<Option<Made>>,
}

/// A channel, and the identity that its connections show.
#[derive(Clone, Debug)]
struct Made {
    channel: Channel,
    own: Arc<Identity>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
}

impl Line {
    pub(super) fn new(server: HostPort, source: Source, clock: Clock) -> Self {
        Self {
            server,
            source,
            clock,
            made: Mutex::new(None),
        }
    }

    /// Makes a call. After a failure the next one gets a connection of its own.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(Channel) -> F) -> Result<T, SpireError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let own = self.source.wait(DEADLINE).await?;
        let channel = self.channel(own);
        let answer = tokio::time::timeout(DEADLINE, call(channel)).await;
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => self.refused(status),
            Err(_elapsed) => SpireError::Silent {
                server: self.address(),
            },
        };
        *self.made.lock() = None;
        Err(error)
    }

    /// What was answered cannot be used.
    pub(super) fn unusable(&self, source: impl Error + Send + Sync + 'static) -> SpireError {
        SpireError::Answer {
            server: self.address(),
            source: Box::new(source),
        }
    }

    fn address(&self) -> String {
        let HostPort { host, port } = &self.server;
        match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    }

    fn channel(&self, own: Arc<Identity>) -> Channel {
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| Arc::ptr_eq(&made.own, &own)) {
            return made.channel.clone();
        }
        let channel = self.open(&own);
        *made = Some(Made {
            channel: channel.clone(),
            own,
        });
        channel
    }

    /// A channel that connects when it is used, and again when the connection is lost.
    fn open(&self, own: &Arc<Identity>) -> Channel {
        let (server, clock, own) = (self.server.clone(), self.clock.clone(), Arc::clone(own));
        let connector = tower::service_fn(move |_uri| {
            let dialer = dialer(&server, &own, &clock);
            async move {
                let stream = dialer?.dial().await?;
                Ok::<_, ConnectError>(TokioIo::new(stream))
            }
        });
        // Servers of SPIRE do not look at the authority, and certificates name none.
        Endpoint::from_static("https://spire-server").connect_with_connector_lazy(connector)
    }

    fn refused(&self, status: Status) -> SpireError {
        let server = self.address();
        // A status that the server sent has no source; what broke the connection has.
        let is_away = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        if status.source().is_some() || is_away {
            let source = Box::new(status);
            return SpireError::Away { server, source };
        }
        SpireError::Refused {
            server,
            code: format!("{:?}", status.code()),
            message: status.message().chars().take(MAX_MESSAGE_CHARS).collect(),
        }
    }
}

fn dialer(server: &HostPort, own: &Arc<Identity>, clock: &Clock) -> Result<Dialer, rustls::Error> {
    let above = NamedPeer {
        expected: SpiffeId::server(&own.bundle.trust_domain),
        bundle: Arc::clone(&own.bundle),
        clock: clock.clone(),
    };
    let shown = Some(own.svid.to_tls());
    let mut tls = client_config(aws_lc_rs::default_provider(), above, shown)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Dialer {
        hosts: vec![(server.host.clone(), server.port)],
        tls: Arc::new(tls),
        connect: CONNECT,
        silence: SILENCE,
    })
}
