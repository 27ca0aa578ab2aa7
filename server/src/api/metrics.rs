//! Counts of calls.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use super::authorize::table::Rpc;

/// From a lookup in memory to a batch of five hundred signatures.
const BUCKETS: [f64; 8] = [0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0];

/// The calls that were answered. Streams count when they begin.
#[derive(Clone, Debug)]
pub(crate) struct RpcMetrics {
    calls: Family<Labels, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Labels {
    service: &'static str,
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Method {
    service: &'static str,
    method: &'static str,
}

impl RpcMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let calls = Family::default();
        let seconds: Family<Method, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("rpc", "Calls answered", calls.clone());
        registry.register_with_unit(
            "rpc_duration",
            "Time to the answer, or to the start of the stream",
            Unit::Seconds,
            seconds.clone(),
        );
        Self { calls, seconds }
    }

    pub(crate) fn answered(&self, rpc: Rpc, code: Code, took: Duration) {
        let Rpc {
            service, method, ..
        } = rpc;
        self.calls
            .get_or_create(&Labels {
                service,
                method,
                code: label(code),
            })
            .inc();
        self.seconds
            .get_or_create(&Method { service, method })
            .observe(took.as_secs_f64());
    }
}

/// A code as a label.
pub(crate) fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
