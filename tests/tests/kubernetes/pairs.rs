//! Real SPIRE on the cluster: each server takes either agent by its token and gives its bundle to what asks for it, and
//! for the same pods both agents find the same selectors.

mod callers;
mod holders;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tests::cluster::{Cluster, image};
use tests::pairs::{
    Rights, SPACE, agent_name, agent_pod, cluster_name, image_of, server_name, server_pod,
};
use tests::peers;
use tests::process::{Ended, eventually};
use tests::programs::Make::{self, Signet, Spire};

use tests::installed::Programs;

use self::callers::Callers;
use self::holders::Holders;

#[test]
fn servers_and_agents_of_either_make_attest_nodes_and_find_the_same_selectors() {
    let Some(cluster) = Cluster::up() else { return };
    let Some(spire) = peers::folder("spire") else {
        return;
    };
    let programs = Programs::on(&cluster);
    for part in ["server", "agent"] {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("spire.tar");
        let program = spire.canonicalize().unwrap().join(format!("spire-{part}"));
        image(
            "program",
            &archive,
            &image_of(Spire, part),
            &[&program.display().to_string()],
        );
        cluster.load(&archive);
        programs.load(&cluster, part, &image_of(Signet, part));
    }
    let _space = cluster.namespace(SPACE);
    let rights = Rights::granted(&cluster);
    let callers = Callers::started(&cluster);
    for server in [Spire, Signet] {
        let rig = Rig::start(&cluster, server);
        let candidates = callers.candidates();
        let found = [Spire, Signet].map(|agent| {
            rig.enter(agent, &candidates);
            let found = |caller: &String| rig.selectors_found_by(agent, caller, &candidates);
            let all = callers.names().iter();
            all.map(|caller| (caller.clone(), found(caller))).collect()
        });
        let [spires, ours]: [BTreeMap<String, BTreeSet<String>>; 2] = found;
        for (caller, found) in &spires {
            assert!(found.len() > 8, "{caller}: {found:?}");
        }
        assert_eq!(spires, ours, "server {server:?}");
        // The server has no part in it.
        if server == Signet {
            rig.refuses(callers.debugger());
        }
    }
    drop(rights);
}

/// A server and an agent of each make.
struct Rig<'a> {
    cluster: &'a Cluster,
    server: Make,
}

impl<'a> Rig<'a> {
    fn start(cluster: &'a Cluster, server: Make) -> Self {
        let rig = Self { cluster, server };
        let holders = Holders::made(cluster, server);
        cluster.apply(&server_pod(server));
        cluster.wait(SPACE, &format!("pod/{}", server_name(server)), "Ready");
        eventually("the server answers", || rig.ask(&["healthcheck"]).code == 0);
        holders.hold(&rig.ask(&["bundle", "show"]).success());
        for agent in [Spire, Signet] {
            let name = agent_name(server, agent);
            cluster.apply(&agent_pod(server, agent));
            cluster.wait(SPACE, &format!("pod/{name}"), "Ready");
            let alias = format!("spiffe://example.org/{}", cluster_name(agent));
            let selector = format!("k8s_psat:cluster:{}", cluster_name(agent));
            rig.ask(&[
                "entry",
                "create",
                "-node",
                "-spiffeID",
                &alias,
                "-selector",
                &selector,
            ])
            .success();
        }
        rig
    }

    fn ask(&self, words: &[&str]) -> Ended {
        let words = [&["spire-server"], words].concat();
        self.cluster.exec(SPACE, &server_name(self.server), &words)
    }

    /// Makes an entry for each selector.
    fn enter(&self, agent: Make, candidates: &[String]) {
        let parent = format!("spiffe://example.org/{}", cluster_name(agent));
        let entry = |(index, selector): (usize, &String)| {
            json!({
                "parent_id": parent,
                "spiffe_id": entry_id(agent, index),
                "selectors": [{ "type": "k8s", "value": selector }],
            })
        };
        let entries: Vec<_> = candidates.iter().enumerate().map(entry).collect();
        let script = format!(
            "cat >/tmp/entries <<'END'\n{}\nEND\nspire-server entry create -data /tmp/entries",
            json!({ "entries": entries })
        );
        let server = server_name(self.server);
        self.cluster
            .exec(SPACE, &server, &["sh", "-c", &script])
            .success();
    }

    /// Which of the selectors this agent finds for a caller: that is, the entries of which it gets.
    fn selectors_found_by(
        &self,
        agent: Make,
        caller: &str,
        candidates: &[String],
    ) -> BTreeSet<String> {
        let name = agent_name(self.server, agent);
        let mut fetched = String::new();
        let has = |index: usize, fetched: &str| {
            let id = entry_id(agent, index);
            fetched.lines().any(|line| line.ends_with(&id))
        };
        // The entries reach an agent in the order of their making, and every caller matches the first and the last.
        eventually(&format!("{name} serves {caller}"), || {
            fetched = self.fetch(agent, caller).stdout;
            has(0, &fetched) && has(candidates.len() - 1, &fetched)
        });
        let found = (0..candidates.len()).filter(|index| has(*index, &fetched));
        found.map(|index| candidates[index].clone()).collect()
    }

    /// Neither agent finds anything of a debug container. SPIRE's awaits it as if it were to be reported yet, until it
    /// gives up after half a minute; ours says at once what it is.
    fn refuses(&self, debugger: &str) {
        for (agent, why) in [
            (Signet, "error.reason=ephemeral_container"),
            (Spire, "Container id not found; giving up"),
        ] {
            let name = agent_name(self.server, agent);
            let fetched = self.fetch(agent, debugger);
            assert_eq!(fetched.code, 1, "{name}: {fetched:?}");
            assert!(!fetched.stdout.contains("spiffe://"), "{name}: {fetched:?}");
            let log = self.cluster.logs(SPACE, &name);
            assert!(log.contains(why), "{name}: {fetched:?}\n{log}");
        }
    }

    /// Asks an agent for X509-SVIDs from within a pod, for longer than SPIRE's awaits a container.
    fn fetch(&self, agent: Make, caller: &str) -> Ended {
        let name = agent_name(self.server, agent);
        let socket = format!("/spiffe-workload-api/{name}/agent.sock");
        let fetch = ["spire-agent", "api", "fetch", "x509"];
        let words = [&fetch[..], &["-timeout", "50s", "-socketPath", &socket]].concat();
        self.cluster.exec(SPACE, caller, &words)
    }
}

fn entry_id(agent: Make, index: usize) -> String {
    format!("spiffe://example.org/{}/{index}", cluster_name(agent))
}
