//! Keeps entries and bundles as the server has them.
//!
//! The server is asked for its feed first, and pushes from then on. One that has none, or breaks it,
//! is asked for everything at an interval, as SPIRE's agent does.

mod feed;
mod held;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use identity::trust_domain::TrustDomain;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::random;
use runtime::readiness::Health;
use runtime::report;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::feed::{Ended, Live};
use self::held::Held;
use crate::cache::driver::{AllBundles, Driver};
use crate::upstream::feed::Feed;
use crate::upstream::{EntrySet, Upstream, UpstreamError};

/// SPIRE's interval between two synchronizations.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait after failures, whatever the interval.
const LONGEST_WAIT: Duration = Duration::from_secs(480);
/// The longest wait after failures, in intervals.
const LONGEST_MULTIPLE: u32 = 48;
/// The pause before a feed that broke off is opened again: a server that restarts is back in a moment.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// How long a server without a feed is not asked for one.
const NO_FEED: Duration = Duration::from_secs(600);
/// How many federated bundles are fetched at once.
const PARALLEL: usize = 10;

/// When the next synchronization is due. Pure, but for the jitter it is given.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    failures: u32,
}

impl Pace {
    /// The wait after a success: the interval. One without any SVID to serve asks at least at the
    /// default interval, for somebody may be waiting for the first entry.
    fn after_success(&mut self, has_svids: bool) -> Duration {
        self.failures = 0;
        if has_svids {
            self.interval
        } else {
            self.interval.min(DEFAULT_INTERVAL)
        }
    }

    /// The wait after a failure: half as long again each time.
    fn after_failure(&mut self) -> Duration {
        let longest = LONGEST_WAIT
            .min(self.interval.saturating_mul(LONGEST_MULTIPLE))
            .max(self.interval);
        let exponent = i32::try_from(self.failures.min(32)).unwrap_or(32);
        self.failures = self.failures.saturating_add(1);
        self.interval.mul_f64(1.5_f64.powi(exponent)).min(longest)
    }
}

/// How synchronization goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    pub last_success: Option<SystemTime>,
    /// If the last attempt failed.
    pub failing: Option<Failing>,
}

/// How the last attempts failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failing {
    /// When the first of them did.
    pub since: SystemTime,
    /// The label of the last failure.
    pub reason: &'static str,
    /// Its words, for an operator alone.
    pub error: Arc<str>,
}

/// What synchronization counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    succeeded: Counter,
    failed: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_syncs",
            "Successful synchronizations with the server",
            metrics.succeeded.clone(),
        );
        registry.register(
            "agent_sync_failures",
            "Failed synchronizations with the server",
            metrics.failed.clone(),
        );
        metrics
    }
}

/// What synchronization works with.
#[derive(Debug)]
pub struct Deps<U> {
    pub upstream: Arc<U>,
    pub driver: Arc<Driver<U>>,
    pub clock: Clock,
    pub health: Health,
    pub metrics: Metrics,
}

/// Synchronizes the cache with the server.
#[derive(Debug)]
pub struct Sync<U> {
    deps: Deps<U>,
    trust_domain: TrustDomain,
    pace: Pace,
    // Between two tries to follow a server that is out of reach.
    backoff: Backoff,
    way: Way,
    live: Option<Live>,
    renewals: watch::Receiver<()>,
    held: Held,
    status: watch::Sender<Status>,
}

/// How the agent hears of changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// The server pushes them, or nobody knows yet that it does not.
    Feed,
    /// The server is asked again and again. It is asked for a feed again at this time, and whenever
    /// it may be another server.
    Polling { until: SystemTime },
}

impl<U: Upstream + Feed> Sync<U> {
    pub fn new(trust_domain: TrustDomain, interval: Duration, deps: Deps<U>) -> Self {
        Self {
            held: Held::nothing(trust_domain.clone()),
            trust_domain,
            pace: Pace {
                interval,
                failures: 0,
            },
            backoff: Backoff::new(RECONNECT.0, RECONNECT.1),
            way: Way::Feed,
            live: None,
            renewals: deps.upstream.renewals(),
            status: watch::Sender::new(Status::default()),
            deps,
        }
    }

    /// Tells this sender, too, how synchronization goes: its receivers may be older than this.
    pub fn telling(mut self, status: watch::Sender<Status>) -> Self {
        self.status = status;
        self
    }

    /// Follows how synchronization goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Synchronizes once, over the feed if the server has one. The sockets are opened after the first
    /// success: before it nobody could be told whether it has an identity.
    pub async fn once(&mut self) -> Result<(), UpstreamError> {
        let result = self.attempt().await;
        match &result {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(error),
        }
        result
    }

