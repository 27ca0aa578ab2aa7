//! Our agent on our server, both in this process, over real sockets and mutual TLS.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what goes wrong in a helper is the failure of the test that calls it"
)]

use std::path::Path;
use std::time::Duration;

use agent::agent::Handle;
use hyper_util::rt::TokioIo;
use identity::x509::parse_concatenated_der;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest};
use proto::spire::server::bundle::GetBundleRequest;
use proto::spire::server::bundle::bundle_client::BundleClient;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    ActivateX509AuthorityRequest, GetX509AuthorityStateRequest, PrepareX509AuthorityRequest,
    RevokeX509AuthorityRequest, TaintX509AuthorityRequest,
};
use proto::spire::types;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509svidRequest, X509svidResponse};
use runtime::clock::Clock;
use runtime::metrics::Metrics;
use runtime::readiness::Readiness;
use runtime::shutdown::{Reason, Shutdown, ShutdownTrigger};
use runtime::tasks::{Drained, TaskGroup};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use workload_api::client::WorkloadClient;

/// What each of the two runs in.
struct Life {
    trigger: ShutdownTrigger,
    tasks: TaskGroup,
}

impl Life {
    fn begin() -> Self {
        let (trigger, _) = Shutdown::new();
        Self {
            tasks: TaskGroup::new(trigger.clone()),
            trigger,
        }
    }

    async fn end(&self) {
        self.trigger.trigger(Reason::Requested("test"));
        assert_eq!(
            self.tasks.drain(Duration::from_secs(10)).await,
            Drained::InTime
        );
    }
}

struct Server {
    life: Life,
    handle: server::Handle,
    admin: Channel,
}

struct Agent {
    life: Life,
    handle: Handle,
}

impl Server {
    async fn start(folder: &Path, port: u16) -> Self {
        let life = Life::begin();
        let text = format!(
            r#"
            server {{
                bind_address = "127.0.0.1" bind_port = "{port}" trust_domain = "example.org"
                socket_path = "{0}/server.sock" data_dir = "{0}/server"
            }}
            plugins {{
                DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{0}/server/db" }} }}
                KeyManager "disk" {{ plugin_data {{ keys_path = "{0}/server/keys.json" }} }}
                NodeAttestor "join_token" {{}}
            }}
            "#,
            folder.display()
        );
        std::fs::create_dir_all(folder.join("server")).unwrap();
        let document = runtime::config::parse(&text).unwrap();
        let (config, _) =
            server::config::Config::load(&document, server::config::Overrides::default()).unwrap();
        let deps = server::Deps {
            clock: Clock::system(),
            metrics: Metrics::new(),
            tasks: life.tasks.clone(),
            readiness: Readiness::new(),
            log: None,
        };
        let handle = server::start(config, deps).await.unwrap();
        let admin = admin(&handle.admin_socket);
        Self {
            life,
            handle,
            admin,
        }
    }

    async fn stop(self) -> u16 {
        let port = self.handle.addr.port();
        self.life.end().await;
        self.handle.close().await.unwrap();
        port
    }

    async fn token(&self) -> String {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        AgentClient::new(self.admin.clone())
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .value
    }

    async fn write_bundle(&self, path: &Path) {
        let bundle = BundleClient::new(self.admin.clone())
            .get_bundle(GetBundleRequest::default())
            .await;
        let pem: String = bundle
            .unwrap()
            .into_inner()
            .x509_authorities
            .iter()
            .map(|authority| pem::encode(&pem::Pem::new("CERTIFICATE", authority.asn1.to_vec())))
            .collect();
        std::fs::write(path, pem).unwrap();
    }

    async fn entry(&self, parent: &str, path: &str) -> String {
        let entry = types::Entry {
            parent_id: Some(id(parent)),
            spiffe_id: Some(id(path)),
            selectors: vec![types::Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", nix::unistd::getuid()),
            }],
            ..Default::default()
        };
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let response = EntryClient::new(self.admin.clone())
            .batch_create_entry(request)
            .await
            .unwrap();
        let result = response.into_inner().results.remove(0);
        let status = result.status.unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
        result.entry.unwrap().id
    }

    async fn delete(&self, id: String) {
        let request = BatchDeleteEntryRequest { ids: vec![id] };
        let response = EntryClient::new(self.admin.clone())
            .batch_delete_entry(request)
            .await
            .unwrap();
        let status = response.get_ref().results[0].status.clone().unwrap();
        assert_eq!(status.code, 0, "{}", status.message);
    }
}

