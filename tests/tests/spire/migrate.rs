//! A trust domain moves from a real SPIRE server to ours, and back, while its agents and workloads live.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proto::spire::server::entry::entry_client::EntryClient;
use proto::spire::server::entry::{BatchCreateEntryRequest, ListEntriesRequest};
use proto::spire::types::{Entry, Selector, Spiffeid};
use rcgen::KeyPair;
use tests::api::admin_channel;
use tests::domain::{Agent, Domain, Plan};
use tests::peers;
use tests::prober::{NAME, Prober, shake_hands};
use tests::process::{Ended, eventually, run};
use tests::programs::Make::{self, Signet, Spire};
use tests::programs::signet;
use tests::scenarios::{Pki, serial};
use tests::workload::{Shown, Workload};

/// Entries of other nodes, beside those of the agents that live.
const ENTRIES: usize = 5000;
/// Entries in one request, and below one parent: SPIRE compares each with its siblings.
const BATCH: usize = 250;
/// A trust domain that the old server federates with.
const OTHER: &str = "spiffe://other.org";
/// Handshakes between two steps.
const SOME: usize = 60;

/// SVIDs of agents are renewed after half a minute: here, after the move, and after the way back.
fn plan(server: Make, node: &Pki) -> Plan {
    Plan::new(server)
        .ids_alone()
        .key(r#"agent_ttl = "60s""#)
        .plugin(&node.verifier(""))
}

fn migrate(old: &Domain, new: &Domain, more: &[&str]) -> Ended {
    let mut command = Command::new(signet());
    command
        .arg("migrate")
        .arg("-socketPath")
        .arg(new.server_socket());
    command.arg("-from").arg(old.server_socket()).args(more);
    run(&mut command)
}

/// Stops the server at an address, and starts the other one there.
fn switch(from: &mut Domain, to: &mut Domain) {
    let port = from.port;
    from.server.stop();
    to.server.stop();
    to.restart_server_at(port);
}

#[test]
fn a_live_fleet_with_5000_entries_moves_to_ours_and_back_and_no_handshake_fails() {
    if peers::folder("spire").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut scene = Scene::start().await;
        scene.plan_and_move().await;
        scene.live_with_ours().await;
        scene.go_back().await;
    });
}

