//! A pod in Protobuf.

use prost::Message;
use proto::pod;

use super::{
    Container, ContainerKind, ContainerStatus, Group, Owner, Pod, PodError, containers, init_kind,
};
use crate::workload::cgroup::{ContainerId, PodUid};

/// Where the kubelet notes the digest of a static pod's manifest.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

pub(super) fn read(bytes: &[u8]) -> Result<Pod, PodError> {
    let pod = pod::Pod::decode(bytes).map_err(PodError::Protobuf)?;
    let metadata = pod.metadata.unwrap_or_default();
    let mut spec = pod.spec.unwrap_or_default();
    let config_hash = metadata.annotations.get(CONFIG_HASH);
    Ok(Pod {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        service_account: std::mem::take(&mut spec.service_account_name),
        node_name: std::mem::take(&mut spec.node_name),
        labels: metadata.labels,
        owners: metadata.owners.into_iter().map(Owner::from).collect(),
        config_hash: config_hash.and_then(|hash| PodUid::parse(hash)),
        containers: all_containers(spec, pod.status.unwrap_or_default()),
    })
}

fn all_containers(spec: pod::Spec, status: pod::Status) -> Vec<Container> {
    let reported = |statuses: Vec<pod::ContainerStatus>| -> Vec<(String, ContainerStatus)> {
        statuses.into_iter().map(named).collect()
    };
    let regular = |container: pod::Container| (container.name, ContainerKind::Regular);
    let init = |container: pod::Container| {
        let kind = init_kind(&container.restart_policy);
        (container.name, kind)
    };
    let ephemeral = |container: pod::EphemeralContainer| {
        let common = container.common.unwrap_or_default();
        (common.name, ContainerKind::Ephemeral)
    };
    containers([
        Group {
            declared: spec.containers.into_iter().map(regular).collect(),
            reported: reported(status.containers),
            otherwise: ContainerKind::Regular,
        },
        Group {
            declared: spec.init_containers.into_iter().map(init).collect(),
            reported: reported(status.init_containers),
            otherwise: ContainerKind::Init,
        },
        Group {
            declared: spec
                .ephemeral_containers
                .into_iter()
                .map(ephemeral)
                .collect(),
            reported: reported(status.ephemeral_containers),
            otherwise: ContainerKind::Ephemeral,
        },
    ])
}

fn named(status: pod::ContainerStatus) -> (String, ContainerStatus) {
    let reported = ContainerStatus {
        image: status.image,
        image_id: status.image_id,
        id: ContainerId::from_status(&status.container_id),
    };
    (status.name, reported)
}

impl From<pod::Owner> for Owner {
    fn from(owner: pod::Owner) -> Self {
        let pod::Owner { kind, name, uid } = owner;
        Self { kind, name, uid }
    }
}
