//! What is counted of the kubelet's answers.

use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runtime::clock::Clock;

/// Seconds. A new container is mostly reported within a tenth of one; one that never comes is given up after 30.
const WAITS: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The metrics of the kubelet's client.
#[derive(Clone, Debug)]
pub struct KubeletMetrics {
    requests: Family<Request, Counter>,
    taken: Gauge,
    pods: Gauge,
    in_use: Family<Used, Gauge>,
    waits: Histogram,
    clock: Clock,
}

/// Where the pods come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// The list over HTTP.
    List,
    /// The Pods API.
    Watch,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Request {
    source: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Used {
    source: &'static str,
}

impl Source {
    fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

impl KubeletMetrics {
    /// Registers the families.
    pub fn register(registry: &mut Registry, clock: Clock) -> Self {
        let metrics = Self {
            requests: Family::default(),
            taken: Gauge::default(),
            pods: Gauge::default(),
            in_use: Family::default(),
            waits: Histogram::new(WAITS),
            clock,
        };
        let registry = registry.sub_registry_with_prefix("kubelet");
        registry.register(
            "requests",
            "Requests to the kubelet, by outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "snapshot_taken_seconds",
            "When the kubelet last told of its pods, since 1970",
            metrics.taken.clone(),
        );
        registry.register("pods", "Pods that it told of", metrics.pods.clone());
        registry.register(
            "source_in_use",
            "1 for the source that pods are looked up in",
            metrics.in_use.clone(),
        );
        registry.register(
            "report_wait_seconds",
            "How long callers waited whose container had not been reported",
            metrics.waits.clone(),
        );
        metrics
    }

    /// How many requests ended this way.
    #[must_use]
    pub fn requests(&self, is_watch: bool, outcome: &'static str) -> u64 {
        let source = if is_watch {
            Source::Watch
        } else {
            Source::List
        };
        let source = source.label();
        self.requests
            .get_or_create(&Request { source, outcome })
            .get()
    }

    pub(super) fn waited(&self, time: Duration) {
        self.waits.observe(time.as_secs_f64());
    }

    pub(super) fn answered(&self, source: Source, outcome: &'static str) {
        let source = source.label();
        self.requests
            .get_or_create(&Request { source, outcome })
            .inc();
    }

    pub(super) fn taken(&self, source: Source, pods: usize) {
        let now = self
            .clock
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.taken
            .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        for each in [Source::List, Source::Watch] {
            let in_use = self.in_use.get_or_create(&Used {
                source: each.label(),
            });
            in_use.set(i64::from(each == source));
        }
    }
}
