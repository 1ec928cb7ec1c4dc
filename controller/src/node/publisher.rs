//! Publishes the agent's status for the report, the probes and the metrics.
//!
//! ```text
//! agent ─► Publisher ─► watch channel: Status ─► report (API server), http (probes)
//!             ├───────► Metrics ───────────────► http (metrics)
//!             └───────► Pulse ─────────────────► http (probes)
//! ```
//!
//! Publishing never waits: a slow reader sees only the latest value.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use policy_engine::cidr::Family;
use policy_engine::engine::selection::Selection;
use policy_engine::world::enforcement::Enforcement;
use tokio::sync::watch;

use super::hooks::detected;
use super::metrics::Metrics;
use super::status::{Findings, Latency, Phase, Round, Rules, Status};
use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::drift::DisplacedHook;
use crate::dataplane::examine::Examination;
use crate::serve::pulse::Pulse;

/// How many of the latest latencies the median and the maximum are computed from.
const LATENCIES: usize = 100;

/// The agent's side, the only writer of the status.
#[derive(Debug)]
pub struct Publisher {
    status: watch::Sender<Status>,
    metrics: Metrics,
    pulse: Pulse,
    latencies: VecDeque<Duration>,
}

impl Publisher {
    /// A publisher of an agent that has done nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics, pulse: Pulse) -> Self {
        let (status, _) = watch::channel(Status::default());
        let latencies = VecDeque::with_capacity(LATENCIES);
        Self { status, metrics, pulse, latencies }
    }

    /// A reader of the latest status.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Notes that the agent is alive.
    pub fn beat(&self) {
        self.pulse.beat();
    }

    /// Publishes a round that succeeded.
    pub fn enforced(&mut self, round: Round) {
        self.metrics.enforced(&round);
        if let Some(latency) = round.latency {
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back(latency);
        }
        let latency = latency(&self.latencies);
        self.succeeded(|status| {
            status.latency = latency;
            status.nodes = round.nodes;
            status.hashes = round.hashes;
            if let Some(selection) = round.selection {
                status.selection = Arc::new(selection);
            }
        });
    }

    /// Publishes which policies isolate which pods, after a change that leaves the rules unchanged.
    pub fn selected(&self, selection: Selection) {
        self.metrics.selected(&selection);
        self.status.send_modify(|status| status.selection = Arc::new(selection));
    }

    /// Publishes that a round or a comparison with the kernel failed. If only one `family` failed,
    /// the other family is enforced.
    pub fn failed(&self, error: &str, family: Option<Family>, rules: Rules) {
        self.metrics.failed();
        let phase = Phase::Failing { error: error.into(), family, rules };
        self.status.send_modify(|status| status.phase = phase);
    }

    /// Publishes a comparison of the kernel with the policies, and the number of its repairs.
    pub fn verified(&self, repairs: usize) {
        self.metrics.verified(repairs);
        self.succeeded(|status| {
            let repairs = u64::try_from(repairs).unwrap_or(u64::MAX);
            status.drift_repairs = status.drift_repairs.saturating_add(repairs);
        });
    }

    /// Publishes how many hooks were restored.
    pub fn hooks_restored(&self, hooks: usize) {
        self.metrics.hooks_restored(hooks);
        let hooks = u64::try_from(hooks).unwrap_or(u64::MAX);
        self.status.send_modify(|status| {
            status.drift_repairs = status.drift_repairs.saturating_add(hooks);
        });
    }

    /// Publishes which hooks are displaced; all other hooks are in place.
    pub fn displaced(&self, hooks: &[DisplacedHook]) {
        let displaced = detected(hooks);
        self.metrics.displaced(!displaced.is_empty());
        self.status.send_if_modified(|status| {
            let news = *status.displaced != *displaced;
            if news {
                status.displaced = displaced.into();
            }
            news
        });
    }

    /// Publishes how many pods of the node have rules that exceed a budget.
    pub fn over_budget(&self, pods: usize) {
        self.metrics.over_budget(pods);
    }

    /// Publishes for how many pods a part of the rules was refused, and what in one line.
    pub fn refused(&self, pods: usize, why: Option<String>) {
        self.metrics.refused(pods);
        self.status.send_if_modified(|status| {
            let news = status.refused.as_deref() != why.as_deref();
            status.refused = why.map(Arc::from);
            news
        });
    }

    /// Publishes in which namespaces policies are enforced, by the flags of the agent.
    pub fn enforcing(&self, enforcement: &Enforcement) {
        self.status.send_modify(|status| status.extent = enforcement.into());
    }

    /// Publishes why no pods of this node are known, if no Node has its name.
    pub fn node_unknown(&self, why: Option<Arc<str>>) {
        self.status.send_if_modified(|status| {
            let news = status.node_unknown != why;
            status.node_unknown = why;
            news
        });
    }

    /// Publishes the diagnostics of objects after they changed.
    pub fn found(&self, findings: Findings) {
        self.metrics.found(&findings);
        self.status.send_modify(|status| status.diagnostics = Arc::new(findings));
    }

    /// Publishes an examination of the node for conflicts.
    pub fn examined(&self, found: &Examination) {
        self.metrics.examined(found);
        self.status.send_if_modified(|status| {
            let news = status.examination.as_deref() != Some(found);
            if news {
                status.examination = Some(Arc::new(found.clone()));
            }
            news
        });
    }

    /// Publishes how many packets were denied so far.
    pub fn denied(&self, counts: BTreeMap<Denial, Counts>) {
        for denial in Denial::all() {
            let packets = counts.get(&denial).map_or(0, |counts| counts.packets);
            self.metrics.denials.denied(denial, packets);
        }
        self.status.send_if_modified(|status| {
            let news = *status.denials != counts;
            if news {
                status.denials = Arc::new(counts);
            }
            news
        });
    }

    fn succeeded(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| {
            status.phase = Phase::Applied;
            status.last_success = Some(SystemTime::now());
            change(status);
        });
    }
}

fn latency(latest: &VecDeque<Duration>) -> Option<Latency> {
    let last = *latest.back()?;
    let mut sorted: Vec<Duration> = latest.iter().copied().collect();
    sorted.sort_unstable();
    let max = *sorted.last()?;
    let p50 = *sorted.get((sorted.len() - 1) / 2)?;
    Some(Latency { last, p50, max, samples: sorted.len() })
}

#[cfg(test)]
mod tests {
    use policy_engine::engine::hashes::Hashes;

    use super::*;

    fn round(latency: Option<u64>) -> Round {
        let latency = latency.map(Duration::from_micros);
        let hashes = Hashes::default();
        let apply = Duration::ZERO;
        Round { selection: None, rulesets: 0, sets: 0, hashes, nodes: 0, apply, latency }
    }

    #[tokio::test]
    async fn latencies_are_those_of_the_last_hundred_rounds_with_changes() {
        let mut publisher = Publisher::new(Metrics::default(), Pulse::default());
        let status = publisher.subscribe();
        publisher.enforced(round(None));
        assert_eq!(status.borrow().latency, None);
        (0..=100).for_each(|n| publisher.enforced(round(Some(1000 - n))));
        let micros = Duration::from_micros;
        let expected =
            Latency { last: micros(900), p50: micros(949), max: micros(999), samples: 100 };
        assert_eq!(status.borrow().latency, Some(expected));
    }
}