    /// Keeps the cache in step with the server, until shutdown: by the feed while there is one, else
    /// by asking at the interval, and earlier when [`Driver::sync_now`] asks for it.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.keep_on() => {}
        }
    }

    async fn keep_on(&mut self) {
        let mut synced = true;
        loop {
            if self.live.is_some() {
                match self.listen().await {
                    // The stream at hand goes on until the next one has begun.
                    Ended::Renewed => {}
                    Ended::Lost(error) => {
                        self.failed(&error);
                        self.live = None;
                        self.pause(false).await;
                    }
                }
            } else {
                self.pause(synced).await;
            }
            synced = self.once().await.is_ok();
        }
    }

    /// Waits until the server is to be asked again.
    async fn pause(&mut self, synced: bool) {
        let wait = self.next_wait(synced);
        let renewals = &mut self.renewals;
        let renewed = async {
            // Another identity may find another answer. Polling hears it soon enough.
            if renewals.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.deps.clock.sleep(wait) => {}
            () = self.deps.driver.sync_wanted() => {}
            () = renewed => self.way = Way::Feed,
        }
    }

    fn next_wait(&mut self, synced: bool) -> Duration {
        if self.way == Way::Feed {
            return self.backoff.next_delay();
        }
        let wait = if synced {
            let has_svids = self.deps.driver.census().x509_svids > 0;
            self.pace.after_success(has_svids)
        } else {
            self.pace.after_failure()
        };
        // A tenth up or down, so that agents that were started together do not ask together.
        wait - wait / 10 + random::jitter(wait / 5)
    }

    async fn attempt(&mut self) -> Result<(), UpstreamError> {
        if self.is_feed_due() && self.follow().await? {
            return Ok(());
        }
        let entries = self.deps.upstream.sync_entries(self.held.entries()).await?;
        let upstream = self.deps.upstream.as_ref();
        let bundles = bundles(upstream, &self.trust_domain, &entries).await?;
        debug!(count = entries.len(), "Synchronized with the server");
        self.held.polled(&bundles, &entries);
        self.deps.driver.synced(bundles, entries);
        Ok(())
    }

    /// A server that could not be reached may be another one when it is back.
    fn is_feed_due(&self) -> bool {
        match self.way {
            Way::Feed => true,
            Way::Polling { until } => self.pace.failures > 0 || self.deps.clock.now() >= until,
        }
    }

    fn succeeded(&self) {
        self.deps.metrics.succeeded.inc();
        self.deps.health.ready();
        let status = Status {
            last_success: Some(self.deps.clock.now()),
            failing: None,
        };
        let before = self.status.send_replace(status);
        if before.failing.is_some() {
            info!("Synchronization with the server recovered");
        }
    }

    fn failed(&self, error: &UpstreamError) {
        self.deps.metrics.failed.inc();
        self.deps.health.not_ready(format!(
            "synchronization with the server fails: {}",
            error.reason()
        ));
        warn_thrice(self.pace.failures.max(self.backoff.failures()), error);
        let now = self.deps.clock.now();
        self.status.send_modify(|status| {
            let since = status.failing.as_ref().map_or(now, |failing| failing.since);
            status.failing = Some(Failing {
                since,
                reason: error.reason(),
                error: report::chain(error).into(),
            });
        });
        if let UpstreamError::Denied(denial) = error {
            self.deps.driver.denied(*denial);
        }
    }
}

async fn bundles<U: Upstream>(
    upstream: &U,
    own: &TrustDomain,
    entries: &EntrySet,
) -> Result<AllBundles, UpstreamError> {
    let own_bundle = upstream.bundle(own).await?;
    let own_bundle = own_bundle
        .filter(|own| !own.x509_authorities.is_empty())
        .ok_or_else(held::no_authority)?;
    let federated = stream::iter(held::federated(own, entries))
        .map(|trust_domain| async move {
            let bundle = upstream.bundle(&trust_domain).await?;
            Ok::<_, UpstreamError>((trust_domain, bundle))
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<_>>()
        .await?;
    let known = federated
        .into_iter()
        .filter_map(|(trust_domain, bundle)| Some((trust_domain, Arc::new(bundle?))));
    Ok((Arc::new(own_bundle), known.collect()))
}

fn warn_thrice(failures: u32, error: &UpstreamError) {
    let chain = report::chain(error);
    if failures < 3 {
        warn!(error.reason = error.reason(), error = %chain, "Could not synchronize with the server");
    } else {
        debug!(error.reason = error.reason(), error = %chain, "Could not synchronize with the server");
    }
}

#[cfg(test)]
mod tests;
