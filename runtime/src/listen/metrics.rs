//! What a listener counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of all listeners of a process.
#[derive(Clone, Debug, Default)]
pub struct ListenMetrics {
    open: Family<Socket, Gauge>,
    ended: Family<Ending, Counter>,
    refused_streams: Family<Ending, Counter>,
    lost_names: Family<Ending, Counter>,
}

/// The metrics of one listener.
#[derive(Clone, Debug)]
pub struct SocketMetrics {
    socket: &'static str,
    all: ListenMetrics,
    open: Gauge,
}

/// A connection that is open, for the gauge.
#[derive(Debug)]
pub(super) struct Open(Gauge);

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Socket {
    socket: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Ending {
    socket: &'static str,
    reason: &'static str,
}

impl ListenMetrics {
    /// Registers the families.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("listener");
        registry.register("connections_open", "Open connections", metrics.open.clone());
        registry.register(
            "connections_ended",
            "Connections that ended or were refused, by reason",
            metrics.ended.clone(),
        );
        registry.register(
            "streams_refused",
            "Requests refused because of what their peer has or makes, and streams cut because it does not read",
            metrics.refused_streams.clone(),
        );
        registry.register(
            "names_lost",
            "Names of a Unix socket that somebody removed or replaced, by which of the two",
            metrics.lost_names.clone(),
        );
        metrics
    }

    /// The metrics of the listener with this name.
    pub fn socket(&self, socket: &'static str) -> SocketMetrics {
        let open = self.open.get_or_create(&Socket { socket }).clone();
        SocketMetrics {
            socket,
            all: self.clone(),
            open,
        }
    }
}

impl SocketMetrics {
    /// The listener's name.
    pub fn name(&self) -> &'static str {
        self.socket
    }

    /// How many connections are open.
    pub fn open(&self) -> i64 {
        self.open.get()
    }

    /// How many connections ended or were refused for this reason.
    pub fn ended_by(&self, reason: &'static str) -> u64 {
        self.all.ended.get_or_create(&self.ending(reason)).get()
    }

    pub(super) fn opened(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn ended(&self, reason: &'static str) {
        self.all.ended.get_or_create(&self.ending(reason)).inc();
    }

    /// How many requests were refused, or streams cut, for this reason.
    pub fn refused_by(&self, reason: &'static str) -> u64 {
        self.all
            .refused_streams
            .get_or_create(&self.ending(reason))
            .get()
    }

    /// How many names were lost in this way.
    pub fn lost_by(&self, reason: &'static str) -> u64 {
        self.all
            .lost_names
            .get_or_create(&self.ending(reason))
            .get()
    }

    pub(super) fn refused_stream(&self, reason: &'static str) {
        self.all
            .refused_streams
            .get_or_create(&self.ending(reason))
            .inc();
    }

    pub(super) fn lost_name(&self, reason: &'static str) {
        self.all
            .lost_names
            .get_or_create(&self.ending(reason))
            .inc();
    }

    fn ending(&self, reason: &'static str) -> Ending {
        Ending {
            socket: self.socket,
            reason,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
