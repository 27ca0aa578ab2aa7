//! A server in this process, with real sockets and real TLS, and what an agent needs to talk to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::bundle::{Bundle, X509Authority};
use identity::spiffe_id::SpiffeId;
use identity::trust_domain::TrustDomain;
use identity::x509::{Certificate, Purpose, verify_peer_der};
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::attest_agent_request::{Params, Step};
use proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_response,
};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, batch_create_entry_response};
use proto::spire::types;
use rcgen::{CertificateParams, KeyPair};
use runtime::clock::Clock;
use runtime::config::HostPort;
use runtime::dial::{Judge, client_config};
use runtime::log::{LogConfig, LogHandle};
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::shutdown::{Reason, Shutdown, ShutdownTrigger};
use runtime::tasks::{Drained, TaskGroup};
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use server::config::{Config, KeysConfig, StoreConfig};
use server::{Deps, Handle, StartError};
use tempfile::TempDir;
use tokio::net::{TcpSocket, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::service_fn;

pub(crate) const DOMAIN: &str = "example.org";

pub(crate) struct Server {
    pub(crate) handle: Option<Handle>,
    pub(crate) admin: Channel,
    pub(crate) metrics: Metrics,
    tasks: TaskGroup,
    trigger: ShutdownTrigger,
    folder: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.trigger.trigger(Reason::Requested("the test is over"));
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config::new(trust_domain(), folder.to_owned());
    config.store = StoreConfig::Memory;
    config.keys = KeysConfig::Memory;
    config.bind = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 0,
    };
    config.socket_path = folder.join("admin.sock");
    config
}

/// The same with a store and keys that outlive the server.
pub(crate) fn durable(folder: &TempDir) -> Config {
    let mut config = config(folder.path());
    config.store = StoreConfig::Embedded;
    config.keys = KeysConfig::Disk {
        path: folder.path().join("keys.json"),
    };
    config.data_dir = folder.path().join("data");
    config
}

pub(crate) async fn start() -> Server {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    change(&mut config);
    let mut server = Server::start(config).await.unwrap();
    server.folder = Some(folder);
    server
}

async fn admin_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connect = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .unwrap()
}

/// A key and the chain that certifies it.
pub(crate) struct Identity {
    pub(crate) key: KeyPair,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Server {
    pub(crate) async fn start(config: Config) -> Result<Self, StartError> {
        let (trigger, _) = Shutdown::new();
        let tasks = TaskGroup::new(trigger.clone());
        let metrics = Metrics::new();
        let deps = Deps {
            clock: Clock::system(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            readiness: Readiness::new(),
            log: Some(LogHandle::for_test(&LogConfig::default()).unwrap()),
        };
        let handle = server::start(config, deps).await?;
        let admin = admin_channel(&handle.admin_socket).await;
        Ok(Self {
            handle: Some(handle),
            admin,
            metrics,
            tasks,
            trigger,
            folder: None,
        })
    }

    /// Ends the server, and lets its files go.
    pub(crate) async fn stop(mut self) {
        self.trigger.trigger(Reason::Requested("the test goes on"));
        let drained = self.tasks.drain(Duration::from_secs(20)).await;
        assert!(matches!(drained, Drained::InTime), "{drained:?}");
        self.handle.take().unwrap().close().await.unwrap();
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.handle.as_ref().unwrap().addr
    }

    pub(crate) fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.admin.clone())
    }

    pub(crate) fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.admin.clone())
    }

    pub(crate) fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.admin.clone())
    }

    pub(crate) async fn token(&self) -> String {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        self.agents()
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .value
    }

    /// Connects to the port, with a certificate or without.
    pub(crate) async fn connect(&self, identity: Option<&Identity>) -> Result<Channel, String> {
        self.connect_from("127.0.0.1", identity).await
    }

    /// A client that knows the server by its bundle, with a certificate or without.
    pub(crate) async fn trusting(&self, identity: Option<&Identity>) -> ClientConfig {
        let mut client = self.bundles();
        let bundle = client.get_bundle(GetBundleRequest::default()).await;
        let mut roots = Bundle::new(trust_domain());
        for authority in bundle.unwrap().into_inner().x509_authorities {
            let certificate = Certificate::parse(&authority.asn1).unwrap();
            roots.add_x509_authority(X509Authority::new(certificate));
        }
        let shown = identity.map(|identity| {
            let key = PrivatePkcs8KeyDer::from(identity.key.serialize_der());
            (identity.chain.clone(), PrivateKeyDer::Pkcs8(key))
        });
        client_config(aws_lc_rs::default_provider(), ServerId(roots), shown).unwrap()
    }

    /// Connects to the port from an address of this machine.
    pub(crate) async fn connect_from(
        &self,
        source: &str,
        identity: Option<&Identity>,
    ) -> Result<Channel, String> {
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        let mut config = self.trusting(identity).await;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let addr = self.addr();
        let connect = service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind(source)?;
                let stream = socket.connect(addr).await?;
                let name = ServerName::try_from("server").unwrap();
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connect).await;
        channel.map_err(|error| format!("{error:?}"))
    }

    /// Attests with a token, as an agent does.
    pub(crate) async fn attest(&self, token: &str) -> Result<Identity, Status> {
        self.attest_with(token, KeyPair::generate().unwrap()).await
    }

    /// The same with this key.
    pub(crate) async fn attest_with(&self, token: &str, key: KeyPair) -> Result<Identity, Status> {
        let channel = self.connect(None).await.unwrap();
        let (identity, reattestable) = attest_by(channel, "join_token", token, key).await?;
        assert!(!reattestable);
        Ok(identity)
    }

    /// A new agent and a connection of its own.
    pub(crate) async fn agent(&self) -> (SpiffeId, Identity, Channel) {
        let token = self.token().await;
        let identity = self.attest(&token).await.unwrap();
        let channel = self.connect(Some(&identity)).await.unwrap();
        (agent_id(&token), identity, channel)
    }

    pub(crate) async fn create(
        &self,
        entries: Vec<types::Entry>,
    ) -> Vec<batch_create_entry_response::Result> {
        let request = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        self.entries()
            .batch_create_entry(request)
            .await
            .unwrap()
            .into_inner()
            .results
    }

    /// Creates an entry, and returns its id.
    pub(crate) async fn entry(&self, parent: &SpiffeId, path: &str) -> String {
        let mut results = self.create(vec![entry(parent, path)]).await;
        let result = results.remove(0);
        assert_eq!(result.status.unwrap().code, 0);
        result.entry.unwrap().id
    }
}

