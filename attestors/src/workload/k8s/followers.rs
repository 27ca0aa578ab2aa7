//! Who wants to be told when the kubelet, or a storage driver, says something new of a pod.
//!
//! A stream outlives what its caller's pod was: labels go, a pod ends. Whoever attested a caller of a
//! pod follows the pod from before the lookup on, so that no change falls between the two. What is told
//! is that something changed, and not what: the answer is to look again.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::cgroup::PodUid;

/// The pods that are followed.
#[derive(Debug, Default)]
pub struct Followers(Mutex<BTreeMap<Followed, Source>>);

/// Whom somebody follows: a pod, or all of them where the kernel does not say in which one a container
/// is.
type Followed = Option<PodUid>;

#[derive(Debug, Default)]
struct Source {
    changes: watch::Sender<()>,
    // INVARIANT: as many as there are registrations of this pod.
    registrations: usize,
}

/// A place among the followers, given back when the last that holds it is dropped.
#[derive(Debug)]
struct Registration {
    followers: Arc<Followers>,
    followed: Followed,
}

/// The changes of one pod from one moment on.
#[derive(Clone, Debug)]
pub struct Following {
    changes: watch::Receiver<()>,
    _registration: Arc<Registration>,
}

impl Followers {
    /// Begins to follow a pod, or all of them.
    pub(super) fn follow(self: &Arc<Self>, pod: Option<&PodUid>) -> Following {
        let followed = pod.cloned();
        let mut sources = self.0.lock();
        let source = sources.entry(followed.clone()).or_default();
        source.registrations += 1;
        let changes = source.changes.subscribe();
        drop(sources);
        Following {
            changes,
            _registration: Arc::new(Registration {
                followers: Arc::clone(self),
                followed,
            }),
        }
    }

    /// Tells who follows one of these pods, or all. Whoever looks again must see the change by now.
    pub(super) fn changed(&self, pods: &[PodUid]) {
        if !pods.is_empty() {
            self.changed_if(|pod| pods.contains(pod));
        }
    }

    /// The same for those pods of which `is_changed` says so; those who follow all are told in any case.
    pub(super) fn changed_if(&self, mut is_changed: impl FnMut(&PodUid) -> bool) {
        for (followed, source) in self.0.lock().iter() {
            if followed.as_ref().is_none_or(&mut is_changed) {
                source.changes.send_replace(());
            }
        }
    }

    /// How many pods are followed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut sources = self.followers.0.lock();
        if let Some(source) = sources.get_mut(&self.followed) {
            source.registrations -= 1;
            if source.registrations == 0 {
                sources.remove(&self.followed);
            }
        }
    }
}

impl Following {
    /// Waits for a change since this began.
    async fn changed(&self) {
        // The sender lives for as long as the registration.
        if self.changes.clone().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn without_past(&self) -> Self {
        let mut following = self.clone();
        following.changes.mark_unchanged();
        following
    }
}

/// What may change about a caller's pod: what the kubelet says of it, and what a storage driver does.
#[derive(Clone, Debug)]
pub struct Changes {
    pub(super) kubelet: Following,
    pub(super) driver: Following,
}

impl Changes {
    /// Waits until something new was said of the pod since it was looked at. Cancelling it loses nothing.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.kubelet.changed() => {}
            () = self.driver.changed() => {}
        }
    }

    /// The changes that come after this call, for somebody who has heard of the others in vain.
    #[must_use]
    pub fn without_past(&self) -> Self {
        Self {
            kubelet: self.kubelet.without_past(),
            driver: self.driver.without_past(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn uid(digit: &str) -> PodUid {
        PodUid::parse(&digit.repeat(32)).unwrap()
    }

    fn has_changed(following: &Following) -> bool {
        following.changed().now_or_never().is_some()
    }

    #[test]
    fn who_follows_a_pod_hears_of_it_and_of_no_other() {
        let followers = Arc::new(Followers::default());
        let (one, two) = (uid("1"), uid("2"));
        let (first, second) = (followers.follow(Some(&one)), followers.follow(Some(&two)));
        let all = followers.follow(None);
        followers.changed(std::slice::from_ref(&one));
        assert_eq!(
            [&first, &second, &all].map(has_changed),
            [true, false, true]
        );
        // It stays so for who did not look, until another begins.
        assert!(has_changed(&first));
        assert!(!has_changed(&first.without_past()));
        assert!(!has_changed(&followers.follow(Some(&one))));
        followers.changed(&[]);
        assert!(!has_changed(&all.without_past()));
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let followers = Arc::new(Followers::default());
        let one = uid("1");
        let first = followers.follow(Some(&one));
        let (again, clone) = (followers.follow(Some(&one)), first.clone());
        drop(first);
        followers.changed(std::slice::from_ref(&one));
        assert!(has_changed(&clone));
        drop(clone);
        assert_eq!(followers.count(), 1);
        followers.changed(std::slice::from_ref(&one));
        assert!(has_changed(&again));
        drop(again);
        assert_eq!(followers.count(), 0);
    }
}
