//! Where a process stands among the pods of its node, by the text of `/proc/PID/cgroup`.
//!
//! The kernel writes that file, and no process can forge it; but a container may *create* cgroups
//! below its own, with any name it likes, and move its processes there. So a path such as
//! `/kubepods/podA/A…/kubepods/podB/B…` says one thing to who searches it from the right, and another
//! to who reads it from the left. This parser reads from the left, component by component, from an
//! anchor that no workload can move:
//!
//! 1. **The agent's own cgroup** ([`Viewpoint`]), if it shows the agent in a pod. Whatever stands before
//!    the innermost `kubepods` of that path leads to this node: nothing on a common host, the cgroup
//!    of a container where the node is itself a container (kind, k3d, minikube, a cluster within a
//!    pod of another cluster), and the kubelet's `cgroupRoot`. Callers in pods have exactly that prefix,
//!    hierarchy by hierarchy, and the tree of pods begins right behind it. The innermost is right for
//!    the agent and wrong for callers: nobody but the runtime chose the agent's path.
//! 2. **Nothing**, if the agent is not in a pod, or its cgroup namespace hides where it is. An absolute
//!    path then has to begin at its root with one of the few trees that only root can make there:
//!    `kubepods`, `kubelet/kubepods`, or a chain of systemd slices that ends in `…kubepods.slice`.
//!    A docker container, a user's delegated slice or a service begins otherwise, so what they create
//!    below themselves is not looked at.
//! 3. **The agent's ancestors**, if a path begins with `..`: the kernel writes so what lies outside of
//!    the agent's cgroup namespace. Every ancestor of the agent's cgroup belongs to the runtime, the
//!    kubelet or root, so the first component below one is theirs as well, and must be a step of the
//!    tree of pods.
//!
//! From the anchor the path must go root, quality of service, pod, container, each step as the kubelet
//! and the runtimes write it; what lies below the container is the container's and is not read. All
//! hierarchies must agree: two pods or two containers are a [`CgroupError::Contradiction`], which an
//! attestor turns into a denial. A hierarchy that says nothing (the `0::/` of a hybrid host) is no
//! contradiction.
//!
//! `/proc/PID/mountinfo` is never read: a process chooses its own mounts.

pub mod engine;
mod ids;
mod lines;
mod path;
pub mod pattern;

use self::lines::Line;
use self::path::Found;

pub use self::ids::{ContainerId, PodUid};

/// The longest file that is read. A kernel writes one line for each of at most some 15 hierarchies.
pub const MAX_BYTES: usize = 64 << 10;
/// The most lines that are read.
pub const MAX_LINES: usize = 64;

/// Where a process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In no pod of this node: a process of the host, of a container that no kubelet made, or of the
    /// agent's own container where its cgroup namespace hides it.
    Host,
    /// In a container of a pod.
    Pod {
        /// The pod, unless the path does not name it: CRI-O below `KubeEdge`, or a container of the
        /// agent's own pod.
        pod: Option<PodUid>,
        /// The container. The sandbox ("pause") container of a pod looks like any other.
        container: ContainerId,
    },
}

/// Where the agent itself stands, which tells where the tree of pods begins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Viewpoint {
    // The hierarchies in which the agent is in a pod, by their controllers. Empty if it is in none.
    anchors: Vec<Anchor>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Anchor {
    controllers: Box<[u8]>,
    prefix: Vec<Box<[u8]>>,
}

impl Viewpoint {
    /// The viewpoint of the process that has this `/proc/self/cgroup`. The default is that of a
    /// process that is in no pod.
    pub fn of_agent(text: &[u8]) -> Result<Self, CgroupError> {
        let mut anchors = Vec::new();
        for line in lines::parse(text)? {
            if line.path.up == 0
                && let Some(at) = path::innermost(&line.path.components)
            {
                let above = line.path.components.iter().take(at);
                anchors.push(Anchor {
                    controllers: line.controllers.into(),
                    prefix: above.map(|component| (*component).into()).collect(),
                });
            }
        }
        Ok(Self { anchors })
    }

