//! What a storage driver of this node says of pods: a second witness beside the kubelet's list.
//!
//! The kubelet tells the driver whose pod a volume is for when it asks for the volume; the list of pods
//! comes another way, later, and over the network where the Pods API is missing. Both are the
//! kubelet's word, so they must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;

use super::super::cgroup::PodUid;
use super::followers::Followers;
use super::pod::Pod;

/// How many volumes are kept. A node has some hundred pods.
pub const MAX_VOLUMES: usize = 16 << 10;
/// The longest name of a volume, as the Container Storage Interface has it.
const MAX_ID_BYTES: usize = 128;
/// The longest name of Kubernetes.
const MAX_NAME_BYTES: usize = 253;

/// A volume, and whose pod it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volume {
    /// The kubelet's name for it.
    pub id: String,
    /// The pod.
    pub pod: PodUid,
    /// The pod's name.
    pub pod_name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account, which a static pod has not.
    pub service_account: String,
}

/// The volumes of this node, as the newest report of a driver has them.
#[derive(Debug, Default)]
pub struct Volumes {
    inner: RwLock<Inner>,
    followers: Arc<Followers>,
}

#[derive(Debug, Default)]
struct Inner {
    // INVARIANT: the two hold the same volumes.
    by_id: BTreeMap<String, Arc<Volume>>,
    by_pod: BTreeMap<PodUid, BTreeMap<String, Arc<Volume>>>,
    // How many reports were begun; the last one counts.
    reports: u64,
}

/// What a driver tells over one connection.
#[derive(Debug)]
pub struct Report {
    volumes: Arc<Volumes>,
    number: u64,
    // What was told before all of it was; nothing afterwards.
    told: Option<BTreeSet<String>>,
}

/// Whether a volume was known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News {
    /// It was not: its pod is about to start.
    New,
    /// It was, just so.
    Known,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// Another report was begun since.
    #[error("another driver has begun to report volumes")]
    Superseded,
    /// There is no room.
    #[error("more than {MAX_VOLUMES} volumes are reported")]
    Full,
    /// A name is empty or longer than Kubernetes has them.
    #[error("a name of the volume or its pod is empty or too long")]
    Name,
}

impl ReportError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Superseded => "report_superseded",
            Self::Full => "volumes_full",
            Self::Name => "volume_name",
        }
    }
}

impl Volumes {
    /// No volumes yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A volume of a pod.
    #[must_use]
    pub fn of(&self, pod: &PodUid) -> Option<Arc<Volume>> {
        let inner = self.inner.read();
        inner.by_pod.get(pod)?.values().next().map(Arc::clone)
    }

    /// How many volumes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.read().by_id.len()
    }

    /// Those who follow pods. They hear of a volume that goes, and of one that another pod has now.
    pub(super) fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// Whether the kubelet said otherwise of this pod when it asked for a volume. `uid` is what the
    /// pod's cgroup is named after. A pod without a volume contradicts nothing.
    #[must_use]
    pub fn contradict(&self, uid: &PodUid, pod: &Pod) -> bool {
        let differs = |volume: &Arc<Volume>| {
            (&volume.namespace, &volume.service_account) != (&pod.namespace, &pod.service_account)
        };
        let inner = self.inner.read();
        let volumes = inner.by_pod.get(uid);
        volumes.is_some_and(|volumes| volumes.values().any(differs))
    }

    fn changed(&self, pods: impl IntoIterator<Item = PodUid>) {
        let pods: Vec<_> = pods.into_iter().collect();
        self.followers.changed(&pods);
    }

    /// Begins a report. What another one had told stays until this one is complete; from now on
    /// nothing more is taken from the other.
    #[must_use]
    pub fn report(self: &Arc<Self>) -> Report {
        let mut inner = self.inner.write();
        inner.reports += 1;
        Report {
            volumes: Arc::clone(self),
            number: inner.reports,
            told: Some(BTreeSet::new()),
        }
    }
}

impl Report {
    /// Takes a volume.
    pub fn published(&mut self, volume: Volume) -> Result<News, ReportError> {
        let names = [&volume.pod_name, &volume.namespace];
        let is_name = |name: &&String| (1..=MAX_NAME_BYTES).contains(&name.len());
        if !(1..=MAX_ID_BYTES).contains(&volume.id.len())
            || !names.iter().all(is_name)
            || volume.service_account.len() > MAX_NAME_BYTES
        {
            return Err(ReportError::Name);
        }
        let mut inner = self.volumes.inner.write();
        inner.check(self.number)?;
        if let Some(told) = &mut self.told {
            told.insert(volume.id.clone());
        }
        let gone = match inner.by_id.get(&volume.id) {
            Some(known) if **known == volume => return Ok(News::Known),
            Some(_) => inner.remove(&volume.id),
            None if inner.by_id.len() >= MAX_VOLUMES => return Err(ReportError::Full),
            None => None,
        };
        let pod = volume.pod.clone();
        inner.insert(volume);
        drop(inner);
        // What a driver says of a pod may contradict what was found of its callers.
        self.volumes.changed(gone.into_iter().chain([pod]));
        Ok(News::New)
    }

    /// Forgets a volume.
    pub fn unpublished(&mut self, id: &str) -> Result<(), ReportError> {
        let mut inner = self.volumes.inner.write();
        inner.check(self.number)?;
        let gone = inner.remove(id);
        drop(inner);
        self.volumes.changed(gone);
        Ok(())
    }

