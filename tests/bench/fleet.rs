//! A thousand agents on one server: how soon each hears of what concerns it, and what it costs the server when all of
//! them want everything signed.

use std::sync::Arc;
use std::time::Instant;

use agent::keys::new_workload_key;
use agent::upstream::SigningRequest;
use agent::upstream::feed::Told;
use identity::entry::EntryId;
use identity::key::KeyAlgorithm;
use identity::spiffe_id::SpiffeId;
use tests::domain::{Domain, Plan};
use tests::programs::Make;
use tests::simulated::{Following, SimulatedAgent, Site};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admin::{Admin, NewEntry};
use crate::cost::{Delays, millis, wall};
use crate::issue;
use crate::meter::Meter;
use crate::table::{Goal, Row};

const AGENTS: usize = 1_000;
/// Entries that are created, and deleted again, each for another agent.
const WRITES: usize = 200;
const BANS: usize = 100;
/// Each agent's entries when all of them are renewed.
const ENTRIES: usize = 100;

/// How soon an agent hears.
pub(crate) fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (domain, agents) = begin().await;
        let admin = Admin::of(&domain).await;
        let mut fleet = Fleet::follow(agents).await;
        let [mut created, mut deleted, mut banned] = [const { Delays(Vec::new()) }; 3];
        // Far apart, so that no agent is one that has just been served.
        let turns = || (0..AGENTS).step_by(AGENTS / WRITES);
        for at in turns() {
            let entry = entry(&fleet.ids[at], format!("/write/{at}"));
            let id = admin.create(entry).await;
            created.see(fleet.until(at, What::Signed).await);
            admin.delete(id).await;
            deleted.see(fleet.until(at, What::Removed).await);
        }
        let ids = Arc::clone(&fleet.ids);
        let all = ids.iter().map(|id| entry(id, "/all".to_owned()));
        let start = wall();
        admin.create_all(all).await;
        let acknowledged = start.elapsed();
        for _ in 0..AGENTS {
            fleet.next().await;
        }
        let all_signed = start.elapsed();
        for at in turns().take(BANS) {
            admin.ban(&fleet.ids[at]).await;
            banned.see(fleet.until(at, What::Ended).await);
        }
        let at_most = |name, delays: &Delays, what| Row {
            name,
            goal: Goal::AtMost(100.0),
            measured: millis(delays.p99()),
            unit: " ms",
            from: delays.told(what),
        };
        vec![
            at_most(
                "entry acknowledged to SVID at its agent, 1,000 agents, p99",
                &created,
                "writes",
            ),
            at_most(
                "deletion acknowledged to the agent's knowing, 1,000 agents, p99",
                &deleted,
                "writes",
            ),
            at_most(
                "ban acknowledged to the end of the feed, 1,000 agents, p99",
                &banned,
                "bans",
            ),
            Row {
                from: format!(
                    "two calls of 500 entries, the second acknowledged after {:.0} ms",
                    millis(acknowledged)
                ),
                ..Row::limit(
                    "an entry for each of 1,000 agents at once: from the first call to the last SVID",
                    millis(all_signed),
                    " ms",
                )
            },
        ]
    })
}

