//! Facts about the stream by which agents are told what they may have.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use proto::signet::agent::feed_client::FeedClient;
use proto::signet::agent::follow_response::Message as Content;
use proto::signet::agent::{Change, FollowRequest, FollowResponse, Position};
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{
    AgentX509svidParams, BanAgentRequest, DeleteAgentRequest, PostStatusRequest, RenewAgentRequest,
};
use proto::spire::server::bundle::BatchSetFederatedBundleRequest;
use proto::spire::server::entry::{BatchDeleteEntryRequest, BatchUpdateEntryRequest};
use proto::spire::types;
use proto::spire::types::permission_denied_details::Reason;
use rcgen::{CertificateParams, KeyPair};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::support::{Identity, Server, chain, csr, entry, id, reason, start, start_with};

/// An agent that follows, and what it holds.
struct Follower {
    stream: Streaming<FollowResponse>,
    resumed: bool,
    entries: BTreeMap<String, types::Entry>,
    bundles: BTreeMap<String, types::Bundle>,
    position: Position,
    /// The largest message of all.
    largest: usize,
}

impl Follower {
    /// Begins a stream, and takes its first change.
    async fn begin(channel: &Channel, held: Option<&Self>) -> Result<Self, Status> {
        let request = FollowRequest {
            held: held.map(|held| held.position.clone()),
        };
        let client = FeedClient::new(channel.clone()).max_decoding_message_size(1 << 20);
        let mut stream = { client }.follow(request).await?.into_inner();
        let Some(Content::Start(start)) = stream.message().await?.unwrap().message else {
            panic!("no start");
        };
        let mut follower = Self {
            stream,
            resumed: start.resumed,
            entries: held.map_or_else(BTreeMap::new, |held| held.entries.clone()),
            bundles: BTreeMap::new(),
            position: Position::default(),
            largest: 0,
        };
        if !start.resumed {
            follower.entries.clear();
        }
        follower.change().await?;
        Ok(follower)
    }

    /// Takes the next change; tells its parts together.
    async fn change(&mut self) -> Result<Change, Status> {
        let mut whole = Change::default();
        loop {
            let response = self.stream.message().await?.expect("the stream goes on");
            self.largest = self.largest.max(response.encoded_len());
            let Some(Content::Change(part)) = response.message else {
                continue;
            };
            whole.merge(part.encode_to_vec().as_slice()).unwrap();
            if let Some(position) = part.position {
                self.position = position;
                break;
            }
        }
        let Change {
            entries,
            removed_entries,
            bundles,
            removed_bundles,
            ..
        } = whole.clone();
        let by_id = |entry: types::Entry| (entry.id.clone(), entry);
        self.entries.extend(entries.into_iter().map(by_id));
        self.entries.retain(|id, _| !removed_entries.contains(id));
        let by_name = |bundle: types::Bundle| (bundle.trust_domain.clone(), bundle);
        self.bundles.extend(bundles.into_iter().map(by_name));
        self.bundles
            .retain(|name, _| !removed_bundles.contains(name));
        Ok(whole)
    }

