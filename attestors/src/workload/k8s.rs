//! The workload attestor `k8s`: which pod a process belongs to, as the kubelet tells.
//!
//! Two witnesses must agree: the kernel, by the cgroup of the process, and the kubelet, by its list of
//! pods. A container may call before the kubelet has reported it. It is answered early, with what is
//! certain of its pod, if no entry of this agent could match it better once it is reported; otherwise
//! it waits for as long as SPIRE's settings say, and no longer than the process lives.

pub mod followers;
mod judge;
pub mod kubelet;
pub mod pod;
mod processes;
pub mod selectors;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use identity::selector::{Selector, SelectorError, Selectors};
use runtime::unix::Peer;
use tokio::time::Instant;

use self::followers::{Changes, Followers};
use self::judge::{JudgeError, Judgement, Pods, Rules, judge};
use self::kubelet::{Kubelet, KubeletError, PodLookupError, Snapshot};
use self::pod::Pod;
use self::volumes::Volumes;
use super::cgroup::{self, CgroupError, ContainerId, Place, PodUid, Viewpoint};
use super::{Denial, Finding, Verdict};
use crate::node::k8s_psat::{ApiError, ApiServer, FactsError, KubeConfig, Limits, ObjectName};

/// The name of this attestor in configuration, and the kind of its selectors.
pub const NAME: &str = "k8s";

/// How long the API server may take to tell a namespace.
const NAMESPACE_WITHIN: Duration = Duration::from_secs(4);

/// What the agent's entries ask for. The agent implements it.
pub trait Interest: Send + Sync {
    /// Whether an entry of this agent could match a caller that has these selectors and, once its
    /// container is reported, others of those that [`selectors::may_come`].
    fn may_match(&self, known: &Selectors) -> bool;
}

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this node, if it is known: pods of another node are denied.
    pub node_name: Option<String>,
    /// How long a container is awaited that the kubelet has not reported.
    pub patience: Duration,
    /// SPIRE's `disable_container_selectors`: that the pod is known is enough.
    pub disable_container_selectors: bool,
    /// Ours: ephemeral containers are attested as others are, with `container-type:ephemeral`.
    pub ephemeral_containers: bool,
    /// SPIRE's `enable_namespace_labels`: the API server that is asked for the labels of a pod's
    /// namespace at each attestation.
    pub namespace_labels: Option<KubeConfig>,
}

impl Options {
    /// SPIRE's `max_poll_attempts`, if none is set.
    pub const MAX_POLL_ATTEMPTS: u32 = 60;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: None,
            patience: kubelet::KubeletOptions::POLL_RETRY_INTERVAL * Self::MAX_POLL_ATTEMPTS,
            disable_container_selectors: false,
            ephemeral_containers: false,
            namespace_labels: None,
        }
    }
}

/// The attestor. Clones share the kubelet.
#[derive(Clone, Debug)]
pub struct K8s {
    kubelet: Kubelet,
    viewpoint: Arc<Viewpoint>,
    rules: Arc<Rules>,
    namespaces: Option<Arc<ApiServer>>,
    patience: Duration,
}

impl K8s {
    /// An attestor that asks `kubelet`, looks from `viewpoint`, which is the agent's own, and holds
    /// what it finds against what storage drivers say of pods.
    #[must_use]
    pub fn new(
        options: Options,
        viewpoint: Viewpoint,
        kubelet: Kubelet,
        volumes: Arc<Volumes>,
    ) -> Self {
        let limits = Limits {
            within: NAMESPACE_WITHIN,
            ..Limits::default()
        };
        let api_server = |config| Arc::new(ApiServer::new(config, limits));
        Self {
            kubelet,
            namespaces: options.namespace_labels.map(api_server),
            viewpoint: Arc::new(viewpoint),
            rules: Arc::new(Rules {
                node_name: options.node_name,
                omits_container: options.disable_container_selectors,
                allows_ephemeral: options.ephemeral_containers,
                volumes,
            }),
            patience: options.patience,
        }
    }