impl Agent {
    async fn start(folder: &Path, port: u16, token: &str) -> Self {
        let life = Life::begin();
        let text = format!(
            r#"
            agent {{
                data_dir = "{0}/agent" trust_domain = "example.org" trust_bundle_path = "{0}/bundle.pem"
                server_address = "localhost" server_port = {port} socket_path = "{0}/agent.sock"
                join_token = "{token}" experimental {{ sync_interval = "1h" }}
            }}
            plugins {{
                KeyManager "disk" {{ plugin_data {{ directory = "{0}/agent" }} }}
                NodeAttestor "join_token" {{}}
                WorkloadAttestor "unix" {{}}
            }}
            "#,
            folder.display()
        );
        let document = runtime::config::parse(&text).unwrap();
        let (config, _) =
            agent::config::Config::load(&document, agent::config::Overrides::default(), &|_| None)
                .unwrap();
        let deps = agent::agent::Deps {
            clock: Clock::system(),
            metrics: Metrics::new(),
            tasks: life.tasks.clone(),
            readiness: Readiness::new(),
            log: None,
        };
        let handle = agent::agent::start(config, deps).await.unwrap();
        Self { life, handle }
    }

    async fn ready(self) -> Self {
        within(self.handle.readiness.ready()).await;
        self
    }

    async fn client(&self) -> WorkloadClient {
        let endpoint =
            workload_api::client::Endpoint::unix(self.handle.socket.as_ref().unwrap()).unwrap();
        WorkloadClient::connect(&endpoint).await.unwrap()
    }

    /// A stream of X509-SVIDs that stays open.
    async fn stream(&self) -> Watched {
        let mut request = tonic::Request::new(X509svidRequest {});
        let header = "true".parse().unwrap();
        request.metadata_mut().insert("workload.spiffe.io", header);
        let channel = admin(self.handle.socket.as_ref().unwrap());
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let stream = client.fetch_x509svid(request).await.unwrap();
        Watched(stream.into_inner())
    }

    /// Waits until it ends by itself, and tells why.
    async fn ended(self) -> Reason {
        let shutdown = self.life.trigger.subscribe();
        within(shutdown.requested()).await;
        self.life.end().await;
        shutdown.reason().unwrap()
    }
}

/// What a workload sees.
struct Watched(Streaming<X509svidResponse>);

impl Watched {
    async fn next(&mut self) -> X509svidResponse {
        within(self.0.message()).await.unwrap().unwrap()
    }

    /// Waits until just these are the paths of its SPIFFE IDs.
    async fn shows(&mut self, paths: &[&str]) -> X509svidResponse {
        loop {
            let response = self.next().await;
            let ids = response.svids.iter().map(|svid| svid.spiffe_id.as_str());
            let mut found: Vec<_> = ids
                .map(|id| id.trim_start_matches("spiffe://example.org"))
                .collect();
            found.sort_unstable();
            if found == paths {
                return response;
            }
        }
    }
}

fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: path.to_owned(),
    }
}

fn admin(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("the test hangs")
}

