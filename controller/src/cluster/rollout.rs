//! The reports of all nodes, summed up: metrics and log lines on how far policies are enforced, and what
//! the status of each ClusterDefaultNetworkPolicy is to say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use policy_engine::object::{Kind, ObjectRef};
use tokio::time::Instant;
use tracing::info;

use super::SHARE;
use super::analysis::Analysis;
use super::events::ledger::ObjectFinding;
use super::metrics::{Metrics, Staged, count};
use super::node_events;
use super::progress::{Progress, Stage, of_reported};
use super::report_watch::Reported;
use super::reports::{Action, Known, Reports};
use super::standing::Standing;

/// One generation of a policy.
type Generation = (ObjectRef, i64);

/// What the nodes report.
pub struct Rollout {
    pub(super) reports: Reports,
    /// An agent that did not write for so long is silent.
    silent_after: Duration,
    /// What the status of each ClusterDefaultNetworkPolicy is to say.
    pub(super) standings: BTreeMap<ObjectRef, Standing>,
    /// Reports may be summed up from this moment on.
    sum_up_at: Instant,
    /// Logged already.
    enforced: BTreeSet<Generation>,
    unreported: usize,
    metrics: Metrics,
}

impl Rollout {
    /// No report is known.
    #[must_use]
    pub fn new(silent_after: Duration, metrics: Metrics, now: Instant) -> Self {
        Self {
            reports: Reports::default(),
            silent_after,
            standings: BTreeMap::new(),
            sum_up_at: now,
            enforced: BTreeSet::new(),
            unreported: 0,
            metrics,
        }
    }

    /// Takes in what the watch of reports sent.
    pub fn take(&mut self, events: Reported, now: Instant) {
        events.into_iter().for_each(|event| self.reports.take(event, now));
    }

    /// Whether all nodes and reports are known.
    #[must_use]
    pub fn is_synced(&self, analysis: &Analysis) -> bool {
        analysis.is_synced() && self.reports.synced
    }

    /// Sums up the reports: metrics for everybody, log lines for the leader.
    pub fn sum_up(&mut self, analysis: &Analysis, now: Instant, leads: bool) {
        self.metrics.leading.set(i64::from(leads));
        if now < self.sum_up_at {
            return;
        }
        let began = Instant::now();
        let unreported = self.sum_up_nodes(analysis, now);
        let revisions = |policy: &ObjectRef| analysis.revision(policy);
        let reported = of_reported(self.reports.get().values(), revisions);
        let mut behind = reported.values().filter(|(_, progress)| !progress.is_complete()).count();
        let complete = reported.into_iter().filter(|(_, (_, progress))| progress.is_complete());
        let mut enforced: BTreeMap<Generation, usize> = complete
            .map(|(policy, (generation, progress))| ((policy, generation), progress.concerned))
            .collect();
        behind += self.sum_up_cluster(analysis, now, &mut enforced);
        self.metrics.policies_behind.set(count(behind));
        if leads {
            let is_news = |policy: &Generation| !self.enforced.contains(policy);
            for ((policy, generation), nodes) in enforced.iter().filter(|(p, _)| is_news(p)) {
                let policy = policy.short();
                info!(policy, generation, nodes, "applied on all nodes that report it");
            }
        }
        self.enforced = enforced.into_keys().collect();
        if leads && self.is_synced(analysis) && unreported != self.unreported {
            info!(nodes = unreported, "nodes without a report");
            self.unreported = unreported;
        }
        // What all nodes say of all policies is a lot to look at twice a second.
        self.sum_up_at = now + began.elapsed() * SHARE;
    }

    /// Counts the nodes; how many have no report.
    fn sum_up_nodes(&self, analysis: &Analysis, now: Instant) -> usize {
        let metrics = &self.metrics;
        let (nodes, reports) = (analysis.nodes(), self.reports.get());
        let of_nodes = || reports.iter().filter(|(name, _)| nodes.contains_key(name.as_str()));
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        let enforcing = of_nodes().filter(|(_, known)| known.enforcing && speaks(known)).count();
        let silent = of_nodes().filter(|(_, known)| !speaks(known)).count();
        let unreported = nodes.len() - of_nodes().count();
        metrics.nodes.set(count(nodes.len()));
        metrics.nodes_enforcing.set(count(enforcing));
        metrics.nodes_silent.set(count(silent));
        metrics.nodes_unreported.set(count(unreported));
        unreported
    }

    /// Sums up the reports on policies of the cluster: what their status is to say, and which
    /// generations are enforced on how many nodes. How many are behind.
    fn sum_up_cluster(
        &mut self,
        analysis: &Analysis,
        now: Instant,
        enforced: &mut BTreeMap<Generation, usize>,
    ) -> usize {
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        let (nodes, reports) = (analysis.nodes(), self.reports.get());
        let (mut standings, mut behind) = (BTreeMap::new(), 0);
        let mut stages: BTreeMap<Staged, i64> = Staged::all().map(|staged| (staged, 0)).collect();
        for (policy, judged) in &analysis.judged {
            let concerned = judged.coverage.nodes.iter();
            let concerned = concerned.filter(|node| nodes.contains_key(*node));
            let progress = Progress::of(policy, &judged.revision, concerned, reports, speaks);
            let stage = progress.stage(judged.mode);
            behind += usize::from(matches!(stage, Stage::Waiting | Stage::Unknown));
            if let Some(number) = stages.get_mut(&Staged::new(policy.kind, stage)) {
                *number += 1;
            }
            if progress.is_complete() {
                let generation = judged.revision.generation.unwrap_or_default();
                enforced.insert((policy.clone(), generation), progress.concerned);
            }
            if policy.kind == Kind::ClusterDefaultNetworkPolicy {
                standings.insert(policy.clone(), Standing::new(judged, &progress));
            }
        }
        for (staged, number) in stages {
            self.metrics.cluster_policies.get_or_create(&staged).set(number);
        }
        self.standings = standings;
        behind
    }

    /// What Events report of Nodes.
    #[must_use]
    pub fn node_findings(&self, analysis: &Analysis, now: Instant) -> BTreeSet<ObjectFinding> {
        let speaks = |known: &Known| known.speaks(now, self.silent_after);
        node_events::findings(analysis.nodes(), self.reports.get(), speaks)
    }

    /// A report about which something is to be done, among those that are `free` for it.
    pub fn due(
        &mut self,
        analysis: &Analysis,
        now: Instant,
        free: impl Fn(&str) -> bool,
    ) -> Option<(String, Action)> {
        let patience = self.silent_after;
        let mut reports = self.reports.get_mut().iter_mut().filter(|(name, _)| free(name));
        reports.find_map(|(name, known)| {
            let node = analysis.nodes().get(name.as_str());
            Some((name.clone(), known.judge(node.map(|uid| &**uid), now, patience)?))
        })
    }
}