/// What it costs the server when all agents renew all they have at the same time.
pub(crate) fn storm() -> Vec<Row> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (sign, verify) = issue::limits();
    runtime.block_on(async {
        let (domain, agents) = begin().await;
        let admin = Admin::of(&domain).await;
        let ids: Vec<String> = agents.iter().map(|agent| agent.id.to_string()).collect();
        let entries = ids
            .iter()
            .flat_map(|id| (0..ENTRIES).map(move |at| entry(id, format!("/{at}"))));
        admin.create_all(entries).await;
        let csrs = csrs();
        // Every agent has its connection and knows its entries before any of them asks.
        let mut waiting = Vec::new();
        for agent in agents {
            let mut following = agent.follow(None).await.unwrap();
            let told = following.change().await.unwrap().told;
            assert_eq!(told.len(), ENTRIES);
            let requests: Vec<_> = told
                .into_iter()
                .zip(csrs.iter().cycle())
                .map(|((entry_id, _), csr)| request(entry_id, csr))
                .collect();
            waiting.push((agent, following, requests));
        }
        let server = Meter::of(domain.server.pid());
        let (before, start) = (server.processor(), wall());
        let mut asking = JoinSet::new();
        for (agent, following, requests) in waiting {
            asking.spawn(async move {
                agent.sign_all(requests).await;
                (agent, following)
            });
        }
        asking.join_all().await;
        let (used, time) = (server.processor() - before, start.elapsed());
        let svids = f64::from(u32::try_from(AGENTS * ENTRIES).unwrap());
        let limit = svids * (sign + verify) / 1e6;
        vec![Row {
            name: "renewal storm, 1,000 agents of 100 entries: processor, of the limit of signing and verifying",
            goal: Goal::AtMost(1.25),
            measured: used.as_secs_f64() / limit,
            unit: "",
            from: format!(
                "{:.2} s of {limit:.2} s, {:.1} s by the wall",
                used.as_secs_f64(),
                time.as_secs_f64()
            ),
        }]
    })
}

async fn begin() -> (Domain, Vec<SimulatedAgent>) {
    let domain = Plan::new(Make::Signet).key(r#"log_level = "WARN""#).start();
    let site = Site::open(&domain.server_socket(), domain.port).await;
    let agents = site.agents(AGENTS).await;
    (domain, agents)
}

fn entry(agent: &str, path: String) -> NewEntry<'_> {
    NewEntry {
        parent: agent,
        path,
        selector: ("unix", "uid:1".to_owned()),
    }
}

/// Keys that were made before: what they cost is the agents' affair.
fn csrs() -> Vec<Vec<u8>> {
    let id = SpiffeId::parse("spiffe://example.org/renewed").unwrap();
    let csr = |_| new_workload_key(KeyAlgorithm::EcP256, &id).unwrap().csr;
    (0..issue::REQUESTS).map(csr).collect()
}

fn request(entry_id: EntryId, csr: &[u8]) -> SigningRequest {
    SigningRequest {
        entry_id,
        csr: csr.to_vec(),
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    /// It has its SVID.
    Signed,
    /// It knows that it has no right to it any more.
    Removed,
    /// The server has ended its feed.
    Ended,
}

/// Agents that do as they are told.
struct Fleet {
    ids: Arc<[String]>,
    heard: mpsc::Receiver<(usize, What, Instant)>,
    _agents: JoinSet<()>,
}

impl Fleet {
    async fn follow(agents: Vec<SimulatedAgent>) -> Self {
        let ids = agents.iter().map(|agent| agent.id.to_string()).collect();
        let following = SimulatedAgent::follow_all(&agents).await;
        // Room for all that is told between two looks.
        let (tell, heard) = mpsc::channel(4 * AGENTS);
        let mut tasks = JoinSet::new();
        for (at, (agent, following)) in agents.into_iter().zip(following).enumerate() {
            let tell = tell.clone();
            let tell = move |what| {
                // Nobody listens any more once everything is measured.
                let _ = tell.try_send((at, what, wall()));
            };
            tasks.spawn(obey(agent, following, tell));
        }
        Self {
            ids,
            heard,
            _agents: tasks,
        }
    }

    async fn next(&mut self) -> (usize, What, Instant) {
        self.heard.recv().await.unwrap()
    }

    /// The time until this agent has said this. Nobody else has anything to say.
    async fn until(&mut self, agent: usize, what: What) -> std::time::Duration {
        let start = wall();
        let (at, said, when) = self.next().await;
        assert_eq!((at, said), (agent, what));
        when.saturating_duration_since(start)
    }
}

async fn obey(agent: SimulatedAgent, mut following: Following, tell: impl Fn(What)) {
    while let Ok(change) = following.change().await {
        for (id, told) in change.told {
            match told {
                Told::Entry(entry) => {
                    agent.sign(&id, &entry.spiffe_id).await;
                    tell(What::Signed);
                }
                Told::Removed | Told::Unreadable(_) => tell(What::Removed),
            }
        }
    }
    tell(What::Ended);
}
