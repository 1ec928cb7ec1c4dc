//! What is counted of connections that end. Labels come from closed sets alone.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::judge::Reason;

/// The counters of connections that ended. Clones count together.
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
        // Every series is there from the start: an alert can tell 0 from silence.
        Reason::ALL.into_iter().for_each(|reason| metrics.ended(reason, 0));
        metrics
    }
}

impl Metrics {
    /// Puts all of them under their names.
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

    /// So many connections ended.
    pub fn ended(&self, reason: Reason, connections: u64) {
        self.ended.get_or_create(&Labels { reason: reason.as_str() }).inc_by(connections);
    }

    /// Connections that had to end were not found, or did not end.
    pub fn failed(&self) {
        self.failures.inc();
    }
}
