//! How far policies are enforced, from what the nodes report. Pure.

use std::collections::BTreeMap;

use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use policy_engine::tier::Mode;
use policy_engine::words::few;
use prometheus_client::encoding::EncodeLabelValue;

use super::reports::Known;

/// How many nodes a message names.
const NAMES_MAX: usize = 3;

/// How far one generation of a policy is enforced.
///
/// A policy concerns every node with a pod that the policy selects.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// How many nodes are concerned.
    pub concerned: usize,
    /// How many of these nodes report that they have applied the generation, and still write.
    pub realised: usize,
    /// Nodes that still write, and have not applied the generation.
    pub behind: Vec<Str>,
    /// Nodes that report that they do not enforce.
    pub failing: Vec<Str>,
    /// Nodes without a report: perhaps no agent runs there.
    pub unreported: Vec<Str>,
    /// Nodes whose agent has stopped to write.
    pub silent: Vec<Str>,
}

/// How far a policy of the cluster is enforced, in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EncodeLabelValue)]
pub enum Stage {
    /// Every node that the policy concerns enforces it.
    Applied,
    /// A node has not applied the policy yet.
    Waiting,
    /// The agent of a node does not report any more.
    Unknown,
    /// The policy is in audit: no node enforces it.
    Audit,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 4] = [Self::Applied, Self::Waiting, Self::Unknown, Self::Audit];
}

impl Progress {
    /// How far a policy is enforced on `nodes`. `still_reports`: whether a report is still written.
    #[must_use]
    pub fn of<'n>(
        policy: &ObjectRef,
        revision: &Revision,
        nodes: impl Iterator<Item = &'n Str>,
        reports: &BTreeMap<String, Known>,
        still_reports: impl Fn(&Known) -> bool,
    ) -> Self {
        let mut progress = Self::default();
        for node in nodes {
            progress.concerned += 1;
            let report = reports.get(&**node);
            match report {
                Some(report) if !still_reports(report) => progress.silent.push(node.clone()),
                // It may have applied the generation, but not for pods that were created since.
                Some(report) if !report.enforcing => progress.failing.push(node.clone()),
                Some(report) if report.has(policy, revision) => progress.realised += 1,
                Some(_) => progress.behind.push(node.clone()),
                None => progress.unreported.push(node.clone()),
            }
        }
        progress
    }

    /// The stage of a policy of this mode.
    #[must_use]
    pub fn stage(&self, mode: Mode) -> Stage {
        match mode {
            Mode::Audit => Stage::Audit,
            Mode::Enforce if self.waits() => Stage::Waiting,
            Mode::Enforce if !self.silent.is_empty() => Stage::Unknown,
            Mode::Enforce => Stage::Applied,
        }
    }

    fn waits(&self) -> bool {
        [&self.behind, &self.failing, &self.unreported].into_iter().any(|nodes| !nodes.is_empty())
    }

    /// Whether the policy concerns a node, and each such node has applied it, enforced or in audit.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.concerned > 0 && self.concerned == self.realised
    }

    /// How many nodes have applied the policy, which have not, and why: a message for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let missing = [
            ("waiting for", &self.behind, ""),
            ("failing on", &self.failing, ", see its NodePolicyReport"),
            ("no report of", &self.unreported, ", see whether an agent runs there"),
            ("no word from", &self.silent, ", see its agent"),
        ];
        let missing = missing.into_iter().filter(|(_, nodes, _)| !nodes.is_empty());
        let missing = missing.map(|(what, nodes, advice)| {
            format!("; {what} {}{advice}", few(nodes.iter(), NAMES_MAX))
        });
        format!("{} of {} nodes{}", self.realised, self.concerned, missing.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use policy_engine::object::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn report(policies: &Value, enforcing: &str) -> Known {
        let report = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
            "metadata": {"name": "n"}, "spec": {"nodeName": "n"},
            "status": {
                "policies": policies,
                "conditions": [{"type": "Enforcing", "status": enforcing, "reason": "R",
                    "message": "", "lastTransitionTime": "1970-01-01T00:00:00Z"}],
            },
        });
        let report = serde_json::from_value(report).expect("a report");
        Known::new(report, None, tokio::time::Instant::now())
    }

    #[test]
    fn a_node_has_a_policy_enforced_when_its_agent_still_writes_that_it_has_the_generation() {
        let reported = |uid: &str, generation: i64, enforcing: &str| {
            let kind = "ClusterDefaultNetworkPolicy";
            let policy =
                json!({"kind": kind, "name": "deny", "uid": uid, "observedGeneration": generation});
            report(&json!([policy]), enforcing)
        };
        let report = |generation, enforcing| reported("u", generation, enforcing);
        let reports: BTreeMap<String, Known> = [
            ("has", report(2, "True")),
            ("of an earlier object", reported("v", 2, "True")),
            ("older", report(1, "True")),
            ("fails", report(2, "False")),
            ("silent", report(9, "True")),
        ]
        .into_iter()
        .map(|(name, report)| (name.to_owned(), report))
        .collect();
        let nodes: Vec<Str> = ["has", "of an earlier object", "older", "fails", "silent", "none"]
            .map(Str::from)
            .into();
        let still_reports = |known: &Known| !known.has(&policy("deny"), &revision(9));
        let of =
            |name| Progress::of(&policy(name), &revision(2), nodes.iter(), &reports, still_reports);
        let (failing, unreported) = (vec!["fails".into()], vec!["none".into()]);
        let behind = ["of an earlier object", "older"].map(Str::from).into();
        let (concerned, realised, silent) = (6, 1, vec!["silent".into()]);
        let expected = Progress { concerned, realised, behind, failing, unreported, silent };
        assert_eq!(of("deny"), expected);
        assert_eq!(of("other").realised, 0, "no node reports it");
    }

    fn revision(generation: i64) -> Revision {
        Revision { uid: Some("u".into()), generation: Some(generation) }
    }

    fn policy(name: &str) -> ObjectRef {
        ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, name)
    }
}
