//! The status of a ClusterDefaultNetworkPolicy, from its findings and its roll-out. Pure.
//!
//! ```text
//! Judged (pods that it selects, what failed closed) ─┐
//!                                                    ├─► Standing ─► patch, when it differs
//! Progress (of the roll-out) ────────────────────────┘
//! ```

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use policy_engine::policy::Revision;
use policy_engine::tier::Mode;
use portcullis_crds::api::cluster_default_network_policy::{ACCEPTED, ENFORCED};
use serde_json::{Map, Value, json};

use super::findings::Finding;
use super::findings::coverage::Coverage;
use super::pace::Difference;
use super::progress::{Progress, Stage};

/// The message of `Enforced` when no node is concerned.
const NO_NODE: &str = "no node has a pod that it selects";
/// How long a message may be, in characters.
const MESSAGE_MAX: usize = 1000;

/// The findings about one generation of a policy of the cluster, and the pods that it selects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The uid and generation of the policy.
    pub revision: Revision,
    /// Whether the policy is enforced or in audit.
    pub mode: Mode,
    /// The namespaces, pods and nodes that the policy applies to.
    pub coverage: Coverage,
    /// The parts of the policy that could not be understood.
    pub failed: Vec<Finding>,
}

/// The status of a ClusterDefaultNetworkPolicy without times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The `observedGeneration` of the conditions.
    pub generation: i64,
    conditions: [Content; 2],
    counts: Map<String, Value>,
}

/// A condition without times.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Content {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Standing {
    /// The status that follows from the findings and the roll-out.
    #[must_use]
    pub fn new(judged: &Judged, progress: &Progress) -> Self {
        Self {
            generation: judged.revision.generation.unwrap_or_default(),
            conditions: [accepted(&judged.failed), enforced(judged.mode, progress)],
            counts: Map::from_iter([
                ("namespaces".to_owned(), json!(judged.coverage.namespaces)),
                ("pods".to_owned(), json!(judged.coverage.decided)),
                (
                    "nodes".to_owned(),
                    json!({ "concerned": progress.concerned, "realised": progress.realised }),
                ),
            ]),
        }
    }

    /// How much an object's status differs from this one. Times do not count.
    #[must_use]
    pub fn differs_from(&self, status: &Value) -> Difference {
        let counted = |field: &str| status.get(field) == self.counts.get(field);
        let counted = ["namespaces", "pods", "nodes"].into_iter().all(counted);
        let differences = self.conditions.iter().map(|wanted| {
            let Some(found) = find(status, wanted.kind) else { return Difference::News };
            let text = |field: &str| found.get(field).and_then(Value::as_str);
            let generation = found.get("observedGeneration").and_then(Value::as_i64);
            if (text("status"), text("reason"), generation)
                != (Some(wanted.status), Some(wanted.reason), Some(self.generation))
            {
                Difference::News
            } else if text("message") == Some(&wanted.message) {
                Difference::None
            } else {
                Difference::Detail
            }
        });
        let worst = differences.max().unwrap_or(Difference::None);
        if counted { worst } else { worst.max(Difference::Detail) }
    }

    /// The patch that sets this status, for server-side apply. The server refuses it for another
    /// object than that of `uid`. `before` is the object's status until now.
    #[must_use]
    pub fn patch(&self, name: &str, uid: &str, before: &Value, wall: Timestamp) -> Value {
        let conditions = self.conditions.iter().map(|wanted| {
            let found = find(before, wanted.kind);
            let found = found.filter(|found| found.get("status") == Some(&wanted.status.into()));
            let since = found.and_then(|found| found.get("lastTransitionTime").cloned());
            let since = since.and_then(|since| serde_json::from_value::<Time>(since).ok());
            Condition {
                type_: wanted.kind.to_owned(),
                status: wanted.status.to_owned(),
                reason: wanted.reason.to_owned(),
                message: wanted.message.clone(),
                last_transition_time: since.unwrap_or(Time(wall)),
                observed_generation: Some(self.generation),
            }
        });
        let conditions: Vec<Condition> = conditions.collect();
        let mut status = self.counts.clone();
        status.insert("conditions".to_owned(), json!(conditions));
        json!({
            "apiVersion": "portcullis.dev/v1alpha1",
            "kind": "ClusterDefaultNetworkPolicy",
            "metadata": { "name": name, "uid": uid },
            "status": status,
        })
    }
}