    /// Finds the container of the process that has this `/proc/PID/cgroup`.
    pub fn locate(&self, text: &[u8]) -> Result<Place, CgroupError> {
        let mut sum = Sum::default();
        for line in lines::parse(text)? {
            sum.add(self.look(&line))?;
        }
        sum.place()
    }

    fn look(&self, line: &Line<'_>) -> Found {
        if self.anchors.is_empty() {
            return path::unanchored(&line.path);
        }
        self.below_anchor(line)
            .map_or(Found::Nothing, path::anchored)
    }

    /// What stands behind the agent's own prefix, if the agent has one and the line begins with it.
    fn below_anchor<'a, 'b>(&self, line: &'a Line<'b>) -> Option<&'a [&'b [u8]]> {
        let of_line = |anchor: &&Anchor| *anchor.controllers == *line.controllers;
        let prefix = &self.anchors.iter().find(of_line)?.prefix;
        let (above, rest) = line.path.components.split_at_checked(prefix.len())?;
        let is_same = above.iter().zip(prefix).all(|(a, b)| **a == **b);
        (is_same && line.path.up == 0).then_some(rest)
    }
}

/// What the hierarchies say together.
#[derive(Debug, Default)]
struct Sum {
    pod: Option<PodUid>,
    container: Option<ContainerId>,
    unrecognized: bool,
}

impl Sum {
    fn add(&mut self, found: Found) -> Result<(), CgroupError> {
        match found {
            Found::Nothing => Ok(()),
            Found::Unrecognized => {
                self.unrecognized = true;
                Ok(())
            }
            Found::Pod(pod) => agree(&mut self.pod, Some(pod)),
            Found::Container { pod, container } => {
                agree(&mut self.pod, pod)?;
                agree(&mut self.container, Some(container))
            }
        }
    }

    fn place(self) -> Result<Place, CgroupError> {
        match self {
            Self {
                unrecognized: true, ..
            } => Err(CgroupError::Unrecognized),
            Self {
                pod,
                container: Some(container),
                ..
            } => Ok(Place::Pod { pod, container }),
            Self { pod: Some(_), .. } => Err(CgroupError::NoContainer),
            Self { pod: None, .. } => Ok(Place::Host),
        }
    }
}

/// Takes another hierarchy's answer, if it has one.
fn agree<T: PartialEq>(known: &mut Option<T>, found: Option<T>) -> Result<(), CgroupError> {
    match (&*known, &found) {
        (Some(known), Some(found)) if known != found => Err(CgroupError::Contradiction),
        (None, _) => {
            *known = found;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Why a process cannot be placed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CgroupError {
    /// The text is longer than [`MAX_BYTES`], or has more than [`MAX_LINES`] lines.
    #[error("the list of cgroups is too long")]
    TooLong,
    /// The text is not what a kernel writes.
    #[error("the list of cgroups is malformed")]
    Malformed,
    /// Two hierarchies name different pods or containers.
    #[error("the cgroups name more than one pod or container")]
    Contradiction,
    /// The process is in the cgroup of a pod and in none of its containers: a monitor of the runtime,
    /// or a virtual machine.
    #[error("the cgroup is that of a pod and of none of its containers")]
    NoContainer,
    /// The process is among the kubelet's cgroups, in one that is not named as pods are.
    #[error("the cgroup is below the kubelet's and is not that of a pod")]
    Unrecognized,
}

impl CgroupError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "cgroup_too_long",
            Self::Malformed => "cgroup_malformed",
            Self::Contradiction => "cgroup_contradiction",
            Self::NoContainer => "cgroup_without_container",
            Self::Unrecognized => "cgroup_unrecognized",
        }
    }
}

#[cfg(test)]
mod tests;
