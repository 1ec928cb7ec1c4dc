//! The agent's metrics. The values of labels come from closed enums only, never from object names.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use policy_engine::engine::selection::Selection;
use portcullis_apiserver::watch::Contacts;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::args::COMMIT;
use crate::dataplane::conflict::Conflict;
use crate::dataplane::examine::Examination;
use crate::log;
use crate::node::signals::Signals;
use crate::node::status::{Amount, Findings, Round};
use crate::node::{connections, denials};
use crate::serve::process::ProcessMetrics;
use crate::serve::watch_age::WatchAges;

/// The upper bounds of buckets in seconds: from adding one set member to waiting for a lock.
const BOUNDS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The counters and gauges of the agent. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    policies: Gauge,
    pods: Gauge,
    isolated: Family<DirectionLabels, Gauge>,
    rulesets: Gauge,
    sets: Gauge,
    durations: Histogram,
    latencies: Histogram,
    failures: Counter,
    drift_repairs: Counter,
    hook_repairs: Counter,
    last_success: Gauge,
    over_budget: Gauge,
    refused: Gauge,
    diagnostics: Family<DiagnosticLabels, Gauge>,
    conflicts: Family<ConflictLabels, Gauge>,
    log_lines_lost: Counter,
    /// When the API server last sent something.
    pub contacts: Contacts,
    /// The metrics of connections that end.
    pub connections: connections::metrics::Metrics,
    /// The metrics of denials and their log.
    pub denials: denials::metrics::Metrics,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
