//! What an operator changes reaches just the agents that it concerns, over streams that cost nothing meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use agent::upstream::UpstreamError;
use agent::upstream::feed::Told;
use identity::entry::EntryId;
use identity::spiffe_id::SpiffeId;
use nix::unistd::getuid;
use proto::spire::server::agent::agent_client::AgentClient;
use proto::spire::server::agent::{BanAgentRequest, DeleteAgentRequest};
use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use proto::spire::types::{Entry, Selector, Spiffeid};
use tests::api::admin_channel;
use tests::domain::{Domain, Plan};
use tests::process::HANG;
use tests::programs::Make::Signet;
use tests::simulated::{Following, SimulatedAgent, Site};
use tests::workload::Workload;
use tonic::transport::Channel;

const AGENTS: usize = 1_000;
/// Of them banned, and as many evicted.
const SHUT_OUT: usize = 10;
/// Signs of life that are waited for to see an idle server: each agent's are seconds apart.
const KEEPALIVES: f64 = 300.0;
/// What the API takes at once.
const BATCH: usize = 500;

const CHANGES: &str = r#"signet_feed_messages_total{kind="Change"}"#;
const KEEPALIVE: &str = r#"signet_feed_messages_total{kind="Keepalive"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_the_one_agent_of_a_thousand_that_it_concerns_and_an_idle_one_costs_nothing()
 {
    let domain = Plan::new(Signet)
        .ids_alone()
        .key(r#"log_level = "WARN""#)
        .metrics()
        .start();
    let site = Site::open(&domain.server_socket(), domain.port).await;
    let agents = site.agents(AGENTS).await;
    let mut followed = SimulatedAgent::follow_all(&agents).await;
    assert_eq!(count(&domain, "signet_feed_streams"), AGENTS as f64);

    idle(&domain, &mut followed).await;

    // For an agent with workloads alone.
    let real = domain.agent(Signet);
    let uid = format!("unix:uid:{}", getuid());
    domain.entry(&real, "/one", &uid, &[]);
    let one = Workload::start(&real.socket(), "spiffe://example.org/one").await;
    let before = count(&domain, CHANGES);
    let id = domain.entry(&real, "/two", &uid, &[]);
    let two = Workload::start(&real.socket(), "spiffe://example.org/two").await;
    assert_eq!(count(&domain, CHANGES) - before, 1.0);
    domain.cli(&["entry", "delete", "-entryID", &id]).success();
    gone(&two).await;
    assert_eq!(count(&domain, CHANGES) - before, 2.0);
    drop((one, two));

    // One for each.
    let admin = admin_channel(&domain.server_socket()).await;
    let ids = create(&admin, &agents).await;
    for ((agent, following), id) in agents.iter().zip(&mut followed).zip(&ids) {
        let entry = only(following).await;
        assert!(matches!(&entry, (told, Told::Entry(_)) if told == id));
        let spiffe_id = SpiffeId::parse("spiffe://example.org/each").unwrap();
        let chain = agent.sign(id, &spiffe_id).await;
        assert_eq!(chain[0].spiffe_id().unwrap(), spiffe_id);
    }
    delete(&admin, &ids).await;
    for (following, id) in followed.iter_mut().zip(&ids) {
        let entry = only(following).await;
        assert!(matches!(&entry, (told, Told::Removed) if told == id));
    }

    shut_out(&admin, &agents, &mut followed).await;
    assert_eq!(count(&domain, CHANGES) - before, 4.0 + 2.0 * AGENTS as f64);
}

/// While nothing happens, the server answers no call, reads no record and writes none.
async fn idle(domain: &Domain, followed: &mut [Following]) {
    let before = domain.metrics();
    let enough = count(domain, KEEPALIVE) + KEEPALIVES;
    let waits = async {
        // The streams are read, or there would be no more keepalives after a while.
        let mut hears = futures_util::future::select_all(
            followed
                .iter_mut()
                .map(|following| Box::pin(following.change())),
        );
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            tokio::select! {
                (told, ..) = &mut hears => panic!("something was told: {told:?}"),
                _ = ticks.tick() => if count(domain, KEEPALIVE) >= enough { return },
            }
        }
    };
    tokio::time::timeout(HANG, waits).await.unwrap();
    let after = domain.metrics();
    // The server looks by itself whether its store answers.
    let work = |name: &String| {
        (name.starts_with("signet_rpc_total") || name.starts_with("signet_store_"))
            && !name.contains("\"Probe\"")
    };
    let work = |metrics: BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        metrics.into_iter().filter(|(name, _)| work(name)).collect()
    };
    let (before, after) = (work(before), work(after));
    assert!(
        before.contains_key("signet_store_operations_total{operation=\"Read\"}"),
        "{before:#?}"
    );
    assert_eq!(before, after);
}

