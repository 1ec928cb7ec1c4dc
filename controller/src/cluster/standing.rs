//! What a ClusterDefaultNetworkPolicy's status says, from what is known of it. Pure.
//!
//! ```text
//! Judged (whom it selects, what failed closed) ─┐
//!                                               ├─► Standing ─► patch, when it says something new
//! Known (the reports of nodes) ─► Progress ─────┘
//! ```

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use policy_engine::labels::Str;
use policy_engine::tier::{Mode, PolicyRef};
use serde_json::{Value, json};

use super::findings::Finding;
use super::findings::coverage::Coverage;
use super::reports::Known;

/// Whether it is in force as written.
const ACCEPTED: &str = "Accepted";
/// Whether the nodes of the pods that it selects have it in force.
const ENFORCED: &str = "Enforced";
/// How many nodes a message names.
const NAMES_MAX: usize = 3;
/// How long a message may be, in characters.
const MESSAGE_MAX: usize = 1000;

/// What was found out about one generation of a policy of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Whether it decides.
    pub mode: Mode,
    /// Whom it selects.
    pub coverage: Coverage,
    /// What of it could not be understood.
    pub failed: Vec<Finding>,
}

/// How far a policy of the cluster is in force. Every node with a pod that it selects is concerned.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// How many nodes are concerned.
    pub concerned: usize,
    /// How many of them say that they have its generation in force, and still write.
    pub realised: usize,
    /// Those that write, and have not.
    pub behind: Vec<Str>,
    /// Those that have stopped to write.
    pub silent: Vec<Str>,
}

/// Where a policy of the cluster stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// In force on every node that it concerns.
    InForce,
    /// Some node has not got it yet.
    Waiting,
    /// Some node says nothing.
    Unknown,
    /// It decides nothing, wherever it is.
    Audit,
}

impl Progress {
    /// How far `policy` is in force; `speaks` says of a report that it is still written.
    #[must_use]
    pub fn of<'n>(
        policy: &PolicyRef,
        generation: i64,
        nodes: impl Iterator<Item = &'n Str>,
        reports: &BTreeMap<String, Known>,
        speaks: impl Fn(&Known) -> bool,
    ) -> Self {
        let mut progress = Self::default();
        for node in nodes {
            progress.concerned += 1;
            let report = reports.get(&**node);
            // A node that fails has the generation, perhaps, but not for the pods that came since.
            let has = |report: &Known| report.enforcing && report.has(policy, generation);
            match report {
                Some(report) if !speaks(report) => progress.silent.push(node.clone()),
                Some(report) if has(report) => progress.realised += 1,
                Some(_) | None => progress.behind.push(node.clone()),
            }
        }
        progress
    }

    /// Where a policy of this mode stands.
    #[must_use]
    pub fn stage(&self, mode: Mode) -> Stage {
        match mode {
            Mode::Audit => Stage::Audit,
            Mode::Enforce if !self.behind.is_empty() => Stage::Waiting,
            Mode::Enforce if !self.silent.is_empty() => Stage::Unknown,
            Mode::Enforce => Stage::InForce,
        }
    }

    /// Whether every node that it concerns has it, in force or in audit; there is at least one.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.concerned > 0 && self.concerned == self.realised
    }

    fn sentence(&self) -> String {
        let mut said = format!("{} of {} nodes", self.realised, self.concerned);
        for (what, nodes) in [("waiting for", &self.behind), ("no word from", &self.silent)] {
            if let Some((first, rest)) = nodes.split_first() {
                said.push_str(&format!("; {what} {first}"));
                rest.iter()
                    .take(NAMES_MAX - 1)
                    .for_each(|node| said.push_str(&format!(", {node}")));
                if nodes.len() > NAMES_MAX {
                    said.push_str(&format!(" and {} more", nodes.len() - NAMES_MAX));
                }
            }
        }
        said
    }
}

