//! Servers and agents of either make as pods of their own, side by side on the cluster.

use crate::cluster::Cluster;
use crate::programs::Make::{self, Signet, Spire};

/// The namespace of all of them.
pub const SPACE: &str = "pairs";

/// What the programs may do in the cluster, until this is dropped. Real SPIRE's server looks at pods and nodes itself.
#[derive(Debug)]
pub struct Rights<'a>(&'a Cluster);

impl<'a> Rights<'a> {
    pub fn granted(cluster: &'a Cluster) -> Self {
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
  - {{ apiGroups: [\"\"], resources: [configmaps], verbs: [get, patch] }}
  - apiGroups: [admissionregistration.k8s.io]
    resources: [validatingwebhookconfigurations, mutatingwebhookconfigurations]
    verbs: [get, list, patch, watch]
  - {{ apiGroups: [apiregistration.k8s.io], resources: [apiservices], verbs: [get, list, patch, watch] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: pairs-agent }}
rules:
  - {{ apiGroups: [\"\"], resources: [nodes/pods], verbs: [get] }}
  - {{ apiGroups: [\"\"], resources: [namespaces], verbs: [get, list, watch] }}
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

pub fn word(make: Make) -> &'static str {
    match make {
        Signet => "signet",
        Spire => "spire",
    }
}

pub fn image_of(make: Make, part: &str) -> String {
    format!("localhost/{}-{part}:test", word(make))
}

pub fn server_name(server: Make) -> String {
    format!("{}-server", word(server))
}

pub fn agent_name(server: Make, agent: Make) -> String {
    format!("{}-agent-of-{}", word(agent), word(server))
}

/// Two agents of one node have different IDs only in different clusters.
pub fn cluster_name(agent: Make) -> String {
    format!("of-{}", word(agent))
}

/// The mark of what a server gives its bundle to, besides its map.
pub fn label(server: Make) -> String {
    format!("pairs.signet.test/{}", word(server))
}

pub fn server_pod(server: Make) -> String {
    let (name, image) = (server_name(server), image_of(server, "server"));
    let label = label(server);
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
  Notifier "k8sbundle" {{
    plugin_data {{
      namespace = "{SPACE}"
      config_map = "{name}-bundle"
      webhook_label = "{label}"
      api_service_label = "{label}"
    }}
  }}
}}"#
    ));
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}-bundle, namespace: {SPACE} }}
---
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

pub fn agent_pod(server: Make, agent: Make) -> String {
    let (name, image) = (agent_name(server, agent), image_of(agent, "agent"));
    let of = cluster_name(agent);
    // Ours asks over the kubelet's own socket in one of its pairs, and over HTTPS as SPIRE's does in the other.
    let pods_api = match server {
        Signet => "pods-api",
        Spire => "pods-api-of-older-nodes",
    };
    let server = server_name(server);
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
  WorkloadAttestor "k8s" {{ plugin_data {{ node_name_env = "MY_NODE_NAME" enable_namespace_labels = true }} }}
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
        - {{ name: pods-api, mountPath: /var/lib/kubelet/pods-api, readOnly: true }}
  volumes:
    - {{ name: config, configMap: {{ name: {name} }} }}
    - {{ name: bundle, configMap: {{ name: {server}-bundle, items: [{{ key: bundle.crt, path: bundle.crt }}] }} }}
    - {{ name: data, emptyDir: {{}} }}
    - {{ name: sockets, hostPath: {{ path: /run/spire/pairs/{name}, type: DirectoryOrCreate }} }}
    - {{ name: pods-api, hostPath: {{ path: /var/lib/kubelet/{pods_api}, type: DirectoryOrCreate }} }}
    - name: tokens
      projected: {{ sources: [{{ serviceAccountToken: {{ path: spire-agent, audience: spire-server, expirationSeconds: 600 }} }}] }}
"
    )
}

pub fn bundle_map(server: Make, bundle: &str) -> String {
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

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
