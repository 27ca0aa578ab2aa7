//! What follows from where a process stands and from what the kubelet says of the pods there.
//!
//! | the caller's container is | what becomes of it |
//! | --- | --- |
//! | a regular or an init container, a native sidecar | the pod's selectors and its own |
//! | an ephemeral one ("kubectl debug") | denied: its image is the choice of whoever may debug the pod; with `ephemeral_containers`, the same as others with `container-type:ephemeral` beside it |
//! | not reported yet: just created, restarted, in its postStart hook | awaited; the pod's settled selectors are known |
//! | the sandbox ("pause"), or a sandbox that runs the whole pod (gVisor) | never reported, so the same |
//! | reported in another pod than the cgroup says | denied |
//! | in a pod that is not listed yet | awaited, nothing is known |
//! | in a pod of which a storage driver was told another namespace or account | denied |
//! | in a pod that is bound to another node | denied: the kubelet that answers is not this node's |
//!
//! SPIRE searches ephemeral containers never, and awaits them until it gives up.

use std::sync::Arc;

use identity::selector::{Selector, SelectorError, Selectors};

use super::super::Denial;
use super::super::cgroup::{ContainerId, PodUid};
use super::pod::{ContainerKind, Pod};
use super::selectors;
use super::volumes::Volumes;

/// The pods of the node, as of one moment.
pub(super) trait Pods {
    type Error;

    fn pod(&self, uid: &PodUid) -> Result<Option<Arc<Pod>>, Self::Error>;

    fn by_container(&self, id: &ContainerId) -> Result<Option<Arc<Pod>>, Self::Error>;
}

/// What an operator decides about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) node_name: Option<String>,
    pub(super) omits_container: bool,
    pub(super) allows_ephemeral: bool,
    pub(super) volumes: Arc<Volumes>,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Judgement {
    Attested(Selectors),
    Denied(Denial),
    /// The kubelet has not reported the container. If its pod is listed, and the container cannot be
    /// an ephemeral one, these selectors are its own whatever it turns out to be.
    Awaited {
        settled: Option<Selectors>,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum JudgeError<E> {
    #[error(transparent)]
    Lookup(E),
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

pub(super) fn judge<P: Pods>(
    pods: &P,
    uid: Option<&PodUid>,
    id: &ContainerId,
    rules: &Rules,
) -> Result<Judgement, JudgeError<P::Error>> {
    let pod = match uid {
        Some(uid) => pods.pod(uid),
        None => pods.by_container(id),
    };
    let Some(pod) = pod.map_err(JudgeError::Lookup)? else {
        return elsewhere_or(pods, uid, id, None);
    };
    if rules
        .node_name
        .as_deref()
        .is_some_and(|name| !is_same_node(name, &pod.node_name))
    {
        return Ok(Judgement::Denied(Denial::PodOnAnotherNode));
    }
    let own = PodUid::parse(&pod.uid);
    let contradicts = |uid| rules.volumes.contradict(uid, &pod);
    if uid.or(own.as_ref()).is_some_and(contradicts) {
        return Ok(Judgement::Denied(Denial::PodContradiction));
    }
    let Some(container) = pod.container(id) else {
        if pod.awaits_ephemeral_container() {
            return elsewhere_or(pods, uid, id, None);
        }
        let settled = Some(selectors::settled(&pod)?.into_iter().collect());
        let judgement = elsewhere_or(pods, uid, id, settled)?;
        if rules.omits_container && matches!(judgement, Judgement::Awaited { .. }) {
            return Ok(attested(selectors::of_pod(&pod)?));
        }
        return Ok(judgement);
    };
    if container.kind == ContainerKind::Ephemeral && !rules.allows_ephemeral {
        return Ok(Judgement::Denied(Denial::EphemeralContainer));
    }
    let mut found = selectors::of_pod(&pod)?;
    let of_container = selectors::of_container(container)?;
    // That a container is ephemeral is said even where containers are not told apart.
    let is_told = |selector: &Selector| {
        !rules.omits_container || selector.value().starts_with("container-type:")
    };
    found.extend(of_container.into_iter().filter(is_told));
    Ok(attested(found))
}

/// Awaits the container, unless another pod has it.
fn elsewhere_or<P: Pods>(
    pods: &P,
    uid: Option<&PodUid>,
    id: &ContainerId,
    settled: Option<Selectors>,
) -> Result<Judgement, JudgeError<P::Error>> {
    if uid.is_some() && pods.by_container(id).map_err(JudgeError::Lookup)?.is_some() {
        return Ok(Judgement::Denied(Denial::ContainerOfAnotherPod));
    }
    Ok(Judgement::Awaited { settled })
}

fn attested(found: Vec<Selector>) -> Judgement {
    Judgement::Attested(found.into_iter().collect())
}

/// Whether a pod that is bound to `bound` is on the node that the operator calls `configured`.
///
/// SPIRE's `node_name` is also where the kubelet is asked, so it may be an address, which says nothing
/// about the name, or the name with the node's domain behind it.
fn is_same_node(configured: &str, bound: &str) -> bool {
    let address = configured.trim_start_matches('[').trim_end_matches(']');
    let is_address = address.parse::<std::net::IpAddr>().is_ok() || configured == "localhost";
    let (configured, bound) = (configured.to_ascii_lowercase(), bound.to_ascii_lowercase());
    let has_domain = |long: &str, short: &str| {
        let domain = long.strip_prefix(short);
        domain.is_some_and(|domain| domain.starts_with('.') && !short.is_empty())
    };
    is_address
        || configured == bound
        || has_domain(&configured, &bound)
        || has_domain(&bound, &configured)
}

#[cfg(test)]
mod tests;
