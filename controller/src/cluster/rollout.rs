//! The reports of all nodes, summed up: metrics and log lines on how far policies are enforced, and
//! the status of each ClusterDefaultNetworkPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use policy_engine::labels::Str;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use tokio::time::Instant;
use tracing::info;

use super::SHARE;
use super::analysis::Analysis;
use super::applied::{Applied, Complete};
use super::events::ledger::ObjectFinding;
use super::metrics::{Metrics, Staged, count};
use super::node_events;
use super::progress::{Progress, Stage};
use super::report_watch::Reported;
use super::reports::{Action, Known, Reports};
use super::standing::Standing;

/// The reports of the nodes, and what follows from them.
pub struct Rollout {
    pub(super) reports: Reports,
    /// An agent that did not write for this long is silent.
    silent_after: Duration,
    /// The status that each ClusterDefaultNetworkPolicy is to have.
    pub(super) standings: BTreeMap<ObjectRef, Standing>,
    /// The reports are not summed up again before this moment.
    sum_up_at: Instant,
    applied: Applied,
    unreported: usize,
    metrics: Metrics,
}

impl Rollout {
    /// A roll-out without reports.
    #[must_use]
    pub fn new(silent_after: Duration, metrics: Metrics, now: Instant) -> Self {
        Self {
            reports: Reports::default(),
            silent_after,
            standings: BTreeMap::new(),
            sum_up_at: now,
            applied: Applied::default(),
            unreported: 0,
            metrics,
        }
    }

    /// Applies a batch of events of the watch of reports.
    pub fn take(&mut self, events: Reported, now: Instant) {
        events.into_iter().for_each(|event| self.reports.take(event, now));
    }

    /// Whether all nodes and reports are known.
    #[must_use]
    pub fn is_synced(&self, analysis: &Analysis) -> bool {
        analysis.is_synced() && self.reports.synced
    }

    /// Sums up the reports. Every replica sets the metrics; only the leader writes log lines.
    pub fn sum_up(&mut self, analysis: &Analysis, now: Instant, leads: bool) {
        self.metrics.leading.set(i64::from(leads));
        if now < self.sum_up_at {
            return;
        }
        let began = Instant::now();
        let unreported = self.sum_up_nodes(analysis, now);
        let mut complete = Vec::new();
        let behind = self.sum_up_namespaces(analysis, now, &mut complete)
            + self.sum_up_cluster(analysis, now, &mut complete);
        self.metrics.policies_behind.set(count(behind));
        if self.is_synced(analysis) {
            for (policy, revision, nodes) in self.applied.update(complete, analysis, now) {
                let (policy, generation) = (policy.short(), revision.generation);
                if leads {
                    info!(
                        policy,
                        generation, nodes, "applied on all nodes with pods that it selects"
                    );
                }
            }
        }
        if leads && self.is_synced(analysis) && unreported != self.unreported {
            info!(nodes = unreported, "nodes without a report");
            self.unreported = unreported;
        }
        // All nodes report all policies: that is too much to sum up twice a second.
        self.sum_up_at = now + began.elapsed() * SHARE;
    }

    /// Counts the nodes. Returns how many have no report.
    fn sum_up_nodes(&self, analysis: &Analysis, now: Instant) -> usize {
        let metrics = &self.metrics;
        let (nodes, reports) = (analysis.nodes(), self.reports.get());
        let of_nodes = || reports.iter().filter(|(name, _)| nodes.contains_key(name.as_str()));
        let still_reports = |known: &Known| known.still_reports(now, self.silent_after);
        let enforcing =
            of_nodes().filter(|(_, known)| known.enforcing && still_reports(known)).count();
        let silent = of_nodes().filter(|(_, known)| !still_reports(known)).count();
        let unreported = nodes.len() - of_nodes().count();
        metrics.nodes.set(count(nodes.len()));
        metrics.nodes_enforcing.set(count(enforcing));
        metrics.nodes_silent.set(count(silent));
        metrics.nodes_unreported.set(count(unreported));
        unreported
    }

    /// Sums up the reports on policies in namespaces. Returns how many policies are behind.
    fn sum_up_namespaces(
        &self,
        analysis: &Analysis,
        now: Instant,
        complete: &mut Complete,
    ) -> usize {
        let mut behind = 0;
        for (policy, concerned) in analysis.concerned() {
            let Some(revision) = analysis.revision(policy) else { continue };
            let progress = self.progress((policy, revision), concerned, analysis, now, complete);
            behind += usize::from(progress.concerned > progress.realised);
        }
        behind
    }

    /// How far one policy is enforced on the nodes in `concerned` that exist. Adds it to `complete`
    /// if all of them have applied it.
    fn progress(
        &self,
        (policy, revision): (&ObjectRef, &Revision),
        concerned: &BTreeSet<Str>,
        analysis: &Analysis,
        now: Instant,
        complete: &mut Complete,
    ) -> Progress {
        let still_reports = |known: &Known| known.still_reports(now, self.silent_after);
        let concerned = concerned.iter().filter(|node| analysis.nodes().contains_key(*node));
        let reports = self.reports.get();
        let progress = Progress::of(policy, revision, concerned, reports, still_reports);
        if progress.is_complete() {
            complete.push((policy.clone(), revision.clone(), progress.concerned));
        }
        progress
    }

    /// Sums up the reports on policies of the cluster: their status, and on how many nodes their
    /// generations are enforced. Returns how many policies are behind.
    fn sum_up_cluster(
        &mut self,
        analysis: &Analysis,
        now: Instant,
        complete: &mut Complete,
    ) -> usize {
        let (mut standings, mut behind) = (BTreeMap::new(), 0);
        let mut stages: BTreeMap<Staged, i64> = Staged::all().map(|staged| (staged, 0)).collect();
        for (policy, judged) in &analysis.judged {
            let (of, concerned) = ((policy, &judged.revision), &judged.coverage.nodes);
            let progress = self.progress(of, concerned, analysis, now, complete);
            let stage = progress.stage(judged.mode);
            behind += usize::from(matches!(stage, Stage::Waiting | Stage::Unknown));
            if let Some(number) = stages.get_mut(&Staged::new(policy.kind, stage)) {
                *number += 1;
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

    /// The findings for Events on policies that all nodes have applied.
    #[must_use]
    pub fn applied(&self, now: Instant) -> BTreeSet<ObjectFinding> {
        self.applied.findings(now)
    }

    /// The findings for Events on Nodes.
    #[must_use]
    pub fn node_findings(&self, analysis: &Analysis, now: Instant) -> BTreeSet<ObjectFinding> {
        let still_reports = |known: &Known| known.still_reports(now, self.silent_after);
        node_events::findings(analysis.nodes(), self.reports.get(), still_reports)
    }

    /// The next report that needs a write, and the write, among the reports that are `free`.
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
