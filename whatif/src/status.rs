//! How far policies are applied, from the reports of the nodes with pods that they select. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::Revision;
use policy_engine::tier::Mode;
use policy_engine::world::World;
use portcullis_crds::api::node_policy_report::{
    ENFORCING, NodePolicyReportStatus, POLICIES_MAX, Policy, State,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::source::reports::{Report, Reports};

/// How far one policy is applied.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    /// The policy.
    pub policy: ObjectRef,
    /// The identity of the object.
    pub revision: Revision,
    /// Whether it is enforced or only audited.
    pub mode: Mode,
    /// The nodes with pods that it selects.
    pub nodes: Vec<NodeStatus>,
    /// How many pods that it selects have no node yet.
    pub unscheduled: usize,
}

/// How far a policy is applied on one node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node.
    pub node: Str,
    /// How many pods of the node the policy selects.
    pub pods: usize,
    /// Whether the node applies it.
    pub stage: Stage,
    /// Why the policy is not applied, or why this is not known; empty when it is applied.
    pub why: String,
}

/// Whether a node applies a policy.
#[derive(Serialize, JsonSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// It enforces this generation.
    Applied,
    /// It reports another generation or an earlier object of the name, or does not report the policy.
    Waiting,
    /// It is not in the state Enforcing: changes may not be applied, or packets may get past them.
    NotEnforcing,
    /// Its agent does not say: see the message.
    Unknown,
}

/// What a node reports about itself.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// The node.
    pub node: Str,
    /// The state; `None` without a current report.
    pub state: Option<State>,
    /// The most important reason for the state.
    pub reason: String,
    /// The sentence that explains the reason.
    pub message: String,
}

impl PolicyStatus {
    /// How many nodes apply the policy.
    #[must_use]
    pub fn applied(&self) -> usize {
        self.nodes.iter().filter(|node| node.stage == Stage::Applied).count()
    }

    /// The nodes that do not apply the policy, or do not report it.
    pub fn lagging(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter(|node| node.stage != Stage::Applied)
    }

    /// Evaluates one node again, with a new report.
    pub fn judge_again(&mut self, node: &str, reports: &Reports, now: SystemTime) {
        let (policy, revision) = (&self.policy, &self.revision);
        for status in self.nodes.iter_mut().filter(|status| *status.node == *node) {
            (status.stage, status.why) = stage(policy, revision, node, reports, now);
        }
    }
}

/// How far the policies of `world` are applied: all of them, or only `wanted`.
#[must_use]
pub fn policies(
    world: &World,
    revisions: &BTreeMap<ObjectRef, Revision>,
    reports: &Reports,
    wanted: Option<&ObjectRef>,
    now: SystemTime,
) -> Vec<PolicyStatus> {
    let mut pods: BTreeMap<&ObjectRef, (BTreeMap<&Str, usize>, usize)> = BTreeMap::new();
    for pod in world.pods().values().filter(|pod| pod.takes_part()) {
        for (policy, _) in world.selecting(pod) {
            let (by_node, unscheduled) = pods.entry(&policy.name).or_default();
            match &pod.node {
                Some(node) => *by_node.entry(node).or_default() += 1,
                None => *unscheduled += 1,
            }
        }
    }
    let asked = |policy: &ObjectRef| wanted.is_none_or(|wanted| wanted == policy);
    let policies = world.policies().filter(|policy| asked(&policy.name));
    let mut found: Vec<PolicyStatus> = policies
        .map(|policy| {
            let name = &policy.name;
            let revision = revisions.get(name).unwrap_or(&policy.revision).clone();
            let (by_node, unscheduled) = pods.remove(name).unwrap_or_default();
            let node = |(node, pods): (&Str, usize)| {
                let (stage, why) = stage(name, &revision, node, reports, now);
                NodeStatus { node: node.clone(), pods, stage, why }
            };
            let nodes = by_node.into_iter().map(node).collect();
            PolicyStatus { policy: name.clone(), mode: policy.mode, nodes, unscheduled, revision }
        })
        .collect();
    found.sort_by(|a, b| a.policy.alphabetical().cmp(&b.policy.alphabetical()));
    found
}

/// What each node of the cluster reports about itself.
#[must_use]
pub fn nodes(world: &World, reports: &Reports, now: SystemTime) -> Vec<NodeState> {
    let node = |node: &Str| match current_report(node, reports, now) {
        Ok(report) => {
            let condition = report.condition(ENFORCING);
            let text = |of: fn(&_) -> &String| condition.map(of).cloned().unwrap_or_default();
            NodeState {
                node: node.clone(),
                state: report.state,
                reason: text(|condition| &condition.reason),
                message: text(|condition| &condition.message),
            }
        }
        Err(why) => {
            NodeState { node: node.clone(), state: None, reason: String::new(), message: why }
        }
    };
    world.nodes().keys().map(node).collect()
}

