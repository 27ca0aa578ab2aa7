//! Real SPIRE on the cluster: each server takes either agent by its token, and for the same pods both agents find the same
//! selectors.

use std::collections::BTreeSet;

use tests::cluster::{Cluster, image};
use tests::peers;
use tests::process::{Ended, eventually};
use tests::programs::Make::{self, Signet, Spire};

use crate::installed::{Programs, idle_pod};

const SPACE: &str = "pairs";

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

/// What the programs may do in the cluster. Real SPIRE's server looks at pods and nodes itself.
struct Rights<'a>(&'a Cluster);

impl<'a> Rights<'a> {
    fn granted(cluster: &'a Cluster) -> Self {
        cluster.apply(&format!(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: server, namespace: {SPACE} }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: agent, namespace: {SPACE} }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: pairs-server }}
rules:
  - {{ apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create] }}
  - {{ apiGroups: [\"\"], resources: [pods, nodes], verbs: [get] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: pairs-agent }}
rules:
  - {{ apiGroups: [\"\"], resources: [nodes/pods], verbs: [get] }}
{}{}",
            binding("server"),
            binding("agent")
        ));
        Self(cluster)
    }
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        for kind in ["clusterrole", "clusterrolebinding"] {
            self.0
                .kubectl(&["delete", kind, "pairs-server", "pairs-agent"]);
        }
    }
}

fn binding(who: &str) -> String {
    format!(
        "---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: pairs-{who} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pairs-{who} }}
subjects: [{{ kind: ServiceAccount, name: {who}, namespace: {SPACE} }}]
"
    )
}

fn word(make: Make) -> &'static str {
    match make {
        Signet => "signet",
        Spire => "spire",
    }
}

fn image_of(make: Make, part: &str) -> String {
    format!("localhost/{}-{part}:test", word(make))
}

fn server_name(server: Make) -> String {
    format!("{}-server", word(server))
}

fn agent_name(server: Make, agent: Make) -> String {
    format!("{}-agent-of-{}", word(agent), word(server))
}

/// Two agents of one node have different IDs only in different clusters.
fn cluster_name(agent: Make) -> String {
    format!("of-{}", word(agent))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn bundle_map(server: Make, bundle: &str) -> String {
    let name = server_name(server);
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}-bundle, namespace: {SPACE} }}
data:
  bundle.crt: |
{}",
        indented(bundle)
    )
}

fn server_pod(server: Make) -> String {
    let (name, image) = (server_name(server), image_of(server, "server"));
    let config = indented(&format!(
        r#"server {{
  trust_domain = "example.org"
  bind_address = "0.0.0.0"
  bind_port = "8081"
  data_dir = "/run/data"
  log_level = "DEBUG"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "/run/data/datastore.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "k8s_psat" {{
    plugin_data {{
      clusters = {{
        "of-spire" = {{ service_account_allow_list = ["{SPACE}:agent"] }}
        "of-signet" = {{ service_account_allow_list = ["{SPACE}:agent"] }}
      }}
    }}
  }}
}}"#
    ));
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}, namespace: {SPACE} }}
data:
  server.conf: |
{config}---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {SPACE} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ port: 8081 }}]
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {SPACE}, labels: {{ app: {name} }} }}
spec:
  serviceAccountName: server
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: {image}
      args: [run, -config, /etc/server/server.conf]
      volumeMounts:
        - {{ name: config, mountPath: /etc/server }}
        - {{ name: data, mountPath: /run/data }}
  volumes:
    - {{ name: config, configMap: {{ name: {name} }} }}
    - {{ name: data, emptyDir: {{}} }}
"
    )
}

fn agent_pod(server: Make, agent: Make) -> String {
    let (name, image) = (agent_name(server, agent), image_of(agent, "agent"));
    let (server, of) = (server_name(server), cluster_name(agent));
    let config = indented(&format!(
        r#"agent {{
  trust_domain = "example.org"
  server_address = "{server}"
  server_port = "8081"
  trust_bundle_path = "/run/bundle/bundle.crt"
  data_dir = "/run/data"
  socket_path = "/run/sockets/agent.sock"
  log_level = "DEBUG"
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "{of}" }} }}
  WorkloadAttestor "k8s" {{ plugin_data {{ node_name_env = "MY_NODE_NAME" }} }}
}}
health_checks {{ listener_enabled = true bind_address = "0.0.0.0" bind_port = "9982" live_path = "/live" ready_path = "/ready" }}"#
    ));
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}, namespace: {SPACE} }}
data:
  agent.conf: |
{config}---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {SPACE} }}
spec:
  serviceAccountName: agent
  hostPID: true
  # Real SPIRE calls the kubelet by the node's name.
  hostAliases: [{{ ip: 10.77.0.11, hostnames: [n1] }}]
  terminationGracePeriodSeconds: 1
  containers:
    - name: agent
      image: {image}
      args: [run, -config, /etc/agent/agent.conf]
      env: [{{ name: MY_NODE_NAME, valueFrom: {{ fieldRef: {{ fieldPath: spec.nodeName }} }} }}]
      readinessProbe: {{ httpGet: {{ path: /ready, port: 9982 }}, periodSeconds: 1 }}
      volumeMounts:
        - {{ name: config, mountPath: /etc/agent }}
        - {{ name: bundle, mountPath: /run/bundle }}
        - {{ name: data, mountPath: /run/data }}
        - {{ name: sockets, mountPath: /run/sockets }}
        - {{ name: tokens, mountPath: /var/run/secrets/tokens }}
  volumes:
    - {{ name: config, configMap: {{ name: {name} }} }}
    - {{ name: bundle, configMap: {{ name: {server}-bundle }} }}
    - {{ name: data, emptyDir: {{}} }}
    - {{ name: sockets, hostPath: {{ path: /run/spire/pairs/{name}, type: DirectoryOrCreate }} }}
    - name: tokens
      projected: {{ sources: [{{ serviceAccountToken: {{ path: spire-agent, audience: spire-server, expirationSeconds: 600 }} }}] }}
"
    )
}
