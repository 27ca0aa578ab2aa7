//! Facts about attesting, renewing, banning and evicting.

use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{
    AgentX509svidParams, BanAgentRequest, CountAgentsRequest, CreateJoinTokenRequest,
    DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, PostStatusRequest, RenewAgentRequest,
    list_agents_request,
};
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{GetAuthorizedEntriesRequest, ListEntriesRequest};
use proto::spire::types;
use proto::spire::types::permission_denied_details::Reason;
use rcgen::{CertificateParams, KeyPair};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::support::{Identity, agent_id, attestation, chain, csr, id, own, reason, start};

async fn authorized(channel: &Channel) -> Result<usize, Status> {
    let request = GetAuthorizedEntriesRequest::default();
    let mut client = EntryClient::new(channel.clone());
    Ok(client
        .get_authorized_entries(request)
        .await?
        .into_inner()
        .entries
        .len())
}

pub(crate) async fn renew(channel: &Channel) -> Result<Identity, Status> {
    let key = KeyPair::generate().unwrap();
    let csr = csr(&key, &CertificateParams::default());
    let request = RenewAgentRequest {
        params: Some(AgentX509svidParams { csr: csr.into() }),
    };
    let answer = AgentClient::new(channel.clone())
        .renew_agent(request)
        .await?
        .into_inner();
    Ok(Identity {
        key,
        chain: chain(&answer.svid.unwrap()),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_64_parallel_uses_of_a_join_token_wins() {
    let server = start().await;
    let token = server.token().await;
    let attempts = (0..64).map(|_| server.attest(&token));
    let outcomes = futures_util::future::join_all(attempts).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(
            status.message(),
            "failed to attest: join token does not exist or has already been used"
        );
    }
    let count = server
        .agents()
        .count_agents(CountAgentsRequest::default())
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 1);
    // The one that won is the one in use.
    let winner = won.into_iter().next().unwrap().unwrap();
    let channel = server.connect(Some(&winner)).await.unwrap();
    assert_eq!(authorized(&channel).await.unwrap(), 0);
}

/// The same key once more.
fn again(identity: &Identity) -> KeyPair {
    KeyPair::try_from(identity.key.serialize_der()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_an_attestation_bricks_nothing() {
    let server = start().await;
    let token = server.token().await;
    let lost = server.attest(&token).await.unwrap();
    // Whoever has the token alone gets nothing.
    let spent = "failed to attest: join token does not exist or has already been used";
    let thief = server.attest(&token).await.err().unwrap();
    assert_eq!(thief.message(), spent);
    // The agent that came by it asks once more, and then the first answer arrives after all.
    let second = server.attest_with(&token, again(&lost)).await.unwrap();
    let (first, next) = (
        server.connect(Some(&lost)).await.unwrap(),
        server.connect(Some(&second)).await.unwrap(),
    );
    assert_eq!(authorized(&first).await.unwrap(), 0);
    assert_eq!(authorized(&next).await.unwrap(), 0);
    // It was heard by its second SVID: that is the one, and the token is done for good.
    assert_eq!(
        reason(&authorized(&first).await.unwrap_err()),
        i32::from(Reason::AgentNotActive)
    );
    let late = server.attest_with(&token, again(&lost)).await;
    assert_eq!(late.err().unwrap().message(), spent);
    assert_eq!(authorized(&next).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_done_with_the_first_word_of_its_agent() {
    let server = start().await;
    let token = server.token().await;
    let identity = server.attest(&token).await.unwrap();
    let channel = server.connect(Some(&identity)).await.unwrap();
    let status = PostStatusRequest {
        agent_version: "1".to_owned(),
        ..Default::default()
    };
    AgentClient::new(channel).post_status(status).await.unwrap();
    assert!(server.attest_with(&token, again(&identity)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_or_evicted_agent_does_not_come_back_by_its_spent_token() {
    let server = start().await;
    let (banned, evicted) = (server.token().await, server.token().await);
    let banned_key = again(&server.attest(&banned).await.unwrap());
    let evicted_key = again(&server.attest(&evicted).await.unwrap());
    let ban = BanAgentRequest {
        id: id(&agent_id(&banned)),
    };
    server.agents().ban_agent(ban).await.unwrap();
    let evict = DeleteAgentRequest {
        id: id(&agent_id(&evicted)),
    };
    server.agents().delete_agent(evict).await.unwrap();
    for (token, key) in [(banned, banned_key), (evicted, evicted_key)] {
        let refused = server.attest_with(&token, key).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_is_wrong_with_an_attestation() {
    let server = start().await;
    let token = server.token().await;
    let key = KeyPair::generate().unwrap();
    let good = csr(&key, &CertificateParams::default());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let channel = server.connect(None).await.unwrap();
    for (request, code, message) in [
        (
            attestation("", &token, good.clone()),
            Code::InvalidArgument,
            "malformed param: missing attestation data type",
        ),
        (
            attestation("join_token", "", good.clone()),
            Code::InvalidArgument,
            "malformed param: missing attestation data payload",
        ),
        (
            attestation("join_token", &token, Vec::new()),
            Code::InvalidArgument,
            "malformed param: missing CSR",
        ),
        (
            attestation("x509pop", &token, good.clone()),
            Code::FailedPrecondition,
            "error getting node attestor: could not find node attestor type \"x509pop\"",
        ),
        (
            attestation("join_token", "no-such-token", good.clone()),
            Code::InvalidArgument,
            "failed to attest: join token does not exist or has already been used",
        ),
        (
            attestation("join_token", "a/../b", good.clone()),
            Code::InvalidArgument,
            "failed to attest: join token does not exist or has already been used",
        ),
        (
            attestation("join_token", &token, forged),
            Code::InvalidArgument,
            "failed to parse CSR",
        ),
        (
            attestation("join_token", &token, vec![0x30; 20_000]),
            Code::InvalidArgument,
            "failed to parse CSR",
        ),
    ] {
        let answer = AgentClient::new(channel.clone())
            .attest_agent(tokio_stream::iter([request]))
            .await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), code, "{message}");
        assert!(
            status.message().starts_with(message),
            "{:?} is not {message:?}",
            status.message()
        );
    }
    // None of it has spent the token.
    server.attest(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_renewal_bricks_nothing() {
    let server = start().await;
    let (_, old, channel) = server.agent().await;
    // The answer is lost: the agent never sees this SVID.
    drop(renew(&channel).await.unwrap());
    assert_eq!(
        authorized(&channel).await.unwrap(),
        0,
        "the old SVID still counts"
    );
    let again = server.connect(Some(&old)).await.unwrap();
    let new = renew(&again).await.unwrap();
    assert_eq!(authorized(&again).await.unwrap(), 0);
    // Many first calls with the new SVID race to promote it; none is denied.
    let renewed = server.connect(Some(&new)).await.unwrap();
    let calls = (0..32).map(|_| authorized(&renewed));
    for outcome in futures_util::future::join_all(calls).await {
        assert_eq!(outcome.unwrap(), 0);
    }
    let denied = authorized(&again).await.unwrap_err();
    assert_eq!(reason(&denied), Reason::AgentNotActive as i32);
    assert_eq!(
        denied.message(),
        "authorization denied for method /spire.api.server.entry.v1.Entry/GetAuthorizedEntries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_and_an_eviction_act_at_the_next_call() {
    let server = start().await;
    let (agent, _, channel) = server.agent().await;
    assert_eq!(authorized(&channel).await.unwrap(), 0);
    server
        .agents()
        .ban_agent(BanAgentRequest { id: id(&agent) })
        .await
        .unwrap();
    assert_eq!(
        reason(&authorized(&channel).await.unwrap_err()),
        Reason::AgentBanned as i32
    );
    let request = GetAgentRequest {
        id: id(&agent),
        output_mask: None,
    };
    let shown = server
        .agents()
        .get_agent(request)
        .await
        .unwrap()
        .into_inner();
    assert!(shown.banned);
    assert_eq!(shown.x509svid_serial_number, "");
    assert_ne!(shown.x509svid_expires_at, 0);
    // A new token of the same name does not bring a banned agent back.
    let name = agent.path().rsplit('/').next().unwrap().to_owned();
    let request = CreateJoinTokenRequest {
        ttl: 60,
        token: name.clone(),
        agent_id: None,
    };
    server.agents().create_join_token(request).await.unwrap();
    let Err(status) = server.attest(&name).await else {
        panic!("a banned agent attested")
    };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "failed to attest: agent is banned");

    server
        .agents()
        .delete_agent(DeleteAgentRequest { id: id(&agent) })
        .await
        .unwrap();
    let denied = authorized(&channel).await.unwrap_err();
    assert_eq!(reason(&denied), Reason::AgentNotAttested as i32);
    let gone = server
        .agents()
        .delete_agent(DeleteAgentRequest { id: id(&agent) })
        .await;
    assert_eq!(gone.unwrap_err().message(), "agent not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_an_agent_id_makes_an_entry_that_goes_with_the_agent() {
    let server = start().await;
    let request = CreateJoinTokenRequest {
        ttl: 60,
        token: "t1".to_owned(),
        agent_id: own("/host1"),
    };
    let token = server
        .agents()
        .create_join_token(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.value, "t1");
    let twice = server
        .agents()
        .create_join_token(request)
        .await
        .unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    let list = || async {
        let entries = server
            .entries()
            .list_entries(ListEntriesRequest::default())
            .await
            .unwrap();
        entries.into_inner().entries
    };
    let entries = list().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].spiffe_id, own("/host1"));
    assert_eq!(entries[0].selectors[0].value, agent_id("t1").as_str());
    let identity = server.attest("t1").await.unwrap();
    let channel = server.connect(Some(&identity)).await.unwrap();
    assert_eq!(authorized(&channel).await.unwrap(), 1);
    server
        .agents()
        .delete_agent(DeleteAgentRequest {
            id: id(&agent_id("t1")),
        })
        .await
        .unwrap();
    assert!(list().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_tokens_as_spire_does() {
    let server = start().await;
    let foreign = Some(types::Spiffeid {
        trust_domain: "other.org".into(),
        path: "/x".into(),
    });
    for (ttl, agent_id, message) in [
        (0, None, "ttl is required, you must provide one"),
        (-1, None, "ttl is required, you must provide one"),
        (
            60,
            own("/spire/agent/x"),
            "invalid agent ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            60,
            foreign,
            "invalid agent ID: \"spiffe://other.org/x\" is not a member of trust domain \"example.org\"",
        ),
    ] {
        let request = CreateJoinTokenRequest {
            ttl,
            token: String::new(),
            agent_id,
        };
        let status = server
            .agents()
            .create_join_token(request)
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, message)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "most of it is a table")]
async fn filters_masks_and_pages_agents() {
    let server = start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (agent, _, channel) = server.agent().await;
        let request = PostStatusRequest {
            agent_version: "1.2.3".into(),
            ..Default::default()
        };
        AgentClient::new(channel)
            .post_status(request)
            .await
            .unwrap();
        ids.push(agent);
    }
    server
        .agents()
        .ban_agent(BanAgentRequest { id: id(&ids[0]) })
        .await
        .unwrap();
    let list = |filter, page_size, page_token: &str, output_mask| {
        let request = ListAgentsRequest {
            filter,
            page_size,
            page_token: page_token.to_owned(),
            output_mask,
        };
        let mut client = server.agents();
        async move {
            client
                .list_agents(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let filter = |change: fn(&mut list_agents_request::Filter)| {
        let mut filter = list_agents_request::Filter::default();
        change(&mut filter);
        Some(filter)
    };
    for (filter, expected) in [
        (None, 3),
        (filter(|f| f.by_banned = Some(true)), 1),
        (filter(|f| f.by_banned = Some(false)), 2),
        (filter(|f| f.by_can_reattest = Some(true)), 0),
        (filter(|f| f.by_attestation_type = "join_token".into()), 3),
        (filter(|f| f.by_attestation_type = "none".into()), 0),
        (
            filter(|f| f.by_expires_before = "2099-01-01 00:00:00 +0000 +00".into()),
            3,
        ),
        (
            filter(|f| f.by_expires_before = "2020-01-01 00:00:00 +0000 +00".into()),
            0,
        ),
    ] {
        assert_eq!(
            list(filter.clone(), 0, "", None)
                .await
                .unwrap()
                .agents
                .len(),
            expected,
            "{filter:?}"
        );
    }
    let first = list(None, 2, "", None).await.unwrap();
    let second = list(None, 2, &first.next_page_token, None).await.unwrap();
    assert_eq!((first.agents.len(), second.agents.len()), (2, 1));
    assert_eq!(second.next_page_token, "");
    assert!(
        first
            .agents
            .iter()
            .chain(&second.agents)
            .all(|agent| agent.agent_version == "1.2.3")
    );
    let mask = types::AgentMask {
        attestation_type: true,
        ..Default::default()
    };
    let masked = list(None, 0, "", Some(mask))
        .await
        .unwrap()
        .agents
        .remove(0);
    assert_eq!(masked.attestation_type, "join_token");
    assert_eq!(
        (masked.agent_version.as_str(), masked.x509svid_expires_at),
        ("", 0)
    );
    assert_eq!(
        list(None, 1, "bogus", None).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
