//! What is counted of the sockets.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters of all sockets of a process. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    calls: Family<Call, Counter>,
    open: Family<Rpc, Gauge>,
    refusals: Family<Refused, Counter>,
    secrets: Family<Call, Counter>,
    rejections: Family<Call, Counter>,
}

impl Metrics {
    /// Announces the counters.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "workload_calls",
            "Calls of workloads that were attested",
            metrics.calls.clone(),
        );
        registry.register(
            "workload_calls_open",
            "Calls of workloads that are open, streams included",
            metrics.open.clone(),
        );
        registry.register(
            "workload_refusals",
            "Calls refused, or streams ended, by reason",
            metrics.refusals.clone(),
        );
        registry.register(
            "workload_secrets",
            "Secrets sent to proxies",
            metrics.secrets.clone(),
        );
        registry.register(
            "workload_secret_rejections",
            "Responses with secrets that a proxy rejected",
            metrics.rejections.clone(),
        );
        metrics
    }

    pub(crate) fn opened(&self, method: Method) -> Open {
        let rpc = Rpc { method };
        self.calls.get_or_create(&Call { method }).inc();
        let gauge = self.open.get_or_create_owned(&rpc);
        gauge.inc();
        Open(Arc::new(gauge))
    }

    pub(crate) fn refused(&self, method: Method, reason: &'static str) {
        let labels = Refused { method, reason };
        self.refusals.get_or_create(&labels).inc();
    }

    pub(crate) fn secrets_sent(&self, method: Method, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.secrets.get_or_create(&Call { method }).inc_by(count);
    }

    pub(crate) fn secrets_rejected(&self, method: Method) {
        self.rejections.get_or_create(&Call { method }).inc();
    }
}

/// A call that is open. The gauge falls when it is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Gauge>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Call {
    method: Method,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Rpc {
    method: Method,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Refused {
    method: Method,
    reason: &'static str,
}

/// The methods of the sockets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Method {
    FetchX509Svid,
    FetchX509Bundles,
    FetchJwtSvid,
    FetchJwtBundles,
    ValidateJwtSvid,
    FetchWitSvid,
    FetchWitBundles,
    StreamSecrets,
    FetchSecrets,
    DeltaSecrets,
    Unknown,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FetchX509Svid => "FetchX509SVID",
            Self::FetchX509Bundles => "FetchX509Bundles",
            Self::FetchJwtSvid => "FetchJWTSVID",
            Self::FetchJwtBundles => "FetchJWTBundles",
            Self::ValidateJwtSvid => "ValidateJWTSVID",
            Self::FetchWitSvid => "FetchWITSVID",
            Self::FetchWitBundles => "FetchWITBundles",
            Self::StreamSecrets => "StreamSecrets",
            Self::FetchSecrets => "FetchSecrets",
            Self::DeltaSecrets => "DeltaSecrets",
            Self::Unknown => "unknown",
        }
    }

    /// The method of a request path below a service.
    pub(crate) fn of_path(path: &str, service: &str) -> Self {
        const ALL: [Method; 10] = [
            Method::FetchX509Svid,
            Method::FetchX509Bundles,
            Method::FetchJwtSvid,
            Method::FetchJwtBundles,
            Method::ValidateJwtSvid,
            Method::FetchWitSvid,
            Method::FetchWitBundles,
            Method::StreamSecrets,
            Method::FetchSecrets,
            Method::DeltaSecrets,
        ];
        let name = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(service))
            .and_then(|path| path.strip_prefix('/'));
        ALL.into_iter()
            .find(|method| name == Some(method.name()))
            .unwrap_or(Self::Unknown)
    }
}

impl EncodeLabelValue for Method {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}