    /// How long a container is awaited. An answer may take this and one request to the kubelet.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Finds out in which container a process runs. A process that is in none has no selectors.
    pub async fn attest(
        &self,
        peer: &Arc<Peer>,
        interest: &dyn Interest,
    ) -> Result<Finding, K8sError> {
        let place = match self.place(peer).await {
            Ok(place) => place,
            // A read that fails because the process is gone is no failure of ours.
            Err(_) if !peer.is_alive() => return Ok(Verdict::Denied(Denial::Exited).into()),
            Err(K8sError::Cgroup(CgroupError::Contradiction)) => {
                return Ok(Verdict::Denied(Denial::CgroupContradiction).into());
            }
            Err(error) => return Err(error),
        };
        let Place::Pod { pod, container } = place else {
            return Ok(Verdict::Attested(Selectors::default()).into());
        };
        // Before the pod is looked up: what changes meanwhile is heard of.
        let changes = self.changes(pod.as_ref());
        let verdict = tokio::select! {
            biased;
            () = peer.exited() => Verdict::Denied(Denial::Exited),
            verdict = self.find(pod.as_ref(), &container, interest) => verdict?,
        };
        if !peer.is_alive() {
            return Ok(Verdict::Denied(Denial::Exited).into());
        }
        Ok(Finding {
            verdict,
            changes: Some(changes),
        })
    }

    fn changes(&self, pod: Option<&PodUid>) -> Changes {
        let follow = |followers: &Arc<Followers>| followers.follow(pod);
        Changes {
            kubelet: follow(self.kubelet.followers()),
            driver: follow(self.rules.volumes.followers()),
        }
    }

    /// The kernel makes this text under locks that a busy node holds for long.
    async fn place(&self, peer: &Arc<Peer>) -> Result<Place, K8sError> {
        let (peer, viewpoint) = (Arc::clone(peer), Arc::clone(&self.viewpoint));
        let look = move || {
            let text = peer
                .proc_file("cgroup", cgroup::MAX_BYTES)
                .map_err(K8sError::Read)?;
            Ok(viewpoint.locate(&text)?)
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(K8sError::Interrupted)?
    }

    async fn find(
        &self,
        pod: Option<&PodUid>,
        container: &ContainerId,
        interest: &dyn Interest,
    ) -> Result<Verdict, K8sError> {
        let called = Instant::now();
        let deadline = called + self.patience;
        let mut snapshot = self.kubelet.snapshot().await?;
        let mut waits = None;
        let mut labels = None;
        loop {
            let settled = match judge(&*snapshot, pod, container, &self.rules) {
                Ok(Judgement::Attested(found)) => {
                    let found = self.with_namespace(found, &mut labels).await?;
                    return Ok(Verdict::Attested(found));
                }
                Ok(Judgement::Denied(denial)) => return Ok(Verdict::Denied(denial)),
                Ok(Judgement::Awaited { settled }) => settled,
                Err(JudgeError::Lookup(PodLookupError::Ambiguous)) => {
                    return Ok(Verdict::Denied(Denial::PodAmbiguous));
                }
                Err(JudgeError::Lookup(error)) => return Err(error.into()),
                Err(JudgeError::Selector(error)) => return Err(error.into()),
            };
            if let Some(why) = snapshot.stale() {
                return Err(why.clone().into());
            }
            let now = Instant::now();
            // Only a list that is no older than the call tells whether a container may be an
            // ephemeral one: the kubelet knows of those before it starts them.
            let is_fresh = snapshot.age(now) <= now.duration_since(called);
            if let Some(settled) = settled
                && is_fresh
            {
                let settled = self.with_namespace(settled, &mut labels).await?;
                if !interest.may_match(&settled) {
                    return Ok(Verdict::Attested(settled));
                }
            }
            waits.get_or_insert_with(|| self.kubelet.awaited());
            let newer = self.kubelet.newer_than(snapshot.version);
            snapshot = match tokio::time::timeout_at(deadline, newer).await {
                Ok(newer) => newer?,
                Err(_) => return Err(K8sError::NotReported(self.patience)),
            };
        }
    }
}

impl K8s {
    /// Adds the labels of the pod's namespace, where they are wanted. They are asked for once for a
    /// call. Without an answer nothing is known, since entries may hang on them.
    async fn with_namespace(
        &self,
        found: Selectors,
        labels: &mut Option<Vec<Selector>>,
    ) -> Result<Selectors, K8sError> {
        let Some(api_server) = &self.namespaces else {
            return Ok(found);
        };
        let labels = match labels {
            Some(labels) => labels,
            None => {
                // What is found of a pod has its namespace among it.
                let name = found
                    .iter()
                    .find_map(|found| found.value().strip_prefix("ns:"))
                    .unwrap_or_default();
                let name = ObjectName::parse(name).map_err(K8sError::Namespace)?;
                let namespace = api_server.namespace(&name).await;
                let namespace = namespace.map_err(K8sError::ApiServer)?;
                labels.insert(selectors::of_namespace(&namespace)?)
            }
        };
        Ok(found.iter().chain(labels.iter()).cloned().collect())
    }
}

impl Pods for Snapshot {
    type Error = PodLookupError;

