//! Facts about agents that attest by the service-account token of their pod.

use std::collections::BTreeMap;

use attestors::node::k8s_psat::fake::{FakeApiServer, FakePod, Fault};
use attestors::node::k8s_psat::{AgentIdBy, Cluster, KubeConfig, Limits, ServiceAccount};
use identity::spiffe_id::SpiffeId;
use proto::spire::server::agent::{BanAgentRequest, GetAgentRequest};
use proto::spire::server::entry::GetAuthorizedEntriesRequest;
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::types;
use proto::spire::types::permission_denied_details::Reason as Denial;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::support::{
    Identity, Server, attest_over, entry, id, own, reason, start, start_with, trust_domain,
};

const AGENT: &str = "spiffe://example.org/spire/agent/k8s_psat/prod/node-uid";
/// Addresses of this machine that stand for two machines.
const OWNER: &str = "127.0.0.1";
const THIEF: &str = "127.0.0.2";

/// A server that knows the cluster `prod`, and the API server of that.
struct World {
    server: Server,
    api: FakeApiServer,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new(Shutdown::new().0);
        let api = FakeApiServer::start(&tasks, None).await.unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        api.write_kubeconfig(&kubeconfig, None).unwrap();
        api.put_node("node", "node-uid", &[]);
        api.put_pod(pod("agent-1"));
        api.issue("one", &pod("agent-1"), "spire-server");
        let cluster = Cluster {
            service_accounts: [ServiceAccount::parse("spire:agent").unwrap()].into(),
            audiences: vec!["spire-server".to_owned()],
            kube_config: KubeConfig::File(kubeconfig),
            node_label_keys: Default::default(),
            pod_label_keys: Default::default(),
            agent_id_by: AgentIdBy::NodeUid,
            limits: Limits::default(),
        };
        let server = start_with(|config| {
            config.k8s_clusters = Some([("prod".to_owned(), cluster)].into());
        })
        .await;
        Self {
            server,
            api,
            _folder: folder,
        }
    }

    /// Attests without showing an SVID, as SPIRE's agent does.
    async fn attest(&self, token: &str) -> Result<Identity, Status> {
        self.attest_from(OWNER, None, token).await
    }

    async fn attest_from(
        &self,
        source: &str,
        shown: Option<&Identity>,
        token: &str,
    ) -> Result<Identity, Status> {
        let channel = self.server.connect_from(source, shown).await.unwrap();
        let (identity, reattestable) = attest_over(channel, "k8s_psat", &payload(token)).await?;
        assert!(reattestable);
        Ok(identity)
    }

    async fn call_as(&self, source: &str, agent: &Identity) -> Result<usize, Status> {
        authorized(&self.server.connect_from(source, Some(agent)).await.unwrap()).await
    }

    async fn record(&self) -> types::Agent {
        let request = GetAgentRequest {
            id: id(&agent()),
            output_mask: None,
        };
        let answer = self.server.agents().get_agent(request).await;
        answer.unwrap().into_inner()
    }
}

fn pod(name: &str) -> FakePod {
    FakePod {
        namespace: "spire".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        service_account: "agent".to_owned(),
        node_name: "node".to_owned(),
        labels: BTreeMap::new(),
    }
}

