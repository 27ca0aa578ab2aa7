//! Keeping the bundles of other trust domains fresh: a task for each relationship, and one refresh
//! at a time for each trust domain.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::clock::Clock;
use runtime::report;
use runtime::shutdown::Shutdown;
use runtime::tasks::TaskGroup;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::fetch::{Anchor, FetchError, fetch};
use super::judge::{Refusal, Verdict, judge, next_try};
use super::roots::{self, RootsError};
use super::{Endpoint, Profile};
use crate::audit::{Audit, BundleTurn, Event, SERVER};
use crate::index::{Index, Snapshot};
use crate::records::bundles::encode;
use crate::store::{Expect, Key, Txn};
use crate::writes::{Plan, WriteError, Writer};

/// After so many failures in a row the log is spared.
const TOLD_FAILURES: u32 = 3;

/// What refreshing works with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Relationships of the configuration. They win over those made through the API.
    pub(crate) configured: BTreeMap<TrustDomain, Endpoint>,
    /// A file with the authorities of the Web PKI, instead of the system's.
    pub(crate) web_roots: Option<PathBuf>,
    /// How long a fetch may take.
    pub(crate) deadline: Duration,
}

/// Refreshes bundles; a handle that is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Refresher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    index: Index,
    writer: Writer,
    clock: Clock,
    metrics: Metrics,
    audit: Audit,
    /// One refresh at a time for each trust domain: a hanging endpoint is not asked twice at once.
    turns: Mutex<HashMap<TrustDomain, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a refresh came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refreshed {
    Changed,
    Unchanged,
    /// There is no such relationship, or not any more.
    NoRelationship,
}

/// Why a bundle was not refreshed. The one that is stored stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    #[error("can't perform SPIFFE Authentication: local copy of bundle not found")]
    NoEndpointBundle,
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("failed to fetch federated bundle from endpoint")]
    Fetch(#[from] FetchError),
    #[error("refused the bundle of the endpoint")]
    Refused(#[source] Refusal),
    #[error("failed to store fetched federated bundle")]
    Write(#[from] WriteError),
}

impl RefreshError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoEndpointBundle => "no_endpoint_bundle",
            Self::Roots(error) => error.reason(),
            Self::Fetch(error) => error.reason(),
            Self::Refused(refusal) => refusal.reason(),
            Self::Write(error) => error.reason(),
        }
    }
}

