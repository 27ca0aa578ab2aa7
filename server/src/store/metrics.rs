//! How often the store is asked.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The metrics of one store.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    operations: Family<Labels, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    operation: Operation,
}

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub(super) enum Operation {
    Commit,
    /// A read that asks whether the store answers at all.
    Probe,
    Read,
    Snapshot,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "store_operations",
            "Transactions and reads that the store was asked for",
            self.operations.clone(),
        );
        // Shown from the start: that a server which answers does not read is worth a look.
        for operation in [
            Operation::Commit,
            Operation::Probe,
            Operation::Read,
            Operation::Snapshot,
        ] {
            let _none_yet = self.operations.get_or_create(&Labels { operation });
        }
    }

    pub(super) fn asked(&self, operation: Operation) {
        self.operations.get_or_create(&Labels { operation }).inc();
    }
}
