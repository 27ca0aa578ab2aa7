//! The pods of this node as of one moment.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use imbl::OrdMap;
use memchr::memmem;
use tokio::time::Instant;

use super::super::pod::Pod;
use super::KubeletError;
use super::list::{PodList, PodLookupError};
use crate::workload::cgroup::{ContainerId, PodUid};

/// What the kubelet said at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Rises with each answer, whatever its source, in the order in which they were asked for or told.
    pub version: u64,
    pub(super) pods: Pods,
    pub(super) taken: Taken,
}

/// Where the pods come from, and how they are kept.
#[derive(Clone, Debug)]
pub(super) enum Pods {
    /// The list over HTTP.
    Listed(Arc<PodList>),
    /// What the Pods API has told so far, by uid.
    Watched(Watched),
}

/// The pods of the stream. A clone shares all that has not changed.
pub(super) type Watched = OrdMap<Arc<str>, Arc<WatchedPod>>;

/// One pod as the Pods API told it.
pub(super) struct WatchedPod {
    bytes: Box<[u8]>,
    // Decoded when it is first asked for.
    pod: OnceLock<Arc<Pod>>,
}

/// When a snapshot was true.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    /// The stream that feeds it was whole when this was given out.
    Live,
    /// The kubelet was asked at this time.
    At(Instant),
    /// It was true at this time, and the kubelet cannot be asked now.
    Stale { at: Instant, why: KubeletError },
}

impl Snapshot {
    /// The pod with this uid; that of a static pod is the hash of its configuration, as in the name
    /// of its cgroup.
    pub fn pod(&self, uid: &PodUid) -> Result<Option<Arc<Pod>>, PodLookupError> {
        let found = match &self.pods {
            Pods::Listed(list) => list.pod(uid)?.map(Arc::new),
            Pods::Watched(pods) => match pods.get(uid.as_str()) {
                Some(pod) => Some(pod.decode()?).filter(|pod| pod.is_called(uid)),
                None => None,
            },
        };
        self.certain(found)
    }

    /// The pod one of whose containers has this id.
    pub fn by_container(&self, id: &ContainerId) -> Result<Option<Arc<Pod>>, PodLookupError> {
        let found = match &self.pods {
            Pods::Listed(list) => list.by_container(id)?.map(Arc::new),
            Pods::Watched(pods) => by_container(pods, id)?,
        };
        self.certain(found)
    }

    /// How long ago the kubelet said so; zero while it keeps us told.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        match &self.taken {
            Taken::Live => Duration::ZERO,
            Taken::At(at) | Taken::Stale { at, .. } => now.saturating_duration_since(*at),
        }
    }

    /// Why the kubelet could not be asked now, if it could not.
    #[must_use]
    pub fn stale(&self) -> Option<&KubeletError> {
        match &self.taken {
            Taken::Stale { why, .. } => Some(why),
            Taken::Live | Taken::At(_) => None,
        }
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.pods {
            Pods::Listed(list) => list.len(),
            Pods::Watched(pods) => pods.len(),
        }
    }

    /// Whether there is no pod.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the Pods API had told, if this came from there.
    pub(super) fn watched(&self) -> Option<Watched> {
        match &self.pods {
            Pods::Watched(pods) => Some(pods.clone()),
            Pods::Listed(_) => None,
        }
    }

    /// The list, if this is one.
    pub(super) fn listed(&self) -> Option<&PodList> {
        match &self.pods {
            Pods::Listed(list) => Some(list),
            Pods::Watched(_) => None,
        }
    }

    /// The list, if it is one that nobody else reads.
    pub(super) fn into_list(self) -> Option<PodList> {
        match self.pods {
            Pods::Listed(list) => Arc::into_inner(list),
            Pods::Watched(_) => None,
        }
    }

    /// The same, for a caller whom the kubelet cannot be asked for.
    pub(super) fn stale_since(&self, at: Instant, why: KubeletError) -> Self {
        Self {
            version: self.version,
            pods: self.pods.clone(),
            taken: Taken::Stale { at, why },
        }
    }

    /// An old list still proves that a pod was there: neither a pod's uid nor a container's id is
    /// ever given again. It proves nothing of a pod that is not in it.
    fn certain(&self, found: Option<Arc<Pod>>) -> Result<Option<Arc<Pod>>, PodLookupError> {
        match (found, &self.taken) {
            (None, Taken::Stale { why, .. }) => Err(PodLookupError::Stale(why.clone())),
            (found, _) => Ok(found),
        }
    }
}

impl WatchedPod {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: Box::from(bytes),
            pod: OnceLock::new(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn decode(&self) -> Result<Arc<Pod>, PodLookupError> {
        if let Some(pod) = self.pod.get() {
            return Ok(Arc::clone(pod));
        }
        let pod = Pod::from_protobuf(&self.bytes)
            .map_err(|error| PodLookupError::Malformed(error.into()))?;
        Ok(Arc::clone(self.pod.get_or_init(|| Arc::new(pod))))
    }
}

impl PartialEq for WatchedPod {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for WatchedPod {}

// What an operator writes into a pod's environment is nobody's business.
impl fmt::Debug for WatchedPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchedPod({} bytes)", self.bytes.len())
    }
}

/// The one pod that has the container. That its bytes mention it proves nothing: anybody may write
/// the id of another's container into an annotation.
fn by_container(pods: &Watched, id: &ContainerId) -> Result<Option<Arc<Pod>>, PodLookupError> {
    let finder = memmem::Finder::new(id.as_str().as_bytes());
    let (mut found, mut spoiled) = (None, None);
    for candidate in pods
        .values()
        .filter(|pod| finder.find(&pod.bytes).is_some())
    {
        match candidate.decode() {
            Ok(pod) if !pod.has_container(id) => {}
            Ok(_) if found.is_some() => return Err(PodLookupError::Ambiguous),
            Ok(pod) => found = Some(pod),
            Err(error) => spoiled = Some(error),
        }
    }
    match (found, spoiled) {
        (Some(pod), _) => Ok(Some(pod)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}
