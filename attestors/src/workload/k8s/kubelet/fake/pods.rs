//! Pods as a kubelet writes them.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::json;

/// A pod with one container.
#[derive(Clone, Debug)]
pub struct FakePod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The id of its container, once it runs.
    pub container: Option<String>,
    /// Its labels beside `app`.
    pub labels: BTreeMap<String, String>,
}

impl FakePod {
    /// A pod of the namespace `default`, whose uid and container follow from `number`.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self {
            name: format!("pod-{number}"),
            uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            container: Some(format!("{number:064x}")),
            labels: BTreeMap::new(),
        }
    }

    /// The same with one more label, or another value of it.
    #[must_use]
    pub fn labelled(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same, before its container runs.
    #[must_use]
    pub fn waiting(mut self) -> Self {
        self.container = None;
        self
    }

    /// A `PodList` in JSON.
    #[must_use]
    pub fn list(pods: &[Self]) -> Vec<u8> {
        let items: Vec<_> = pods.iter().map(Self::json).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        list.to_string().into_bytes()
    }

    /// A `v1.Pod` in Protobuf.
    #[must_use]
    pub fn protobuf(&self) -> Vec<u8> {
        let status = ContainerStatus {
            name: "app".to_owned(),
            image: "docker.io/library/web:1.2".to_owned(),
            container_id: self.container_id(),
        };
        let pod = Pod {
            metadata: Some(ObjectMeta {
                name: self.name.clone(),
                namespace: "default".to_owned(),
                uid: self.uid.clone(),
                labels: self.labels.clone(),
            }),
            spec: Some(PodSpec {
                service_account: "web".to_owned(),
                node_name: "n1".to_owned(),
            }),
            status: Some(PodStatus {
                phase: "Running".to_owned(),
                containers: vec![status],
            }),
        };
        pod.encode_to_vec()
    }

    fn json(&self) -> serde_json::Value {
        let mut labels = self.labels.clone();
        labels.insert("app".to_owned(), "web".to_owned());
        json!({
            "metadata": {
                "name": self.name, "namespace": "default", "uid": self.uid,
                "labels": labels,
                "annotations": {"kubernetes.io/config.source": "api", "note": "a \"}]{[\\ quote"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9c",
                    "uid": "1b2c3d4e-0000-4000-8000-000000000001", "controller": true,
                }],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "web",
                "containers": [{"name": "app", "image": "web:1.2"}],
            },
            "status": {
                "phase": "Running", "hostIP": "10.0.0.5",
                "containerStatuses": [{
                    "name": "app", "image": "docker.io/library/web:1.2",
                    "imageID": "docker.io/library/web@sha256:bb", "containerID": self.container_id(),
                    "state": {"running": {"startedAt": "2026-11-21T00:00:00Z"}}, "restartCount": 0,
                }],
            },
        })
    }

    fn container_id(&self) -> String {
        let id = self.container.as_ref();
        id.map(|id| format!("containerd://{id}"))
            .unwrap_or_default()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<PodSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSpec {
    #[prost(string, tag = "8")]
    service_account: String,
    #[prost(string, tag = "10")]
    node_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(string, tag = "1")]
    phase: String,
    #[prost(message, repeated, tag = "8")]
    containers: Vec<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "6")]
    image: String,
    #[prost(string, tag = "8")]
    container_id: String,
}
