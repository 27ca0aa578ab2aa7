//! Pods of the kinds that selectors tell apart, with processes in them that call.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use tests::cluster::{BUSYBOX, Cluster, NODE};
use tests::process::eventually;

use tests::installed::{CLIENT, debug};
use tests::pairs::SPACE;

/// Containers from which agents are called. They go with the namespace, but for the static pod.
pub(super) struct Callers<'a> {
    cluster: &'a Cluster,
    static_pod: PathBuf,
    /// Pods, and which container of them.
    names: Vec<String>,
    debugger: String,
}

impl<'a> Callers<'a> {
    pub(super) fn started(cluster: &'a Cluster) -> Self {
        let manifests = cluster.node_root().join("etc/kubernetes/manifests");
        let mut callers = Self {
            cluster,
            static_pod: manifests.join("pairs.yaml"),
            names: Vec::new(),
            debugger: String::new(),
        };
        std::fs::write(&callers.static_pod, static_pod()).unwrap();
        cluster.apply(&pods());
        let words = ["rollout", "status", "deployment/owned", "--timeout=90s"];
        cluster.ctl(&[&["-n", SPACE], &words[..]].concat());
        let words = ["get", "pods", "-l", "app=owned", "-o", "name"];
        let owned = cluster.ctl(&[&["-n", SPACE], &words[..]].concat());
        let owned = owned.trim().strip_prefix("pod/").unwrap();
        callers.names = [
            "plain -c app",
            &format!("{owned} -c app"),
            "layered -c app",
            "layered -c sidecar",
            "starting -c setup",
            &format!("static-{NODE} -c app"),
        ]
        .map(str::to_owned)
        .into();
        for caller in &callers.names {
            eventually(&format!("{caller} runs, and is reported"), || {
                cluster.exec(SPACE, caller, &["true"]).code == 0 && callers.is_reported(caller)
            });
        }
        for pod in ["plain", "layered"] {
            cluster.wait(SPACE, &format!("pod/{pod}"), "Ready");
        }
        callers.debugger = debug(cluster, SPACE, "plain");
        callers
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// A debug container in the pod of another caller, which is none of them.
    pub(super) fn debugger(&self) -> &str {
        &self.debugger
    }

    fn pod(&self, caller: &str) -> Option<Value> {
        let pod = caller.split(' ').next().unwrap();
        self.cluster.object(SPACE, "pod", pod)
    }

    fn is_reported(&self, caller: &str) -> bool {
        let container = caller.rsplit(' ').next().unwrap();
        self.pod(caller).is_some_and(|pod| {
            let all = statuses(&pod, "init").chain(statuses(&pod, "regular"));
            let mut ours = all.filter(|status| status["name"] == container);
            ours.any(|status| status.pointer("/state/running").is_some())
        })
    }

    /// Selectors of every kind that some of the callers could have. All have the first and the last, which are one.
    pub(super) fn candidates(&self) -> Vec<String> {
        let mut all: BTreeSet<String> = [
            "sa:",
            "sa:other",
            "pod-label:app:other",
            "pod-image:",
            "pod-init-image:",
            "container-image:",
            "container-name:other",
            "ns-label:other:",
            "ns-label:kubernetes.io/metadata.name:pairs",
        ]
        .map(str::to_owned)
        .into();
        for count in 0..4 {
            all.insert(format!("pod-image-count:{count}"));
            all.insert(format!("pod-init-image-count:{count}"));
        }
        for caller in &self.names {
            all.extend(possible(&self.pod(caller).unwrap()));
        }
        let everyones = format!("ns:{SPACE}");
        all.remove(&everyones);
        let mut list = vec![everyones.clone()];
        list.extend(all);
        list.push(everyones);
        list
    }
}

impl Drop for Callers<'_> {
    fn drop(&mut self) {
        std::fs::remove_file(&self.static_pod).unwrap();
    }
}

