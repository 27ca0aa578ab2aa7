//! Where the trust bundle is put for those who cannot ask the server yet: objects of Kubernetes.
//!
//! Two plugins of SPIRE write there. `k8s_configmap` (BundlePublisher) applies a ConfigMap, and makes
//! it where it is missing; `k8sbundle` (Notifier) changes a ConfigMap that is there, and on request
//! the webhooks and API services with a label. Each target has a task of its own, so that a cluster
//! that is down holds up nobody else: not the start of the server, and not the other clusters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attestors::node::k8s_psat::KubeConfig;
use identity::bundle::Bundle;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use runtime::report;
use runtime::shutdown::Shutdown;
use tracing::{debug, info, warn};

use crate::index::Index;

mod format;
mod kubernetes;

pub use format::Format;
pub use kubernetes::Connection;

/// How often a target is looked at without a change of the bundle: what somebody else deleted or
/// changed there comes back, and a webhook that is new gets its bundle.
const LOOK: Duration = Duration::from_secs(30);
/// The pause after a failure; it grows to [`LOOK`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// One place where the bundle is put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TargetConfig {
    /// The plugin that asks for it.
    pub plugin: Plugin,
    /// What the operator calls the cluster; empty for the only one.
    pub cluster: String,
    /// The API server, and the credentials for it.
    pub kube_config: KubeConfig,
    pub place: Place,
}

/// What is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A ConfigMap that is made if it is missing.
    Applied(ConfigMapRef, Format),
    /// A ConfigMap that somebody else has made.
    Patched(ConfigMapRef),
    /// The `caBundle` of the validating and mutating webhooks with this label set to `true`.
    Webhooks { label: String },
    /// The `caBundle` of the API services with this label set to `true`.
    ApiServices { label: String },
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigMapRef {
    pub namespace: String,
    pub name: String,
    pub key: String,
}

/// SPIRE's names for the plugins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plugin {
    K8sConfigMap,
    K8sBundle,
}

impl Plugin {
    /// The name in configuration, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::K8sConfigMap => "k8s_configmap",
            Self::K8sBundle => "k8sbundle",
        }
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied(map, _) | Self::Patched(map) => {
                write!(f, "configmap {}/{} {}", map.namespace, map.name, map.key)
            }
            Self::Webhooks { label } => write!(f, "webhooks {label}"),
            Self::ApiServices { label } => write!(f, "apiservices {label}"),
        }
    }
}

/// How often each plugin wrote, found nothing to write, or failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Family<Labels, Counter>);

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    plugin: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Outcome {
    Written,
    Unchanged,
    Failed,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "bundle_publications",
            "Looks at the places where the trust bundle is put",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, plugin: Plugin, outcome: Outcome) {
        let _new = self
            .0
            .get_or_create(&Labels {
                plugin: plugin.name(),
                outcome,
            })
            .inc();
    }
}

/// Keeps one place up to date.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) target: TargetConfig,
    pub(crate) connection: Connection,
    pub(crate) index: Index,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
}

impl Publisher {
    /// Writes the bundle now, at each change of it, and wherever it is found to be another.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(FIRST_RETRY, LOOK);
        let mut failures: u32 = 0;
        loop {
            let seen = self.own_bundle();
            let pause = match &seen {
                None => LOOK,
                Some(bundle) => match self.publish(bundle).await {
                    Ok(()) => {
                        if failures > 0 {
                            info!(publisher = %self.target.plugin, k8s.cluster = %self.target.cluster, publisher.place = %self.target.place, "Publishing the trust bundle works again");
                        }
                        failures = 0;
                        backoff.reset();
                        LOOK
                    }
                    Err(()) => {
                        failures = failures.saturating_add(1);
                        // Authorities and certificates may have been replaced on disk.
                        if let Ok(connection) = Connection::new(&self.target.kube_config).await {
                            self.connection = connection;
                        }
                        backoff.next_delay()
                    }
                },
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.clock.sleep(pause) => {}
                () = self.changed(seen.as_deref()) => {}
            }
        }
    }

    fn own_bundle(&self) -> Option<Arc<Bundle>> {
        let snapshot = self.index.snapshot();
        snapshot
            .bundles
            .own()
            .map(|stored| Arc::new(stored.value.clone()))
    }

    /// Waits until our own bundle is another than `seen`.
    async fn changed(&self, seen: Option<&Bundle>) {
        let mut revisions = self.index.revisions();
        loop {
            let snapshot = self.index.snapshot();
            let now = snapshot.bundles.own().map(|stored| &stored.value);
            if now != seen {
                return;
            }
            if revisions.changed().await.is_err() {
                // The index ends with the server.
                return std::future::pending().await;
            }
        }
    }

    async fn publish(&self, bundle: &Bundle) -> Result<(), ()> {
        let TargetConfig {
            plugin,
            cluster,
            place,
            ..
        } = &self.target;
        match self.connection.write(place, bundle).await {
            Ok(0) => {
                self.metrics.count(*plugin, Outcome::Unchanged);
                debug!(publisher = %plugin, k8s.cluster = %cluster, publisher.place = %place, "The published trust bundle is up to date");
                Ok(())
            }
            Ok(objects) => {
                self.metrics.count(*plugin, Outcome::Written);
                info!(publisher = %plugin, k8s.cluster = %cluster, publisher.place = %place, count = objects, bundle.sequence = bundle.sequence, "Published the trust bundle");
                Ok(())
            }
            Err(error) => {
                self.metrics.count(*plugin, Outcome::Failed);
                warn!(publisher = %plugin, k8s.cluster = %cluster, publisher.place = %place, error.reason = error.reason(), error = %report::chain(&error), "Could not publish the trust bundle, and will try on");
                Err(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