fn payload(token: &str) -> String {
    format!(r#"{{"cluster":"prod","token":"{token}"}}"#)
}

fn agent() -> SpiffeId {
    SpiffeId::parse(AGENT).unwrap()
}

async fn authorized(channel: &Channel) -> Result<usize, Status> {
    let request = GetAuthorizedEntriesRequest::default();
    let mut client = EntryClient::new(channel.clone());
    let answer = client.get_authorized_entries(request).await?;
    Ok(answer.into_inner().entries.len())
}

fn values(agent: &types::Agent) -> Vec<&str> {
    agent
        .selectors
        .iter()
        .map(|one| one.value.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_attests_and_gets_the_entries_of_its_cluster() {
    let world = World::start().await;
    let alias = types::Entry {
        selectors: vec![types::Selector {
            r#type: "k8s_psat".to_owned(),
            value: "cluster:prod".to_owned(),
        }],
        ..entry(&SpiffeId::server(&trust_domain()), "/cluster/prod")
    };
    assert_eq!(
        world.server.create(vec![alias]).await[0]
            .status
            .as_ref()
            .unwrap()
            .code,
        0
    );
    let parent = SpiffeId::from_path(&trust_domain(), "/cluster/prod").unwrap();
    world.server.entry(&parent, "/workload").await;
    world.server.entry(&agent(), "/on-this-node").await;
    let identity = world.attest("one").await.unwrap();
    assert_eq!(world.call_as(OWNER, &identity).await.unwrap(), 2);
    let record = world.record().await;
    assert_eq!(record.attestation_type, "k8s_psat");
    assert!(record.can_reattest && !record.banned);
    assert_eq!(record.id, own("/spire/agent/k8s_psat/prod/node-uid"));
    assert!(values(&record).contains(&"agent_pod_name:agent-1"));
    assert!(record.selectors.iter().all(|one| one.r#type == "k8s_psat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn attesting_again_replaces_the_svid_and_the_selectors() {
    let world = World::start().await;
    let first = world.attest("one").await.unwrap();
    world.api.delete_pod("spire", "agent-1");
    world.api.put_pod(pod("agent-2"));
    world.api.issue("two", &pod("agent-2"), "spire-server");
    // The new pod of a rollout is at another address, while the old one was alive a moment ago.
    let second = world.attest_from(THIEF, None, "two").await.unwrap();
    let status = world.call_as(OWNER, &first).await.unwrap_err();
    assert_eq!(reason(&status), Denial::AgentNotActive as i32);
    assert_eq!(world.call_as(THIEF, &second).await.unwrap(), 0);
    let record = world.record().await;
    let names: Vec<_> = values(&record)
        .into_iter()
        .filter(|value| value.starts_with("agent_pod_name"))
        .collect();
    assert_eq!(names, ["agent_pod_name:agent-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_final_for_a_node_that_could_attest_again() {
    let world = World::start().await;
    world.attest("one").await.unwrap();
    let request = BanAgentRequest { id: id(&agent()) };
    world.server.agents().ban_agent(request).await.unwrap();
    let status = world.attest("one").await.err().unwrap();
    assert_eq!(status.message(), "failed to attest: agent is banned");
    assert_eq!(reason(&status), Denial::AgentBanned as i32);
    assert!(world.record().await.banned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_attested_is_told_why_in_the_words_of_spire() {
    let world = World::start().await;
    let attest = |payload: String| {
        let server = &world.server;
        async move {
            let channel = server.connect(None).await.unwrap();
            let refused = attest_over(channel, "k8s_psat", &payload).await;
            let status = refused.err().unwrap();
            (status.code(), status.message().to_owned())
        }
    };
    for (payload, code, message) in [
        (
            r#"{"token":"one"}"#.to_owned(),
            Code::InvalidArgument,
            "nodeattestor(k8s_psat): missing cluster in attestation data",
        ),
        (
            r#"{"cluster":"x","token":"one"}"#.to_owned(),
            Code::InvalidArgument,
            r#"nodeattestor(k8s_psat): not configured for cluster "x""#,
        ),
        (
            payload("unknown"),
            Code::Internal,
            r#"nodeattestor(k8s_psat): unable to validate token with TokenReview API for cluster "prod": token review API response contains an error: [invalid bearer token, unknown]"#,
        ),
    ] {
        assert_eq!(attest(payload).await, (code, message.to_owned()));
    }
    let mut token = world.api.token("one").unwrap();
    token.username = "system:serviceaccount:spire:other".to_owned();
    world.api.put_token("other", token);
    assert_eq!(
        attest(payload("other")).await,
        (
            Code::PermissionDenied,
            r#"nodeattestor(k8s_psat): "spire:other" is not an allowed service account for cluster "prod""#
                .to_owned()
        )
    );
    world.api.fail(Some(Fault::Status(500)));
    assert_eq!(attest(payload("one")).await.0, Code::Internal);
    world.api.fail(None);
    assert!(world.attest("one").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_clusters_knows_no_such_attestor() {
    let server = start().await;
    let channel = server.connect(None).await.unwrap();
    let refused = attest_over(channel, "k8s_psat", &payload("one")).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        r#"error getting node attestor: could not find node attestor type "k8s_psat""#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_does_not_take_the_identity_of_an_agent_that_is_alive() {
    let world = World::start().await;
    let owner = world.attest("one").await.unwrap();
    world.call_as(OWNER, &owner).await.unwrap();
    let status = world.attest_from(THIEF, None, "one").await.err().unwrap();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    world.call_as(OWNER, &owner).await.unwrap();
    // The agent itself may renew from where it likes, and a restarted one from where it was.
    let owner = world.attest_from(THIEF, Some(&owner), "one").await.unwrap();
    world.call_as(THIEF, &owner).await.unwrap();
    let owner = world.attest_from(OWNER, None, "one").await;
    assert_eq!(owner.err().map(|status| status.code()), Some(Code::Aborted));
    assert!(world.attest_from(THIEF, None, "one").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_owner_never_used_lets_a_thief_in_but_does_not_keep_the_owner_out() {
    let world = World::start().await;
    let owner = world.attest("one").await.unwrap();
    world.call_as(OWNER, &owner).await.unwrap();
    world.api.issue("next", &pod("agent-1"), "spire-server");
    let thief = world.attest_from(THIEF, None, "next").await.unwrap();
    world.call_as(THIEF, &thief).await.unwrap();
    let status = world.call_as(OWNER, &owner).await.unwrap_err();
    assert_eq!(reason(&status), Denial::AgentNotActive as i32);
    let owner = world
        .attest_from(OWNER, Some(&owner), "next")
        .await
        .unwrap();
    assert!(world.call_as(OWNER, &owner).await.is_ok());
}
