//! A pod as the kubelet tells of it: what selectors are made of, and what tells its containers apart.

mod json;
mod protobuf;

use std::collections::BTreeMap;

use super::super::cgroup::{ContainerId, PodUid};

/// The longest pod that is read. The API server keeps no object beyond 1.5 MiB; its JSON is longer.
pub const MAX_BYTES: usize = 8 << 20;

/// A pod of this node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Its name, with the node's behind it for a static pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID. The kubelet's own list has a static pod under the digest of its manifest.
    pub uid: String,
    /// The service account, which is empty for a static pod.
    pub service_account: String,
    /// The node that it is bound to.
    pub node_name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What created it.
    pub owners: Vec<Owner>,
    /// The digest of a static pod's manifest, which its cgroup is named after. Anyone who may create
    /// pods can write that annotation.
    pub config_hash: Option<PodUid>,
    /// The containers of the specification and of the status, in the order of the status.
    pub containers: Vec<Container>,
}

/// What created a pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Owner {
    /// Such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// One container of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// How the pod runs it.
    pub kind: ContainerKind,
    /// Its name.
    pub name: String,
    /// What the kubelet has reported of it. `None` until it has.
    pub status: Option<ContainerStatus>,
}

/// What the kubelet has reported of a container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ContainerStatus {
    /// The image's name. Of several tags of one image the runtime reports any.
    pub image: String,
    /// The image's digest, which is stable. Empty until the image is there.
    pub image_id: String,
    /// The container's id. `None` until the container has been created, or after a restart for as
    /// long as the new one has not been reported.
    pub id: Option<ContainerId>,
}

/// How a pod runs a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContainerKind {
    /// For as long as the pod runs.
    Regular,
    /// To its end, before the regular ones start.
    Init,
    /// An init container that goes on running (`restartPolicy: Always`).
    Sidecar,
    /// Added to a running pod by whoever may debug it, with an image of their choice.
    Ephemeral,
}

impl Pod {
    /// Reads a pod of the kubelet's list.
    pub fn from_json(text: &[u8]) -> Result<Self, PodError> {
        check_length(text)?;
        json::read(text)
    }

    /// Reads a pod of the kubelet's Pods API: a `v1.Pod` in Protobuf.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, PodError> {
        check_length(bytes)?;
        protobuf::read(bytes)
    }

    /// Whether the pod's cgroup is named after `uid`.
    ///
    /// The mirror of a static pod has another UID than its cgroup; the annotation helps. It says
    /// nothing of pods that are not static, and a caller's container has to be in the pod as well.
    #[must_use]
    pub fn is_called(&self, uid: &PodUid) -> bool {
        self.uid == uid.as_str() || (uid.is_static() && self.config_hash.as_ref() == Some(uid))
    }

    /// The container with this id.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.iter().find(|container| {
            let status = container.status.as_ref();
            status.is_some_and(|status| status.id.as_ref() == Some(id))
        })
    }

    /// Whether one of the pod's containers has this id.
    #[must_use]
    pub fn has_container(&self, id: &ContainerId) -> bool {
        self.container(id).is_some()
    }

    /// Whether there is an ephemeral container whose id is not known yet.
    #[must_use]
    pub fn awaits_ephemeral_container(&self) -> bool {
        self.containers.iter().any(|container| {
            let id = container
                .status
                .as_ref()
                .and_then(|status| status.id.as_ref());
            container.kind == ContainerKind::Ephemeral && id.is_none()
        })
    }
}

/// The names and statuses of one kind of container.
struct Group {
    declared: Vec<(String, ContainerKind)>,
    reported: Vec<(String, ContainerStatus)>,
    /// The kind of what is reported and not declared.
    otherwise: ContainerKind,
}

/// Joins what a pod declares and what is reported of it.
fn containers(groups: [Group; 3]) -> Vec<Container> {
    let mut all = Vec::new();
    for group in groups {
        let kind_of = |name: &str| {
            let declared = group.declared.iter().find(|(known, _)| known == name);
            declared.map_or(group.otherwise, |(_, kind)| *kind)
        };
        let is_reported = |name: &str| group.reported.iter().any(|(reported, _)| reported == name);
        let awaited = group
            .declared
            .iter()
            .filter(|(name, _)| !is_reported(name))
            .map(|(name, kind)| Container {
                kind: *kind,
                name: name.clone(),
                status: None,
            })
            .collect::<Vec<_>>();
        let reported = group.reported.iter().map(|(name, status)| Container {
            kind: kind_of(name),
            name: name.clone(),
            status: Some(status.clone()),
        });
        all.extend(reported);
        all.extend(awaited);
    }
    all
}

fn init_kind(restart_policy: &str) -> ContainerKind {
    if restart_policy == "Always" {
        ContainerKind::Sidecar
    } else {
        ContainerKind::Init
    }
}

fn check_length(bytes: &[u8]) -> Result<(), PodError> {
    if bytes.len() > MAX_BYTES {
        return Err(PodError::TooLong);
    }
    Ok(())
}

/// Why a pod cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// It is longer than [`MAX_BYTES`].
    #[error("the pod is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not a pod in JSON.
    #[error("could not read the pod from JSON")]
    Json(#[source] serde_json::Error),
    /// It is not a pod in Protobuf.
    #[error("could not read the pod from Protobuf")]
    Protobuf(#[source] prost::DecodeError),
}

impl PodError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "pod_too_long",
            Self::Json(_) => "pod_json",
            Self::Protobuf(_) => "pod_protobuf",
        }
    }
}

#[cfg(test)]
mod tests;
