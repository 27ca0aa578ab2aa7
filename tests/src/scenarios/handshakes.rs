//! No handshake between workloads fails, whatever happens to server, agents and authorities.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Pairing, serial};
use crate::domain::{Agent, Domain, Plan};
use crate::prober::{NAME, Prober};
use crate::process::eventually;
use crate::programs::Make;
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
    block_on(async {
        let mut scene = Scene::start(pairing).await;
        scene.prober.some(SOME).await;
        scene.restart_server().await;
        scene.restart_agents().await;
        scene.go_without_a_server().await;
        for _ in 0..rotations {
            scene.replace_the_authority().await;
        }
        scene.all_renewed().await;
        scene.end().await;
    });
}

/// An X.509 and a JWT authority are prepared, activated, tainted and revoked, as an operator would whose keys
/// leaked; a JWT-SVID that an agent gives out is valid at the other all the time.
pub fn no_handshake_fails_while_authorities_are_replaced(pairing: Pairing) {
    block_on(async {
        let mut scene = Scene::start(pairing).await;
        scene.prober.some(SOME).await;
        scene.replace_the_authority().await;
        scene.replace_the_jwt_authority();
        scene.end().await;
    });
}

fn block_on(scene: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(scene);
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
        if self.agents.iter().any(|agent| agent.make == Make::Spire) {
            // SPIRE's drops what a tainted authority has signed before it has anything else: its own pair takes
            // identities away for a moment. It has renewed them by then, as an operator of SPIRE's would wait for.
            self.all_signed_by(&new).await;
        }
        self.prober.step("the old one is tainted");
        self.authority("taint", Some(&old));
        self.all_signed_by(&new).await;
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

    async fn all_signed_by(&mut self, authority: &str) {
        let signed = |shown: &Shown| shown.signer() == authority;
        self.all("it is signed by the new authority", signed).await;
    }

    /// The same for JWT-SVIDs. The prober goes on beside it.
    fn replace_the_jwt_authority(&self) {
        let shown = self.jwt_authority("show", None);
        let old = id_after(&shown, "Active JWT authority:");
        let first = self.token_of(&old);
        self.prober.step("a JWT authority is prepared");
        let prepared = self.jwt_authority("prepare", None);
        let new = id_after(&prepared, "Prepared JWT authority:");
        self.wait_for_keys(|keys| keys.contains(&new));
        self.prober.step("it is activated");
        self.jwt_authority("activate", Some(&new));
        self.prober.step("the old JWT authority is tainted");
        self.jwt_authority("taint", Some(&old));
        // The agents drop what it signed, and ask again.
        let second = self.token_of(&new);
        self.prober.step("the old JWT authority is revoked");
        self.jwt_authority("revoke", Some(&old));
        self.wait_for_keys(|keys| !keys.contains(&old));
        let [_, other] = &self.agents;
        assert_eq!(valid(other, &first), 1, "its authority is gone");
        assert_eq!(valid(other, &second), 0);
    }

    /// A JWT-SVID of the first agent, once that authority signs what it gives out. Whatever it gives out is valid
    /// at the other.
    fn token_of(&self, key_id: &str) -> String {
        let [first, other] = &self.agents;
        let mut token = String::new();
        eventually("the JWT-SVID is signed by the active authority", || {
            token = fetch_jwt(first).lines().nth(1).unwrap().trim().to_owned();
            assert_eq!(valid(other, &token), 0);
            signer(&token) == key_id
        });
        token
    }

    /// Waits until the JWT bundle of both agents has, or has not, the keys.
    fn wait_for_keys(&self, holds: impl Fn(&str) -> bool) {
        for agent in &self.agents {
            eventually("the agent has the JWT bundle", || holds(&fetch_jwt(agent)));
        }
    }

    async fn end(&self) {
        self.prober.some(SOME).await;
        let tally = self.prober.tally();
        assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
        eprintln!("{} handshakes, none failed", tally.succeeded);
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
        self.authority_of("x509", verb, id)
    }

    fn jwt_authority(&self, verb: &str, id: Option<&str>) -> String {
        self.authority_of("jwt", verb, id)
    }

    fn authority_of(&self, kind: &str, verb: &str, id: Option<&str>) -> String {
        let mut words = vec!["localauthority", kind, verb];
        words.extend(id.iter().flat_map(|id| ["-authorityID", *id]));
        self.domain.cli(&words).success()
    }
}

/// What the agent's program prints of a JWT-SVID, and of the bundles below it.
fn fetch_jwt(agent: &Agent) -> String {
    let fetched = agent.api(agent.make, &["fetch", "jwt", "-audience", "probe"]);
    fetched.success()
}

/// The exit code of the program that looks at a token.
fn valid(agent: &Agent, token: &str) -> i32 {
    let words = ["validate", "jwt", "-audience", "probe", "-svid", token];
    agent.api(agent.make, &words).code
}

/// The name of the key that signed a token.
fn signer(token: &str) -> String {
    let header = token.split('.').next().unwrap();
    let header = URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// The name that is printed below a title.
fn id_after(printed: &str, title: &str) -> String {
    let mut lines = printed.lines().skip_while(|line| *line != title);
    let line = lines.nth(1).unwrap_or_default();
    let id = line.trim().strip_prefix("Authority ID: ");
    id.unwrap_or_else(|| panic!("no id in {printed}"))
        .to_owned()
}
