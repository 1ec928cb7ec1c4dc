//! What the controller knows, and what is to be written. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt as _;
use policy_engine::policy::PolicyKey;
use policy_engine::world::{Options, World};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::events::ledger::{Ledger, Telling};
use super::findings::Analyst;
use super::follow::{Fact, Mirror, key};
use super::metrics::Metrics;
use super::reports::{self, Known};
use super::write::{Outcome, Write};
use crate::watch::Event;

/// Findings take at most this share of the time: one part in so many.
const SHARE: u32 = 20;

/// Which object a policy is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version {
    uid: String,
    generation: i64,
}

/// The state of the controller.
pub struct State {
    world: World,
    analyst: Analyst,
    synced: bool,
    ledger: Ledger,
    policies: Mirror<Version>,
    nodes: Mirror<String>,
    reports: Mirror<Known>,
    silent_after: Duration,
    /// Findings are out of date, and may be computed from this moment on.
    changed: bool,
    compute_at: Instant,
    /// Reports that are being written, or wait until they may be tried again.
    held: BTreeMap<String, Option<Instant>>,
    /// Nothing is sent before this moment: the API server has asked for it, or does not answer.
    quiet_until: Instant,
    in_force: BTreeSet<(PolicyKey, i64)>,
    unreported: usize,
    metrics: Metrics,
}

impl State {
    /// Nothing is known.
    #[must_use]
    pub fn new(
        options: Options,
        event_delay: Duration,
        silent_after: Duration,
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        Self {
            world: World::new(options),
            analyst: Analyst::default(),
            synced: false,
            ledger: Ledger::new(event_delay),
            policies: Mirror::default(),
            nodes: Mirror::default(),
            reports: Mirror::default(),
            silent_after,
            changed: false,
            compute_at: now,
            held: BTreeMap::new(),
            quiet_until: now,
            in_force: BTreeSet::new(),
            unreported: 0,
            metrics,
        }
    }

