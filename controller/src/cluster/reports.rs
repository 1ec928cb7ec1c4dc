//! The reports of the nodes: which are to be deleted, and which agents are silent. No I/O.
//!
//! An agent is silent when its report did not change for a while by *our* monotonic clock: the
//! times in reports come from the clocks of other machines.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use portcullis_apiserver::watch::Event;
use portcullis_crds::api::node_policy_report::{
    CURRENT, ENFORCING, NodePolicyReport, NodePolicyReportStatus, State,
};
use portcullis_crds::lean::Lean;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

/// A report without a Node is deleted after this time: the watch may not have seen the Node yet.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// The part of a report that is kept.
#[derive(Clone, Debug)]
pub struct Known {
    /// The uid of the report.
    pub uid: String,
    /// The policies that are applied on the node, with their uids and generations, sorted by name.
    pub policies: Vec<(ObjectRef, Revision)>,
    /// Whether its agent reports that it enforces.
    pub enforcing: bool,
    /// The state of the node.
    pub state: Option<State>,
    /// The most important reason for `state`.
    pub reason: String,
    /// Since when the node enforces or does not enforce, in seconds since 1970.
    pub since: i64,
    /// The uid of the Node that owns the report.
    owner: Option<String>,
    version: String,
    current: Option<Condition>,
    /// `observedAt`, which the agent changes with each write.
    written: Option<Time>,
    /// When the agent was last seen to write; `None` when the report already had `Current: False`
    /// at the start of this process.
    seen: Option<Instant>,
    orphan_since: Option<Instant>,
}

/// A write that a report needs.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Delete the report: its Node does not exist.
    Delete {
        /// The uid of the report.
        uid: String,
        /// The resource version of the report that was judged.
        version: String,
        /// The uid of the Node that owns the report; `None`: any Node of this name.
        owner: Option<String>,
    },
    /// Set the condition `Current`: whether the agent still writes has changed.
    SetCurrent {
        /// The uid of the report.
        uid: String,
        /// Whether the agent still writes the report.
        still_reports: bool,
    },
}

impl Known {
    /// The part of `report` that is kept; `before` is that of its last version.
    #[must_use]
    pub fn new(report: NodePolicyReport, before: Option<&Self>, now: Instant) -> Self {
        let uid = report.uid().unwrap_or_default();
        let before = before.filter(|before| before.uid == uid);
        let version = report.resource_version().unwrap_or_default();
        let owners = report.owner_references().iter();
        let owner = owners.filter(|owner| owner.kind == "Node").map(|owner| owner.uid.clone());
        let owner = owner.into_iter().next();
        let status = report.status.unwrap_or_default();
        let seen = before.filter(|before| before.written == status.observed_at);
        let was_silent = status.condition(CURRENT).is_some_and(|current| current.status == "False");
        let first = (before.is_some() || !was_silent).then_some(now);
        let policies = policies(&status);
        Self {
            uid,
            owner,
            version,
            current: status.condition(CURRENT).cloned(),
            enforcing: status.condition(ENFORCING).is_some_and(|found| found.status == "True"),
            state: status.state,
            reason: status
                .condition(ENFORCING)
                .map(|found| found.reason.clone())
                .unwrap_or_default(),
            since: status
                .condition(ENFORCING)
                .map_or(0, |found| found.last_transition_time.0.as_second()),
            seen: seen.map_or(first, |before| before.seen),
            orphan_since: before.and_then(|before| before.orphan_since),
            policies,
            written: status.observed_at,
        }
    }

    /// Whether the agent was last seen to write at most `patience` ago.
    #[must_use]
    pub fn still_reports(&self, now: Instant, patience: Duration) -> bool {
        self.seen.is_some_and(|seen| now < seen + patience)
    }

    /// Whether the node has applied a policy in this revision. A later generation does not count:
    /// it may be of a deleted object of the same name.
    #[must_use]
    pub fn has(&self, policy: &ObjectRef, revision: &Revision) -> bool {
        let found = self.policies.binary_search_by_key(&policy, |(name, _)| name);
        let found = found.ok().and_then(|at| self.policies.get(at));
        found.is_some_and(|(_, observed)| observed.is(revision))
    }

    /// The write that the report needs now. `node` is the uid of the Node of that name, `None` when
    /// there is none.
    pub fn judge(
        &mut self,
        node: Option<&str>,
        now: Instant,
        patience: Duration,
    ) -> Option<Action> {
        let is_orphan = match (node, &self.owner) {
            (None, _) => true,
            (Some(uid), Some(owner)) => uid != owner,
            (Some(_), None) => false,
        };
        if is_orphan {
            let since = *self.orphan_since.get_or_insert(now);
            let (uid, version) = (self.uid.clone(), self.version.clone());
            let owner = self.owner.clone();
            return (now >= since + ORPHAN_GRACE).then_some(Action::Delete { uid, version, owner });
        }
        self.orphan_since = None;
        let still_reports = self.still_reports(now, patience);
        let status = if still_reports { "True" } else { "False" };
        let is_set = self.current.as_ref().is_some_and(|current| current.status == status);
        (!is_set).then(|| Action::SetCurrent { uid: self.uid.clone(), still_reports })
    }
}

/// The policies that a report lists, by name.
fn policies(status: &NodePolicyReportStatus) -> Vec<(ObjectRef, Revision)> {
    let listed = status.policies.iter().map(|policy| (policy.object(), policy.revision()));
    let mut policies: Vec<_> = listed.collect();
    policies.sort();
    policies
}

/// The reports of all nodes, as the API server has them now.
#[derive(Default, Debug)]
pub struct Reports {
    now: BTreeMap<String, Known>,
    /// The reports of a list that is not complete yet. Until then `now` has the earlier ones.
    listed: Option<BTreeMap<String, Known>>,
    /// Whether the first list is complete.
    pub synced: bool,
}