/// Attests with a new key; tells whether the agent may attest again.
pub(crate) async fn attest_over(
    channel: Channel,
    kind: &str,
    payload: &str,
) -> Result<(Identity, bool), Status> {
    attest_by(channel, kind, payload, KeyPair::generate().unwrap()).await
}

async fn attest_by(
    channel: Channel,
    kind: &str,
    payload: &str,
    key: KeyPair,
) -> Result<(Identity, bool), Status> {
    let csr = csr(&key, &CertificateParams::default());
    let request = attestation(kind, payload, csr);
    let answer = AgentClient::new(channel)
        .attest_agent(tokio_stream::iter([request]))
        .await?;
    let message = answer.into_inner().message().await?.unwrap();
    let Some(attest_agent_response::Step::Result(result)) = message.step else {
        panic!("no result");
    };
    let chain = chain(&result.svid.unwrap());
    Ok((Identity { key, chain }, result.reattestable))
}

pub(crate) fn attestation(kind: &str, payload: &str, csr: Vec<u8>) -> AttestAgentRequest {
    let params = Params {
        data: Some(types::AttestationData {
            r#type: kind.to_owned(),
            payload: payload.as_bytes().to_vec().into(),
        }),
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    AttestAgentRequest {
        step: Some(Step::Params(params)),
    }
}

pub(crate) fn csr(key: &KeyPair, params: &CertificateParams) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn chain(svid: &types::X509svid) -> Vec<CertificateDer<'static>> {
    svid.cert_chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect()
}

pub(crate) fn agent_id(token: &str) -> SpiffeId {
    SpiffeId::agent(&trust_domain(), "join_token", token).unwrap()
}

pub(crate) fn id(id: &SpiffeId) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: id.trust_domain().name().to_owned(),
        path: id.path().to_owned(),
    })
}

pub(crate) fn own(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: DOMAIN.to_owned(),
        path: path.to_owned(),
    })
}

pub(crate) fn selector(value: &str) -> types::Selector {
    types::Selector {
        r#type: "unix".to_owned(),
        value: value.to_owned(),
    }
}

pub(crate) fn entry(parent: &SpiffeId, path: &str) -> types::Entry {
    types::Entry {
        parent_id: id(parent),
        spiffe_id: own(path),
        selectors: vec![selector("uid:1000")],
        ..Default::default()
    }
}

/// The reason in the details of a denial.
pub(crate) fn reason(status: &Status) -> i32 {
    use prost::Message;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let rich = tonic_types::Status::decode(status.details()).unwrap();
    let any = rich
        .details
        .first()
        .expect("a denial of an agent has details");
    assert_eq!(
        any.type_url,
        "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    );
    types::PermissionDeniedDetails::decode(&any.value[..])
        .unwrap()
        .reason
}

/// Calls any RPC with an empty message, and waits for the first of its answer: some never end.
pub(crate) async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = path.parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = client
        .server_streaming(Request::new(()), path, codec)
        .await?;
    answer.into_inner().message().await.map(|_| ())
}

/// Takes the server of a trust domain, and no other.
#[derive(Debug)]
struct ServerId(Bundle);

impl Judge for ServerId {
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let bundle = |_: &TrustDomain| Some(&self.0);
        let now = Clock::system().now();
        match verify_peer_der(chain, Purpose::ServerAuth, bundle, now) {
            Ok(id) if id.is_server() => Ok(()),
            _ => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }
}
