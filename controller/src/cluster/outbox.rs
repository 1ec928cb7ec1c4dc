//! The order of writes, and when a failed write is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use policy_engine::object::Kind;
use portcullis_apiserver::back_off::BackOff;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::analysis::Analysis;
use super::events::ledger::{Ledger, ObjectFinding};
use super::findings::Reason;
use super::metrics::{Metrics, count};
use super::pace::{self, Pace};
use super::reports::Action;
use super::rollout::Rollout;
use super::write::{NewStanding, Outcome, Write};

/// The first pause after a write was forbidden, for writes of its kind only: a server that starts
/// forbids all requests for a moment. Each further pause is twice as long.
pub(super) const FORBIDDEN_FIRST: Duration = Duration::from_secs(5);
/// The longest pause after a write was forbidden.
const FORBIDDEN_LONGEST: Duration = Duration::from_mins(1);
/// The watch returns a written object within this time.
const ECHO: Duration = Duration::from_secs(2);

/// The writes that are to be sent, and when.
pub struct Outbox {
    ledger: Ledger,
    /// Policies that are applied on all nodes. They have a rate limit of their own: a change of all
    /// policies must not delay a finding about one.
    applied: Ledger,
    /// When statuses of ClusterDefaultNetworkPolicies are written.
    pace: Pace,
    /// Reports that are being written, or wait until they may be tried again.
    held: BTreeMap<String, Option<Instant>>,
    /// No write is sent before this moment: the API server asked to wait, or does not answer.
    quiet_until: Instant,
    /// Kinds of writes that are forbidden.
    forbidden: BTreeMap<&'static str, Rest>,
    metrics: Metrics,
}

/// When a kind of writes that is forbidden is tried again.
struct Rest {
    until: Instant,
    back_off: BackOff,
}

impl Outbox {
    /// An outbox without writes. `event_delay`: see [`Ledger::new`].
    #[must_use]
    pub fn new(event_delay: Duration, metrics: Metrics, now: Instant) -> Self {
        Self {
            ledger: Ledger::new(event_delay),
            applied: Ledger::new(event_delay),
            pace: Pace::default(),
            held: BTreeMap::new(),
            quiet_until: now,
            forbidden: BTreeMap::new(),
            metrics,
        }
    }

    /// Replaces the findings about policies.
    pub fn update(&mut self, found: BTreeSet<ObjectFinding>, now: Instant) {
        self.ledger.update(Kind::is_policy, found, now);
        self.metrics.findings.set(count(self.ledger.len()));
    }

    /// Replaces the findings about Nodes.
    pub fn update_nodes(&mut self, found: BTreeSet<ObjectFinding>, now: Instant) {
        self.ledger.update(|kind| kind == Kind::Node, found, now);
        self.metrics.findings.set(count(self.ledger.len()));
    }

    /// Replaces the policies that were applied on all nodes lately.
    pub fn update_applied(&mut self, found: BTreeSet<ObjectFinding>, now: Instant) {
        self.applied.update(|_| true, found, now);
    }

    /// The next write that is due.
    pub fn next(
        &mut self,
        analysis: &Analysis,
        rollout: &mut Rollout,
        now: Instant,
    ) -> Option<Write> {
        if now < self.quiet_until {
            return None;
        }
        let is_allowed =
            |outbox: &Self, kind| outbox.forbidden.get(kind).is_none_or(|rest| rest.until <= now);
        if is_allowed(self, Write::REPORT)
            && let Some(write) = self.next_report(analysis, rollout, now)
        {
            return Some(write);
        }
        if is_allowed(self, Write::STANDING)
            && let Some(write) = self.next_standing(analysis, rollout, now)
        {
            return Some(write);
        }
        let may_report = analysis.is_synced() && is_allowed(self, Write::EVENT);
        let next = may_report.then(|| self.ledger.next(now).or_else(|| self.applied.next(now)));
        next.flatten().map(Write::Event)
    }

    fn ledger_of(&mut self, object_finding: &ObjectFinding) -> &mut Ledger {
        match object_finding.finding.reason {
            Reason::Applied => &mut self.applied,
            _ => &mut self.ledger,
        }
    }

