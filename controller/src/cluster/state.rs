//! What the controller knows, and what is to be written. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt as _;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::world::{Options, World};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::events::ledger::{Ledger, Telling};
use super::findings::coverage::Coverage;
use super::findings::{Analyst, Findings, Reason};
use super::follow::{Fact, Mirror, key};
use super::metrics::{Metrics, Staged};
use super::pace::{self, Pace};
use super::reports::{self, Known};
use super::standing::{Judged, Progress, Stage, Standing};
use super::write::{NewStanding, Outcome, Write};
use crate::watch::Event;

/// Findings take at most this share of the time, and so does summing up: one part in so many.
const SHARE: u32 = 20;
/// Writes of a kind that is forbidden rest for so long at first, for a server that starts refuses
/// everybody; then each time twice as long. The others go on.
const FORBIDDEN_FIRST: Duration = Duration::from_secs(5);
/// They rest for so long at most.
const FORBIDDEN_LONGEST: Duration = Duration::from_mins(1);

/// Which object a policy is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version {
    uid: String,
    generation: i64,
}

/// A ClusterDefaultNetworkPolicy as the API server has it.
#[derive(Clone, PartialEq, Debug)]
struct Defaulting {
    version: Version,
    status: Value,
}

/// The state of the controller.
pub struct State {
    world: World,
    analyst: Analyst,
    synced: bool,
    ledger: Ledger,
    policies: Mirror<Version>,
    tiers: Mirror<Version>,
    defaults: Mirror<Defaulting>,
    /// What was found out about the policies of the cluster.
    judged: BTreeMap<ObjectRef, Judged>,
    /// What their status is to say.
    standings: BTreeMap<String, Standing>,
    pace: Pace,
    nodes: Mirror<String>,
    reports: Mirror<Known>,
    silent_after: Duration,
    /// Findings are out of date, and may be computed from this moment on.
    changed: bool,
    compute_at: Instant,
    /// Reports may be summed up from this moment on.
    sum_up_at: Instant,
    /// Reports that are being written, or wait until they may be tried again.
    held: BTreeMap<String, Option<Instant>>,
    /// Nothing is sent before this moment: the API server has asked for it, or does not answer.
    quiet_until: Instant,
    /// Kinds of writes that are forbidden: when they are tried again, and how long they rest.
    forbidden: BTreeMap<&'static str, (Instant, Duration)>,
    in_force: BTreeSet<(ObjectRef, i64)>,
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
            tiers: Mirror::default(),
            defaults: Mirror::default(),
            judged: BTreeMap::new(),
            standings: BTreeMap::new(),
            pace: Pace::default(),
            nodes: Mirror::default(),
            reports: Mirror::default(),
            silent_after,
            changed: false,
            compute_at: now,
            sum_up_at: now,
            held: BTreeMap::new(),
            quiet_until: now,
            forbidden: BTreeMap::new(),
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
                self.policies.take(event, |policy, _| (key(&policy), Version::of(&policy)));
            }
            Fact::Tier(event) => {
                self.changed = true;
                self.tiers.take(*event, |policy, _| (key(&policy), Version::of(&policy)));
            }
            Fact::Default(event) => {
                self.changed = true;
                self.defaults.take(*event, |policy, _| {
                    let version = Version::of(&policy);
                    let status = policy.data.get("status").cloned().unwrap_or_default();
                    (key(&policy), Defaulting { version, status })
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
            self.judged = judged(&self.world, &self.analyst, &findings);
            let mut tellings = BTreeSet::new();
            for (policy, findings) in findings {
                let Some(version) = self.version(&policy) else { continue };
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
        self.metrics.leading.set(i64::from(leads));
        if now < self.sum_up_at {
            return;
        }
        let began = Instant::now();
        self.sum_up_reports(now, leads);
        // What all nodes say of all policies is a lot to look at twice a second.
        self.sum_up_at = now + began.elapsed() * SHARE;
    }

    fn sum_up_reports(&mut self, now: Instant, leads: bool) {
        let (nodes, reports) = (self.nodes.get(), self.reports.get());
        let of_nodes = || reports.iter().filter(|(name, _)| nodes.contains_key(*name));
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        let enforcing = of_nodes().filter(|(_, known)| known.enforcing && speaks(known)).count();
        let silent = of_nodes().filter(|(_, known)| !speaks(known)).count();
        let unreported = nodes.len() - of_nodes().count();
        let generation =
            |policy: &ObjectRef| self.version(policy).map(|version| version.generation);
        let rollups = reports::rollups(reports.values(), generation);
        let behind = rollups.values().filter(|(_, rollup)| !rollup.is_complete()).count();
        let metrics = &self.metrics;
        metrics.nodes.set(count(nodes.len()));
        metrics.nodes_enforcing.set(count(enforcing));
        metrics.nodes_silent.set(count(silent));
        metrics.nodes_unreported.set(count(unreported));
        let complete = rollups.into_iter().filter(|(_, (_, rollup))| rollup.is_complete());
        let complete =
            complete.map(|(policy, (generation, rollup))| ((policy, generation), rollup.concerned));
        let mut in_force: BTreeMap<(ObjectRef, i64), usize> = complete.collect();
        let behind = behind + self.sum_up_cluster(now, &mut in_force);
        self.metrics.policies_behind.set(count(behind));
        for ((policy, generation), nodes) in in_force.iter().filter(|_| leads) {
            if !self.in_force.contains(&(policy.clone(), *generation)) {
                let policy = policy.short();
                info!(policy, generation, nodes, "in force on all nodes that report it");
            }
        }
        self.in_force = in_force.into_keys().collect();
        let is_known = self.nodes.is_synced() && self.reports.is_synced();
        if leads && is_known && unreported != self.unreported {
            info!(nodes = unreported, "nodes without a report");
            self.unreported = unreported;
        }
    }

    /// Sums up the reports on policies of the cluster: what their status is to say, and which
    /// generations are in force on how many nodes. How many are behind.
    fn sum_up_cluster(
        &mut self,
        now: Instant,
        in_force: &mut BTreeMap<(ObjectRef, i64), usize>,
    ) -> usize {
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        let (nodes, reports) = (self.nodes.get(), self.reports.get());
        let (mut standings, mut behind) = (BTreeMap::new(), 0);
        let mut stages: BTreeMap<Staged, i64> = Staged::all().map(|staged| (staged, 0)).collect();
        for (policy, judged) in &self.judged {
            let concerned = judged.coverage.nodes.iter();
            let concerned = concerned.filter(|node| nodes.contains_key(&***node));
            let progress = Progress::of(policy, judged.generation, concerned, reports, speaks);
            let stage = progress.stage(judged.mode);
            behind += usize::from(matches!(stage, Stage::Waiting | Stage::Unknown));
            if let Some(number) = stages.get_mut(&Staged::new(policy, stage)) {
                *number += 1;
            }
            if progress.is_complete() {
                in_force.insert((policy.clone(), judged.generation), progress.concerned);
            }
            if policy.kind == Kind::ClusterDefaultNetworkPolicy {
                standings.insert(policy.name.to_string(), Standing::new(judged, &progress));
            }
        }
        for (staged, number) in stages {
            self.metrics.cluster_policies.get_or_create(&staged).set(number);
        }
        self.standings = standings;
        behind
    }

    /// The next write that is due.
    pub fn next(&mut self, now: Instant) -> Option<Write> {
        if now < self.quiet_until {
            return None;
        }
        let may =
            |state: &Self, kind| state.forbidden.get(kind).is_none_or(|(until, _)| *until <= now);
        let report = may(self, Write::REPORT).then(|| self.next_report(now)).flatten();
        let standing = || may(self, Write::STANDING).then(|| self.next_standing(now)).flatten();
        report.or_else(standing).or_else(|| {
            let may_tell = self.is_synced() && may(self, Write::EVENT);
            may_tell.then(|| self.ledger.next(now)).flatten().map(Write::Event)
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

    fn next_standing(&mut self, now: Instant) -> Option<Write> {
        if !self.is_synced() || !self.nodes.is_synced() || !self.reports.is_synced() {
            return None;
        }
        let (defaults, pace) = (self.defaults.get(), &mut self.pace);
        pace.retain(|name| defaults.contains_key(name));
        let period = pace::detail_period(defaults.len(), self.nodes.get().len());
        let mut due = defaults.iter().filter_map(|(name, Defaulting { version, status })| {
            // Two watches tell of one object: both are to know the same generation of it.
            let standing = self.standings.get(name);
            let standing = standing.filter(|found| found.generation == version.generation)?;
            pace.is_due(name, standing.differs_from(status), period, now).then(|| NewStanding {
                name: name.clone(),
                uid: version.uid.clone(),
                standing: standing.clone(),
                before: status.clone(),
            })
        });
        due.next().map(|new| Write::Standing(Box::new(new)))
    }

    fn version(&self, policy: &ObjectRef) -> Option<&Version> {
        let ObjectRef { kind, namespace, name } = policy;
        match kind {
            Kind::NetworkPolicy => self.policies.get().get(&format!("{namespace}/{name}")),
            Kind::ClusterNetworkPolicy => self.tiers.get().get(&**name),
            Kind::ClusterDefaultNetworkPolicy => {
                self.defaults.get().get(&**name).map(|found| &found.version)
            }
            _ => None,
        }
    }

    /// Lets a kind of writes rest that is forbidden; gives until when.
    fn rest(&mut self, what: &'static str, why: &str, now: Instant) -> Instant {
        let pause = match self.forbidden.get(what) {
            // Two were under way at once.
            Some((until, _)) if now < *until => return *until,
            Some((_, pause)) => (*pause * 2).min(FORBIDDEN_LONGEST),
            None => FORBIDDEN_FIRST,
        };
        warn!(what, why, retry_in_s = pause.as_secs(), "forbidden to write; apply deploy/ again");
        self.forbidden.insert(what, (now + pause, pause));
        now + pause
    }

    /// Takes in what became of a write.
    pub fn done(&mut self, write: &Write, outcome: Outcome, now: Instant) {
        let retry = match outcome {
            Outcome::Written => {
                self.forbidden.remove(write.kind());
                match write {
                    Write::Event(telling) => {
                        let reason = telling.finding.reason.as_str();
                        self.metrics.events.inc();
                        info!(policy = telling.policy.short(), reason, "wrote an Event");
                    }
                    Write::Report(..) => info!(?write, "tidied a report"),
                    Write::Standing(new) => {
                        self.metrics.statuses.inc();
                        debug!(policy = new.name, "wrote a status");
                    }
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
            (Write::Event(telling), None) => self.ledger.told(telling, now),
            (Write::Event(telling), Some(retry)) => self.ledger.failed(telling, retry),
            // What was written comes back by the watch.
            (Write::Report(name, _), retry) => {
                let until = retry.unwrap_or(now + Duration::from_secs(2));
                self.held.insert(name.clone(), Some(until));
            }
            (Write::Standing(new), retry) => {
                self.pace.done(&new.name, now, retry.unwrap_or(now + pace::PERIOD_MIN));
            }
        }
    }
}

impl Version {
    fn of(object: &impl kube::ResourceExt) -> Self {
        let generation = object.meta().generation.unwrap_or_default();
        Self { uid: object.uid().unwrap_or_default(), generation }
    }
}

/// What is known of the policies of the cluster.
fn judged(world: &World, analyst: &Analyst, findings: &Findings) -> BTreeMap<ObjectRef, Judged> {
    let judge = |(name, coverage): (&ObjectRef, &Coverage)| {
        let policy = world.policy(name)?;
        let found = findings.get(name).into_iter().flatten();
        let failed = found.filter(|finding| finding.reason == Reason::FailedClosed);
        let judged = Judged {
            generation: policy.generation.unwrap_or_default(),
            mode: policy.mode,
            coverage: coverage.clone(),
            failed: failed.cloned().collect(),
        };
        Some((name.clone(), judged))
    };
    analyst.coverage().iter().filter_map(judge).collect()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
