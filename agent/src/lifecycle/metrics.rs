//! What the life of the agent's SVID shows.

use std::time::UNIX_EPOCH;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::credentials::AgentSvid;

/// What the life of the agent's SVID shows.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    not_after: Gauge,
    pub(super) renewed: Counter,
    pub(super) failed: Counter,
    pub(super) rebootstrapped: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "agent_svid_not_after_seconds",
            "When the agent's own SVID expires, in seconds since 1970",
            metrics.not_after.clone(),
        );
        registry.register(
            "agent_svid_renewals",
            "Renewals of the agent's own SVID",
            metrics.renewed.clone(),
        );
        registry.register(
            "agent_svid_renewal_failures",
            "Failed renewals of the agent's own SVID",
            metrics.failed.clone(),
        );
        registry.register(
            "agent_rebootstraps",
            "Attestations by a trust bundle that was fetched again",
            metrics.rebootstrapped.clone(),
        );
        metrics
    }

    pub(super) fn show(&self, own: &AgentSvid) {
        let not_after = own
            .svid
            .validity()
            .not_after()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.not_after
            .set(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX));
    }
}
