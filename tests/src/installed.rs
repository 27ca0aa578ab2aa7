//! The shipped manifests on the cluster, with nothing changed but where the images are.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cluster::{Cluster, NODE, image};
use crate::process::{Ended, eventually, run};
use crate::programs;
use serde_json::Value;
use tempfile::TempDir;

/// The identity that all agents of the cluster have besides their own: the parent of the entries.
pub const AGENTS: &str = "spiffe://example.org/k8s/demo";

/// The image of Signet on the cluster.
pub const SIGNET: &str = "localhost/signet:test";

/// An image with a shell and our program as `spire-agent`, for the pods of the tests.
pub const CLIENT: &str = "localhost/client:test";

/// Where the agent's socket is in a pod with its volume.
pub const SOCKET: &str = "/spiffe-workload-api/spire-agent.sock";

/// Signet in the namespace `signet`. It stays for all tests of the program.
#[derive(Debug)]
pub struct Installed<'a> {
    pub cluster: &'a Cluster,
}

impl<'a> Installed<'a> {
    /// Installs on first use.
    pub fn on(cluster: &'a Cluster) -> Self {
        static ONCE: OnceLock<()> = OnceLock::new();
        let installed = Self { cluster };
        ONCE.get_or_init(|| installed.install());
        installed
    }

    fn install(&self) {
        Programs::on(self.cluster);
        make_volume(self.cluster, "signet", "data-signet-server-0");
        apply(self.cluster, "k8s/deploy", &[("signet", SIGNET)]);
        self.wait();
        let node = ["-node", "-spiffeID", AGENTS];
        let selector = ["-selector", "k8s_psat:cluster:demo"];
        self.server(&[&["entry", "create"], &node[..], &selector].concat())
            .success();
    }

    /// Waits until the server and the agent are ready.
    pub fn wait(&self) {
        for object in ["statefulset/signet-server", "daemonset/signet-agent"] {
            let words = ["-n", "signet", "rollout", "status", object, "--timeout=90s"];
            let ended = self.cluster.kubectl(&words);
            assert_eq!(ended.code, 0, "{ended:?}\n{}", self.told());
        }
    }

    /// What the cluster says of our pods, for the message of a failure.
    pub fn told(&self) -> String {
        let pods = self.cluster.kubectl(&["-n", "signet", "describe", "pods"]);
        let log = |what| {
            let words = [
                "-n",
                "signet",
                "logs",
                what,
                "--all-containers",
                "--tail=60",
            ];
            let ended = self.cluster.kubectl(&words);
            format!("--- {what}\n{}{}", ended.stdout, ended.stderr)
        };
        format!(
            "{}\n{}\n{}",
            pods.stdout,
            log("statefulset/signet-server"),
            log("daemonset/signet-agent")
        )
    }

    /// Runs a command of the server's program in its pod.
    pub fn server(&self, words: &[&str]) -> Ended {
        let words = [&["spire-server"], words].concat();
        self.cluster.exec("signet", "signet-server-0", &words)
    }

    /// Makes an entry for the pods of a service account, and returns its SPIFFE ID.
    pub fn entry(&self, namespace: &str, account: &str, more: &[&str]) -> String {
        let id = format!("spiffe://example.org/ns/{namespace}/sa/{account}");
        let selectors = [format!("k8s:ns:{namespace}"), format!("k8s:sa:{account}")];
        let mut words = vec!["entry", "create", "-parentID", AGENTS, "-spiffeID", &id];
        for selector in &selectors {
            words.extend(["-selector", selector]);
        }
        words.extend(more);
        self.server(&words).success();
        id
    }

    /// The name of the agent's pod.
    pub fn agent_pod(&self) -> String {
        self.find_agent_pod().expect("an agent")
    }

    fn find_agent_pod(&self) -> Option<String> {
        let pods = self.cluster.ctl(&[
            "-n",
            "signet",
            "get",
            "pods",
            "-l",
            "app=signet-agent",
            "-o",
            "json",
        ]);
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let pods = pods.pointer("/items").unwrap().as_array().unwrap();
        let alive = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        let pod = pods.iter().find(alive)?;
        let name = pod.pointer("/metadata/name").unwrap().as_str().unwrap();
        Some(name.to_owned())
    }

    /// How often the containers of the agent's pod were started again.
    pub fn restarts(&self) -> u64 {
        self.restarts_of("agent") + self.restarts_of("csi")
    }

    /// The same of one of them.
    pub fn restarts_of(&self, container: &str) -> u64 {
        let status = self.container_status(container);
        status.pointer("/restartCount").unwrap().as_u64().unwrap()
    }

    /// The ID of a container of the agent's pod.
    pub fn container(&self, name: &str) -> String {
        let status = self.container_status(name);
        let id = status.pointer("/containerID").unwrap().as_str().unwrap();
        id.strip_prefix("containerd://").unwrap().to_owned()
    }

    fn container_status(&self, name: &str) -> Value {
        let pod = self.agent_pod();
        let pod = self.cluster.object("signet", "pod", &pod).unwrap();
        let containers = pod.pointer("/status/containerStatuses").unwrap();
        let mut containers = containers.as_array().unwrap().iter();
        let found = containers.find(|container| container["name"] == name);
        found.unwrap().clone()
    }

