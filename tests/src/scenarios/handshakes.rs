//! No handshake between workloads fails, whatever happens to server, agents and authorities.

use std::time::Duration;

use super::{Pairing, serial};
use crate::domain::{Agent, Domain, Plan};
use crate::prober::{NAME, Prober};
use crate::process::eventually;
use crate::workload::{Shown, Workload};

/// How long an X509-SVID is valid, in seconds. Both servers date it back by ten more, so that it is renewed
/// when fifteen are left, at the latest.
const LIFETIME: u64 = 20;
/// Handshakes between two steps: a second of each of the three pairs.
const SOME: usize = 60;

/// Through restarts, an outage, and the replacement of an authority.
pub fn no_handshake_fails(pairing: Pairing) {
    no_handshake_fails_through(pairing, 1);
}

/// The same with so many authorities replaced one after the other.
pub fn no_handshake_fails_through(pairing: Pairing, rotations: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut scene = Scene::start(pairing).await;
        scene.prober.some(SOME).await;
        scene.restart_server().await;
        scene.restart_agents().await;
        scene.go_without_a_server().await;
        for _ in 0..rotations {
            scene.replace_the_authority().await;
        }
        scene.all_renewed().await;
        scene.prober.some(SOME).await;
        let tally = scene.prober.tally();
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
        eprintln!("{} handshakes, none failed", tally.succeeded);
    });
}

/// Two workloads on one agent and one on another, shaking hands all the time.
struct Scene {
    // Dropped first: what is torn down is no failure.
    prober: Prober,
    workloads: [Workload; 3],
    agents: [Agent; 2],
    domain: Domain,
}

impl Scene {
    async fn start(pairing: Pairing) -> Self {
        let domain = Plan::new(pairing.server)
            .ids_alone()
            .key(&format!(r#"default_x509_svid_ttl = "{LIFETIME}s""#))
            // Renewed for its authority's sake alone.
            .key(r#"agent_ttl = "10m""#)
            .start();
        let agents = [domain.agent(pairing.agent), domain.agent(pairing.agent)];
        let [first, second] = &agents;
        for (agent, path) in [(first, "/a"), (first, "/b"), (second, "/c")] {
            domain.entry(agent, path, "unix:uid:0", &["-dns", NAME]);
        }
        let workload = |agent: &Agent, path: &str| {
            let (socket, id) = (agent.socket(), format!("spiffe://example.org{path}"));
            async move { Workload::start(&socket, &id).await }
        };
        let workloads = [
            workload(first, "/a").await,
            workload(first, "/b").await,
            workload(second, "/c").await,
        ];
        let [a, b, c] = &workloads;
        Self {
            prober: Prober::start(&[(a, b), (b, c), (c, a)]),
            workloads,
            agents,
            domain,
        }
    }

    async fn restart_server(&mut self) {
        self.prober.step("the server restarts");
        self.domain.crash_and_restart_server();
        self.prober.some(SOME).await;
    }

    async fn restart_agents(&mut self) {
        for agent in &mut self.agents {
            self.prober.step("an agent restarts");
            agent.restart();
            self.prober.some(SOME).await;
        }
        self.all_renewed().await;
    }

    async fn go_without_a_server(&mut self) {
        self.prober.step("the server is away");
        self.domain.server.kill();
        tokio::time::sleep(Duration::from_secs(LIFETIME / 2)).await;
        self.prober.step("the server is back");
        self.domain.restart_server();
        self.all_renewed().await;
    }

    /// Each step once everybody has what the one before brought.
    async fn replace_the_authority(&mut self) {
        let old = self.active();
        self.prober.step("an authority is prepared");
        let prepared = self.authority("prepare", None);
        let new = id_after(&prepared, "Prepared X.509 authority:");
        self.all("the bundle has the next authority", |shown| {
            shown.authorities().contains(&new)
        })
        .await;
        self.prober.step("it is activated");
        let own = self.agents.each_ref().map(|a| serial(&self.domain, a));
        self.authority("activate", Some(&new));
        self.prober.some(SOME).await;
        self.prober.step("the old one is tainted");
        self.authority("taint", Some(&old));
        self.all("it is signed by the new authority", |shown| {
            shown.signer() == new
        })
        .await;
        for (agent, own) in self.agents.iter().zip(own) {
            eventually("the agent has a new SVID of its own", || {
                serial(&self.domain, agent) != own
            });
        }
        self.prober.step("the old one is revoked");
        self.authority("revoke", Some(&old));
        self.all("the bundle has the old authority no more", |shown| {
            shown.authorities() == [new.clone()]
        })
        .await;
        self.prober.some(SOME).await;
    }

    async fn all(&mut self, what: &str, holds: impl Fn(&Shown) -> bool) {
        for workload in &mut self.workloads {
            workload.until(what, &holds).await;
        }
    }

    async fn all_renewed(&mut self) {
        for workload in &mut self.workloads {
            let before = workload.newest().serial().to_owned();
            let is_new = |shown: &Shown| shown.serial() != before;
            workload.until("it is renewed", is_new).await;
        }
    }

    fn active(&self) -> String {
        let shown = self.authority("show", None);
        id_after(&shown, "Active X.509 authority:")
    }

    fn authority(&self, verb: &str, id: Option<&str>) -> String {
        let mut words = vec!["localauthority", "x509", verb];
        words.extend(id.iter().flat_map(|id| ["-authorityID", *id]));
        self.domain.cli(&words).success()
    }
}

/// The name that is printed below a title.
fn id_after(printed: &str, title: &str) -> String {
    let mut lines = printed.lines().skip_while(|line| *line != title);
    let line = lines.nth(1).unwrap_or_default();
    let id = line.trim().strip_prefix("Authority ID: ");
    id.unwrap_or_else(|| panic!("no id in {printed}"))
        .to_owned()
}
