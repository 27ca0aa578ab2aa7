//! Facts about the audit trail: every RPC that changes or issues leaves an event in it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto::signet::server::SnapshotRequest;
use proto::signet::server::backup_client::BackupClient;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{BanAgentRequest, DeleteAgentRequest, PostStatusRequest};
use proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode;
use proto::spire::server::bundle::{
    AppendBundleRequest, BatchSetFederatedBundleRequest, BatchUpdateFederatedBundleRequest,
};
use proto::spire::server::entry::{BatchDeleteEntryRequest, BatchUpdateEntryRequest};
use proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use proto::spire::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, GetJwtAuthorityStateRequest,
    GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest, PrepareX509AuthorityRequest,
    RevokeJwtAuthorityRequest, RevokeX509AuthorityRequest, TaintJwtAuthorityRequest,
    TaintX509AuthorityRequest,
};
use proto::spire::server::logger::logger_client::LoggerClient;
use proto::spire::server::logger::{ResetLogLevelRequest, SetLogLevelRequest};
use proto::spire::server::svid::NewJwtsvidRequest;
use proto::spire::server::svid::svid_client::SvidClient;
use proto::spire::server::trustdomain::{
    BatchDeleteFederationRelationshipRequest, BatchUpdateFederationRelationshipRequest,
    RefreshBundleRequest,
};
use proto::spire::types::{self, LogLevel};
use rcgen::{CertificateParams, KeyPair};
use tonic::Request;
use tonic::transport::Channel;

use super::agents::renew;
use super::bundles::{bundle, jwt, x509};
use super::downstream::{new_ca, publish, workload};
use super::import;
use super::mint::{mint, mint_jwt, params};
use super::support::{Server, agent_id, csr, entry, id, own, start};
use super::svids::issue;
use super::trustdomain::{client as relationships, create as relate, https_web};

/// A year that is far enough.
const LATER: i64 = 4_000_000_000;

/// The RPCs that leave everything as it is, or are not built.
const SILENT: &[&str] = &[
    "CountAgents",
    "ListAgents",
    "GetAgent",
    "GetBundle",
    "GetFederatedBundle",
    "CountBundles",
    "ListFederatedBundles",
    "CountEntries",
    "ListEntries",
    "GetEntry",
    "GetAuthorizedEntries",
    "SyncAuthorizedEntries",
    "ListFederationRelationships",
    "GetFederationRelationship",
    "GetJWTAuthorityState",
    "GetX509AuthorityState",
    "GetWITAuthorityState",
    "GetLogger",
    "GetInfo",
    "Follow",
];

/// Who may call an RPC that is not for operators.
#[derive(Clone, Copy)]
enum Caller {
    Operator,
    Agent,
    Below,
}

fn caller(method: &str) -> Caller {
    match method {
        "RenewAgent"
        | "PostStatus"
        | "GetAuthorizedEntries"
        | "SyncAuthorizedEntries"
        | "BatchNewX509SVID"
        | "NewJWTSVID"
        | "BatchNewWITSVID"
        | "Follow" => Caller::Agent,
        "PublishJWTAuthority" | "PublishWITAuthority" | "NewDownstreamX509CA" => Caller::Below,
        _ => Caller::Operator,
    }
}

/// The RPCs of the server, with their paths.
fn rpcs() -> BTreeMap<String, String> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut rpcs = BTreeMap::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                rpcs.insert(method.name().to_owned(), path);
            }
        }
    }
    rpcs
}

/// How often each event was recorded.
fn events(server: &Server) -> BTreeMap<String, u64> {
    let text = server.metrics.encode();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("signet_audit_events_total{event=\""));
    let parts = lines.filter_map(|line| line.split_once("\"} "));
    parts
        .map(|(event, count)| (event.to_owned(), count.parse().unwrap()))
        .collect()
}

