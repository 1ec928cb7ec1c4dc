//! The metrics of the controller. No name of an object is a label.

use std::sync::Arc;

use crate::log;
use policy_engine::object::Kind;
use portcullis_apiserver::watch::Contacts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::progress::Stage;
use crate::serve::process::ProcessMetrics;
use crate::serve::watch_age::WatchAges;

/// The metrics of the controller. All clones share their values.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leading: Gauge,
    /// Nodes of the cluster.
    pub nodes: Gauge,
    /// Nodes whose agent reports that it enforces, and still writes.
    pub nodes_enforcing: Gauge,
    /// Nodes whose agent has stopped to write.
    pub nodes_silent: Gauge,
    /// Nodes without a report.
    pub nodes_unreported: Gauge,
    /// Policies that some node still has enforced in an earlier generation.
    pub policies_behind: Gauge,
    /// Findings about policies and Nodes.
    pub findings: Gauge,
    /// Policies of the cluster, by kind and by how far they are enforced.
    pub cluster_policies: Family<Staged, Gauge>,
    /// Events written.
    pub events: Counter,
    /// Statuses of ClusterDefaultNetworkPolicies written.
    pub statuses: Counter,
    /// Writes that failed.
    pub failures: Counter,
    /// Log lines that were not written.
    pub log_lines_lost: Counter,
    /// When the API server last sent something.
    pub contacts: Contacts,
}

/// The labels of [`Metrics::cluster_policies`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EncodeLabelSet)]
pub struct Staged {
    kind: &'static str,
    stage: Stage,
}

impl Staged {
    /// The labels of policies of this kind.
    #[must_use]
    pub fn new(kind: Kind, stage: Stage) -> Self {
        Self { kind: kind.as_str(), stage }
    }

    /// All combinations of labels.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = [Kind::ClusterNetworkPolicy, Kind::ClusterDefaultNetworkPolicy];
        kinds.into_iter().flat_map(|kind| Stage::ALL.map(|stage| Self::new(kind, stage)))
    }
}

impl Metrics {
    /// A registry of all metrics with their names.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessMetrics));
        let registry = root.sub_registry_with_prefix("portcullis_controller");
        registry.register_collector(Box::new(WatchAges(self.contacts.clone())));
        for (name, help, gauge) in [
            ("leading", "1 while this process leads", &self.leading),
            ("nodes", "Nodes of the cluster", &self.nodes),
            ("nodes_enforcing", "Nodes whose agent enforces and reports", &self.nodes_enforcing),
            ("nodes_silent", "Nodes whose agent has stopped to report", &self.nodes_silent),
            ("nodes_unreported", "Nodes without a report", &self.nodes_unreported),
            ("policies_behind", "Policies not enforced everywhere yet", &self.policies_behind),
            ("findings", "What is wrong with policies and nodes", &self.findings),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let staged = "Policies of the cluster, by how far they are enforced";
        registry.register("cluster_policies", staged, self.cluster_policies.clone());
        let written = "Statuses of ClusterDefaultNetworkPolicies written";
        registry.register("status_writes", written, self.statuses.clone());
        registry.register("events", "Events written", self.events.clone());
        registry.register("write_failures", "Writes that failed", self.failures.clone());
        log::register(registry, &self.log_lines_lost);
        Arc::new(root)
    }
}

/// A number of things as the value of a gauge.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
