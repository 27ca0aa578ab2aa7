//! Facts about served TLS ports.

use std::net::SocketAddr;

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Client;
use super::*;

/// A key with a certificate signed by itself.
struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
}

fn server_config(server: &Identity, client: &Identity) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(client.roots(), provider)
        .allow_unauthenticated()
        .build()
        .unwrap();
    let builder = tls13().unwrap().with_client_cert_verifier(verifier);
    let mut config = builder
        .with_single_cert(server.chain(), server.key())
        .unwrap();
    harden(&mut config);
    Arc::new(config)
}

struct ClientOptions<'a> {
    trust: &'a Identity,
    show: Option<&'a Identity>,
    alpn: &'a [&'a [u8]],
}

impl<'a> ClientOptions<'a> {
    fn new(trust: &'a Identity) -> Self {
        Self {
            trust,
            show: None,
            alpn: &[b"h2"],
        }
    }

    async fn connect(self, addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.trust.roots());
        let mut config = match self.show {
            Some(shown) => builder
                .with_client_auth_cert(shown.chain(), shown.key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("server.test").unwrap();
        let tcp = TcpStream::connect(addr).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    }
}

/// A server, and the slot from which the next handshake takes its configuration.
fn served_on_tls(
    limits: Limits,
    config: Arc<ServerConfig>,
) -> (Served, Arc<Mutex<Arc<ServerConfig>>>) {
    let slot = Arc::new(Mutex::new(config));
    let source = Arc::clone(&slot);
    let served = served(limits, move |_| {
        let bound = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let source: TlsConfigSource = Arc::new(move || Arc::clone(&source.lock()));
        (Some(bound.addr()), move |routes, serve| {
            serve_tls(bound, source, routes, serve)
        })
    });
    (served, slot)
}

#[tokio::test]
async fn a_handler_sees_the_certificate_that_the_client_has_shown_or_none() {
    let (server, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let (served, _) = served_on_tls(patient(), server_config(&server, &client));
    let addr = served.addr.unwrap();
    for (show, seen) in [(Some(&client), "1"), (None, "0")] {
        let options = ClientOptions {
            show,
            ..ClientOptions::new(&server)
        };
        let stream = options.connect(addr).await.unwrap();
        let caller = Client::over(stream, &served.tasks).await;
        assert_eq!(caller.header("Who", "certificates").await, seen);
        assert_eq!(caller.header("Who", "ip").await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_certificate_that_the_configuration_refuses_reaches_no_handler() {
    let (server, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let (served, _) = served_on_tls(patient(), server_config(&server, &client));
    let stranger = Identity::new("stranger.test");
    let options = ClientOptions {
        show: Some(&stranger),
        ..ClientOptions::new(&server)
    };
    // In TLS 1.3 the client may learn of the refusal only when it reads.
    if let Ok(mut stream) = options.connect(served.addr.unwrap()).await {
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0])
            .await
            .unwrap_err();
    }
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("handshake_failed"), 1);
}

#[tokio::test]
async fn each_handshake_takes_the_certificate_of_the_hour() {
    let (old, new) = (Identity::new("server.test"), Identity::new("server.test"));
    let client = Identity::new("client.test");
    let (served, slot) = served_on_tls(patient(), server_config(&old, &client));
    let addr = served.addr.unwrap();
    let before = ClientOptions::new(&old).connect(addr).await.unwrap();
    *slot.lock() = server_config(&new, &client);
    ClientOptions::new(&old).connect(addr).await.unwrap_err();
    ClientOptions::new(&new).connect(addr).await.unwrap();
    // A connection made before lives on.
    let caller = Client::over(before, &served.tasks).await;
    assert_eq!(caller.header("Who", "certificates").await, "0");
}

#[tokio::test]
async fn a_client_that_does_not_agree_on_http_2_is_refused() {
    let (server, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let (served, _) = served_on_tls(patient(), server_config(&server, &client));
    let addr = served.addr.unwrap();
    let http1 = ClientOptions {
        alpn: &[b"http/1.1"],
        ..ClientOptions::new(&server)
    };
    http1.connect(addr).await.unwrap_err();
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("handshake_failed"), 1);
    // A client that names no protocol at all is closed after its handshake.
    let silent = ClientOptions {
        alpn: &[],
        ..ClientOptions::new(&server)
    };
    let mut stream = silent.connect(addr).await.unwrap();
    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("not_http2"), 1);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let (server, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let limits = Limits {
        handshake: Duration::from_millis(5),
        ..patient()
    };
    let (served, _) = served_on_tls(limits, server_config(&server, &client));
    let mut silent = TcpStream::connect(served.addr.unwrap()).await.unwrap();
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut silent, &mut byte);
    assert_eq!(
        tokio::time::timeout(GUARD, read)
            .await
            .unwrap()
            .unwrap_or(0),
        0
    );
    served.until_closed().await;
    assert_eq!(served.metrics.ended_by("handshake_timeout"), 1);
}

#[tokio::test]
async fn no_session_can_be_resumed() {
    let (server, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let config = server_config(&server, &client);
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
    assert_eq!(config.alpn_protocols, [b"h2"]);
}