impl Refresher {
    pub(crate) fn new(
        settings: Settings,
        index: Index,
        writer: Writer,
        clock: Clock,
        metrics: Metrics,
        audit: Audit,
    ) -> Self {
        let inner = Inner {
            settings,
            index,
            writer,
            clock,
            metrics,
            audit,
            turns: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Fetches the bundle of a trust domain now, and stores it if it is another.
    pub(crate) async fn refresh(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Refreshed, RefreshError> {
        // First, so that nothing is kept of a name that was only asked for.
        if self
            .endpoint(&self.inner.index.snapshot(), trust_domain)
            .is_none()
        {
            return Ok(Refreshed::NoRelationship);
        }
        let turn = self.turn(trust_domain);
        let _turn = turn.lock().await;
        let snapshot = self.inner.index.snapshot();
        let Some(endpoint) = self.endpoint(&snapshot, trust_domain).cloned() else {
            return Ok(Refreshed::NoRelationship);
        };
        let outcome = self
            .fetch_and_store(&snapshot, trust_domain, &endpoint)
            .await;
        self.inner.metrics.count(&outcome);
        if matches!(outcome, Ok(Refreshed::Changed)) {
            let event = Event::Bundle(BundleTurn::Refreshed, trust_domain);
            self.inner.audit.record(&SERVER, event);
        }
        if let Err(RefreshError::Refused(refusal)) = &outcome {
            error!(
                %trust_domain,
                endpoint.url = %endpoint.url,
                error = %refusal,
                error.reason = refusal.reason(),
                "Refused the bundle of a federated trust domain, and kept the last good one"
            );
        }
        outcome
    }

    fn turn(&self, trust_domain: &TrustDomain) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.inner.turns.lock();
        Arc::clone(turns.entry(trust_domain.clone()).or_default())
    }

    async fn fetch_and_store(
        &self,
        snapshot: &Snapshot,
        trust_domain: &TrustDomain,
        endpoint: &Endpoint,
    ) -> Result<Refreshed, RefreshError> {
        let Inner {
            settings, clock, ..
        } = &*self.inner;
        let anchor = match &endpoint.profile {
            Profile::HttpsWeb => Anchor::Web(roots::load(settings.web_roots.as_deref())?),
            // SPIFFE Federation 5.2.2.4: the first connection uses the bundle that was given, the later
            // ones what was fetched last. Both are what is stored.
            Profile::HttpsSpiffe(id) => {
                let stored = snapshot.bundles.get(id.trust_domain());
                let stored = stored.ok_or(RefreshError::NoEndpointBundle)?;
                Anchor::Spiffe(id.clone(), Box::new(stored.value.clone()))
            }
        };
        let offered = fetch(
            trust_domain,
            &endpoint.url,
            anchor,
            clock,
            settings.deadline,
        )
        .await?;
        let plan = |snapshot: &Snapshot| {
            // A relationship that was ended or changed meanwhile writes no more.
            if self.endpoint(snapshot, trust_domain) != Some(endpoint) {
                return Plan::Nothing(Ok(Refreshed::NoRelationship));
            }
            planned(snapshot, trust_domain, offered.clone())
        };
        let outcome = self.inner.writer.write(plan).await?;
        outcome.map_err(RefreshError::Refused)
    }

    /// Where the bundle of a trust domain comes from.
    fn endpoint<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        trust_domain: &TrustDomain,
    ) -> Option<&'a Endpoint> {
        let configured = self.inner.settings.configured.get(trust_domain);
        let made = || Some(&snapshot.relationships.get(trust_domain)?.value.endpoint);
        configured.or_else(made)
    }

    fn endpoints(&self, snapshot: &Snapshot) -> BTreeMap<TrustDomain, Endpoint> {
        let made = snapshot.relationships.iter().map(|stored| {
            let relationship = &stored.value;
            (
                relationship.trust_domain.clone(),
                relationship.endpoint.clone(),
            )
        });
        made.chain(self.inner.settings.configured.clone()).collect()
    }

    /// Keeps a task for each relationship until shutdown.
    pub(crate) async fn run(self, tasks: TaskGroup) {
        let shutdown = tasks.shutdown();
        let mut revisions = self.inner.index.revisions();
        let mut followed: BTreeMap<TrustDomain, Followed> = BTreeMap::new();
        let mut seen = None;
        loop {
            let snapshot = self.inner.index.snapshot();
            if !seen
                .as_ref()
                .is_some_and(|seen| snapshot.relationships.is_same(seen))
            {
                self.follow_all(&snapshot, &mut followed, &tasks);
                seen = Some(snapshot.relationships.clone());
            }
            tokio::select! {
                () = shutdown.requested() => return,
                changed = revisions.changed() => if changed.is_err() { return },
            }
        }
    }

    fn follow_all(
        &self,
        snapshot: &Snapshot,
        followed: &mut BTreeMap<TrustDomain, Followed>,
        tasks: &TaskGroup,
    ) {
        let wanted = self.endpoints(snapshot);
        followed.retain(|trust_domain, follower| {
            let stays = wanted.get(trust_domain) == Some(&follower.endpoint);
            if !stays && !wanted.contains_key(trust_domain) {
                info!(%trust_domain, "No longer fetching the bundle of a trust domain");
                self.inner.turns.lock().remove(trust_domain);
            }
            stays
        });
        for (trust_domain, endpoint) in wanted {
            if followed.contains_key(&trust_domain) {
                continue;
            }
            info!(
                %trust_domain,
                endpoint.url = %endpoint.url,
                endpoint.profile = endpoint.profile.name(),
                "Fetching the bundle of a trust domain"
            );
            let (stop, stopped) = oneshot::channel();
            let task = self
                .clone()
                .follow(trust_domain.clone(), stopped, tasks.shutdown());
            tasks.spawn("fetch bundle", task);
            followed.insert(
                trust_domain,
                Followed {
                    endpoint,
                    _stop: stop,
                },
            );
        }
    }