    /// Ends the server's pod, or starts it.
    pub fn scale_server(&self, replicas: u8) {
        let replicas = format!("--replicas={replicas}");
        let set = "statefulset/signet-server";
        self.cluster.ctl(&["-n", "signet", "scale", set, &replicas]);
        let words = ["-n", "signet", "rollout", "status", set, "--timeout=90s"];
        self.cluster.ctl(&words);
    }

    /// Starts the server anew with another configuration, and returns the one that it had.
    pub fn configure_server(&self, change: impl FnOnce(&str) -> String) -> String {
        let set = self
            .cluster
            .object("signet", "statefulset", "signet-server");
        let volumes = set.as_ref().unwrap().pointer("/spec/template/spec/volumes");
        let mut volumes = volumes.unwrap().as_array().unwrap().iter();
        let name = volumes.find_map(|volume| volume.pointer("/configMap/name")?.as_str());
        let name = name.expect("a configuration");
        let map = self.cluster.object("signet", "configmap", name).unwrap();
        let before = map["data"]["server.conf"].as_str().unwrap().to_owned();
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "signet" },
            "data": { "server.conf": change(&before) },
        });
        self.cluster.apply(&map.to_string());
        self.scale_server(0);
        self.scale_server(1);
        self.wait();
        before
    }

    /// What the programs of an object have logged.
    pub fn log(&self, object: &str) -> String {
        self.cluster.ctl(&[
            "-n",
            "signet",
            "logs",
            object,
            "--all-containers",
            "--tail=-1",
        ])
    }

    pub fn agent_is_ready(&self) -> bool {
        let set = self
            .cluster
            .object("signet", "daemonset", "signet-agent")
            .unwrap();
        let count = |path: &str| set.pointer(path).and_then(Value::as_u64);
        count("/status/numberReady") == Some(1)
    }

    /// Deletes the agent's pod, and waits until the next one has started its agent: a pod that is being made has no log
    /// to be read.
    pub fn delete_agent_pod(&self) {
        let pod = self.agent_pod();
        self.cluster
            .ctl(&["-n", "signet", "delete", "pod", &pod, "--timeout=60s"]);
        eventually("the next agent has been started", || {
            let next = self.find_agent_pod();
            next.is_some_and(|pod| self.cluster.kubectl(&agent_log_of(&pod)).code == 0)
        });
    }

    /// What an operator is told of a pod on the node, as JSON.
    pub fn explain(&self, namespace: &str, pod: &str) -> Value {
        let ended = self.ask_why(namespace, pod, &["-output", "json"]);
        serde_json::from_str(&ended.success()).unwrap()
    }

    /// Asks the agent why the containers of a pod have their identities, or none.
    pub fn ask_why(&self, namespace: &str, pod: &str, more: &[&str]) -> Ended {
        let agent = format!("{} -c agent", self.agent_pod());
        let pod = format!("{namespace}/{pod}");
        let words = ["/bin/signet", "agent", "explain", "-pod", &pod];
        let socket = ["-socketPath", "/run/signet/admin/admin.sock"];
        let words = [&words[..], &socket, more].concat();
        self.cluster.exec("signet", &agent, &words)
    }

    /// What the agent has logged.
    pub fn agent_log(&self) -> String {
        self.cluster.ctl(&agent_log_of(&self.agent_pod()))
    }

    /// The SPIFFE ID of the node's agent, by SPIRE's rule.
    pub fn agent_id(&self) -> String {
        let node = self.cluster.object("default", "node", NODE).unwrap();
        let uid = node.pointer("/metadata/uid").unwrap().as_str().unwrap();
        format!("spiffe://example.org/spire/agent/k8s_psat/demo/{uid}")
    }

    /// Asks for X509-SVIDs from within a pod that has our program.
    pub fn fetch(&self, namespace: &str, pod: &str) -> Ended {
        let words = ["spire-agent", "api", "fetch", "x509", "-socketPath", SOCKET];
        self.cluster.exec(namespace, pod, &words)
    }

    /// Makes sure that a call gets no identity, and that the agent's log has the reason.
    pub fn refuses(&self, reason: &str, call: impl FnOnce() -> Ended) {
        let reason = format!("error.reason={reason}");
        let told = |log: &str| log.matches(&reason).count();
        let before = told(&self.agent_log());
        let fetched = call();
        assert_eq!(fetched.code, 1, "{fetched:?}");
        assert!(!fetched.stdout.contains("spiffe://"), "{fetched:?}");
        assert!(fetched.stderr.contains("PermissionDenied"), "{fetched:?}");
        let log = self.agent_log();
        assert!(told(&log) > before, "no new {reason}: {fetched:?}\n{log}");
    }

    /// Waits until a pod has an identity.
    pub fn gets(&self, namespace: &str, pod: &str, id: &str) {
        let mut last = None;
        eventually(&format!("{namespace}/{pod} has {id}"), || {
            let ended = self.fetch(namespace, pod);
            let has = ended.code == 0 && ended.stdout.contains(id);
            last = Some(ended);
            has
        });
    }
}

