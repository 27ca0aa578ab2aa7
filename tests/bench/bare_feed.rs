//! The limit of an idle feed: stock tonic over rustls, which begins every stream and says nothing more.

use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto::signet::agent::feed_server::{Feed, FeedServer};
use proto::signet::agent::follow_response::Message as Kind;
use proto::signet::agent::{Change, FollowRequest, FollowResponse, Position, Start};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use runtime::listen::{harden, tls13};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

const AUTHORITY: &str = "authority.der";
const LEAF: &str = "leaf.der";
const KEY: &str = "key.der";

/// What an authority of one run signs.
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) authority: Vec<u8>,
}

/// A certificate and its key, DER.
pub(crate) struct Signed {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![name("spiffe://example.org")];
        let authority = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            authority,
        }
    }

    pub(crate) fn sign(&self, id: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![name(id)];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        }
    }

    /// Puts down what [`serve`] needs.
    pub(crate) fn equip(&self, folder: &Path) {
        let own = self.sign("spiffe://example.org/spire/server");
        fs::write(folder.join(AUTHORITY), &self.authority).unwrap();
        fs::write(folder.join(LEAF), own.certificate).unwrap();
        fs::write(folder.join(KEY), own.key).unwrap();
    }
}

fn name(id: &str) -> SanType {
    SanType::URI(id.to_owned().try_into().unwrap())
}

/// Serves on a free port, and prints it.
#[expect(
    clippy::disallowed_methods,
    reason = "the bare server has nothing of ours, and ends with its process"
)]
pub(crate) fn serve(folder: &Path) {
    runtime::process::raise_open_file_limit().unwrap();
    let config = Arc::new(config(folder));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("port {}", listener.local_addr().unwrap().port());
        let (taken, incoming) = mpsc::channel(64);
        tokio::task::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, taken) = (TlsAcceptor::from(Arc::clone(&config)), taken.clone());
                tokio::task::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let shaken = acceptor.accept(stream).await.map(Io);
                    // The server has ended if nobody takes it.
                    let _ = taken.send(shaken).await;
                });
            }
        });
        Server::builder()
            .add_service(FeedServer::new(Bare))
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
            .unwrap();
    });
}

fn config(folder: &Path) -> rustls::ServerConfig {
    let read = |name| fs::read(folder.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(read(AUTHORITY))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut config = tls13()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from(read(LEAF))],
            PrivatePkcs8KeyDer::from(read(KEY)).into(),
        )
        .unwrap();
    harden(&mut config);
    config
}

struct Bare;

#[tonic::async_trait]
impl Feed for Bare {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let position = Position {
            digest: vec![0; 16].into(),
            ..Default::default()
        };
        let change = Change {
            position: Some(position),
            ..Default::default()
        };
        let said = [Kind::Start(Start::default()), Kind::Change(change)];
        let said = said.map(|message| {
            Ok(FollowResponse {
                message: Some(message),
            })
        });
        let messages = tokio_stream::iter(said).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(messages)))
    }
}

/// A connection as tonic takes it.
struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