    /// All volumes were told: forgets those that an earlier report had, and this one has not.
    pub fn complete(&mut self) -> Result<(), ReportError> {
        let mut inner = self.volumes.inner.write();
        inner.check(self.number)?;
        let mut pods = Vec::new();
        if let Some(told) = self.told.take() {
            let gone: Vec<String> = inner
                .by_id
                .keys()
                .filter(|id| !told.contains(*id))
                .cloned()
                .collect();
            pods.extend(gone.iter().filter_map(|id| inner.remove(id)));
        }
        drop(inner);
        self.volumes.changed(pods);
        Ok(())
    }
}

impl Inner {
    fn check(&self, number: u64) -> Result<(), ReportError> {
        if self.reports == number {
            Ok(())
        } else {
            Err(ReportError::Superseded)
        }
    }

    fn insert(&mut self, volume: Volume) {
        let volume = Arc::new(volume);
        self.by_pod
            .entry(volume.pod.clone())
            .or_default()
            .insert(volume.id.clone(), Arc::clone(&volume));
        self.by_id.insert(volume.id.clone(), volume);
    }

    /// Removes a volume, and says whose it was.
    fn remove(&mut self, id: &str) -> Option<PodUid> {
        let volume = self.by_id.remove(id)?;
        if let Some(volumes) = self.by_pod.get_mut(&volume.pod) {
            volumes.remove(id);
            if volumes.is_empty() {
                self.by_pod.remove(&volume.pod);
            }
        }
        Some(volume.pod.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "b2a1f0de-7f4c-4c6e-9d51-0a2b3c4d5e6f";

    fn uid() -> PodUid {
        PodUid::parse(UID).unwrap()
    }

    fn volume(id: &str) -> Volume {
        Volume {
            id: id.to_owned(),
            pod: uid(),
            pod_name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
        }
    }

    fn pod(namespace: &str, service_account: &str) -> Pod {
        Pod {
            uid: UID.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            ..Pod::default()
        }
    }

    #[test]
    fn a_volume_is_known_from_its_publication_to_its_end() {
        let volumes = Volumes::new();
        let mut report = volumes.report();
        assert_eq!(report.published(volume("a")), Ok(News::New));
        assert_eq!(report.published(volume("a")), Ok(News::Known));
        assert_eq!(report.published(volume("b")), Ok(News::New));
        assert!(volumes.of(&uid()).is_some());
        for id in ["a", "a", "b"] {
            report.unpublished(id).unwrap();
        }
        assert_eq!((volumes.of(&uid()), volumes.count()), (None, 0));
        assert!(volumes.inner.read().by_pod.is_empty());
    }

    #[test]
    fn what_a_complete_report_lacks_is_forgotten_and_not_before() {
        let volumes = Volumes::new();
        let mut first = volumes.report();
        for id in ["a", "b"] {
            first.published(volume(id)).unwrap();
        }
        first.complete().unwrap();
        drop(first);
        assert_eq!(volumes.count(), 2, "the volumes outlive the connection");
        let mut second = volumes.report();
        assert_eq!(second.published(volume("b")), Ok(News::Known));
        assert_eq!(volumes.count(), 2);
        second.complete().unwrap();
        assert_eq!(volumes.count(), 1);
        // Later completions have nothing to say.
        second.published(volume("c")).unwrap();
        second.complete().unwrap();
        assert_eq!(volumes.count(), 2);
    }

    #[test]
    fn an_older_report_is_no_longer_heard() {
        let volumes = Volumes::new();
        let mut old = volumes.report();
        let _new = volumes.report();
        let superseded = Err(ReportError::Superseded);
        assert_eq!(old.published(volume("a")).map(|_| ()), superseded);
        assert_eq!(old.unpublished("a"), superseded);
        assert_eq!(old.complete(), superseded);
    }

    #[test]
    fn another_namespace_or_service_account_contradicts() {
        let volumes = Volumes::new();
        let other = PodUid::parse(&"0".repeat(32)).unwrap();
        let mut report = volumes.report();
        assert!(!volumes.contradict(&uid(), &pod("else", "where")));
        report.published(volume("a")).unwrap();
        assert!(!volumes.contradict(&uid(), &pod("shop", "web")));
        for pod in [pod("bank", "web"), pod("shop", "admin"), pod("shop", "")] {
            assert!(volumes.contradict(&uid(), &pod));
            assert!(!volumes.contradict(&other, &pod));
        }
        // One of two volumes is enough.
        let admin = Volume {
            service_account: "admin".to_owned(),
            ..volume("b")
        };
        report.published(admin).unwrap();
        assert!(volumes.contradict(&uid(), &pod("shop", "web")));
    }

    #[test]
    fn the_kubelets_newest_word_for_a_volume_counts() {
        let volumes = Volumes::new();
        let mut report = volumes.report();
        report.published(volume("a")).unwrap();
        let moved = Volume {
            namespace: "bank".to_owned(),
            ..volume("a")
        };
        assert_eq!(report.published(moved), Ok(News::New));
        assert!(!volumes.contradict(&uid(), &pod("bank", "web")));
        assert_eq!(volumes.count(), 1);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let volumes = Volumes::new();
        let mut report = volumes.report();
        for n in 0..MAX_VOLUMES {
            report.published(volume(&n.to_string())).unwrap();
        }
        let more = volume("one-more");
        assert_eq!(report.published(more.clone()), Err(ReportError::Full));
        assert_eq!(report.published(volume("0")), Ok(News::Known));
        report.unpublished("0").unwrap();
        assert_eq!(report.published(more), Ok(News::New));
        for name in ["", &"x".repeat(254)] {
            let nameless = Volume {
                namespace: name.to_owned(),
                ..volume("1")
            };
            assert_eq!(report.published(nameless), Err(ReportError::Name));
        }
    }
}