    fn next_report(
        &mut self,
        analysis: &Analysis,
        rollout: &mut Rollout,
        now: Instant,
    ) -> Option<Write> {
        if !rollout.is_synced(analysis) {
            return None;
        }
        self.held.retain(|_, until| until.is_none_or(|until| now < until));
        let free = |name: &str| !self.held.contains_key(name);
        let (name, action) = rollout.due(analysis, now, free)?;
        self.held.insert(name.clone(), None);
        Some(Write::Report(name, action))
    }

    pub(super) fn next_standing(
        &mut self,
        analysis: &Analysis,
        rollout: &Rollout,
        now: Instant,
    ) -> Option<Write> {
        if !rollout.is_synced(analysis) {
            return None;
        }
        let (standings, pace) = (&rollout.standings, &mut self.pace);
        let known: BTreeSet<&str> = analysis.defaults().map(|(policy, _)| &*policy.name).collect();
        pace.retain(|name| known.contains(name));
        let period = pace::detail_period(known.len(), analysis.nodes().len());
        let mut due = analysis.defaults().filter_map(|(policy, meta)| {
            // The summed-up status may be of an earlier generation.
            let is_current = |generation| analysis.generation(policy) == Some(generation);
            let standing = standings.get(policy).filter(|found| is_current(found.generation))?;
            let difference = standing.differs_from(&meta.status);
            pace.is_due(&policy.name, difference, period, now).then(|| NewStanding {
                name: policy.name.to_string(),
                uid: meta.uid.to_string(),
                standing: standing.clone(),
                before: meta.status.clone(),
            })
        });
        due.next().map(|new| Write::Standing(Box::new(new)))
    }

    /// Pauses a kind of writes that is forbidden. Returns when the pause ends.
    fn rest(&mut self, what: &'static str, why: &str, now: Instant) -> Instant {
        let rest = self.forbidden.entry(what).or_insert_with(|| {
            let back_off = BackOff::new(FORBIDDEN_FIRST, FORBIDDEN_LONGEST);
            Rest { until: now, back_off }
        });
        // Two writes may have been under way at once.
        if rest.until <= now {
            let pause = rest.back_off.wait();
            let retry_in_s = pause.as_secs();
            warn!(what, why, retry_in_s, "forbidden to write; apply deploy/ again");
            rest.until = now + pause;
        }
        rest.until
    }

    /// Records the outcome of a write.
    pub fn done(&mut self, write: &Write, outcome: Outcome, now: Instant) {
        let retry = match outcome {
            Outcome::Written => {
                self.forbidden.remove(write.kind());
                match write {
                    Write::Event(object_finding) => {
                        let reason = object_finding.finding.reason.as_str();
                        self.metrics.events.inc();
                        info!(object = object_finding.object.titled(), reason, "wrote an Event");
                    }
                    Write::Report(node, Action::Delete { .. }) => {
                        info!(node, "deleted the report of a node that no longer exists");
                    }
                    Write::Report(node, Action::SetCurrent { still_reports, .. }) => {
                        info!(
                            node,
                            current = still_reports,
                            "updated the condition Reporting of a NodePolicyReport"
                        );
                    }
                    Write::Standing(new) => {
                        self.metrics.statuses.inc();
                        debug!(policy = new.name, "wrote a status");
                    }
                }
                None
            }
            Outcome::Needless => None,
            Outcome::Refused(why) => {
                let what = write.kind();
                error!(
                    what,
                    why, "the API server refuses this object for good; please report this as a bug"
                );
                self.metrics.failures.inc();
                None
            }
            Outcome::NotLeading => Some(now),
            Outcome::Forbidden(why) => {
                self.metrics.failures.inc();
                Some(self.rest(write.kind(), &why, now))
            }
            Outcome::Failed(why, pause) => {
                warn!(why, retry_in_ms = pause.as_millis(), "failed to write");
                self.metrics.failures.inc();
                self.quiet_until = now + pause;
                Some(now + pause)
            }
        };
        match (write, retry) {
            (Write::Event(object_finding), None) => {
                self.ledger_of(object_finding).reported(object_finding, now);
            }
            (Write::Event(object_finding), Some(retry)) => {
                self.ledger_of(object_finding).failed(object_finding, retry);
            }
            (Write::Report(name, _), retry) => {
                let until = retry.unwrap_or(now + ECHO);
                self.held.insert(name.clone(), Some(until));
            }
            (Write::Standing(new), retry) => {
                self.pace.done(&new.name, now, retry.unwrap_or(now + pace::PERIOD_MIN));
            }
        }
    }
}