/// An agent that could not attest again at ours is found before anything is done to the old server.
#[test]
fn a_fleet_that_could_not_live_with_ours_leaves_the_old_server_as_it_is() {
    if peers::folder("spire").is_none() {
        return;
    }
    let node = Pki::new(&KeyPair::generate().unwrap());
    let old = plan(Spire, &node).start();
    let new = Plan::new(Signet).start();
    let _agent = old.agent_by(Spire, &node.agent_id(), &node.prover());
    let before = old.cli(&["bundle", "show"]).success();
    let refused = migrate(&old, &new, &["-apply"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains(&node.agent_id()), "{refused:?}");
    assert!(
        refused
            .stdout
            .contains(r#"configure NodeAttestor "x509pop""#),
        "{refused:?}"
    );
    assert_eq!(old.cli(&["bundle", "show"]).success(), before);

    let other = Plan::new(Signet).trust_domain("other.org").start();
    let refused = migrate(&old, &other, &["-apply"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("other.org"), "{refused:?}");
    assert_eq!(old.cli(&["bundle", "show"]).success(), before);
}

/// Three agents of SPIRE, one of which attests by its node's certificate, and one of ours, each with a
/// workload that shakes hands with the next one all the time.
struct Scene {
    // Dropped first: what is torn down is no failure.
    prober: Prober,
    workloads: [Workload; 4],
    agents: [Agent; 4],
    new: Domain,
    old: Domain,
    _node: Pki,
}

impl Scene {
    async fn start() -> Self {
        let node = Pki::new(&KeyPair::generate().unwrap());
        let old = plan(Spire, &node).start();
        create_many(&old).await;
        federate(&old);
        let banned = old.agent(Spire);
        old.cli(&["agent", "ban", "-spiffeID", &banned.id])
            .success();
        let agents = [
            old.agent(Spire),
            old.agent(Spire),
            old.agent(Signet),
            old.agent_by(Spire, &node.agent_id(), &node.prover()),
        ];
        for (agent, path) in agents.iter().zip(["/a", "/b", "/c", "/d"]) {
            let more = ["-dns", NAME, "-hint", "probed", "-federatesWith", OTHER];
            old.entry(agent, path, "unix:uid:0", &more);
        }
        let [a, b, c, d] = &agents;
        let workloads = [
            workload(a, "/a").await,
            workload(b, "/b").await,
            workload(c, "/c").await,
            workload(d, "/d").await,
        ];
        let [a, b, c, d] = &workloads;
        Self {
            prober: Prober::start(&[(a, b), (b, c), (c, d), (d, a)]),
            workloads,
            agents,
            new: plan(Signet, &node).start(),
            old,
            _node: node,
        }
    }

    async fn plan_and_move(&mut self) {
        self.prober.step("the move is planned");
        let planned = migrate(&self.old, &self.new, &[]).success();
        assert!(planned.contains("Nothing was changed"), "{planned}");
        assert!(entries(&self.new).await.is_empty(), "a plan made entries");
        let early = migrate(&self.old, &self.new, &["-verify"]);
        assert_eq!(early.code, 1, "{early:?}");

        self.prober.step("everything is taken over");
        let applied = migrate(&self.old, &self.new, &["-apply"]).success();
        assert!(applied.contains("Stop the old server"), "{applied}");
        assert_eq!(entries(&self.new).await, entries(&self.old).await);
        let bundle = |domain: &Domain| domain.cli(&["bundle", "show"]).success();
        for certificate in bundle(&self.new).split_inclusive("-----END CERTIFICATE-----\n") {
            assert!(bundle(&self.old).contains(certificate.trim()));
        }
        for list in [["bundle", "list"], ["federation", "list"]] {
            let shown = |domain: &Domain| domain.cli(&list).success();
            assert_eq!(shown(&self.new), shown(&self.old));
        }
        let banned = self
            .new
            .cli(&["agent", "list", "-banned", "true"])
            .success();
        assert!(banned.contains("Found 1 attested agent"), "{banned}");
        migrate(&self.old, &self.new, &["-verify"]).success();
        self.prober.some(SOME).await;
    }

    async fn live_with_ours(&mut self) {
        let before = self.workloads[0].newest();
        self.prober.step("ours takes the old server's place");
        switch(&mut self.old, &mut self.new);
        self.prober.some(SOME).await;
        let after = self.new_workload(1, "/with-ours").await;
        assert_ne!(before.signer(), after.signer());
        shake_both_ways(&before, &after).await;
        self.all_renew("with ours").await;
    }

    async fn go_back(&mut self) {
        let before = self.workloads[0].newest();
        self.prober.step("the old server takes its place again");
        let file = self.new.folder().join("way-back.sql");
        let mut command = Command::new(signet());
        command
            .arg("migrate")
            .arg("-socketPath")
            .arg(self.new.server_socket());
        run(command.arg("-wayBack").arg(&file)).success();
        without_who_attests_again(&file);
        let port = self.new.port;
        self.new.server.stop();
        let database = self.old.folder().join("server/datastore.sqlite3");
        run_sql(&database, &file);
        self.old.restart_server_at(port);
        self.prober.some(SOME).await;
        std::mem::swap(&mut self.old, &mut self.new);
        let after = self.new_workload(1, "/back").await;
        assert_eq!(before.signer(), after.signer());
        shake_both_ways(&before, &after).await;
        self.all_renew("with the old server again").await;
        let tally = self.prober.tally();
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
        eprintln!("{} handshakes, none failed", tally.succeeded);
    }

    /// What an agent shows of an entry that the server in use gets now.
    async fn new_workload(&self, agent: usize, path: &str) -> std::sync::Arc<Shown> {
        let agent = &self.agents[agent];
        self.new.entry(agent, path, "unix:uid:0", &["-dns", NAME]);
        workload(agent, path).await.newest()
    }

    /// Waits until each agent has an SVID of the server in use.
    async fn all_renew(&mut self, what: &str) {
        self.prober.step(what);
        let serials = |scene: &Self| -> Vec<String> {
            let agents = scene.agents.iter();
            agents.map(|agent| serial(&scene.new, agent)).collect()
        };
        let before = serials(self);
        eventually(what, || {
            let after = serials(self);
            after
                .iter()
                .zip(&before)
                .all(|(after, before)| after != before)
        });
        self.prober.some(SOME).await;
        for agent in &mut self.agents {
            assert!(agent.process.is_running(), "{} ended", agent.id);
        }
    }
}

async fn workload(agent: &Agent, path: &str) -> Workload {
    Workload::start(&agent.socket(), &format!("spiffe://example.org{path}")).await
}

async fn shake_both_ways(one: &Shown, other: &Shown) {
    shake_hands(one, other).await.unwrap();
    shake_hands(other, one).await.unwrap();
}

/// Lets the old server federate with a trust domain that is not there.
fn federate(domain: &Domain) {
    let bundle = domain.folder().join("other.pem");
    std::fs::write(&bundle, domain.cli(&["bundle", "show"]).success()).unwrap();
    let path = bundle.to_str().unwrap();
    domain
        .cli(&["bundle", "set", "-id", OTHER, "-path", path])
        .success();
    let words = ["federation", "create", "-trustDomain", "other.org"];
    let endpoint = ["-bundleEndpointURL", "https://localhost:1/bundle"];
    let profile = ["-bundleEndpointProfile", "https_web"];
    domain
        .cli(&[&words[..], &endpoint, &profile].concat())
        .success();
}

/// Takes the agents out of the file that need it not.
fn without_who_attests_again(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let kept = text.lines().filter(|line| !line.contains("/x509pop/"));
    let kept: Vec<&str> = kept.collect();
    assert_eq!(kept.len() + 1, text.lines().count(), "{text}");
    std::fs::write(file, kept.join("\n")).unwrap();
}

/// Makes entries of every shape below agents that are not there.
async fn create_many(domain: &Domain) {
    let id = |path: String| {
        Some(Spiffeid {
            trust_domain: "example.org".to_owned(),
            path,
        })
    };
    let entry = |number: usize| Entry {
        parent_id: id(format!("/spire/agent/x/{}", number / BATCH)),
        spiffe_id: id(format!("/workload/{number}")),
        selectors: (0..=number % 3)
            .map(|selector| Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", 1000 + selector),
            })
            .collect(),
        x509_svid_ttl: (number % 2 * 600).try_into().unwrap(),
        jwt_svid_ttl: (number % 5 * 60).try_into().unwrap(),
        admin: number % 7 == 1,
        downstream: number % 11 == 1,
        store_svid: number % 13 == 1,
        hint: format!("hint {}", number % 4),
        dns_names: vec![format!("w{number}.example.org"); number % 2],
        // Nothing of this test lasts until 2100.
        expires_at: (number % 3 / 2 * 4_102_444_800).try_into().unwrap(),
        ..Entry::default()
    };
    let mut client = EntryClient::new(admin_channel(&domain.server_socket()).await);
    let numbers: Vec<usize> = (0..ENTRIES).collect();
    for batch in numbers.chunks(BATCH) {
        let request = BatchCreateEntryRequest {
            entries: batch.iter().map(|number| entry(*number)).collect(),
            output_mask: None,
        };
        let answer = client.batch_create_entry(request).await.unwrap();
        for result in answer.into_inner().results {
            let status = result.status.unwrap();
            assert_eq!(status.code, 0, "{}", status.message);
        }
    }
}

/// All entries, by id.
async fn entries(domain: &Domain) -> BTreeMap<String, Entry> {
    let channel = admin_channel(&domain.server_socket()).await;
    let mut client = EntryClient::new(channel).max_decoding_message_size(64 << 20);
    let answer = client.list_entries(ListEntriesRequest::default()).await;
    let entries = answer.unwrap().into_inner().entries.into_iter();
    let ordered = entries.map(|mut entry| {
        entry
            .selectors
            .sort_by(|one, other| one.value.cmp(&other.value));
        (entry.id.clone(), entry)
    });
    ordered.collect()
}

/// Runs a file on a SQLite database, as an operator would by `sqlite3`, which not every machine has.
fn run_sql(database: &Path, file: &Path) {
    const PROGRAM: &str =
        "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript(open(sys.argv[2]).read())";
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).arg(database).arg(file);
    run(&mut command).success();
}