fn find<'s>(status: &'s Value, kind: &str) -> Option<&'s Value> {
    let conditions = status.get("conditions")?.as_array()?;
    conditions.iter().find(|condition| condition.get("type") == Some(&kind.into()))
}

fn accepted(failed: &[Finding]) -> Content {
    let Some(first) = failed.first() else {
        let message = "every part of it is understood".to_owned();
        return Content { kind: ACCEPTED, status: "True", reason: "Understood", message };
    };
    let more = match failed.len() - 1 {
        0 => String::new(),
        more => format!("; and {more} more, see its Events"),
    };
    let place = if first.field.is_empty() { "" } else { ": " };
    let mut message = format!("{}{place}{}", first.field, first.message);
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX) {
        message.truncate(end);
    }
    message += &more;
    Content { kind: ACCEPTED, status: "False", reason: "FailedClosed", message }
}

fn enforced(mode: Mode, progress: &Progress) -> Content {
    let (status, reason) = match progress.stage(mode) {
        Stage::Applied if progress.concerned == 0 => ("True", "NothingSelected"),
        Stage::Applied => ("True", "Applied"),
        Stage::Waiting => ("False", "Waiting"),
        Stage::Unknown => ("Unknown", "AgentSilent"),
        Stage::Audit => ("False", "Audit"),
    };
    let message = match mode {
        _ if progress.concerned == 0 => NO_NODE.to_owned(),
        Mode::Audit => {
            format!(
                "Audit: nothing is dropped; what it would deny is reported by {}",
                progress.sentence()
            )
        }
        Mode::Enforce => progress.sentence(),
    };
    Content { kind: ENFORCED, status, reason, message }
}

#[cfg(test)]
mod tests {
    use policy_engine::labels::Str;

    use super::*;
    use crate::cluster::findings::Reason;

    fn judged(mode: Mode) -> Judged {
        let nodes = ["n1", "n2"].into_iter().map(Str::from).collect();
        let coverage = Coverage { namespaces: 3, selected: 9, decided: 7, nodes };
        let revision = Revision { uid: None, generation: Some(2) };
        Judged { revision, mode, coverage, failed: Vec::new() }
    }

    fn progress(realised: usize, behind: &[&str], silent: &[&str]) -> Progress {
        let names = |names: &[&str]| names.iter().map(|name| Str::from(*name)).collect();
        let concerned = realised + behind.len() + silent.len();
        let (behind, silent) = (names(behind), names(silent));
        Progress { concerned, realised, behind, silent, ..Progress::default() }
    }

    /// Status, reason and message of a condition.
    fn text(standing: &Standing, kind: &str) -> String {
        let found = standing.conditions.iter().find(|condition| condition.kind == kind);
        let found = found.expect("it has both conditions");
        format!("{} {}: {}", found.status, found.reason, found.message)
    }