/// A server, an agent that has attested on it, and the agent's path.
async fn domain() -> (TempDir, Server, Agent, String) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), 0).await;
    server.write_bundle(&folder.path().join("bundle.pem")).await;
    let token = server.token().await;
    let path = format!("/spire/agent/join_token/{token}");
    server.entry(&path, "/workload").await;
    let agent = Agent::start(folder.path(), server.handle.addr.port(), &token)
        .await
        .ready()
        .await;
    (folder, server, agent, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_both_kinds_of_svid_and_they_validate() {
    let (_folder, server, agent, _) = domain().await;
    let client = agent.client().await;
    let context = within(client.fetch_x509()).await.unwrap();
    assert!(format!("{context:?}").contains("spiffe://example.org/workload"));
    let svids = within(client.fetch_jwt(vec!["audience".to_owned()], None))
        .await
        .unwrap();
    assert_eq!(svids.len(), 1);
    drop(client);
    agent.life.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_survives_its_servers_restart_and_its_own_without_a_server() {
    let (folder, server, agent, _) = domain().await;
    let serial = agent
        .handle
        .credentials
        .own()
        .svid
        .leaf()
        .serial_decimal()
        .to_owned();
    // Only what is signed can be served while the server is away.
    within(agent.client().await.fetch_x509()).await.unwrap();
    let port = server.stop().await;
    within(agent.client().await.fetch_x509()).await.unwrap();
    agent.life.end().await;
    let agent = Agent::start(folder.path(), port, "").await;
    assert_eq!(
        agent.handle.credentials.own().svid.leaf().serial_decimal(),
        serial
    );
    let server = Server::start(folder.path(), port).await;
    let agent = agent.ready().await;
    within(agent.client().await.fetch_x509()).await.unwrap();
    agent.life.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_comes_to_an_open_stream_and_goes_from_it_with_its_creation_and_deletion() {
    let (_folder, server, agent, path) = domain().await;
    let mut stream = agent.stream().await;
    stream.shows(&["/workload"]).await;
    let entry = server.entry(&path, "/second").await;
    stream.shows(&["/second", "/workload"]).await;
    server.delete(entry).await;
    stream.shows(&["/workload"]).await;
    drop(stream);
    agent.life.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_pushes_on_to_streams_that_stayed_open() {
    let (folder, server, agent, path) = domain().await;
    let mut stream = agent.stream().await;
    stream.shows(&["/workload"]).await;
    let port = server.stop().await;
    let server = Server::start(folder.path(), port).await;
    server.entry(&path, "/second").await;
    stream.shows(&["/second", "/workload"]).await;
    let agent = agent.ready().await;
    drop(stream);
    agent.life.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn svids_of_a_tainted_authority_are_replaced_on_open_streams_and_it_can_be_revoked() {
    let (_folder, server, agent, _) = domain().await;
    let mut stream = agent.stream().await;
    stream.shows(&["/workload"]).await;
    let mut authorities = LocalAuthorityClient::new(server.admin.clone());
    let state = authorities
        .get_x509_authority_state(GetX509AuthorityStateRequest {})
        .await;
    let old = state.unwrap().into_inner().active.unwrap().authority_id;
    let prepared = authorities
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await;
    let new = prepared.unwrap().into_inner().prepared_authority;
    let new = new.unwrap().authority_id;
    let request = ActivateX509AuthorityRequest {
        authority_id: new.clone(),
    };
    authorities.activate_x509_authority(request).await.unwrap();
    let request = TaintX509AuthorityRequest {
        authority_id: old.clone(),
    };
    authorities.taint_x509_authority(request).await.unwrap();
    loop {
        let response = stream.next().await;
        // At no time without an identity, nor with one that its bundle does not verify.
        let svid = &response.svids[0];
        let chain = parse_concatenated_der(&svid.x509_svid).unwrap();
        let bundle = parse_concatenated_der(&svid.bundle).unwrap();
        let signer = chain[0].authority_key_id().unwrap();
        assert!(
            bundle
                .iter()
                .any(|authority| authority.subject_key_id().as_ref() == Some(&signer))
        );
        if signer == new {
            break;
        }
    }
    // The agent's own SVID, too: once nothing is signed by the old one, it can go.
    let is_renewed = || {
        let own = agent.handle.credentials.own();
        own.svid.leaf().authority_key_id().as_ref() == Some(&new)
    };
    let mut renewals = agent.handle.credentials.renewals();
    while !is_renewed() {
        within(renewals.changed()).await.unwrap();
    }
    let request = RevokeX509AuthorityRequest { authority_id: old };
    authorities.revoke_x509_authority(request).await.unwrap();
    loop {
        let response = stream.next().await;
        let bundle = parse_concatenated_der(&response.svids[0].bundle).unwrap();
        if bundle.len() == 1 {
            break;
        }
    }
    drop(stream);
    agent.life.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_acts_at_once_and_leaves_no_identity() {
    let (folder, server, agent, path) = domain().await;
    let request = BanAgentRequest {
        id: Some(id(&path)),
    };
    AgentClient::new(server.admin.clone())
        .ban_agent(request)
        .await
        .unwrap();
    assert_eq!(agent.ended().await, Reason::Failed("the agent is banned"));
    let kept = std::fs::read_to_string(folder.path().join("agent/agent-data.json")).unwrap();
    assert!(kept.contains(r#""svid":null"#), "{kept}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_agent_ends_and_comes_back_with_a_new_token() {
    let (folder, server, agent, path) = domain().await;
    let request = DeleteAgentRequest {
        id: Some(id(&path)),
    };
    AgentClient::new(server.admin.clone())
        .delete_agent(request)
        .await
        .unwrap();
    assert!(agent.ended().await.is_failure());
    let token = server.token().await;
    let agent = Agent::start(folder.path(), server.handle.addr.port(), &token)
        .await
        .ready()
        .await;
    let own = agent.handle.credentials.own();
    assert!(own.svid.id().as_str().ends_with(&token));
    agent.life.end().await;
    server.stop().await;
}
