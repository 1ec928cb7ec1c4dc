//! Which generations of policies are applied on all nodes, and since when. Pure.
//!
//! Each generation is reported once, also when it applies to another node later. What was applied
//! before this process started is not reported: another process has done that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use tokio::time::Instant;

use super::analysis::Analysis;
use super::events::ledger::ObjectFinding;
use super::findings::{Finding, Reason};

/// An Event that the rate limit delays for longer than this is not written.
const RECENT: Duration = Duration::from_mins(10);

/// Policies that all nodes have applied: name, revision, and the number of nodes with such pods.
pub type Complete = Vec<(ObjectRef, Revision, usize)>;

/// The generations that have been applied on all nodes.
#[derive(Default, Debug)]
pub struct Applied {
    revisions: BTreeMap<ObjectRef, Known>,
    /// Whether the reports have been summed up before.
    has_begun: bool,
}

#[derive(Debug)]
struct Known {
    revision: Revision,
    nodes: usize,
    /// `None` if it was applied when this process started.
    since: Option<Instant>,
}

impl Applied {
    /// Adds the policies that all nodes have applied, and removes those that no longer exist in this
    /// revision. Returns what was added since the first call.
    pub fn update(&mut self, complete: Complete, analysis: &Analysis, now: Instant) -> Complete {
        self.revisions.retain(|policy, known| analysis.revision(policy) == Some(&known.revision));
        let since = self.has_begun.then_some(now);
        self.has_begun = true;
        let mut news = Vec::new();
        for (policy, revision, nodes) in complete {
            // What was summed up may be an earlier generation.
            if analysis.revision(&policy) == Some(&revision)
                && !self.revisions.contains_key(&policy)
            {
                let known = Known { revision: revision.clone(), nodes, since };
                self.revisions.insert(policy.clone(), known);
                if since.is_some() {
                    news.push((policy, revision, nodes));
                }
            }
        }
        news
    }

    /// The findings for Events: the generations that were applied lately. A
    /// ClusterDefaultNetworkPolicy has a condition in its status instead.
    #[must_use]
    pub fn findings(&self, now: Instant) -> BTreeSet<ObjectFinding> {
        let is_recent = |known: &Known| known.since.is_some_and(|since| now < since + RECENT);
        let recent = self.revisions.iter().filter(|(policy, known)| {
            policy.kind != Kind::ClusterDefaultNetworkPolicy && is_recent(known)
        });
        recent.filter_map(|(policy, known)| finding(policy, known)).collect()
    }
}

fn finding(policy: &ObjectRef, known: &Known) -> Option<ObjectFinding> {
    let generation = known.revision.generation.unwrap_or_default();
    let nodes = match known.nodes {
        1 => "the node with pods that it selects".to_owned(),
        nodes => format!("all {nodes} nodes with pods that it selects"),
    };
    Some(ObjectFinding {
        object: policy.clone(),
        uid: known.revision.uid.as_ref()?.to_string(),
        generation,
        finding: Finding {
            reason: Reason::Applied,
            field: String::new(),
            message: format!("generation {generation} is applied on {nodes}"),
        },
    })
}