    #[test]
    fn enforced_names_the_nodes_that_are_missing_and_why() {
        let check = |mode, progress, expected: &str| {
            let standing = Standing::new(&judged(mode), &progress);
            assert_eq!(text(&standing, ENFORCED), expected);
        };
        let enforce = Mode::Enforce;
        check(enforce, progress(4, &[], &[]), "True Applied: 4 of 4 nodes");
        check(
            enforce,
            progress(0, &[], &[]),
            "True NothingSelected: no node has a pod that it selects",
        );
        check(enforce, progress(3, &["n2"], &[]), "False Waiting: 3 of 4 nodes; waiting for n2");
        check(
            enforce,
            progress(0, &["a", "b", "c", "d", "e"], &["f"]),
            "False Waiting: 0 of 6 nodes; waiting for a, b, c and 2 more; no word from f, see its \
             agent",
        );
        check(
            enforce,
            progress(1, &[], &["n1"]),
            "Unknown AgentSilent: 1 of 2 nodes; no word from n1, see its agent",
        );
        let (failing, unreported) = (vec!["n2".into()], vec!["n3".into()]);
        check(
            enforce,
            Progress { concerned: 3, failing, unreported, ..progress(1, &[], &[]) },
            "False Waiting: 1 of 3 nodes; failing on n2, see its NodePolicyReport; no report of n3, \
             see whether an agent runs there",
        );
        check(
            Mode::Audit,
            progress(2, &[], &[]),
            "False Audit: Audit: nothing is dropped; what it would deny is reported by 2 of 2 nodes",
        );
        check(Mode::Audit, progress(0, &[], &[]), "False Audit: no node has a pod that it selects");
    }

    #[test]
    fn accepted_names_the_first_field_that_failed_closed_and_how_many_more() {
        let finding = |field: &str, message: &str| {
            let (reason, field) = (Reason::FailedClosed, field.to_owned());
            Finding { reason, field, message: message.to_owned() }
        };
        let mut judged = judged(Mode::Enforce);
        let accepted =
            |judged: &Judged| text(&Standing::new(judged, &Progress::default()), ACCEPTED);
        assert_eq!(accepted(&judged), "True Understood: every part of it is understood");
        judged.failed.push(finding("spec.ingress[0]", "is no rule; write one"));
        assert_eq!(accepted(&judged), "False FailedClosed: spec.ingress[0]: is no rule; write one");
        judged.failed.push(finding("", &"x".repeat(5_000)));
        assert!(accepted(&judged).ends_with("write one; and 1 more, see its Events"));
        judged.failed.remove(0);
        assert!(accepted(&judged).len() < 1_100);
    }

    #[test]
    fn what_is_written_does_not_differ_and_a_condition_keeps_its_time_until_its_status_changes() {
        let early = Timestamp::UNIX_EPOCH;
        let late = Timestamp::from_second(60).expect("in range");
        let waiting = Standing::new(&judged(Mode::Enforce), &progress(1, &["n2"], &[]));
        let patch = waiting.patch("deny", "u", &Value::Null, early);
        assert_eq!(patch["metadata"], json!({"name": "deny", "uid": "u"}));
        let status = &patch["status"];
        assert_eq!(status["nodes"], json!({"concerned": 2, "realised": 1}));
        assert_eq!((&status["namespaces"], &status["pods"]), (&json!(3), &json!(7)));
        assert_eq!(waiting.differs_from(status), Difference::None);
        assert_eq!(waiting.differs_from(&Value::Null), Difference::News);
        let other = Standing::new(&judged(Mode::Enforce), &progress(1, &["n1"], &[]));
        assert_eq!(other.differs_from(status), Difference::Detail, "another node is waited for");
        let mut more = judged(Mode::Enforce);
        more.coverage.decided += 1;
        let more = Standing::new(&more, &progress(1, &["n2"], &[]));
        assert_eq!(more.differs_from(status), Difference::Detail, "another pod");

        let done = Standing::new(&judged(Mode::Enforce), &progress(2, &[], &[]));
        assert_eq!(done.differs_from(status), Difference::News);
        let patch = done.patch("deny", "u", status, late);
        assert_eq!(done.differs_from(&patch["status"]), Difference::None);
        let since =
            |kind| find(&patch["status"], kind).map(|found| found["lastTransitionTime"].clone());
        assert_eq!(since(ACCEPTED), Some(json!(early)), "it was accepted all the time");
        assert_eq!(since(ENFORCED), Some(json!(late)));
        let newer = Standing { generation: 3, ..done };
        assert_eq!(newer.differs_from(&patch["status"]), Difference::News, "another generation");
    }
}