    /// Whether all that findings are made of is known.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced && self.policies.is_synced()
    }

    /// Takes in what the source says.
    pub fn source(&mut self, event: Event) {
        self.changed = true;
        match event {
            Event::Changes(changes) => changes.into_iter().for_each(|change| {
                self.analyst.note(&change);
                self.world.apply(change);
            }),
            Event::Synced => self.synced = true,
            Event::Diagnostics(origin, found) => self.analyst.diagnose(origin, found),
        }
    }

    /// Takes in what a watch of our own says.
    pub fn fact(&mut self, fact: Fact, now: Instant) {
        match fact {
            Fact::Policy(event) => {
                self.changed = true;
                self.policies.take(event, |policy, _| {
                    let generation = policy.metadata.generation.unwrap_or_default();
                    let uid = policy.uid().unwrap_or_default();
                    (key(&policy), Version { uid, generation })
                });
            }
            Fact::Node(event) => {
                self.nodes.take(event, |node, _| (key(&node), node.uid().unwrap_or_default()));
            }
            Fact::Report(event) => self.reports.take(*event, |report, before: Option<Known>| {
                (report.name_any(), Known::new(report, before.as_ref(), now))
            }),
        }
    }

    /// Computes what is out of date.
    pub fn round(&mut self, now: Instant) {
        if self.is_synced() && self.changed && now >= self.compute_at {
            let findings = self.analyst.findings(&self.world);
            let mut tellings = BTreeSet::new();
            for (policy, findings) in findings {
                let Some(version) = self.policies.get().get(&policy.to_string()) else { continue };
                tellings.extend(findings.into_iter().map(|finding| Telling {
                    policy: policy.clone(),
                    uid: version.uid.clone(),
                    generation: version.generation,
                    finding,
                }));
            }
            self.ledger.update(tellings, now);
            self.changed = false;
            let took = now.elapsed();
            self.compute_at = now + took * SHARE;
            self.metrics.findings.set(count(self.ledger.len()));
            debug!(findings = self.ledger.len(), took_ms = took.as_millis(), "looked at policies");
        }
    }

    /// Sums up the reports: metrics for everybody, log lines for the leader.
    pub fn sum_up(&mut self, now: Instant, leads: bool) {
        let (nodes, reports) = (self.nodes.get(), self.reports.get());
        let of_nodes = || reports.iter().filter(|(name, _)| nodes.contains_key(*name));
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        let enforcing = of_nodes().filter(|(_, known)| known.enforcing && speaks(known)).count();
        let silent = of_nodes().filter(|(_, known)| !speaks(known)).count();
        let unreported = nodes.len() - of_nodes().count();
        let generation = |key: &PolicyKey| {
            self.policies.get().get(&key.to_string()).map(|version| version.generation)
        };
        let rollups = reports::rollups(reports.values(), generation);
        let behind = rollups.values().filter(|(_, rollup)| !rollup.is_complete()).count();
        let metrics = &self.metrics;
        metrics.leading.set(i64::from(leads));
        metrics.nodes.set(count(nodes.len()));
        metrics.nodes_enforcing.set(count(enforcing));
        metrics.nodes_silent.set(count(silent));
        metrics.nodes_unreported.set(count(unreported));
        metrics.policies_behind.set(count(behind));
        let mut in_force = BTreeSet::new();
        for (policy, (generation, rollup)) in rollups {
            if rollup.is_complete() {
                let entry = (policy, generation);
                if leads && !self.in_force.contains(&entry) {
                    let (policy, nodes) = (&entry.0, rollup.concerned);
                    info!(%policy, generation, nodes, "in force on all nodes that report it");
                }
                in_force.insert(entry);
            }
        }
        self.in_force = in_force;
        let is_known = self.nodes.is_synced() && self.reports.is_synced();
        if leads && is_known && unreported != self.unreported {
            info!(nodes = unreported, "nodes without a report");
            self.unreported = unreported;
        }
    }

    /// The next write that is due.
    pub fn next(&mut self, now: Instant) -> Option<Write> {
        if now < self.quiet_until {
            return None;
        }
        self.next_report(now).or_else(|| {
            let telling = self.is_synced().then(|| self.ledger.next(now)).flatten()?;
            Some(Write::Event(telling))
        })
    }

    fn next_report(&mut self, now: Instant) -> Option<Write> {
        if !self.nodes.is_synced() || !self.reports.is_synced() {
            return None;
        }
        self.held.retain(|_, until| until.is_none_or(|until| now < until));
        let (nodes, held, patience) = (self.nodes.get(), &self.held, self.silent_after);
        let free = self.reports.get_mut().iter_mut().filter(|(name, _)| !held.contains_key(*name));
        let mut due = free.filter_map(|(name, known)| {
            let action = known.judge(nodes.get(name), now, patience)?;
            Some((name.clone(), action))
        });
        let (name, action) = due.next()?;
        self.held.insert(name.clone(), None);
        Some(Write::Report(name, action))
    }

    /// Takes in what became of a write.
    pub fn done(&mut self, write: &Write, outcome: Outcome, now: Instant) {
        let retry = match outcome {
            Outcome::Written => {
                if let Write::Event(telling) = write {
                    let reason = telling.finding.reason.as_str();
                    self.metrics.events.inc();
                    info!(policy = %telling.policy, reason, "wrote an Event");
                } else {
                    info!(?write, "tidied a report");
                }
                None
            }
            Outcome::Needless => None,
            Outcome::Refused(why) => {
                error!(?write, why, "the API server refuses this for good; please report it");
                self.metrics.failures.inc();
                None
            }
            Outcome::NotLeading => Some(now),
            Outcome::Failed(why, pause) => {
                warn!(why, retry_in_ms = pause.as_millis(), "failed to write");
                self.metrics.failures.inc();
                self.quiet_until = now + pause;
                Some(now + pause)
            }
        };
        match (write, retry) {
            (Write::Event(telling), None) => self.ledger.told(telling, now),
            (Write::Event(telling), Some(retry)) => self.ledger.failed(telling, retry),
            // What was written comes back by the watch.
            (Write::Report(name, _), retry) => {
                let until = retry.unwrap_or(now + Duration::from_secs(2));
                self.held.insert(name.clone(), Some(until));
            }
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
