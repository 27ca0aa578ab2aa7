//! The metrics of a process.
//!
//! Each component registers its own at start, and keeps them; this holds the registry that they are
//! read from.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// What every metric's name begins with.
const PREFIX: &str = "signet";

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The one registry of a process.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix(PREFIX))))
    }

    /// Lets a component register its metrics, and returns what it keeps:
    /// `metrics.register(ListenMetrics::register)`.
    pub fn register<T>(&self, component: impl FnOnce(&mut Registry) -> T) -> T {
        component(&mut self.0.lock())
    }

    /// All metrics in the text format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.lock());
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::ListenMetrics;

    #[test]
    fn shows_what_a_component_registered() {
        let metrics = Metrics::new();
        let listen = metrics.register(ListenMetrics::register);
        let _socket = listen.socket("workload");
        let text = metrics.encode();
        assert!(
            text.contains("signet_listener_connections_open{socket=\"workload\"} 0"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