/// Some are banned and some evicted: their streams end at once, and the others go on.
async fn shut_out(admin: &Channel, agents: &[SimulatedAgent], followed: &mut Vec<Following>) {
    let mut client = AgentClient::new(admin.clone());
    let (out, others) = agents.split_at(2 * SHUT_OUT);
    for (number, agent) in out.iter().enumerate() {
        let id = Some(id_of(&agent.id));
        match number < SHUT_OUT {
            true => drop(client.ban_agent(BanAgentRequest { id }).await.unwrap()),
            false => drop(
                client
                    .delete_agent(DeleteAgentRequest { id })
                    .await
                    .unwrap(),
            ),
        }
    }
    let going_on = followed.split_off(out.len());
    for (mut following, agent) in followed.drain(..).zip(out) {
        let ended = within(following.change()).await.unwrap_err();
        assert!(matches!(ended, UpstreamError::Denied(_)), "{ended:?}");
        // And it cannot come back.
        let refused = agent.follow(None).await.unwrap_err();
        assert!(matches!(refused, UpstreamError::Denied(_)), "{refused:?}");
    }
    *followed = going_on;
    let ids = create(admin, &others[..1]).await;
    let (told, _) = only(&mut followed[0]).await;
    assert_eq!(told, ids[0]);
    // Deleted again, so that what was told is counted alike for everybody.
    delete(admin, &ids).await;
    only(&mut followed[0]).await;
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap()
}

/// The one entry that the next change tells of, and no bundle.
async fn only(following: &mut Following) -> (EntryId, Told) {
    let changed = within(following.change()).await.unwrap();
    assert!(changed.bundles.is_empty(), "{changed:?}");
    assert_eq!(changed.told.len(), 1, "{changed:?}");
    changed.told.into_iter().next().unwrap()
}

/// Waits until the agent takes an identity away.
async fn gone(workload: &Workload) {
    let mut watch = workload.watch();
    within(watch.wait_for(Option::is_none)).await.unwrap();
}

fn count(domain: &Domain, name: &str) -> f64 {
    domain.metrics().get(name).copied().unwrap_or_default()
}

fn id_of(id: &SpiffeId) -> Spiffeid {
    Spiffeid {
        trust_domain: id.trust_domain().name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// Makes an entry for each of the agents.
async fn create(admin: &Channel, agents: &[SimulatedAgent]) -> Vec<EntryId> {
    let entry = |agent: &SimulatedAgent| Entry {
        parent_id: Some(id_of(&agent.id)),
        spiffe_id: Some(id_of(
            &SpiffeId::parse("spiffe://example.org/each").unwrap(),
        )),
        selectors: vec![Selector {
            r#type: "unix".to_owned(),
            value: "uid:1".to_owned(),
        }],
        ..Entry::default()
    };
    let mut client = EntryClient::new(admin.clone());
    let mut ids = Vec::new();
    for agents in agents.chunks(BATCH) {
        let request = BatchCreateEntryRequest {
            entries: agents.iter().map(entry).collect(),
            output_mask: None,
        };
        let answer = client.batch_create_entry(request).await.unwrap();
        for result in answer.into_inner().results {
            ids.push(EntryId::parse(&result.entry.unwrap().id).unwrap());
        }
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), agents.len());
    ids
}

async fn delete(admin: &Channel, ids: &[EntryId]) {
    let mut client = EntryClient::new(admin.clone());
    for ids in ids.chunks(BATCH) {
        let ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let request = BatchDeleteEntryRequest { ids };
        client.batch_delete_entry(request).await.unwrap();
    }
}