enum Direction {
    #[allow(non_camel_case_types, reason = "the label's text")]
    ingress,
    #[allow(non_camel_case_types, reason = "the label's text")]
    egress,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DiagnosticLabels {
    severity: Severity,
    about: About,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
enum About {
    #[allow(non_camel_case_types, reason = "the label's text")]
    policy,
    #[allow(non_camel_case_types, reason = "the label's text")]
    budget,
    #[allow(non_camel_case_types, reason = "the label's text")]
    other,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
enum Severity {
    #[allow(non_camel_case_types, reason = "the label's text")]
    error,
    #[allow(non_camel_case_types, reason = "the label's text")]
    warning,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ConflictLabels {
    /// The name of a [`Conflict`].
    conflict: &'static str,
    /// Whether the operator has decided to ignore it.
    ignored: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            policies: Gauge::default(),
            pods: Gauge::default(),
            isolated: Family::default(),
            rulesets: Gauge::default(),
            sets: Gauge::default(),
            durations: Histogram::new(BOUNDS),
            latencies: Histogram::new(BOUNDS),
            failures: Counter::default(),
            drift_repairs: Counter::default(),
            hook_repairs: Counter::default(),
            last_success: Gauge::default(),
            over_budget: Gauge::default(),
            refused: Gauge::default(),
            diagnostics: Family::default(),
            conflicts: Family::default(),
            log_lines_lost: Counter::default(),
            contacts: Contacts::default(),
            connections: connections::metrics::Metrics::default(),
            denials: denials::metrics::Metrics::default(),
        };
        // Every series exists from the start: an alert can distinguish 0 from a missing series.
        metrics.selected(&Selection::default());
        metrics.found(&Findings::default());
        metrics.examined(&Examination::default());
        metrics.displaced(false);
        metrics
    }
}

impl Metrics {
    /// The same metrics, with the counter of log lines that were not written.
    #[must_use]
    pub fn counting_lost_log_lines_by(self, log_lines_lost: Counter) -> Self {
        Self { log_lines_lost, ..self }
    }

    /// A registry of all metrics, with the state of the node.
    #[must_use]
    pub fn registry(&self, signals: Signals) -> Arc<Registry> {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessMetrics));
        let registry = root.sub_registry_with_prefix("portcullis");
        registry.register_collector(Box::new(signals));
        registry.register_collector(Box::new(WatchAges(self.contacts.clone())));
        // A metric with an empty label would be the same as one without it.
        let commit = COMMIT.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("commit", commit)]);
        registry.register("build", "The agent", build);
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("policies_enforced", "Policies enforced for pods of the node", &self.policies);
        gauge("pods_local", "Pods of the node that policies can select", &self.pods);
        gauge("rulesets", "Rulesets in the kernel, shared by pods", &self.rulesets);
        gauge("sets", "Address sets in the kernel", &self.sets);
        registry.register(
            "pods_isolated",
            "Pods of the node that a policy isolates",
            self.isolated.clone(),
        );
        registry.register(
            "pods_over_budget",
            "Pods of the node that are denied traffic because their policies exceed a budget",
            self.over_budget.clone(),
        );
        registry.register(
            "pods_refused",
            "Pods of the node that are denied connections because a part of their rules was refused",
            self.refused.clone(),
        );
        registry.register(
            "diagnostics",
            "What is wrong with objects that the agent read",
            self.diagnostics.clone(),
        );
        registry.register(
            "conflicts",
            "1 where something else on the node makes the enforcement of policies void",
            self.conflicts.clone(),
        );
        registry.register_with_unit(
            "sync_duration",
            "Time that the kernel took for a round of changes",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_with_unit(
            "sync_latency",
            "Time from receiving the oldest change of a round until it was enforced",
            Unit::Seconds,
            self.latencies.clone(),
        );
        registry.register("sync_failures", "Rounds that failed", self.failures.clone());
        registry.register(
            "drift_repairs",
            "What others changed in the kernel and was repaired",
            self.drift_repairs.clone(),
        );
        registry.register(
            "hook_repairs",
            "Jumps to the rules that others removed or moved and that were put back",
            self.hook_repairs.clone(),
        );
        registry.register_with_unit(
            "last_successful_sync_timestamp",
            "When the kernel was last known to do what the policies say, since 1970",
            Unit::Seconds,
            self.last_success.clone(),
        );
        log::register(registry, &self.log_lines_lost);
        self.connections.register(registry);
        self.denials.register(registry);
        Arc::new(root)
    }

    pub(crate) fn enforced(&self, round: &Round) {
        self.durations.observe(round.apply.as_secs_f64());
        if let Some(latency) = round.latency {
            self.latencies.observe(latency.as_secs_f64());
        }
        self.rulesets.set(count(round.rulesets));
        self.sets.set(count(round.sets));
        if let Some(selection) = &round.selection {
            self.selected(selection);
        }
        self.succeeded();
    }

    pub(crate) fn selected(&self, selection: &Selection) {
        self.policies.set(count(selection.policies.len()));
        self.pods.set(count(selection.pods));
        for (direction, pods) in [
            (Direction::ingress, selection.isolated_ingress),
            (Direction::egress, selection.isolated_egress),
        ] {
            self.isolated.get_or_create(&DirectionLabels { direction }).set(count(pods));
        }
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    pub(crate) fn verified(&self, repairs: usize) {
        self.drift_repairs.inc_by(u64::try_from(repairs).unwrap_or(u64::MAX));
        self.succeeded();
    }

    pub(crate) fn over_budget(&self, pods: usize) {
        self.over_budget.set(count(pods));
    }

    pub(crate) fn refused(&self, pods: usize) {
        self.refused.set(count(pods));
    }

    pub(crate) fn found(&self, findings: &Findings) {
        let over_budget = Amount { errors: findings.over_budget, warnings: 0 };
        for (about, amount) in [
            (About::policy, findings.policies),
            (About::budget, over_budget),
            (About::other, findings.others),
        ] {
            for (severity, number) in
                [(Severity::error, amount.errors), (Severity::warning, amount.warnings)]
            {
                self.diagnostics
                    .get_or_create(&DiagnosticLabels { severity, about })
                    .set(count(number));
            }
        }
    }

    pub(crate) fn examined(&self, found: &Examination) {
        let examined = Conflict::ALL.into_iter().filter(|one| *one != Conflict::HookDisplaced);
        for conflict in examined {
            for (ignored, detected) in [(false, &found.conflicts), (true, &found.ignored)] {
                let is_there = detected.iter().any(|detected| detected.conflict == conflict);
                let labels = ConflictLabels { conflict: conflict.name(), ignored };
                self.conflicts.get_or_create(&labels).set(is_there.into());
            }
        }
    }

    pub(crate) fn displaced(&self, is_displaced: bool) {
        let labels = ConflictLabels { conflict: Conflict::HookDisplaced.name(), ignored: false };
        self.conflicts.get_or_create(&labels).set(is_displaced.into());
    }

    /// Counts restored hooks, both as repairs and separately.
    pub(crate) fn hooks_restored(&self, hooks: usize) {
        let hooks = u64::try_from(hooks).unwrap_or(u64::MAX);
        self.drift_repairs.inc_by(hooks);
        self.hook_repairs.inc_by(hooks);
    }

    fn succeeded(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::node::publisher::Publisher;
    use crate::serve::pulse::Pulse;

    fn signals() -> Signals {
        let publisher = Publisher::new(Metrics::default(), Pulse::default());
        Signals::new(publisher.subscribe(), Pulse::default(), Duration::ZERO)
    }

    fn series(metrics: &Metrics) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry(signals()))
            .expect("text");
        let mut series: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket"))
            .filter(|line| !line.starts_with("process_"))
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect();
        series.sort_unstable();
        series
    }

    #[test]
    fn every_series_exists_from_the_start_and_those_of_denials_once_they_are_counted() {
        let metrics = Metrics::default();
        let from_the_start = series(&metrics);
        Publisher::new(metrics.clone(), Pulse::default()).denied(BTreeMap::new());
        let mut counted = series(&metrics);
        let kinds = counted.extract_if(.., |name| name.starts_with("portcullis_denials_total{"));
        assert_eq!(kinds.count(), 20);
        assert_eq!(counted, from_the_start);
        assert_eq!(
            counted,
            [
                "portcullis_build_info{version=\"0.1.0\",commit=\"unknown\"}",
                "portcullis_conflicts{conflict=\"BridgeTrafficBypassesIptables\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"BridgeTrafficBypassesIptables\",ignored=\"true\"}",
                "portcullis_conflicts{conflict=\"EbpfDatapath\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"EbpfDatapath\",ignored=\"true\"}",
                "portcullis_conflicts{conflict=\"HookDisplaced\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"KubeProxyIpvs\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"KubeProxyIpvs\",ignored=\"true\"}",
                "portcullis_conflicts{conflict=\"OpenVSwitchDatapath\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"OpenVSwitchDatapath\",ignored=\"true\"}",
                "portcullis_conflicts{conflict=\"PodsBypassNode\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"PodsBypassNode\",ignored=\"true\"}",
                "portcullis_conflicts{conflict=\"SecondEnforcer\",ignored=\"false\"}",
                "portcullis_conflicts{conflict=\"SecondEnforcer\",ignored=\"true\"}",
                "portcullis_connections_end_failures_total",
                "portcullis_connections_ended_total{reason=\"AddressReleased\"}",
                "portcullis_connections_ended_total{reason=\"PolicyChanged\"}",
                "portcullis_denial_log_listening",
                "portcullis_denial_log_lost_total{reason=\"no_room\"}",
                "portcullis_denial_log_lost_total{reason=\"overrun\"}",
                "portcullis_denial_log_lost_total{reason=\"unreadable\"}",
                "portcullis_denial_log_messages_total",
                "portcullis_diagnostics{severity=\"error\",about=\"budget\"}",
                "portcullis_diagnostics{severity=\"error\",about=\"other\"}",
                "portcullis_diagnostics{severity=\"error\",about=\"policy\"}",
                "portcullis_diagnostics{severity=\"warning\",about=\"budget\"}",
                "portcullis_diagnostics{severity=\"warning\",about=\"other\"}",
                "portcullis_diagnostics{severity=\"warning\",about=\"policy\"}",
                "portcullis_drift_repairs_total",
                "portcullis_hook_repairs_total",
                "portcullis_last_successful_sync_timestamp_seconds",
                "portcullis_log_lines_lost_total",
                "portcullis_node_degraded{what=\"IPv4NotEnforced\"}",
                "portcullis_node_degraded{what=\"IPv6NotEnforced\"}",
                "portcullis_node_degraded{what=\"NodeUnknown\"}",
                "portcullis_node_degraded{what=\"ObjectsUnread\"}",
                "portcullis_node_degraded{what=\"RulesRefused\"}",
                "portcullis_node_enforcement{namespaces=\"everywhere\"}",
                "portcullis_node_enforcement{namespaces=\"namespaces\"}",
                "portcullis_node_enforcement{namespaces=\"nowhere\"}",
                "portcullis_node_state{state=\"Auditing\"}",
                "portcullis_node_state{state=\"Bypassed\"}",
                "portcullis_node_state{state=\"Degraded\"}",
                "portcullis_node_state{state=\"Enforcing\"}",
                "portcullis_node_state{state=\"Failing\"}",
                "portcullis_node_state{state=\"Loading\"}",
                "portcullis_pods_isolated{direction=\"egress\"}",
                "portcullis_pods_isolated{direction=\"ingress\"}",
                "portcullis_pods_local",
                "portcullis_pods_over_budget",
                "portcullis_pods_refused",
                "portcullis_policies_enforced",
                "portcullis_rulesets",
                "portcullis_sets",
                "portcullis_sync_duration_seconds_count",
                "portcullis_sync_duration_seconds_sum",
                "portcullis_sync_failures_total",
                "portcullis_sync_latency_seconds_count",
                "portcullis_sync_latency_seconds_sum",
            ]
        );
    }
}