fn agent_log_of(pod: &str) -> [&str; 7] {
    ["-n", "signet", "logs", pod, "-c", "agent", "--tail=-1"]
}

/// A pod with our program in it and the volume. It does nothing; a file `/tmp/end` ends its container, which then is
/// started anew.
pub fn idle_pod(namespace: &str, name: &str, account: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: {account}, namespace: {namespace} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {account} }} }}
spec:
  serviceAccountName: {account}
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: {CLIENT}
      command: [/bin/sh, -c, "until [ -e /tmp/end ]; do sleep 0.2; done"]
      volumeMounts:
        - {{ name: spiffe, mountPath: /spiffe-workload-api, readOnly: true }}
  volumes:
    - name: spiffe
      csi: {{ driver: csi.spiffe.io, readOnly: true }}
"#
    )
}

/// Adds a debug container to a pod, with the pod's volume of the agent's socket; returns how it is named to
/// [`Cluster::exec`] once it runs. kubectl gives a debugger no volumes, but whoever may debug may ask for them.
pub fn debug(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    let patch = format!(
        r#"{{"spec":{{"ephemeralContainers":[{{"name":"debugger","image":"{CLIENT}","command":["/bin/sleep","infinity"],
            "volumeMounts":[{{"name":"spiffe","mountPath":"/spiffe-workload-api","readOnly":true}}]}}]}}}}"#
    );
    let target = ["-n", namespace, "patch", "pod", pod];
    let how = [
        "--subresource=ephemeralcontainers",
        "--type=strategic",
        "-p",
        &patch,
    ];
    cluster.ctl(&[&target[..], &how].concat());
    let debugger = format!("{pod} -c debugger");
    eventually("the debugger runs", || {
        cluster.exec(namespace, &debugger, &["true"]).code == 0
    });
    debugger
}

/// Applies a folder of the repository with other images.
pub fn apply(cluster: &Cluster, folder: &str, images: &[(&str, &str)]) {
    let overlay = overlay(folder, images);
    cluster.apply_folder(overlay.path());
}

/// A folder that takes a folder of ours and changes the images, and nothing else.
fn overlay(folder: &str, images: &[(&str, &str)]) -> TempDir {
    let overlay = tempfile::tempdir().unwrap();
    // A base is named by a relative path.
    let here = overlay.path().canonicalize().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let base = root().join(folder);
    let base = base.strip_prefix("/").unwrap().display().to_string();
    let mut text = format!("resources: [{up}{base}]\nimages:\n");
    for (name, by) in images {
        let (by, tag) = by.rsplit_once(':').unwrap();
        text += &format!("  - {{ name: {name}, newName: {by}, newTag: \"{tag}\" }}\n");
    }
    std::fs::write(overlay.path().join("kustomization.yaml"), text).unwrap();
    overlay
}

/// Our program as a static one, and in images.
#[derive(Debug)]
pub struct Programs {
    pub signet: PathBuf,
}

impl Programs {
    /// Builds, and loads the image of the recipe and [`CLIENT`], on first use.
    pub fn on(cluster: &Cluster) -> &'static Self {
        static ONCE: OnceLock<Programs> = OnceLock::new();
        ONCE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let archive = folder.path().join("signet.tar");
            let programs = Self {
                signet: image_of_signet(&archive),
            };
            cluster.load(&archive);
            programs.load(cluster, "agent", CLIENT);
            programs
        })
    }

    /// Loads an image with a shell and our program as `spire-server` or `spire-agent`.
    pub fn load(&self, cluster: &Cluster, part: &str, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(format!("spire-{part}"));
        std::fs::copy(&self.signet, &program).unwrap();
        let archive = folder.path().join("image.tar");
        image("program", &archive, name, &[&program.display().to_string()]);
        cluster.load(&archive);
    }
}

/// Makes the image, and returns the path of the program in it.
fn image_of_signet(archive: &Path) -> PathBuf {
    if cfg!(debug_assertions) {
        let mut build = Command::new(root().join("k8s/image/build"));
        // The profile that tests are built with: the recipe's default takes long.
        let program = run(build.arg(archive).args([SIGNET, "dev"])).success();
        program.trim().into()
    } else {
        // What is measured is built already; a static program of this profile would be built anew from nothing.
        let program = programs::signet();
        image("signet", archive, SIGNET, &[&program.display().to_string()]);
        program.to_owned()
    }
}

/// A volume for a claim, as a cluster with a storage class would make one.
pub fn make_volume(cluster: &Cluster, namespace: &str, claim: &str) {
    let path = format!("/var/lib/signet/volumes/{namespace}-{claim}");
    let folder = cluster.node_root().join(path.trim_start_matches('/'));
    std::fs::create_dir_all(&folder).unwrap();
    // A driver would give it to the group of the pod.
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    cluster.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{ name: {namespace}-{claim} }}
spec:
  capacity: {{ storage: 1Gi }}
  accessModes: [ReadWriteOnce]
  claimRef: {{ name: {claim}, namespace: {namespace} }}
  hostPath: {{ path: {path}, type: Directory }}
"
    ));
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