/// The nodes whose report still contains a policy.
#[must_use]
pub fn reporting<'r>(policy: &ObjectRef, reports: &'r Reports) -> Vec<&'r Str> {
    let lists = |status: &NodePolicyReportStatus| {
        status.policies.iter().any(|listed| listed.object() == *policy)
    };
    let found = reports.iter().filter(|(_, report)| match report {
        Report::Status(status) => lists(status),
        Report::NotUnderstood => false,
    });
    found.map(|(node, _)| node).collect()
}

/// The current report of a node.
///
/// # Errors
/// The reason why there is none, as a sentence.
pub fn current_report<'r>(
    node: &str,
    reports: &'r Reports,
    now: SystemTime,
) -> Result<&'r NodePolicyReportStatus, String> {
    let Some(report) = reports.get(node) else {
        return Err("the node has no report; see whether an agent runs there".to_owned());
    };
    let Report::Status(report) = report else {
        return Err(
            "its report cannot be understood; use a kubectl-whatif of the version of the agents"
                .to_owned(),
        );
    };
    report.silence(now).map_or(Ok(report), Err)
}

fn stage(
    policy: &ObjectRef,
    revision: &Revision,
    node: &str,
    reports: &Reports,
    now: SystemTime,
) -> (Stage, String) {
    let report = match current_report(node, reports, now) {
        Ok(report) => report,
        Err(why) => return (Stage::Unknown, why),
    };
    if report.state != Some(State::Enforcing) {
        let condition = report.condition(ENFORCING);
        let why = condition.map(|found| format!(": {} ({})", found.reason, found.message));
        let state = report.state.map_or_else(|| "unknown".to_owned(), |state| format!("{state:?}"));
        return (
            Stage::NotEnforcing,
            format!("the node is in state {state}{}", why.unwrap_or_default()),
        );
    }
    let listed = report.policies.iter().find(|listed| listed.object() == *policy);
    match listed.map(Policy::revision) {
        Some(observed) if observed.is(revision) => (Stage::Applied, String::new()),
        Some(Revision { uid, generation }) if uid.is_some() && uid != revision.uid => {
            let generation =
                generation.map_or_else(String::new, |number| format!(", generation {number}"));
            (Stage::Waiting, format!("the node has an earlier object of this name{generation}"))
        }
        Some(Revision { generation: Some(number), .. }) => {
            (Stage::Waiting, format!("the node has generation {number}"))
        }
        Some(_) => (Stage::Waiting, "the node does not say which generation it has".to_owned()),
        None if report.policies_omitted.is_some_and(|omitted| omitted > 0) => {
            let why = format!("the report lists only {POLICIES_MAX} policies, and not this one");
            (Stage::Unknown, why)
        }
        None => (Stage::Waiting, "the node does not report the policy yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use policy_engine::direction::PerDirection;
    use policy_engine::labels::Labels;
    use policy_engine::model::{Change, Node, Pod, PodKey};
    use policy_engine::object::Kind;
    use policy_engine::policy::Policy;
    use policy_engine::selector::Selector;
    use policy_engine::world::Options;
    use serde_json::{Value, json};

    use super::*;

    const NOW_HOURS: u64 = 23;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(NOW_HOURS)
    }

    fn revision(uid: &str, generation: i64) -> Revision {
        Revision { uid: Some(uid.into()), generation: Some(generation) }
    }

    fn db() -> ObjectRef {
        ObjectRef::new(Kind::NetworkPolicy, "shop", "db")
    }

    /// Pods of namespace shop, each on a node of its own, and one without a node; the policy selects
    /// all of them.
    fn world(nodes: &[&str]) -> World {
        let mut world = World::new(Options::default());
        let key = |name: &str| PodKey::new("shop", name);
        world.apply(Pod::new(key("unscheduled"), Labels::default()).into());
        for node in nodes {
            let pod = Pod::new(key(node), Labels::default());
            world.apply(Pod { node: Some((*node).into()), ..pod }.into());
            let found = Node { labels: Labels::default(), addresses: Vec::new() };
            world.apply(Change::Node((*node).into(), Some(found)));
        }
        let rules = PerDirection { ingress: Some(Vec::new()), egress: None };
        let policy = Policy::network_policy("shop", "db", Selector::everything(), rules);
        world.apply(policy.into());
        world
    }

    fn report(minutes_ago: u64, state: &str, status: &Value) -> Report {
        let minutes = NOW_HOURS * 60 - minutes_ago;
        let observed = format!("1970-01-01T{:02}:{:02}:00Z", minutes / 60, minutes % 60);
        let mut report = json!({
            "observedAt": observed, "state": state,
            "conditions": [{"type": "Enforcing", "status": "True", "reason": "Why", "message": "words",
                "lastTransitionTime": observed}],
        });
        for (field, value) in status.as_object().expect("fields") {
            report[field] = value.clone();
        }
        Report::Status(serde_json::from_value(report).expect("a status"))
    }

    fn has(uid: &str, generation: i64) -> Value {
        json!({"policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db", "uid": uid,
            "observedGeneration": generation}]})
    }

    fn judged(report: Option<Report>) -> (Stage, String) {
        let reports: Reports = report.map(|report| ("n1".into(), report)).into_iter().collect();
        let revisions = BTreeMap::from([(db(), revision("u", 2))]);
        let found = policies(&world(&["n1"]), &revisions, &reports, Some(&db()), now());
        let [policy] = found.as_slice() else { panic!("{found:?}") };
        let [node] = policy.nodes.as_slice() else { panic!("{policy:?}") };
        assert_eq!((node.pods, policy.unscheduled), (1, 1));
        (node.stage, node.why.clone())
    }

    #[test]
    fn a_node_applies_a_policy_when_it_enforces_this_generation_of_this_object() {
        let enforcing = |status| judged(Some(report(1, "Enforcing", &status)));
        assert_eq!(enforcing(has("u", 2)), (Stage::Applied, String::new()));
        let waiting = |status, words: &str| {
            assert_eq!(enforcing(status), (Stage::Waiting, words.to_owned()));
        };
        waiting(has("u", 1), "the node has generation 1");
        waiting(has("v", 2), "the node has an earlier object of this name, generation 2");
        waiting(json!({}), "the node does not report the policy yet");
        let (stage, why) = enforcing(json!({"policiesOmitted": 3}));
        assert_eq!(stage, Stage::Unknown);
        assert_eq!(why, "the report lists only 1000 policies, and not this one");
    }

    #[test]
    fn a_node_that_does_not_enforce_or_does_not_report_does_not_count() {
        for state in ["Loading", "Degraded", "Bypassed", "Failing"] {
            let expected = format!("the node is in state {state}: Why (words)");
            assert_eq!(
                judged(Some(report(0, state, &has("u", 2)))),
                (Stage::NotEnforcing, expected)
            );
        }
        let unknown = |report, words: &str| {
            let (stage, why) = judged(report);
            assert_eq!(stage, Stage::Unknown);
            assert!(why.contains(words), "{why}");
        };
        unknown(None, "the node has no report");
        unknown(Some(Report::NotUnderstood), "cannot be understood");
        unknown(Some(report(14, "Enforcing", &has("u", 2))), "for 14 minutes");
        let mut silent = has("u", 2);
        silent["conditions"] = json!([{"type": "Current", "status": "False", "reason": "AgentSilent",
            "message": "", "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
        unknown(Some(report(1, "Enforcing", &silent)), "its agent has not written a report");
    }

    #[test]
    fn each_policy_waits_for_the_nodes_of_its_pods_and_is_judged_again_by_new_reports() {
        let world = world(&["n1", "n2"]);
        let mut reports = Reports::from([("n1".into(), report(1, "Enforcing", &has("u", 2)))]);
        let revisions = BTreeMap::from([(db(), revision("u", 2))]);
        let mut found = policies(&world, &revisions, &reports, None, now());
        let policy = found.first_mut().expect("one policy");
        assert_eq!((policy.applied(), policy.nodes.len()), (1, 2));
        let lagging: Vec<_> = policy.lagging().map(|node| &*node.node).collect();
        assert_eq!(lagging, ["n2"]);

        reports.insert("n2".into(), report(1, "Enforcing", &has("u", 2)));
        policy.judge_again("n2", &reports, now());
        assert_eq!(policy.applied(), 2);
        assert_eq!(
            reporting(&db(), &reports),
            ["n1", "n2"].map(Str::from).iter().collect::<Vec<_>>()
        );

        let states = nodes(&world, &reports, now());
        let states: Vec<_> = states.iter().map(|node| (&*node.node, node.state)).collect();
        assert_eq!(states, [("n1", Some(State::Enforcing)), ("n2", Some(State::Enforcing))]);
    }
}
