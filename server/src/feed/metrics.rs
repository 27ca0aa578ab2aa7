//! What the feed counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of the feed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    streams: Gauge<u64, AtomicU64>,
    begun: Family<Begin, Counter>,
    messages: Family<Sent, Counter>,
    bytes: Family<Sent, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Begin {
    extent: Extent,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Sent {
    kind: Kind,
}

/// How much the first change of a stream tells of the entries.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(crate) enum Extent {
    /// The difference to what the agent held.
    Resumed,
    Full,
}

/// The kinds of messages.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    Start,
    Change,
    Keepalive,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "feed_streams",
            "Agents that follow the feed",
            metrics.streams.clone(),
        );
        registry.register(
            "feed_streams_begun",
            "Streams of the feed that began",
            metrics.begun.clone(),
        );
        registry.register(
            "feed_messages",
            "Messages sent over the feed",
            metrics.messages.clone(),
        );
        registry.register(
            "feed_bytes",
            "Bytes of the messages sent over the feed",
            metrics.bytes.clone(),
        );
        metrics
    }

    pub(crate) fn begun(&self, extent: Extent) {
        self.begun.get_or_create(&Begin { extent }).inc();
    }

    pub(crate) fn sent(&self, kind: Kind, bytes: usize) {
        let sent = Sent { kind };
        self.messages.get_or_create(&sent).inc();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.get_or_create(&sent).inc_by(bytes);
    }

    pub(super) fn open(&self, streams: usize) {
        let streams = u64::try_from(streams).unwrap_or(u64::MAX);
        self.streams.set(streams);
    }
}