/// The events that were recorded since.
fn since(server: &Server, before: &BTreeMap<String, u64>) -> BTreeSet<String> {
    let now = events(server).into_iter();
    now.filter(|(event, count)| before.get(event) != Some(count))
        .map(|(event, _)| event)
        .collect()
}

/// Calls any RPC with one item that asks for nothing, and waits for the first of the answer.
async fn ask(channel: &Channel, path: &str) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    // On the wire the first field of whatever message the RPC takes, and empty.
    let item = BatchDeleteEntryRequest {
        ids: vec![String::new()],
    };
    let codec = tonic_prost::ProstCodec::<BatchDeleteEntryRequest, ()>::default();
    let path = path.parse().unwrap();
    let answer = client
        .server_streaming(Request::new(item), path, codec)
        .await;
    if let Ok(answer) = answer {
        let _first = answer.into_inner().message().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_that_acts_tells_the_trail_also_of_what_it_refuses_and_no_other_does() {
    let server = start().await;
    let (_, _, agent) = server.agent().await;
    let below = workload(&server, true).await;
    for (method, path) in rpcs() {
        let channel = match caller(&method) {
            Caller::Operator => &server.admin,
            Caller::Agent => &agent,
            Caller::Below => &below,
        };
        let before = events(&server);
        ask(channel, &path).await;
        let told = since(&server, &before);
        let acts = !SILENT.contains(&method.as_str());
        assert_eq!(!told.is_empty(), acts, "{path}: {told:?}");
    }
}

/// What was done, and the events of it.
struct Trail<'a> {
    server: &'a Server,
    before: BTreeMap<String, u64>,
    done: BTreeSet<&'static str>,
}

impl<'a> Trail<'a> {
    fn new(server: &'a Server) -> Self {
        Self {
            server,
            before: events(server),
            done: BTreeSet::new(),
        }
    }