/// What the selectors of a pod or of a container of it could be, by what the API server knows.
fn possible(pod: &Value) -> BTreeSet<String> {
    let text = |value: &Value, path: &str| -> String {
        let found = value.pointer(path).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let mut all: BTreeSet<String> = [
        format!("ns:{}", text(pod, "/metadata/namespace")),
        format!("sa:{}", text(pod, "/spec/serviceAccountName")),
        format!("node-name:{}", text(pod, "/spec/nodeName")),
        format!("pod-name:{}", text(pod, "/metadata/name")),
        format!("pod-uid:{}", text(pod, "/metadata/uid")),
        // What the kubelet itself calls a static pod.
        format!(
            "pod-uid:{}",
            text(pod, "/metadata/annotations/kubernetes.io~1config.hash")
        ),
    ]
    .into();
    for (key, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        all.insert(format!("pod-label:{key}:{}", value.as_str().unwrap()));
    }
    for owner in pod["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let (kind, name, uid) = (
            text(owner, "/kind"),
            text(owner, "/name"),
            text(owner, "/uid"),
        );
        all.insert(format!("pod-owner:{kind}:{name}"));
        all.insert(format!("pod-owner-uid:{kind}:{uid}"));
        all.insert(format!("pod-owner-uid:{kind}:{name}"));
    }
    let kinds = ["init", "regular", "ephemeral"];
    for status in kinds.into_iter().flat_map(|kind| statuses(pod, kind)) {
        all.insert(format!("container-name:{}", text(status, "/name")));
        for image in [text(status, "/image"), text(status, "/imageID")] {
            for selector in ["pod-image", "pod-init-image", "container-image"] {
                all.insert(format!("{selector}:{image}"));
            }
        }
    }
    all
}

fn statuses<'a>(pod: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let path = match kind {
        "init" => "/status/initContainerStatuses",
        "ephemeral" => "/status/ephemeralContainerStatuses",
        _ => "/status/containerStatuses",
    };
    pod.pointer(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A container that can call, and does nothing by itself.
fn container(name: &str, more: &str) -> String {
    format!(
        "{{ name: {name}, image: {CLIENT}, command: [/bin/sleep, infinity], {more} \
         volumeMounts: [{{ name: spiffe, mountPath: /spiffe-workload-api, readOnly: true }}] }}"
    )
}

/// What all of them have.
const USUAL: &str = "terminationGracePeriodSeconds: 1
  volumes: [{ name: spiffe, hostPath: { path: /run/spire/pairs, type: DirectoryOrCreate } }]";

fn pods() -> String {
    let (app, setup) = (container("app", ""), container("setup", ""));
    let sidecar = container("sidecar", "restartPolicy: Always,");
    let usual_below = USUAL.replace('\n', "\n    ");
    format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: caller, namespace: {SPACE} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: plain, namespace: {SPACE}, labels: {{ app: plain }} }}
spec:
  serviceAccountName: caller
  containers:
    - {app}
  {USUAL}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: owned, namespace: {SPACE} }}
spec:
  selector: {{ matchLabels: {{ app: owned }} }}
  template:
    metadata: {{ labels: {{ app: owned, empty: \"\" }} }}
    spec:
      serviceAccountName: caller
      containers:
        - {app}
      {usual_below}
---
apiVersion: v1
kind: Pod
metadata: {{ name: layered, namespace: {SPACE} }}
spec:
  serviceAccountName: caller
  initContainers:
    - {{ name: done, image: {BUSYBOX}, command: [/bin/true] }}
    - {sidecar}
  containers:
    - {app}
    - {{ name: other, image: {BUSYBOX}, command: [/bin/sleep, infinity] }}
  {USUAL}
---
apiVersion: v1
kind: Pod
metadata: {{ name: starting, namespace: {SPACE} }}
spec:
  initContainers:
    - {setup}
  containers:
    - {{ name: waits, image: {BUSYBOX}, command: [/bin/sleep, infinity] }}
  {USUAL}
"
    )
}

/// The kubelet makes it from a file, and tells the API server of it.
fn static_pod() -> String {
    let app = container("app", "");
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: static, namespace: {SPACE}, labels: {{ app: static }} }}
spec:
  containers:
    - {app}
  {USUAL}
"
    )
}
