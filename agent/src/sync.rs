//! Keeps entries and bundles as the server has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use identity::bundle::Bundle;
use identity::trust_domain::TrustDomain;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use runtime::clock::Clock;
use runtime::random;
use runtime::readiness::Health;
use runtime::report;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::cache::driver::Driver;
use crate::upstream::{EntrySet, Upstream, UpstreamError};

/// SPIRE's interval between two synchronizations.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait after failures, whatever the interval.
const LONGEST_WAIT: Duration = Duration::from_secs(480);
/// The longest wait after failures, in intervals.
const LONGEST_MULTIPLE: u32 = 48;
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Status {
    pub last_success: Option<SystemTime>,
    /// The reason of the failure, if the last attempt failed.
    pub failing: Option<&'static str>,
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
    known: EntrySet,
    status: watch::Sender<Status>,
}

impl<U: Upstream> Sync<U> {
    pub fn new(trust_domain: TrustDomain, interval: Duration, deps: Deps<U>) -> Self {
        Self {
            deps,
            trust_domain,
            pace: Pace {
                interval,
                failures: 0,
            },
            known: EntrySet::default(),
            status: watch::Sender::new(Status::default()),
        }
    }

    /// Follows how synchronization goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Synchronizes once. The sockets are opened after the first success: before it nobody could be
    /// told whether it has an identity.
    pub async fn once(&mut self) -> Result<(), UpstreamError> {
        let result = self.attempt().await;
        match &result {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(error),
        }
        result
    }

    /// Synchronizes at the interval, until shutdown; earlier when [`Driver::sync_now`] asks for it.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut wait = self.next_wait(true);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.deps.clock.sleep(wait) => {}
                () = self.deps.driver.sync_wanted() => {}
            }
            let synced = tokio::select! {
                () = shutdown.requested() => return,
                result = self.once() => result.is_ok(),
            };
            wait = self.next_wait(synced);
        }
    }

    fn next_wait(&mut self, synced: bool) -> Duration {
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
        let entries = self.deps.upstream.sync_entries(&self.known).await?;
        let bundles = self.bundles(&entries).await?;
        debug!(count = entries.len(), "Synchronized with the server");
        self.known = entries.clone();
        self.deps.driver.synced(bundles, entries);
        Ok(())
    }

    async fn bundles(
        &self,
        entries: &EntrySet,
    ) -> Result<(Arc<Bundle>, BTreeMap<TrustDomain, Arc<Bundle>>), UpstreamError> {
        let own = self.deps.upstream.bundle(&self.trust_domain).await?;
        // An agent without authorities could not even recognize its server any more.
        let own =
            own.filter(|own| !own.x509_authorities.is_empty())
                .ok_or(UpstreamError::Protocol {
                    what: "it has no X.509 authority in the bundle of its own trust domain",
                    source: None,
                })?;
        let wanted: BTreeSet<_> = entries
            .iter()
            .flat_map(|entry| &entry.federates_with)
            .filter(|td| **td != self.trust_domain)
            .cloned()
            .collect();
        let federated = stream::iter(wanted)
            .map(|trust_domain| async move {
                let bundle = self.deps.upstream.bundle(&trust_domain).await?;
                Ok::<_, UpstreamError>((trust_domain, bundle))
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<_>>()
            .await?;
        let known = federated
            .into_iter()
            .filter_map(|(trust_domain, bundle)| Some((trust_domain, Arc::new(bundle?))));
        Ok((Arc::new(own), known.collect()))
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
        warn_thrice(self.pace.failures, error);
        self.status
            .send_modify(|status| status.failing = Some(error.reason()));
        if let UpstreamError::Denied(denial) = error {
            self.deps.driver.denied(*denial);
        }
    }
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
mod tests {
    use super::*;

    #[test]
    fn waits_half_as_long_again_after_each_failure_up_to_four_minutes() {
        let mut pace = Pace {
            interval: DEFAULT_INTERVAL,
            failures: 0,
        };
        let waits: Vec<_> = (0..5).map(|_| pace.after_failure().as_millis()).collect();
        assert_eq!(waits, [5000, 7500, 11250, 16875, 25312]);
        for _ in 0..100 {
            pace.after_failure();
        }
        assert_eq!(pace.after_failure(), Duration::from_secs(240));
        assert_eq!(pace.after_success(true), DEFAULT_INTERVAL);
        assert_eq!(pace.after_failure(), DEFAULT_INTERVAL);
    }

    #[test]
    fn a_long_interval_is_never_stretched_beyond_eight_minutes() {
        let mut pace = Pace {
            interval: Duration::from_secs(60),
            failures: 100,
        };
        assert_eq!(pace.after_failure(), LONGEST_WAIT);
    }

    #[test]
    fn an_agent_without_svids_asks_at_least_every_five_seconds() {
        let mut pace = Pace {
            interval: Duration::from_secs(60),
            failures: 0,
        };
        assert_eq!(pace.after_success(false), DEFAULT_INTERVAL);
        assert_eq!(pace.after_success(true), Duration::from_secs(60));
    }
}
