//! What the sockets see of the agent.

use std::sync::Arc;

use attestors::workload::k8s::selectors::may_come;
use attestors::workload::k8s::{self, Interest};
use identity::selector::{Selector, Selectors};
use identity::spiffe_id::SpiffeId;
use runtime::unix::Peer;
use tokio::sync::watch;
use workload_api::source::{
    AttestError, Bundles, IdentitySource, JwtFetchError, JwtGrant, Subscription,
};

use crate::attest::{Attestors, Caller};
use crate::cache::driver::Driver;
use crate::sync::Status;
use crate::upstream::Upstream;

/// The agent's identities, for those who attest.
#[derive(Debug)]
pub struct Source<U> {
    attestors: Arc<Attestors>,
    driver: Arc<Driver<U>>,
    status: watch::Receiver<Status>,
}

impl<U: Upstream> Source<U> {
    pub fn new(
        attestors: Arc<Attestors>,
        driver: Arc<Driver<U>>,
        status: watch::Receiver<Status>,
    ) -> Self {
        Self {
            attestors,
            driver,
            status,
        }
    }

    pub(crate) fn attestors(&self) -> &Arc<Attestors> {
        &self.attestors
    }

    pub(crate) fn driver(&self) -> &Arc<Driver<U>> {
        &self.driver
    }

    /// How synchronization goes.
    pub(crate) fn status(&self) -> &watch::Receiver<Status> {
        &self.status
    }
}

impl<U: Upstream> IdentitySource for Source<U> {
    type Caller = Caller;

    async fn attest(
        &self,
        peer: &Arc<Peer>,
        before: Option<&Caller>,
    ) -> Result<Caller, AttestError> {
        self.attestors.attest(peer, &*self.driver, before).await
    }

    async fn suspect(&self, caller: &Caller) {
        caller.suspect().await;
    }

    fn subscribe(&self, caller: &Caller) -> Subscription {
        self.driver.subscribe(caller.selectors())
    }

    async fn jwt_svids(
        &self,
        caller: &Caller,
        audience: Vec<String>,
        id: Option<SpiffeId>,
    ) -> Result<Vec<JwtGrant>, JwtFetchError> {
        jwt_grants(&self.driver, caller.selectors(), &audience, id.as_ref()).await
    }

    fn shortfall(&self, caller: &Caller) -> String {
        self.shortfall_of(caller)
    }

    fn bundles(&self, caller: &Caller) -> Arc<Bundles> {
        self.driver.bundles_of(caller.selectors())
    }
}

impl<U: Upstream> Interest for Driver<U> {
    /// What other attestors find out is not known here, so their selectors may be there.
    fn may_match(&self, known: &Selectors) -> bool {
        let may_have = |selector: &Selector| {
            known.contains(selector) || selector.kind() != k8s::NAME || may_come(selector)
        };
        self.any_entry(|entry| entry.iter().any(may_come) && entry.iter().all(may_have))
    }
}

async fn jwt_grants<U: Upstream>(
    driver: &Arc<Driver<U>>,
    caller: &Selectors,
    audience: &[String],
    id: Option<&SpiffeId>,
) -> Result<Vec<JwtGrant>, JwtFetchError> {
    let entries = driver
        .entries_of(caller)
        .into_iter()
        .filter(|entry| id.is_none_or(|id| entry.spiffe_id == *id));
    let grants = entries.map(|entry| async move {
        let svid = driver.jwt_svid(&entry, audience).await?;
        Ok(JwtGrant {
            entry_id: entry.id.clone(),
            hint: entry.hint.clone(),
            created_at: entry.created_at,
            svid,
        })
    });
    // All at once: a caller with many identities waits for the slowest, not for the sum.
    futures_util::future::try_join_all(grants).await
}

