//! What the agent logs and reports: its rounds, and its diagnostics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use policy_engine::model::Life;
use portcullis_crds::convert::frontend::missing_api_server;
use portcullis_crds::diagnostic::{Diagnostic, Severity};
use portcullis_crds::path::FieldPath;
use tracing::{debug, error, info, warn};

use super::{Agent, State};
use crate::dataplane::ApplyReport;
use crate::dataplane::examine::Examination;
use crate::node::budgets;
use crate::node::conflicts::diagnostics;
use crate::node::contests;
use crate::node::node_name::Standing;
use crate::node::refused;
use crate::node::status::{Findings, LISTED_MAX, Round, node_finding};

impl Agent {
    /// Publishes an examination of the node, and sets the pods that the next one checks.
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

    pub(super) fn log_applied(&mut self, report: &ApplyReport) {
        let is_slice = self.engine.is_filling() && report.chains_changed == 0;
        if report.members_waiting > 0 || is_slice {
            let (members_waiting, apply_us) = (report.members_waiting, micros(report.total));
            debug!(members_waiting, apply_us, "members join sets in the next rounds");
            return;
        }
        let latency = self.oldest.take().map(|received| received.elapsed());
        let selection = self.engine.take_selection();
        let compiled = self.engine.compiled();
        // Before the log line, so that a program that waits for the line finds this state.
        self.publisher.enforced(Round {
            selection,
            rulesets: compiled.rulesets.len(),
            sets: compiled.sets.len(),
            hashes: self.engine.hashes(),
            // Not all Nodes need be known, but each has pods.
            nodes: u32::try_from(self.engine.world().pods_by_node().len()).unwrap_or(u32::MAX),
            apply: report.total,
            latency,
        });
        info!(
            policies = self.engine.world().policies().count(),
            endpoints = compiled.endpoints.len(),
            rulesets = compiled.rulesets.len(),
            sets = compiled.sets.len(),
            chains_changed = report.chains_changed,
            sets_created = report.sets_created,
            members_changed = report.members_changed,
            pods_waiting = self.engine.waiting(),
            rulesets_refused = self.dataplane.denied().len(),
            apply_us = micros(report.total),
            since_us = latency.map(micros),
            "policies are enforced"
        );
    }

    /// Replaces the diagnostics of an origin, and logs those that are new.
    pub(super) fn report(&mut self, origin: Arc<str>, diagnostics: Vec<Diagnostic>) {
        let diagnostics = limited(diagnostics);
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

    /// Reports addresses that pods of two nodes claim, after a change that affected one of them.
    pub(super) fn report_contests(&mut self) {
        if self.state == State::Loading {
            return; // Not all pods are known yet.
        }
        if let Some((first, all)) = self.engine.take_contests(LISTED_MAX) {
            self.report("addresses".into(), contests::diagnostics(&first, all));
        }
    }

    /// Reports pods whose rules exceed a budget, after a flush that changed which pods these are.
    pub(super) fn report_budgets(&mut self) {
        if self.state == State::Loading {
            return; // Nothing was compiled yet.
        }
        if let Some(refused) = self.engine.take_refused() {
            let (pods, diagnostics) = (budgets::pods(&refused), budgets::diagnostics(&refused));
            self.publisher.over_budget(pods);
            self.report(BUDGETS.into(), diagnostics);
        }
    }

    /// Reports policies that allow the API server while no address of it is known.
    pub(super) fn report_api_server(&mut self) {
        if self.state == State::Loading {
            return; // Not all objects are known yet.
        }
        let missing = missing_api_server(self.engine.world());
        self.report("addresses of the API server".into(), missing);
    }

    /// Reports pods whose rules the tools or the kernel refused, after these pods changed.
    pub(super) fn report_refused(&mut self) {
        let denied = refused::pods(self.engine.compiled(), self.dataplane.denied());
        if denied == self.refused {
            return;
        }
        let pods: BTreeSet<_> = denied.iter().map(|denied| &denied.pod).collect();
        self.publisher.refused(pods.len(), refused::in_one_line(&denied));
        self.report("refused".into(), refused::diagnostics(&self.engine, &denied));
        self.refused = denied;
    }

    /// Reports whether the node of the agent exists.
    pub(super) fn report_node_name(&mut self) {
        let Some(node_name) = self.node_name.as_ref().filter(|_| self.state != State::Loading)
        else {
            return; // Not all Nodes are known yet.
        };
        let standing = node_name.standing(self.engine.world());
        let (unknown, found) = match standing {
            Standing::Plausible => (None, None),
            Standing::Doubtful(why) => (None, Some(node_finding(Severity::Warning, why))),
            Standing::Unknown(why) => {
                (Some(Arc::from(&*why)), Some(node_finding(Severity::Error, why)))
            }
        };
        self.publisher.node_unknown(unknown);
        self.report("node name".into(), found.into_iter().collect());
    }

    pub(super) fn publish_diagnostics(&mut self) {
        if std::mem::take(&mut self.diagnostics_changed) {
            let others = self.diagnostics.iter().filter(|(origin, _)| &***origin != BUDGETS);
            let over_budget = self.diagnostics.get(BUDGETS).map(Vec::as_slice).unwrap_or_default();
            let others = others.flat_map(|(_, diagnostics)| diagnostics);
            self.publisher.found(Findings::of(others, over_budget));
        }
    }
}

/// The origin of diagnostics about policies that exceed a budget.
const BUDGETS: &str = "budgets";

/// The most diagnostics of one object that are kept and logged; it can have tens of thousands.
const PER_OBJECT_MAX: usize = 16;

/// The first diagnostics of each object, errors first, and one that counts the rest.
fn limited(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if diagnostics.len() <= PER_OBJECT_MAX {
        return diagnostics;
    }
    diagnostics.sort_by(|a, b| (&a.about, a.severity).cmp(&(&b.about, b.severity)));
    let objects = diagnostics.chunk_by(|a, b| a.about == b.about);
    let limited = objects.flat_map(|of_object| {
        let (first, rest) = of_object.split_at(of_object.len().min(PER_OBJECT_MAX));
        let more = rest.first().map(|found| Diagnostic {
            source: None,
            field: FieldPath::default(),
            message: format!("{} more problems; `kubectl whatif lint` prints all", rest.len()),
            ..found.clone()
        });
        first.iter().cloned().chain(more)
    });
    limited.collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use portcullis_crds::diagnostic::About;

    use super::*;

    #[test]
    fn of_many_diagnostics_of_one_object_the_errors_come_first_and_the_rest_is_counted() {
        let found = |name: &str, severity, number: usize| Diagnostic {
            severity,
            source: None,
            about: About::Other(name.to_owned()),
            field: FieldPath::default(),
            message: number.to_string(),
        };
        let many = (0..10_000).map(|n| found("b", Severity::Warning, n));
        let others = [found("b", Severity::Error, 7), found("a", Severity::Warning, 8)];
        let kept = limited(many.chain(others).collect());
        assert_eq!(kept.len(), 1 + PER_OBJECT_MAX + 1, "a, the first of b, and one for the rest");
        let shown: Vec<String> = kept.iter().map(ToString::to_string).collect();
        assert_eq!(shown[..3], ["warning: a: 8", "error: b: 7", "warning: b: 0"]);
        let last = "warning: b: 9985 more problems; `kubectl whatif lint` prints all";
        assert_eq!(shown[PER_OBJECT_MAX + 1], last);
        let few = vec![found("b", Severity::Warning, 1)];
        assert_eq!(limited(few.clone()), few);
    }
}