impl Reports {
    /// Applies one event of the watch.
    pub fn take(&mut self, event: Event<Lean<NodePolicyReport>>, now: Instant) {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(report) | Event::Apply(report) => {
                let Some(report) = read(report) else { return };
                let name = report.name_any();
                let known = Known::new(report, self.now.get(&name), now);
                self.listed.as_mut().unwrap_or(&mut self.now).insert(name, known);
            }
            Event::Delete(report) => {
                if let Some(report) = read(report) {
                    self.listed.as_mut().unwrap_or(&mut self.now).remove(&report.name_any());
                }
            }
            Event::InitDone => {
                self.now = self.listed.take().unwrap_or_default();
                self.synced = true;
            }
        }
    }

    /// Each report by the name of its node.
    #[must_use]
    pub fn get(&self) -> &BTreeMap<String, Known> {
        &self.now
    }

    /// Each report by the name of its node, for [`Known::judge`].
    pub fn get_mut(&mut self) -> &mut BTreeMap<String, Known> {
        &mut self.now
    }
}

/// A report that does not match its own CRD counts as missing.
fn read(report: Lean<NodePolicyReport>) -> Option<NodePolicyReport> {
    let report = serde_json::from_value(report.into_value());
    report.inspect_err(|error| warn!(%error, "cannot read a NodePolicyReport")).ok()
}

/// The patch that sets the condition `Current`, for server-side apply. The server refuses it for
/// another object of the same name.
#[must_use]
pub fn condition(name: &str, uid: &str, still_reports: bool, wall: Timestamp) -> Value {
    let (status, reason, message) = if still_reports {
        ("True", "Reporting", "the agent writes this report")
    } else {
        let silent = "the agent has stopped to write this report; what it programmed last stays \
                      enforced; look at the agent's pod on this node";
        ("False", "AgentSilent", silent)
    };
    let condition = Condition {
        type_: CURRENT.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(wall),
        observed_generation: None,
    };
    json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "NodePolicyReport",
        "metadata": { "name": name, "uid": uid },
        "status": { "conditions": [condition] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(750);

    fn report(written: i64, policies: &[(&str, i64)]) -> NodePolicyReport {
        let policies: Vec<_> = policies
            .iter()
            .map(|(name, generation)| {
                json!({"namespace": "shop", "name": name, "observedGeneration": generation})
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
            "metadata": {"name": "n", "uid": "r", "resourceVersion": "7", "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-1"}]},
            "spec": {"nodeName": "n"},
            "status": {"observedAt": Timestamp::from_second(written).expect("in range"),
                       "policies": policies},
        }))
        .expect("a report")
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_agent_is_silent_when_its_report_stays_the_same_whatever_times_it_names() {
        let (start, node) = (Instant::now(), "node-1");
        let mut known = Known::new(report(0, &[]), None, start);
        let set = |still_reports| Some(Action::SetCurrent { uid: "r".to_owned(), still_reports });
        assert_eq!(known.judge(Some(node), at(start, 749), PATIENCE), set(true));
        assert_eq!(known.judge(Some(node), at(start, 750), PATIENCE), set(false));
        // A new list brings the same report again: the agent has not written it.
        let mut same = Known::new(report(0, &[]), Some(&known), at(start, 760));
        assert_eq!(same.judge(Some(node), at(start, 760), PATIENCE), set(false));
        // The node's clock was set back, but the agent has written the report.
        let mut written = Known::new(report(-9, &[]), Some(&same), at(start, 770));
        assert_eq!(written.judge(Some(node), at(start, 770), PATIENCE), set(true));
    }

    #[test]
    fn an_agent_that_was_reported_silent_stays_so_for_a_new_controller_until_it_writes() {
        let (start, node) = (Instant::now(), "node-1");
        let reported = |still_reports, written| {
            let mut report = report(written, &[]);
            let patch = condition("n", "r", still_reports, Timestamp::UNIX_EPOCH);
            let conditions = patch.pointer("/status/conditions").cloned().expect("it has one");
            report.status.as_mut().expect("it has one").conditions =
                serde_json::from_value(conditions).expect("conditions");
            report
        };
        let mut known = Known::new(reported(false, 0), None, start);
        assert!(!known.still_reports(start, PATIENCE));
        assert_eq!(known.judge(Some(node), start, PATIENCE), None);
        let known = Known::new(reported(false, 1), Some(&known), at(start, 1));
        assert!(known.still_reports(at(start, 1), PATIENCE));
        assert!(Known::new(reported(true, 0), None, start).still_reports(start, PATIENCE));
    }

    #[test]
    fn a_report_is_deleted_a_moment_after_its_node() {
        let (start, other) = (Instant::now(), "node-2");
        for node in [None, Some(other)] {
            let mut known = Known::new(report(0, &[]), None, start);
            assert_eq!(known.judge(node, start, PATIENCE), None);
            let action = known.judge(node, at(start, 5), PATIENCE);
            assert!(matches!(action, Some(Action::Delete { .. })), "{action:?}");
        }
    }

    #[test]
    fn a_condition_that_is_set_is_not_written_again() {
        let (start, node) = (Instant::now(), "node-1");
        let mut written = report(0, &[]);
        let patch = condition("n", "r", true, Timestamp::UNIX_EPOCH);
        let conditions = patch.pointer("/status/conditions").cloned().expect("it has one");
        written.status.as_mut().expect("it has one").conditions =
            serde_json::from_value(conditions).expect("conditions");
        let mut known = Known::new(written, None, start);
        assert_eq!(known.judge(Some(node), start, PATIENCE), None);
    }
}
