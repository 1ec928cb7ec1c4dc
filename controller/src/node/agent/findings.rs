//! What the agent says of what it did, and of what is wrong.

use std::sync::Arc;

use policy_engine::model::Life;
use portcullis_crds::diagnostic::{Diagnostic, Severity};
use tracing::{error, info, warn};

use super::{Agent, State, micros};
use crate::dataplane::ApplyReport;
use crate::dataplane::examine::Examination;
use crate::node::budgets;
use crate::node::conflicts::diagnostics;
use crate::node::contests;
use crate::node::status::{Findings, Round};

impl Agent {
    /// Publishes what was found on the node, and says which pods to look for next.
    pub(super) fn examined(&mut self, found: Examination) {
        self.publisher.examined(&found);
        self.report("conflicts".into(), diagnostics(&found));
        let pods = self.engine.world().pods();
        let is_active = |pod| pods.get(pod).is_some_and(|pod| pod.life == Life::Active);
        let endpoints = self.engine.compiled().endpoints.iter();
        let isolated = endpoints.filter(|(_, endpoint)| is_active(&endpoint.pod));
        let isolated = isolated.map(|(address, _)| *address).collect();
        if let Some(examinations) = &mut self.examinations {
            examinations.set_pods(isolated);
            examinations.log(found);
        }
    }

    pub(super) fn log_in_force(&mut self, report: &ApplyReport) {
        let latency = self.oldest.take().map(|received| received.elapsed());
        let selection = self.engine.take_selection();
        let compiled = self.engine.compiled();
        info!(
            policies = self.engine.world().policies().count(),
            endpoints = compiled.endpoints.len(),
            rulesets = compiled.rulesets.len(),
            sets = compiled.sets.len(),
            chains_changed = report.chains_changed,
            sets_created = report.sets_created,
            members_changed = report.members_changed,
            apply_us = micros(report.total),
            since_us = latency.map(micros),
            "policies are in force"
        );
        self.publisher.in_force(Round {
            selection,
            rulesets: compiled.rulesets.len(),
            sets: compiled.sets.len(),
            apply: report.total,
            latency,
        });
    }

    /// Logs what an origin says now and did not say before.
    pub(super) fn report(&mut self, origin: Arc<str>, diagnostics: Vec<Diagnostic>) {
        let before = self.diagnostics.remove(&origin).unwrap_or_default();
        self.diagnostics_changed |= before != diagnostics;
        for diagnostic in diagnostics.iter().filter(|found| !before.contains(found)) {
            match diagnostic.severity {
                Severity::Error => error!("{diagnostic}"),
                Severity::Warning => warn!("{diagnostic}"),
            }
        }
        if !diagnostics.is_empty() {
            self.diagnostics.insert(origin, diagnostics);
        }
    }

    /// Reports addresses that pods of two nodes claim, when a change affected one.
    pub(super) fn report_contests(&mut self) {
        if self.state == State::Loading {
            return; // The pods are not all known.
        }
        if let Some((first, all)) = self.engine.take_contests(contests::SHOWN_MAX) {
            self.report("addresses".into(), contests::diagnostics(&first, all));
        }
    }

    /// Reports pods whose rules exceed a budget, when a flush changed which ones these are.
    pub(super) fn report_budgets(&mut self) {
        if self.state == State::Loading {
            return; // Nothing was compiled.
        }
        if let Some(refused) = self.engine.take_refused() {
            let (pods, diagnostics) = (budgets::pods(&refused), budgets::diagnostics(&refused));
            self.publisher.over_budget(pods);
            self.report("budgets".into(), diagnostics);
        }
    }

    pub(super) fn publish_diagnostics(&mut self) {
        if std::mem::take(&mut self.diagnostics_changed) {
            self.publisher.found(Findings::of(self.diagnostics.values().flatten()));
        }
    }
}
