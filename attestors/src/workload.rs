//! What an agent can see of a process that calls it.

use identity::selector::Selectors;

pub mod cgroup;
pub mod docker;
mod http;
pub mod k8s;
pub mod systemd;
pub mod unix;

/// What a workload attestor found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The caller has these properties.
    Attested(Selectors),
    /// What was seen contradicts itself, so nothing may be derived from it.
    Denied(Denial),
}

/// A verdict, and who tells when another one may be due.
#[derive(Debug)]
pub struct Finding {
    /// What was found out.
    pub verdict: Verdict,
    /// What is said of the caller's pod, if it is in one.
    pub changes: Option<k8s::followers::Changes>,
}

impl From<Verdict> for Finding {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            changes: None,
        }
    }
}

/// Why a caller is not attested although everything could be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// The process that connected is gone; its process id may belong to another one by now.
    #[error("the caller has exited")]
    Exited,
    /// The process has other effective ids than it had when it connected: it ran a set-user-id
    /// program, or dropped its privileges, and the socket may be in other hands.
    #[error("the caller has changed its user or group since it connected")]
    CredentialsChanged,
    /// The process ran another program when it connected, or while it was looked at.
    #[error("the caller's executable has changed since it connected")]
    ExecutableChanged,
    /// The kernel's hierarchies name different pods or containers for one process.
    #[error("the caller's cgroups name more than one pod or container")]
    CgroupContradiction,
    /// The kubelet reports the container in another pod than the kernel does.
    #[error("the caller's container belongs to another pod than its cgroup says")]
    ContainerOfAnotherPod,
    /// The pod is bound to another node, so whoever answers is not this node's kubelet.
    #[error("the caller's pod is bound to another node than this one")]
    PodOnAnotherNode,
    /// What the kubelet told a storage driver of the pod is not what its list says.
    #[error("the caller's pod is another one to the storage driver than in the kubelet's list")]
    PodContradiction,
    /// The kubelet has two pods of that UID, or two that have the container.
    #[error("more than one pod could be the caller's")]
    PodAmbiguous,
    /// The container was added to a running pod, with an image of somebody's choice.
    #[error("the caller is in an ephemeral container, which has no part in its pod's identity")]
    EphemeralContainer,
    /// The container engine answers of another container than the kernel names, or has the container's
    /// first process in another cgroup.
    #[error("the container engine's container is another one than the caller's cgroup names")]
    ContainerMismatch,
}

impl Denial {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exited => "peer_exited",
            Self::CredentialsChanged => "peer_credentials_changed",
            Self::ExecutableChanged => "peer_executable_changed",
            Self::CgroupContradiction => "cgroup_contradiction",
            Self::ContainerOfAnotherPod => "container_of_another_pod",
            Self::PodOnAnotherNode => "pod_on_another_node",
            Self::PodContradiction => "pod_contradiction",
            Self::PodAmbiguous => "pod_ambiguous",
            Self::EphemeralContainer => "ephemeral_container",
            Self::ContainerMismatch => "container_mismatch",
        }
    }
}