    fn pod(&self, uid: &PodUid) -> Result<Option<Arc<Pod>>, PodLookupError> {
        self.pod(uid)
    }

    fn by_container(&self, id: &ContainerId) -> Result<Option<Arc<Pod>>, PodLookupError> {
        self.by_container(id)
    }
}

/// Why it could not be found out where a process runs.
#[derive(Debug, thiserror::Error)]
pub enum K8sError {
    /// `/proc/PID/cgroup` could not be read.
    #[error("could not read the caller's cgroups")]
    Read(#[source] std::io::Error),
    /// It does not say where the process is.
    #[error("could not place the caller by its cgroups")]
    Cgroup(#[from] CgroupError),
    /// The kubelet did not answer.
    #[error("could not ask the kubelet for its pods")]
    Kubelet(#[from] KubeletError),
    /// The kubelet's answer has the pod, and cannot be read.
    #[error("could not look up the caller's pod")]
    Lookup(#[from] PodLookupError),
    /// The labels of the pod's namespace are wanted, and were not told.
    #[error("could not ask the API server for the labels of the pod's namespace")]
    ApiServer(#[source] ApiError),
    /// The namespace cannot be asked for.
    #[error("the pod's namespace has no name of Kubernetes")]
    Namespace(#[source] FactsError),
    /// What was found cannot be a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The kubelet did not report the container for as long as the configuration allows.
    #[error("the kubelet has not reported the caller's container for {0:?}")]
    NotReported(Duration),
    /// The process is shutting down, or the attestor panicked.
    #[error("the look at the caller was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl K8sError {
    /// Whether nothing was learned of the caller because the kubelet, or the API server, could not be asked. That it was
    /// asked and has not reported the container is an answer.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        match self {
            Self::Kubelet(_)
            | Self::ApiServer(_)
            | Self::Lookup(PodLookupError::Stale(_))
            | Self::Interrupted(_) => true,
            Self::Read(_)
            | Self::Cgroup(_)
            | Self::Lookup(PodLookupError::Malformed(_) | PodLookupError::Ambiguous)
            | Self::Namespace(_)
            | Self::Selector(_)
            | Self::NotReported(_) => false,
        }
    }

    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "cgroup_unreadable",
            Self::Cgroup(error) => error.reason(),
            Self::Kubelet(error) => error.reason(),
            Self::Lookup(error) => error.reason(),
            Self::ApiServer(error) => error.reason(),
            Self::Namespace(error) => error.reason(),
            Self::Selector(error) => error.reason(),
            Self::NotReported(_) => "container_not_reported",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

#[cfg(test)]
mod tests;