#[cfg(test)]
mod pods;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::clock::Clock;
    use runtime::shutdown::Shutdown;
    use runtime::tasks::TaskGroup;
    use tokio::sync::mpsc;

    use super::*;
    use crate::attest::{self, WorkloadAttestor};
    use crate::cache::Metrics;
    use crate::cache::driver::{Deps, Options};
    use crate::upstream::fake::{FakeServer, entry, epoch};
    use crate::upstream::{EntrySet, Upstream};
    use attestors::workload::unix::{self, Unix};

    pub(super) const TTL: Duration = Duration::from_secs(3600);

    /// A source over a server that has these entries.
    pub(super) async fn source_of(
        attestors: Vec<WorkloadAttestor>,
        entries: impl IntoIterator<Item = identity::entry::Entry>,
        ttl: Duration,
    ) -> Source<FakeServer> {
        let clock = Clock::simulated(epoch());
        let server = FakeServer::new(clock.clone(), ttl);
        server.set_entries(entries);
        let deps = Deps {
            upstream: Arc::clone(&server),
            clock,
            tasks: TaskGroup::new(Shutdown::new().0),
            metrics: Metrics::default(),
            denials: mpsc::channel(1).0,
            sealed: crate::sealed::SealedCache::default(),
        };
        let own = Arc::new(server.own_bundle());
        let driver = Driver::new(Arc::clone(&own), Options::default(), deps);
        let entries = server.sync_entries(&EntrySet::default()).await.unwrap();
        driver.synced((own, std::collections::BTreeMap::new()), entries);
        let attestors = Attestors::new(attestors, Vec::new(), attest::Metrics::default());
        let status = watch::Sender::<Status>::default().subscribe();
        Source::new(Arc::new(attestors), driver, status)
    }

    /// A source over a server that has an entry for this process, and one for another user's.
    async fn source() -> (Source<FakeServer>, Arc<Peer>) {
        let (uid, gid) = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        let own = entry("own", &[&format!("unix:uid:{uid}")]);
        let entries = [own, entry("other", &[&format!("unix:uid:{}", uid + 1)])];
        let all = vec![WorkloadAttestor::Unix(Unix::new(unix::Options::default()))];
        let peer = Arc::new(Peer::for_test(std::process::id(), uid, gid).unwrap());
        (source_of(all, entries, TTL).await, peer)
    }

    #[tokio::test]
    async fn a_caller_gets_the_identities_of_its_own_selectors() {
        let (source, peer) = source().await;
        let caller = source.attest(&peer, None).await.unwrap();
        assert_eq!(caller.peer().pid(), std::process::id());
        let update = source.subscribe(&caller).next().await.unwrap();
        let ids: Vec<_> = update
            .identities()
            .iter()
            .map(|identity| identity.svid.id().path())
            .collect();
        assert_eq!(ids, ["/own"]);
        assert_eq!(source.bundles(&caller).own().x509_authorities.len(), 1);
    }

    #[tokio::test]
    async fn a_container_is_worth_waiting_for_while_an_entry_could_match_it() {
        let (source, _) = source().await;
        let driver = &source.driver;
        let own = Arc::new(driver.own_bundle().borrow().as_ref().clone());
        let entries = [
            entry("pod", &["k8s:ns:a", "k8s:sa:a"]),
            entry("name", &["k8s:ns:a", "k8s:container-name:app"]),
            entry("image", &["k8s:ns:b", "k8s:pod-image:x", "unix:uid:7"]),
            entry(
                "label",
                &["k8s:ns:c", "k8s:pod-label:x:y", "k8s:container-name:app"],
            ),
        ];
        let server = FakeServer::new(Clock::simulated(epoch()), TTL);
        server.set_entries(entries);
        let entries = server.sync_entries(&EntrySet::default()).await.unwrap();
        driver.synced((own, std::collections::BTreeMap::new()), entries);
        let may_match = |known: &[&str]| {
            let known = known.iter().map(|text| Selector::parse(text).unwrap());
            driver.may_match(&known.collect())
        };
        assert!(may_match(&["k8s:ns:a", "k8s:sa:a"]));
        // What another attestor finds out is not known here.
        assert!(may_match(&["k8s:ns:b"]));
        // An entry that asks for what the pod has not cannot come to match.
        assert!(!may_match(&["k8s:ns:c"]));
        assert!(may_match(&["k8s:ns:c", "k8s:pod-label:x:y"]));
        assert!(!may_match(&["k8s:ns:d", "k8s:sa:a"]));
    }

    #[tokio::test]
    async fn jwt_svids_are_for_the_callers_identities_and_the_audience_it_named() {
        let (source, peer) = source().await;
        let caller = source.attest(&peer, None).await.unwrap();
        let audience = vec!["db".to_owned(), "cache".to_owned()];
        let grants = source
            .jwt_svids(&caller, audience.clone(), None)
            .await
            .unwrap();
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].svid.id().path(), "/own");
        assert_eq!(grants[0].svid.audience(), audience);
        let other = SpiffeId::parse("spiffe://example.org/other").unwrap();
        assert!(
            source
                .jwt_svids(&caller, audience, Some(other))
                .await
                .unwrap()
                .is_empty()
        );
    }
}
