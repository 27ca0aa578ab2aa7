//! What the cache counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Census;

/// The metrics of the cache.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    entries: Gauge<u64, AtomicU64>,
    svids: Family<Kind, Gauge<u64, AtomicU64>>,
    subscribers: Gauge<u64, AtomicU64>,
    queued: Gauge<u64, AtomicU64>,
    issued: Family<Issue, Counter>,
    expired: Counter,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    kind: SvidKind,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Issue {
    kind: SvidKind,
    outcome: Outcome,
}

/// Which SVID.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(super) enum SvidKind {
    X509,
    Jwt,
}

/// What became of a request to the server.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(super) enum Outcome {
    Issued,
    Refused,
    Failed,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_cache_entries",
            "Registration entries of this agent",
            metrics.entries.clone(),
        );
        registry.register("agent_cache_svids", "Cached SVIDs", metrics.svids.clone());
        registry.register(
            "agent_cache_subscribers",
            "Selector sets with open streams",
            metrics.subscribers.clone(),
        );
        registry.register(
            "agent_cache_queued",
            "X509-SVIDs that wait to be signed",
            metrics.queued.clone(),
        );
        registry.register(
            "agent_svid_requests",
            "SVIDs requested from the server",
            metrics.issued.clone(),
        );
        registry.register(
            "agent_svids_expired",
            "X509-SVIDs that expired before they were renewed",
            metrics.expired.clone(),
        );
        metrics
    }

    pub(super) fn show(&self, census: Census) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.entries.set(count(census.entries));
        self.svids
            .get_or_create(&Kind {
                kind: SvidKind::X509,
            })
            .set(count(census.x509_svids));
        self.svids
            .get_or_create(&Kind {
                kind: SvidKind::Jwt,
            })
            .set(count(census.jwt_svids));
        self.subscribers.set(count(census.subscribers));
        self.queued.set(count(census.queued));
    }

    pub(super) fn count(&self, kind: SvidKind, outcome: Outcome, by: usize) {
        let by = u64::try_from(by).unwrap_or(u64::MAX);
        self.issued
            .get_or_create(&Issue { kind, outcome })
            .inc_by(by);
    }

    pub(super) fn count_expired(&self) {
        self.expired.inc();
    }
}
