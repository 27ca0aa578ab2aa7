//! A pod in JSON. What is not needed is passed over, and `null` is as good as absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{
    Container, ContainerKind, ContainerStatus, Group, Owner, Pod, PodError, containers, init_kind,
};
use crate::workload::cgroup::{ContainerId, PodUid};

pub(super) fn read(text: &[u8]) -> Result<Pod, PodError> {
    let mut pod: Json = serde_json::from_slice(text).map_err(PodError::Json)?;
    Ok(Pod {
        name: pod.metadata.name,
        namespace: pod.metadata.namespace,
        uid: pod.metadata.uid,
        service_account: std::mem::take(&mut pod.spec.service_account),
        node_name: std::mem::take(&mut pod.spec.node_name),
        labels: pod.metadata.labels,
        owners: pod.metadata.owners.into_iter().map(Owner::from).collect(),
        config_hash: PodUid::parse(&pod.metadata.annotations.config_hash),
        containers: all_containers(pod.spec, pod.status),
    })
}

fn all_containers(spec: Spec, status: Status) -> Vec<Container> {
    let reported = |statuses: Vec<Reported>| -> Vec<(String, ContainerStatus)> {
        statuses.into_iter().map(Reported::named).collect()
    };
    let declared = |containers: Vec<Named>, kind| {
        let named = |container: Named| (container.name, kind);
        containers.into_iter().map(named).collect()
    };
    let init = |container: Named| {
        let kind = init_kind(&container.restart_policy);
        (container.name, kind)
    };
    containers([
        Group {
            declared: declared(spec.containers, ContainerKind::Regular),
            reported: reported(status.containers),
            otherwise: ContainerKind::Regular,
        },
        Group {
            declared: spec.init_containers.into_iter().map(init).collect(),
            reported: reported(status.init_containers),
            otherwise: ContainerKind::Init,
        },
        Group {
            declared: declared(spec.ephemeral_containers, ContainerKind::Ephemeral),
            reported: reported(status.ephemeral_containers),
            otherwise: ContainerKind::Ephemeral,
        },
    ])
}

#[derive(Deserialize)]
struct Json {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    annotations: Annotations,
    #[serde(rename = "ownerReferences", deserialize_with = "nullable")]
    owners: Vec<OwnerReference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash", deserialize_with = "nullable")]
    config_hash: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    #[serde(deserialize_with = "nullable")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
}

impl From<OwnerReference> for Owner {
    fn from(owner: OwnerReference) -> Self {
        let OwnerReference { kind, name, uid } = owner;
        Self { kind, name, uid }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "serviceAccountName", deserialize_with = "nullable")]
    service_account: String,
    #[serde(rename = "nodeName", deserialize_with = "nullable")]
    node_name: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Named>,
    #[serde(rename = "initContainers", deserialize_with = "nullable")]
    init_containers: Vec<Named>,
    #[serde(rename = "ephemeralContainers", deserialize_with = "nullable")]
    ephemeral_containers: Vec<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(rename = "restartPolicy", deserialize_with = "nullable")]
    restart_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "containerStatuses", deserialize_with = "nullable")]
    containers: Vec<Reported>,
    #[serde(rename = "initContainerStatuses", deserialize_with = "nullable")]
    init_containers: Vec<Reported>,
    #[serde(rename = "ephemeralContainerStatuses", deserialize_with = "nullable")]
    ephemeral_containers: Vec<Reported>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reported {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    image: String,
    #[serde(rename = "imageID", deserialize_with = "nullable")]
    image_id: String,
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    container_id: String,
}

impl Reported {
    fn named(self) -> (String, ContainerStatus) {
        let status = ContainerStatus {
            image: self.image,
            image_id: self.image_id,
            id: ContainerId::from_status(&self.container_id),
        };
        (self.name, status)
    }
}

/// The API writes an empty list, map or object as `null` in places.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
