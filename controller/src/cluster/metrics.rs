//! What the controller counts. No name of an object is a label.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The controller's figures. Clones count together.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leading: Gauge,
    /// Nodes of the cluster.
    pub nodes: Gauge,
    /// Nodes whose agent says that it enforces, and still writes.
    pub nodes_enforcing: Gauge,
    /// Nodes whose agent has stopped to write.
    pub nodes_silent: Gauge,
    /// Nodes without a report.
    pub nodes_unreported: Gauge,
    /// Policies that some node still has in force in an earlier generation.
    pub policies_behind: Gauge,
    /// What policies cannot mean.
    pub findings: Gauge,
    /// Events written.
    pub events: Counter,
    /// Writes that failed.
    pub failures: Counter,
}

impl Metrics {
    /// All of them under their names.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        let mut registry = Registry::with_prefix("portcullis_controller");
        for (name, help, gauge) in [
            ("leading", "1 while this process leads", &self.leading),
            ("nodes", "Nodes of the cluster", &self.nodes),
            ("nodes_enforcing", "Nodes whose agent enforces and reports", &self.nodes_enforcing),
            ("nodes_silent", "Nodes whose agent has stopped to report", &self.nodes_silent),
            ("nodes_unreported", "Nodes without a report", &self.nodes_unreported),
            ("policies_behind", "Policies not in force everywhere yet", &self.policies_behind),
            ("findings", "What policies say and cannot mean", &self.findings),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register("events", "Events written", self.events.clone());
        registry.register("write_failures", "Writes that failed", self.failures.clone());
        Arc::new(registry)
    }
}
