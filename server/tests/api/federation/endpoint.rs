//! A bundle endpoint of our own making, which answers as a test tells it to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use identity::bundle::{Bundle, X509Authority};
use identity::trust_domain::TrustDomain;
use identity::x509::Certificate;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// An authority, and what it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        limit(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// The bundle of a trust domain with this authority alone.
    pub(crate) fn bundle(&self, trust_domain: &str, sequence: u64) -> Bundle {
        let mut bundle = Bundle::new(TrustDomain::parse(trust_domain).unwrap());
        let certificate = Certificate::parse(self.certificate.der()).unwrap();
        bundle.add_x509_authority(X509Authority::new(certificate));
        bundle.sequence = sequence;
        bundle
    }

    pub(crate) fn write_pem(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).unwrap();
    }

    /// A certificate for a name: a SPIFFE ID, or a host.
    pub(crate) fn sign(&self, name: SanType) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate, key }
    }
}

fn limit(params: &mut CertificateParams) {
    let now = runtime::clock::Clock::system().now();
    let hour = Duration::from_secs(60 * 60);
    params.not_before = SystemTime::into(now - hour);
    params.not_after = SystemTime::into(now + hour);
}

pub(crate) struct Leaf {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

pub(crate) fn spiffe_id(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

pub(crate) fn loopback() -> SanType {
    SanType::IpAddress("127.0.0.1".parse().unwrap())
}

/// What is said to a request.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Bundle(Bundle),
    Text(String),
    /// A status line with headers, and no body.
    Head(String),
    /// A body that never ends.
    Forever,
    Nothing,
}

/// The endpoint. It ends with this.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    say: Arc<Mutex<Say>>,
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    #[expect(
        clippy::disallowed_methods,
        reason = "it stands for another program, and ends with this"
    )]
    pub(crate) async fn start(leaf: Leaf, say: Say) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain: Vec<CertificateDer<'static>> = vec![leaf.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let say = Arc::new(Mutex::new(say));
        let asked = Arc::new(AtomicUsize::new(0));
        let (saying, counting) = (Arc::clone(&say), Arc::clone(&asked));
        let task = tokio::task::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, say, asked) = (tls.clone(), Arc::clone(&saying), Arc::clone(&counting));
                tokio::task::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        head.push(byte);
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    let say = say.lock().clone();
                    let _ = answer(&mut stream, say).await;
                });
            }
        });
        Self {
            addr,
            say,
            asked,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/", self.addr)
    }

    pub(crate) fn say(&self, say: Say) {
        *self.say.lock() = say;
    }

    /// How many requests have come.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(stream: &mut (impl AsyncWriteExt + Unpin), say: Say) -> std::io::Result<()> {
    let body = match say {
        Say::Bundle(bundle) => bundle.to_spiffe_json(),
        Say::Text(text) => text,
        Say::Head(head) => {
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            return stream.shutdown().await;
        }
        Say::Forever => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            let spaces = [b' '; 4096];
            loop {
                stream.write_all(&spaces).await?;
            }
        }
        Say::Nothing => return std::future::pending().await,
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