/// The status of a ClusterDefaultNetworkPolicy, but for times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The generation that all of it is about.
    pub generation: i64,
    conditions: [Said; 2],
    counts: Value,
}

/// What a condition says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Said {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Standing {
    /// Where the policy stands.
    #[must_use]
    pub fn new(judged: &Judged, progress: &Progress) -> Self {
        Self {
            generation: judged.generation,
            conditions: [accepted(&judged.failed), enforced(judged.mode, progress)],
            counts: json!({
                "namespaces": judged.coverage.namespaces,
                "pods": judged.coverage.decided,
                "nodes": { "concerned": progress.concerned, "realised": progress.realised },
            }),
        }
    }

    /// Whether a status says the same, whenever it was written.
    #[must_use]
    pub fn is_told_by(&self, status: &Value) -> bool {
        let counted = |field: &str| status.get(field) == self.counts.get(field);
        ["namespaces", "pods", "nodes"].into_iter().all(counted)
            && self.conditions.iter().all(|said| {
                find(status, said.kind).is_some_and(|found| {
                    let same = |field: &str, wanted: &str| {
                        found.get(field).and_then(Value::as_str) == Some(wanted)
                    };
                    same("status", said.status)
                        && same("reason", said.reason)
                        && same("message", &said.message)
                        && found.get("observedGeneration").and_then(Value::as_i64)
                            == Some(self.generation)
                })
            })
    }

    /// The patch that makes it so, for server-side apply to this very object alone. `before` is its
    /// status as it was.
    #[must_use]
    pub fn patch(&self, name: &str, uid: &str, before: &Value, wall: Timestamp) -> Value {
        let conditions = self.conditions.iter().map(|said| {
            let found = find(before, said.kind);
            let found = found.filter(|found| found.get("status") == Some(&said.status.into()));
            let since = found.and_then(|found| found.get("lastTransitionTime").cloned());
            let since = since.and_then(|since| serde_json::from_value::<Time>(since).ok());
            Condition {
                type_: said.kind.to_owned(),
                status: said.status.to_owned(),
                reason: said.reason.to_owned(),
                message: said.message.clone(),
                last_transition_time: since.unwrap_or(Time(wall)),
                observed_generation: Some(self.generation),
            }
        });
        let mut status = self.counts.clone();
        status["conditions"] = conditions.map(|condition| json!(condition)).collect();
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

fn accepted(failed: &[Finding]) -> Said {
    let Some(first) = failed.first() else {
        let message = "every part of it is understood".to_owned();
        return Said { kind: ACCEPTED, status: "True", reason: "Understood", message };
    };
    let more = match failed.len() - 1 {
        0 => String::new(),
        more => format!("; and {more} more, see its Events"),
    };
    let place = if first.field.is_empty() { "" } else { ": " };
    let mut said = format!("{}{place}{}", first.field, first.message);
    if let Some((end, _)) = said.char_indices().nth(MESSAGE_MAX) {
        said.truncate(end);
    }
    let message = said + &more;
    Said { kind: ACCEPTED, status: "False", reason: "FailedClosed", message }
}

fn enforced(mode: Mode, progress: &Progress) -> Said {
    let (status, reason) = match progress.stage(mode) {
        Stage::InForce if progress.concerned == 0 => ("True", "NothingSelected"),
        Stage::InForce => ("True", "InForce"),
        Stage::Waiting => ("False", "Waiting"),
        Stage::Unknown => ("Unknown", "AgentSilent"),
        Stage::Audit => ("False", "Audit"),
    };
    let message = match mode {
        Mode::Audit => {
            format!(
                "Audit: nothing is dropped; what it would deny is reported by {}",
                progress.sentence()
            )
        }
        Mode::Enforce if progress.concerned == 0 => "no node has a pod that it selects".to_owned(),
        Mode::Enforce => progress.sentence(),
    };
    Said { kind: ENFORCED, status, reason, message }
}
