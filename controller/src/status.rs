//! What the agent says of itself: one value, replaced after each round, for all who report it.
//!
//! ```text
//! agent ─► Publisher ─► watch channel: Status ─► report (API server), http (probes)
//!             ├───────► Metrics ───────────────► http (metrics)
//!             └───────► Pulse ─────────────────► http (probes)
//! ```
//!
//! Publishing never waits: a reader that is slow sees the latest value only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use policy_engine::engine::selection::Selection;
use portcullis_crds::api::node_policy_report::DIAGNOSTICS_MAX;
use portcullis_crds::diagnostic::{Diagnostic, Severity};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dataplane::denial::{Counts, Denial};
use crate::dataplane::examine::Examination;
use crate::metrics::Metrics;

/// How many latencies the figures are taken from.
const LATENCIES: usize = 100;

/// Where the agent stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// Whether the kernel does what the policies say.
    pub phase: Phase,
    /// Who is isolated by what: as it was put in force last.
    pub selection: Arc<Selection>,
    /// When the kernel was last brought to, or found at, what the policies say.
    pub last_success: Option<SystemTime>,
    /// How long changes took, once one was put in force.
    pub latency: Option<Latency>,
    /// What was changed by others and repaired, since the agent started.
    pub drift_repairs: u64,
    /// What is wrong with objects.
    pub diagnostics: Arc<Findings>,
    /// How many packets policies denied, and those in audit would have.
    pub denials: Arc<BTreeMap<Denial, Counts>>,
    /// What else was found on the node; `None` before it was examined.
    pub examination: Option<Arc<Examination>>,
}

/// Whether the kernel does what the policies say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing was put in force yet.
    Loading,
    /// It does.
    InForce,
    /// It does what the last good round put in force.
    Failing {
        /// What went wrong, in one line.
        error: Arc<str>,
        /// When the oldest change was received that is not applied; where there is none, when the
        /// first of the failed attempts began.
        since: Instant,
    },
}

/// From when the oldest change of a round was received until it was in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Of the last round that changed the kernel.
    pub last: Duration,
    /// The median of the last 100.
    pub p50: Duration,
    /// The longest of the last 100.
    pub max: Duration,
    /// How many these are taken from.
    pub samples: usize,
}

/// What is wrong with objects: the first of it, and how much there is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Findings {
    /// The first [`DIAGNOSTICS_MAX`], errors before warnings, then in the order of their objects.
    pub first: Vec<Diagnostic>,
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
}

/// What one successful round did.
#[derive(Debug)]
pub struct Round {
    /// Who is isolated by what, when it may have changed.
    pub selection: Option<Selection>,
    /// How many rulesets are in force.
    pub rulesets: usize,
    /// How many sets are in force.
    pub sets: usize,
    /// How long the kernel took.
    pub apply: Duration,
    /// Since the oldest change was received; `None` when no change led to this round.
    pub latency: Option<Duration>,
}

/// The agent's end: it alone writes.
#[derive(Debug)]
pub struct Publisher {
    status: watch::Sender<Status>,
    metrics: Metrics,
    pulse: Pulse,
    latencies: VecDeque<Duration>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            phase: Phase::Loading,
            selection: Arc::default(),
            last_success: None,
            latency: None,
            drift_repairs: 0,
            diagnostics: Arc::default(),
            denials: Arc::default(),
            examination: None,
        }
    }
}

impl Findings {
    /// The findings among `all`.
    pub fn of<'a>(all: impl Iterator<Item = &'a Diagnostic>) -> Self {
        let mut sorted: Vec<&Diagnostic> = all.collect();
        sorted.sort_unstable();
        let errors = sorted.iter().filter(|found| found.severity == Severity::Error).count();
        let warnings = sorted.len() - errors;
        let first = sorted.into_iter().take(DIAGNOSTICS_MAX).cloned().collect();
        Self { first, errors, warnings }
    }
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

    /// The agent goes on.
    pub fn beat(&self) {
        self.pulse.beat();
    }

    /// A round is in force.
    pub fn in_force(&mut self, round: Round) {
        self.metrics.in_force(&round);
        if let Some(latency) = round.latency {
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back(latency);
        }
        let latency = latency(&self.latencies);
        self.succeeded(|status| {
            status.latency = latency;
            if let Some(selection) = round.selection {
                status.selection = Arc::new(selection);
            }
        });
    }

    /// Who is isolated by what changed, and the kernel needs no change for it.
    pub fn selected(&self, selection: Selection) {
        self.metrics.selected(&selection);
        self.status.send_modify(|status| status.selection = Arc::new(selection));
    }

    /// A round, or a comparison with the kernel, failed: the kernel has not done what the policies say
    /// since `since`, which is before the attempt that failed, for that may have taken long.
    pub fn failed(&self, error: &str, since: Instant) {
        self.metrics.failed();
        self.status.send_modify(|status| {
            let since = match status.phase {
                Phase::Failing { since: earlier, .. } => earlier.min(since),
                Phase::Loading | Phase::InForce => since,
            };
            status.phase = Phase::Failing { error: error.into(), since };
        });
    }

    /// The kernel was compared with the policies, and so much was put right.
    pub fn verified(&self, repairs: usize) {
        self.metrics.verified(repairs);
        self.succeeded(|status| {
            let repairs = u64::try_from(repairs).unwrap_or(u64::MAX);
            status.drift_repairs = status.drift_repairs.saturating_add(repairs);
        });
    }

    /// What is wrong with objects changed.
    pub fn found(&self, findings: Findings) {
        self.metrics.found(&findings);
        self.status.send_modify(|status| status.diagnostics = Arc::new(findings));
    }

    /// The node was examined for conflicts.
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

    /// So many packets were denied so far.
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
            status.phase = Phase::InForce;
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

/// Tells a task that goes on from one that hangs.
#[derive(Clone, Debug)]
pub struct Pulse {
    epoch: Instant,
    /// Milliseconds from `epoch` to the last beat, plus one; 0 before the first.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// The task goes on.
    pub fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// How long ago the last beat was; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_millis(last)))
    }

    /// Whether the last beat is at most `patience` old. A task that has not begun is none that
    /// hangs.
    ///
    /// # Errors
    /// Says how long it has been silent.
    pub fn alive(&self, patience: Duration) -> Result<(), String> {
        match self.age() {
            Some(age) if age > patience => Err(format!("no progress for {} s", age.as_secs())),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn publisher() -> Publisher {
        Publisher::new(Metrics::default(), Pulse::default())
    }

    fn round(latency: Option<u64>) -> Round {
        let latency = latency.map(Duration::from_micros);
        Round { selection: None, rulesets: 0, sets: 0, apply: Duration::ZERO, latency }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_a_beat_for_long_hangs() {
        let pulse = Pulse::default();
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(pulse.alive(PATIENCE), Ok(()), "it has not begun");
        pulse.beat();
        tokio::time::advance(PATIENCE).await;
        assert_eq!(pulse.alive(PATIENCE), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.alive(PATIENCE), Err("no progress for 31 s".to_owned()));
    }

    #[tokio::test]
    async fn latencies_are_those_of_the_last_hundred_rounds_with_changes() {
        let mut publisher = publisher();
        let status = publisher.subscribe();
        publisher.in_force(round(None));
        assert_eq!(status.borrow().latency, None);
        (0..=100).for_each(|n| publisher.in_force(round(Some(1000 - n))));
        let micros = Duration::from_micros;
        let expected =
            Latency { last: micros(900), p50: micros(949), max: micros(999), samples: 100 };
        assert_eq!(status.borrow().latency, Some(expected));
    }
}