    /// Waits for the end, and how it comes.
    async fn end(&mut self) -> Status {
        loop {
            match self.stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

async fn delete(server: &Server, ids: Vec<String>) {
    let request = BatchDeleteEntryRequest { ids };
    server.entries().batch_delete_entry(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_follows_hears_of_each_change_of_what_it_may_have() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let (other, _, others) = server.agent().await;
    let mut bystander = Follower::begin(&others, None).await.unwrap();
    let first = server.entry(&agent, "/first").await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    assert!(!follower.resumed);
    assert_eq!(follower.entries.keys().collect::<Vec<_>>(), [&first]);
    assert!(!follower.bundles["example.org"].x509_authorities.is_empty());

    let second = server.entry(&agent, "/second").await;
    let change = follower.change().await.unwrap();
    let told = &change.entries[0];
    assert_eq!(
        (told.id.as_str(), told.revision_number),
        (second.as_str(), 0)
    );
    assert_eq!(told.spiffe_id.as_ref().unwrap().path, "/second");
    assert!(told.created_at > 0 && told.parent_id.is_none());

    delete(&server, vec![second.clone()]).await;
    let change = follower.change().await.unwrap();
    assert_eq!(change.removed_entries, [second]);

    // Nothing of all this was the other agent's.
    let its_own = server.entry(&other, "/other").await;
    let change = bystander.change().await.unwrap();
    assert_eq!(change.entries[0].id, its_own);
    assert!(change.removed_entries.is_empty() && change.bundles.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_the_bundles_of_the_trust_domains_that_its_entries_federate_with() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let second = server.entry(&agent, "/second").await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    let update = types::Entry {
        id: second.clone(),
        federates_with: vec!["foreign.org".to_owned()],
        ..entry(&agent, "/second")
    };
    let foreign = types::Bundle {
        trust_domain: "foreign.org".to_owned(),
        ..server
            .bundles()
            .get_bundle(proto::spire::server::bundle::GetBundleRequest::default())
            .await
            .unwrap()
            .into_inner()
    };
    let foreign = BatchSetFederatedBundleRequest {
        bundle: vec![foreign],
        output_mask: None,
    };
    server
        .bundles()
        .batch_set_federated_bundle(foreign.clone())
        .await
        .unwrap();
    let request = BatchUpdateEntryRequest {
        entries: vec![update],
        ..Default::default()
    };
    let updated = server.entries().batch_update_entry(request).await.unwrap();
    assert_eq!(
        updated.into_inner().results[0]
            .status
            .as_ref()
            .unwrap()
            .code,
        0
    );
    let change = follower.change().await.unwrap();
    assert_eq!(change.entries[0].revision_number, 1);
    assert_eq!(change.bundles[0].trust_domain, "foreign.org");
    let mut again = foreign;
    again.bundle[0].sequence_number += 1;
    server
        .bundles()
        .batch_set_federated_bundle(again)
        .await
        .unwrap();
    let change = follower.change().await.unwrap();
    assert_eq!((change.entries.len(), change.bundles.len()), (0, 1));

    delete(&server, vec![second]).await;
    let change = follower.change().await.unwrap();
    assert_eq!(change.removed_bundles, ["foreign.org"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_is_told_the_rest_and_each_message_is_small() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    // A long value for each, so that a few entries are many bytes.
    let long = |number: usize| {
        let mut entry = entry(&agent, &format!("/{number}"));
        entry.selectors[0].value = "v".repeat(8_000);
        entry
    };
    for batch in 0..4 {
        let entries = (0..100).map(|number| long(batch * 100 + number)).collect();
        let results = server.create(entries).await;
        assert!(results.iter().all(|r| r.status.as_ref().unwrap().code == 0));
    }
    let whole = Follower::begin(&channel, None).await.unwrap();
    assert_eq!(whole.entries.len(), 400);
    assert!(
        whole.largest > 900_000 && whole.largest <= 1 << 20,
        "{}",
        whole.largest
    );

    let gone = whole.entries.keys().next().unwrap().clone();
    delete(&server, vec![gone.clone()]).await;
    let back = Follower::begin(&channel, Some(&whole)).await.unwrap();
    assert!(back.resumed && !back.entries.contains_key(&gone));
    assert_eq!((back.entries.len(), back.bundles.len()), (399, 1));
    assert!(back.largest < 10_000, "{}", back.largest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_hears_that_the_server_is_there() {
    let keepalive = Duration::from_millis(200);
    let server = start_with(|config| config.feed_keepalive = keepalive).await;
    let (_, _, channel) = server.agent().await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    for _ in 0..3 {
        let message = follower.stream.message().await.unwrap().unwrap();
        assert!(matches!(message.message, Some(Content::Keepalive(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_and_an_eviction_end_the_stream_at_once_with_their_reason() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    server
        .agents()
        .ban_agent(BanAgentRequest { id: id(&agent) })
        .await
        .unwrap();
    assert_eq!(
        reason(&follower.end().await),
        i32::from(Reason::AgentBanned)
    );
    let Err(refused) = Follower::begin(&channel, None).await else {
        panic!("a banned agent follows");
    };
    assert_eq!(reason(&refused), i32::from(Reason::AgentBanned));

    let (agent, _, channel) = server.agent().await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    server
        .agents()
        .delete_agent(DeleteAgentRequest { id: id(&agent) })
        .await
        .unwrap();
    assert_eq!(
        reason(&follower.end().await),
        i32::from(Reason::AgentNotAttested)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_replaced_svid_ends_when_the_new_one_is_used() {
    let server = start().await;
    let (_, _, channel) = server.agent().await;
    let mut follower = Follower::begin(&channel, None).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let params = AgentX509svidParams {
        csr: csr(&key, &CertificateParams::default()).into(),
    };
    let request = RenewAgentRequest {
        params: Some(params),
    };
    let renewed = AgentClient::new(channel)
        .renew_agent(request)
        .await
        .unwrap();
    let chain = chain(&renewed.into_inner().svid.unwrap());
    let renewed = Identity { key, chain };
    let channel = server.connect(Some(&renewed)).await.unwrap();
    AgentClient::new(channel.clone())
        .post_status(PostStatusRequest::default())
        .await
        .unwrap();
    assert_eq!(
        reason(&follower.end().await),
        i32::from(Reason::AgentNotActive)
    );
    let again = Follower::begin(&channel, Some(&follower)).await.unwrap();
    assert!(again.resumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_and_a_shutdown_end_a_stream_each_with_its_code() {
    let server = start().await;
    let (_, identity, channel) = server.agent().await;
    let mut older = Follower::begin(&channel, None).await.unwrap();
    let second = server.connect(Some(&identity)).await.unwrap();
    let mut newer = Follower::begin(&second, None).await.unwrap();
    assert_eq!(older.end().await.code(), Code::Aborted);
    let ((), ended) = tokio::join!(server.stop(), newer.end());
    assert_eq!(ended.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_for_agents_alone() {
    let server = start().await;
    let anonymous = server.connect(None).await.unwrap();
    for channel in [&anonymous, &server.admin] {
        let Err(refused) = Follower::begin(channel, None).await else {
            panic!("followed");
        };
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
}