    /// What was called last is told by this event, and not as refused.
    fn tells(&mut self, rpc: &'static str, event: &str) {
        let told = since(self.server, &self.before);
        assert!(
            told.contains(event) && !told.contains("refused"),
            "{rpc}: {told:?}"
        );
        self.done.insert(rpc);
        self.before = events(self.server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_that_acts_tells_the_trail_what_it_did() {
    let server = start().await;
    let mut trail = Trail::new(&server);
    agents(&server, &mut trail).await;
    operators(&server, &mut trail).await;
    bundles(&server, &mut trail).await;
    federation(&server, &mut trail).await;
    authorities(&server, &mut trail).await;
    imports(&server, &mut trail).await;
    let all = rpcs();
    let left: Vec<_> = all
        .keys()
        .map(String::as_str)
        .filter(|method| !SILENT.contains(method) && !trail.done.contains(method))
        // Not built, and what needs an authority above, which this server has not.
        .filter(|method| !method.contains("WIT") && !method.contains("Upstream"))
        .collect();
    assert!(left.is_empty(), "who tells of {left:?}?");
}

async fn agents(server: &Server, trail: &mut Trail<'_>) {
    let token = server.token().await;
    trail.tells("CreateJoinToken", "join_token_created");
    let identity = server.attest(&token).await.unwrap();
    trail.tells("AttestAgent", "agent_attested");
    let channel = server.connect(Some(&identity)).await.unwrap();
    renew(&channel).await.unwrap();
    trail.tells("RenewAgent", "agent_renewed");
    let mut client = AgentClient::new(channel.clone());
    let agent_version = "1".to_owned();
    client
        .post_status(PostStatusRequest {
            agent_version,
            ..Default::default()
        })
        .await
        .unwrap();
    trail.tells("PostStatus", "agent_version_reported");

    let agent = agent_id(&token);
    let entry_id = server.entry(&agent, "/a").await;
    trail.tells("BatchCreateEntry", "entry_created");
    issue(&channel, &entry_id).await.unwrap();
    trail.tells("BatchNewX509SVID", "x509_svid_issued");
    let request = NewJwtsvidRequest {
        entry_id: entry_id.clone(),
        audience: vec!["a".to_owned()],
    };
    SvidClient::new(channel).new_jwtsvid(request).await.unwrap();
    trail.tells("NewJWTSVID", "jwt_svid_issued");
    let changed = types::Entry {
        id: entry_id.clone(),
        ..entry(&agent, "/b")
    };
    let request = BatchUpdateEntryRequest {
        entries: vec![changed],
        ..Default::default()
    };
    server.entries().batch_update_entry(request).await.unwrap();
    trail.tells("BatchUpdateEntry", "entry_updated");
    let ids = vec![entry_id];
    server
        .entries()
        .batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await
        .unwrap();
    trail.tells("BatchDeleteEntry", "entry_deleted");

    let request = BanAgentRequest { id: id(&agent) };
    server.agents().ban_agent(request).await.unwrap();
    trail.tells("BanAgent", "agent_banned");
    let request = DeleteAgentRequest { id: id(&agent) };
    server.agents().delete_agent(request).await.unwrap();
    trail.tells("DeleteAgent", "agent_evicted");
}

async fn operators(server: &Server, trail: &mut Trail<'_>) {
    let wanted = params(&["spiffe://example.org/m"]);
    mint(server, &wanted, 0).await.unwrap();
    trail.tells("MintX509SVID", "x509_svid_minted");
    mint_jwt(server, own("/m"), &["a"], 0).await.unwrap();
    trail.tells("MintJWTSVID", "jwt_svid_minted");
    let mut logger = LoggerClient::new(server.admin.clone());
    let new_level = LogLevel::Info.into();
    logger
        .set_log_level(SetLogLevelRequest { new_level })
        .await
        .unwrap();
    trail.tells("SetLogLevel", "log_level_set");
    logger
        .reset_log_level(ResetLogLevelRequest {})
        .await
        .unwrap();
    trail.tells("ResetLogLevel", "log_level_set");
    let mut backups = BackupClient::new(server.admin.clone());
    backups.snapshot(SnapshotRequest {}).await.unwrap();
    trail.tells("Snapshot", "backup_taken");
}

async fn bundles(server: &Server, trail: &mut Trail<'_>) {
    let below = workload(server, true).await;
    trail.before = events(server);
    let request = csr(&KeyPair::generate().unwrap(), &CertificateParams::default());
    new_ca(&below, request, 0).await.unwrap();
    trail.tells("NewDownstreamX509CA", "downstream_ca_issued");
    publish(&below, Some(jwt("below", LATER))).await.unwrap();
    trail.tells("PublishJWTAuthority", "jwt_authority_published");
    let request = AppendBundleRequest {
        x509_authorities: vec![x509()],
        ..Default::default()
    };
    server.bundles().append_bundle(request).await.unwrap();
    trail.tells("AppendBundle", "bundle_appended");

    server.create_bundles(vec![bundle("other.org")]).await;
    trail.tells("BatchCreateFederatedBundle", "bundle_created");
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![bundle("other.org")],
        ..Default::default()
    };
    server
        .bundles()
        .batch_set_federated_bundle(request)
        .await
        .unwrap();
    trail.tells("BatchSetFederatedBundle", "bundle_set");
    let request = BatchUpdateFederatedBundleRequest {
        bundle: vec![bundle("other.org")],
        ..Default::default()
    };
    server
        .bundles()
        .batch_update_federated_bundle(request)
        .await
        .unwrap();
    trail.tells("BatchUpdateFederatedBundle", "bundle_updated");
    server.delete_bundles(&["other.org"], Mode::Restrict).await;
    trail.tells("BatchDeleteFederatedBundle", "bundle_deleted");
}

async fn federation(server: &Server, trail: &mut Trail<'_>) {
    // Nobody is there.
    let with = https_web("other.org", "https://127.0.0.1:1/");
    relate(server, vec![with.clone()]).await;
    trail.tells(
        "BatchCreateFederationRelationship",
        "federation_relationship_created",
    );
    let mut client = relationships(server);
    let request = BatchUpdateFederationRelationshipRequest {
        federation_relationships: vec![with],
        ..Default::default()
    };
    client
        .batch_update_federation_relationship(request)
        .await
        .unwrap();
    trail.tells(
        "BatchUpdateFederationRelationship",
        "federation_relationship_updated",
    );
    let before = trail.before.clone();
    let trust_domain = "other.org".to_owned();
    let refused = client
        .refresh_bundle(RefreshBundleRequest { trust_domain })
        .await;
    assert!(refused.is_err());
    let told = since(server, &before);
    assert!(
        told.contains("bundle_refresh_asked") && told.contains("refused"),
        "{told:?}"
    );
    trail.done.insert("RefreshBundle");
    trail.before = events(server);
    let trust_domains = vec!["other.org".to_owned()];
    let request = BatchDeleteFederationRelationshipRequest { trust_domains };
    client
        .batch_delete_federation_relationship(request)
        .await
        .unwrap();
    trail.tells(
        "BatchDeleteFederationRelationship",
        "federation_relationship_deleted",
    );
}

async fn authorities(server: &Server, trail: &mut Trail<'_>) {
    let mut client = LocalAuthorityClient::new(server.admin.clone());
    let states = client
        .get_x509_authority_state(GetX509AuthorityStateRequest {})
        .await
        .unwrap();
    let old = states.into_inner().active.unwrap().authority_id;
    let prepared = client
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await
        .unwrap();
    trail.tells("PrepareX509Authority", "authority_prepared");
    let authority_id = prepared
        .into_inner()
        .prepared_authority
        .unwrap()
        .authority_id;
    let request = ActivateX509AuthorityRequest { authority_id };
    client.activate_x509_authority(request).await.unwrap();
    trail.tells("ActivateX509Authority", "authority_activated");
    let authority_id = old.clone();
    client
        .taint_x509_authority(TaintX509AuthorityRequest { authority_id })
        .await
        .unwrap();
    trail.tells("TaintX509Authority", "authority_tainted");
    let request = RevokeX509AuthorityRequest { authority_id: old };
    client.revoke_x509_authority(request).await.unwrap();
    trail.tells("RevokeX509Authority", "authority_revoked");

    let states = client
        .get_jwt_authority_state(GetJwtAuthorityStateRequest {})
        .await
        .unwrap();
    let old = states.into_inner().active.unwrap().authority_id;
    let prepared = client
        .prepare_jwt_authority(PrepareJwtAuthorityRequest {})
        .await
        .unwrap();
    trail.tells("PrepareJWTAuthority", "authority_prepared");
    let authority_id = prepared
        .into_inner()
        .prepared_authority
        .unwrap()
        .authority_id;
    let request = ActivateJwtAuthorityRequest { authority_id };
    client.activate_jwt_authority(request).await.unwrap();
    trail.tells("ActivateJWTAuthority", "authority_activated");
    let authority_id = old.clone();
    client
        .taint_jwt_authority(TaintJwtAuthorityRequest { authority_id })
        .await
        .unwrap();
    trail.tells("TaintJWTAuthority", "authority_tainted");
    let request = RevokeJwtAuthorityRequest { authority_id: old };
    client.revoke_jwt_authority(request).await.unwrap();
    trail.tells("RevokeJWTAuthority", "authority_revoked");
}

async fn imports(server: &Server, trail: &mut Trail<'_>) {
    let left = start().await;
    let (agent, _, _channel) = left.agent().await;
    import::merge(server, import::bundle(&left).await, false)
        .await
        .unwrap();
    trail.tells("ImportBundle", "bundle_merged");
    left.entry(&agent, "/moved").await;
    import::import_entries(server, import::listed(&left).await, false).await;
    trail.tells("BatchImportEntry", "entry_imported");
    import::import_agents(server, import::agents(&left).await, &left).await;
    trail.tells("BatchImportAgent", "agent_imported");
}