    async fn follow(
        self,
        trust_domain: TrustDomain,
        stopped: oneshot::Receiver<Infallible>,
        shutdown: Shutdown,
    ) {
        let work = async {
            let mut failures = 0_u32;
            loop {
                match self.refresh(&trust_domain).await {
                    Ok(outcome) => {
                        self.tell_success(&trust_domain, outcome, failures);
                        failures = 0;
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        tell_failure(&trust_domain, &error, failures);
                    }
                }
                // SPIFFE Federation 6.2: after a failure too, not before the next interval.
                let snapshot = self.inner.index.snapshot();
                let bundle = snapshot.bundles.get(&trust_domain);
                let pause = next_try(bundle.map(|stored| &stored.value));
                drop(snapshot);
                self.inner.clock.sleep(pause).await;
            }
        };
        tokio::select! {
            never = work => never,
            _dropped = stopped => {}
            () = shutdown.requested() => {}
        }
    }

    fn tell_success(&self, trust_domain: &TrustDomain, outcome: Refreshed, failures: u32) {
        let snapshot = self.inner.index.snapshot();
        let sequence = snapshot
            .bundles
            .get(trust_domain)
            .map(|stored| stored.value.sequence);
        if failures > 0 {
            info!(%trust_domain, bundle.sequence = sequence, "Fetching the bundle of a trust domain works again");
        }
        match outcome {
            Refreshed::Changed => {
                info!(%trust_domain, bundle.sequence = sequence, "Refreshed the bundle of a trust domain");
            }
            Refreshed::Unchanged | Refreshed::NoRelationship => {
                debug!(%trust_domain, bundle.sequence = sequence, "The bundle of a trust domain is up to date");
            }
        }
    }
}

/// A relationship that is followed, until this is dropped.
#[derive(Debug)]
struct Followed {
    endpoint: Endpoint,
    _stop: oneshot::Sender<Infallible>,
}

fn planned(
    snapshot: &Snapshot,
    trust_domain: &TrustDomain,
    offered: Bundle,
) -> Plan<Result<Refreshed, Refusal>> {
    let stored = snapshot.bundles.get(trust_domain);
    match judge(stored.map(|stored| &stored.value), offered) {
        Verdict::Unchanged => Plan::Nothing(Ok(Refreshed::Unchanged)),
        Verdict::Refused(refusal) => Plan::Nothing(Err(refusal)),
        Verdict::Store(bundle) => {
            let key = Key::bundle(trust_domain);
            let seen = Expect::seen(stored.map(|stored| stored.revision));
            let txn = Txn::new()
                .expect(key.clone(), seen)
                .put(key, encode(&bundle));
            Plan::Commit(txn, Ok(Refreshed::Changed))
        }
    }
}

/// A refusal was told as an alarm already.
fn tell_failure(trust_domain: &TrustDomain, error: &RefreshError, failures: u32) {
    let reason = error.reason();
    if matches!(error, RefreshError::Refused(_)) {
        return;
    }
    let error = report::chain(error);
    if failures <= TOLD_FAILURES {
        warn!(%trust_domain, error, error.reason = reason, "Could not refresh the bundle of a trust domain, and will try on");
    } else {
        debug!(%trust_domain, error, error.reason = reason, "Could not refresh the bundle of a trust domain, and will try on");
    }
}

/// How refreshes went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Family<Labels, Counter>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    outcome: Outcome,
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Outcome {
    Changed,
    Unchanged,
    Failed,
    Refused,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "federation_refreshes",
            "Refreshes of the bundles of other trust domains",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, outcome: &Result<Refreshed, RefreshError>) {
        let (outcome, reason) = match outcome {
            Ok(Refreshed::Changed) => (Outcome::Changed, ""),
            Ok(Refreshed::Unchanged) => (Outcome::Unchanged, ""),
            Ok(Refreshed::NoRelationship) => return,
            Err(RefreshError::Refused(refusal)) => (Outcome::Refused, refusal.reason()),
            Err(error) => (Outcome::Failed, error.reason()),
        };
        self.0.get_or_create(&Labels { outcome, reason }).inc();
    }
}
