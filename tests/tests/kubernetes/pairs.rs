//! Real SPIRE on the cluster: each server takes either agent by its token, and for the same pods both agents find the same
//! selectors.

use std::collections::BTreeSet;

use tests::cluster::{Cluster, image};
use tests::pairs::{
    Rights, SPACE, agent_name, agent_pod, bundle_map, cluster_name, image_of, server_name,
    server_pod, word,
};
use tests::peers;
use tests::process::{Ended, eventually};
use tests::programs::Make::{self, Signet, Spire};

use tests::installed::{Programs, idle_pod};

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
    for server in [Spire, Signet] {
        let rig = Rig::start(&cluster, server);
        let found = [Spire, Signet].map(|agent| rig.selectors_found_by(agent));
        assert_eq!(found[0], found[1], "server {server:?}");
        assert!(found[0].len() > 8, "{found:?}");
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
        cluster.apply(&server_pod(server));
        cluster.wait(SPACE, &format!("pod/{}", server_name(server)), "Ready");
        eventually("the server answers", || rig.ask(&["healthcheck"]).code == 0);
        let bundle = rig.ask(&["bundle", "show"]).success();
        cluster.apply(&bundle_map(server, &bundle));
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
        cluster.apply(&idle_pod(SPACE, &rig.caller(), "caller").replace(
            "csi: { driver: csi.spiffe.io, readOnly: true }",
            "hostPath: { path: /run/spire/pairs, type: DirectoryOrCreate }",
        ));
        cluster.wait(SPACE, &format!("pod/{}", rig.caller()), "Ready");
        rig
    }

    fn caller(&self) -> String {
        format!("caller-{}", word(self.server))
    }

    fn ask(&self, words: &[&str]) -> Ended {
        let words = [&["spire-server"], words].concat();
        self.cluster.exec(SPACE, &server_name(self.server), &words)
    }

    /// Which of the selectors that the caller could have are found by this agent: an entry for each of them, and which
    /// of these the caller gets.
    fn selectors_found_by(&self, agent: Make) -> BTreeSet<String> {
        let candidates = self.candidates();
        let parent = format!("spiffe://example.org/{}", cluster_name(agent));
        for (index, selector) in candidates.iter().enumerate() {
            let id = format!("spiffe://example.org/{}/{index}", cluster_name(agent));
            self.ask(&[
                "entry",
                "create",
                "-parentID",
                &parent,
                "-spiffeID",
                &id,
                "-selector",
                selector,
            ])
            .success();
        }
        let always = format!("spiffe://example.org/{}/0", cluster_name(agent));
        let socket = format!(
            "/spiffe-workload-api/{}/agent.sock",
            agent_name(self.server, agent)
        );
        let mut fetched = String::new();
        // The entries reach an agent in the order of their making, all by the one that is asked for.
        let last = format!(
            "spiffe://example.org/{}/{}",
            cluster_name(agent),
            candidates.len() - 1
        );
        eventually(&format!("{agent:?} serves {always} and {last}"), || {
            let words = [
                "spire-agent",
                "api",
                "fetch",
                "x509",
                "-socketPath",
                &socket,
            ];
            fetched = self.cluster.exec(SPACE, &self.caller(), &words).stdout;
            let has = |id: &str| fetched.lines().any(|line| line.ends_with(id));
            has(&always) && has(&last)
        });
        let has = |index: usize| {
            let id = format!("spiffe://example.org/{}/{index}", cluster_name(agent));
            fetched.lines().any(|line| line.ends_with(&id))
        };
        let found = candidates
            .iter()
            .enumerate()
            .filter(|(index, _)| has(*index));
        found.map(|(_, selector)| selector.clone()).collect()
    }

    /// Selectors of every kind, some of which the caller has not. The first and the last it has.
    fn candidates(&self) -> Vec<String> {
        let pod = self.cluster.object(SPACE, "pod", &self.caller()).unwrap();
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(|value| value.as_str())
                .unwrap()
                .to_owned()
        };
        let image = text("/status/containerStatuses/0/image");
        let image_id = text("/status/containerStatuses/0/imageID");
        let values = [
            format!("ns:{SPACE}"),
            "sa:caller".to_owned(),
            "sa:other".to_owned(),
            "node-name:n1".to_owned(),
            "pod-label:app:caller".to_owned(),
            "pod-label:app:other".to_owned(),
            format!("pod-name:{}", self.caller()),
            format!("pod-uid:{}", text("/metadata/uid")),
            "pod-image-count:1".to_owned(),
            "pod-image-count:2".to_owned(),
            "pod-init-image-count:0".to_owned(),
            format!("pod-image:{image}"),
            format!("pod-image:{image_id}"),
            format!("container-image:{image}"),
            format!("container-image:{image_id}"),
            "container-name:other".to_owned(),
            "container-name:app".to_owned(),
        ];
        values
            .into_iter()
            .map(|value| format!("k8s:{value}"))
            .collect()
    }
}
