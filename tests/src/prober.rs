//! Mutual TLS between workloads, again and again: each side shows and trusts what came last over its stream.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::workload::{Shown, Workload};

/// Twenty times a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// A handshake that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// The DNS name that every workload is to have in its SVID: TLS libraries ask for one.
pub const NAME: &str = "probed.example.org";

/// Shakes hands until it is dropped.
#[derive(Debug)]
pub struct Prober {
    tally: Arc<Mutex<Tally>>,
    _probes: JoinSet<()>,
}

/// What came of it so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub succeeded: usize,
    pub failures: Vec<String>,
    /// What is being done to the domain, for the failures.
    step: String,
}

impl Prober {
    /// Each pair, client and server, shakes hands twenty times a second.
    pub fn start(pairs: &[(&Workload, &Workload)]) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut probes = JoinSet::new();
        for (client, server) in pairs {
            let sides = Sides {
                client: client.watch(),
                server: server.watch(),
                names: format!("{} to {}", client.spiffe_id, server.spiffe_id),
            };
            probes.spawn(probe(sides, Arc::clone(&tally)));
        }
        Self {
            tally,
            _probes: probes,
        }
    }

    /// Notes what is being done, and makes sure that nothing has failed so far.
    pub fn step(&self, what: &str) {
        let mut tally = self.tally.lock();
        what.clone_into(&mut tally.step);
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    }

    /// What came of it so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Waits for so many more handshakes.
    pub async fn some(&self, count: usize) {
        let enough = self.tally().succeeded + count;
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let tally = self.tally();
            assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
            if tally.succeeded >= enough {
                return;
            }
        }
    }
}

struct Sides {
    client: watch::Receiver<Option<Arc<Shown>>>,
    server: watch::Receiver<Option<Arc<Shown>>>,
    names: String,
}

async fn probe(sides: Sides, tally: Arc<Mutex<Tally>>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let client = sides.client.borrow().clone();
        let server = sides.server.borrow().clone();
        let outcome = match (client, server) {
            (Some(client), Some(server)) => {
                let tried = tokio::time::timeout(DEADLINE, shake_hands(&client, &server)).await;
                tried.unwrap_or_else(|_late| Err("too slow".to_owned()))
            }
            _ => Err("an agent took the identity away".to_owned()),
        };
        let mut tally = tally.lock();
        match outcome {
            Ok(()) => tally.succeeded += 1,
            Err(error) => {
                let failure = format!("{}, {}: {error}", tally.step, sides.names);
                tally.failures.push(failure);
            }
        }
    }
}

/// Does one handshake, and carries a byte from the server, which has seen the client's certificate by then.
pub async fn shake_hands(client: &Shown, server: &Shown) -> Result<(), String> {
    let connector = TlsConnector::from(Arc::new(client_config(client)?));
    let acceptor = TlsAcceptor::from(Arc::new(server_config(server)?));
    let (near, far) = tokio::io::duplex(64 << 10);
    let connects = async {
        let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
        let connected = connector.connect(name, near).await;
        let mut stream = connected.map_err(|error| format!("the client: {error}"))?;
        let read = stream.read_u8().await;
        read.map_err(|error| format!("the client, of its own certificate: {error}"))
    };
    let accepts = async {
        let accepted = acceptor.accept(far).await;
        let mut stream = accepted.map_err(|error| format!("the server: {error}"))?;
        let written = stream.write_u8(1).await;
        written.map_err(|error| format!("the server: {error}"))?;
        stream.flush().await.map_err(|error| error.to_string())
    };
    match tokio::join!(connects, accepts) {
        (Ok(_), Ok(())) => Ok(()),
        (connected, accepted) => Err(format!("{connected:?}, {accepted:?}")),
    }
}

fn client_config(shown: &Shown) -> Result<ClientConfig, String> {
    let verifier = WebPkiServerVerifier::builder(roots(shown)?).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let config = ClientConfig::builder()
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain(shown), shown.key.clone_key());
    let mut config = config.map_err(|error| error.to_string())?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_config(shown: &Shown) -> Result<ServerConfig, String> {
    let verifier = WebPkiClientVerifier::builder(roots(shown)?).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(shown), shown.key.clone_key());
    config.map_err(|error| error.to_string())
}

fn roots(shown: &Shown) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for authority in &shown.bundle {
        let added = roots.add(authority.der().clone());
        added.map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(roots))
}

fn chain(shown: &Shown) -> Vec<CertificateDer<'static>> {
    let certificates = shown.chain.iter();
    certificates
        .map(|certificate| certificate.der().clone())
        .collect()
}
