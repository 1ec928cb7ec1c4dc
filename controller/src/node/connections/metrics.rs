//! The metrics of connections that end. The values of labels come from closed sets only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::judge::Reason;

/// The counters of connections that ended. Clones share their counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    ended: Family<Labels, Counter>,
    failures: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { ended: Family::default(), failures: Counter::default() };
        // Every series exists from the start: an alert can distinguish 0 from a missing series.
        Reason::ALL.into_iter().for_each(|reason| metrics.ended(reason, 0));
        metrics
    }
}

impl Metrics {
    /// Registers all metrics of connections.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "connections_ended",
            "Entries of conntrack that were deleted, so that their packets are judged again",
            self.ended.clone(),
        );
        registry.register(
            "connections_end_failures",
            "Failed attempts to find and end connections that lost their permission",
            self.failures.clone(),
        );
    }

    /// Counts connections that ended for a reason.
    pub fn ended(&self, reason: Reason, connections: u64) {
        self.ended.get_or_create(&Labels { reason: reason.as_str() }).inc_by(connections);
    }

    /// Counts a failure to find or to end connections.
    pub fn failed(&self) {
        self.failures.inc();
    }
}
