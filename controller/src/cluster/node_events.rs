//! The Events on Nodes: the state of the node, as its agent reports it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::labels::Str;
use policy_engine::object::{Kind, ObjectRef};
use portcullis_crds::api::node_policy_report::State;

use super::events::ledger::ObjectFinding;
use super::findings::{Finding, Reason};
use super::reports::Known;

/// The findings about those `nodes` that have a report. `nodes` are uids by name.
pub fn findings(
    nodes: &BTreeMap<Str, Str>,
    reports: &BTreeMap<String, Known>,
    still_reports: impl Fn(&Known) -> bool,
) -> BTreeSet<ObjectFinding> {
    let of_node = |(name, known): (&String, &Known)| {
        let (name, uid) = nodes.get_key_value(name.as_str())?;
        let message = if still_reports(known) {
            let state = known.state.filter(|state| !state.is_good())?;
            format!(
                "{state:?} ({}): {}; `kubectl describe npr {name}` shows why",
                known.reason,
                meaning(state)
            )
        } else {
            "AgentSilent: the agent of Portcullis does not write its report any more; what it applied \
             stays, and changes of policies and pods may not be applied"
                .to_owned()
        };
        Some(ObjectFinding {
            object: ObjectRef::cluster(Kind::Node, name.clone()),
            uid: uid.to_string(),
            generation: known.since,
            finding: Finding { reason: Reason::NotEnforcing, field: String::new(), message },
        })
    };
    reports.iter().filter_map(of_node).collect()
}

/// What a state means for packets.
fn meaning(state: State) -> &'static str {
    match state {
        State::Loading => "the agent does not know all objects yet; rules of an earlier run stay",
        State::Enforcing => "the node does what the policies say",
        State::Auditing => "nothing is denied on this node",
        State::Degraded => "a part of the policies is not enforced on this node",
        State::Bypassed => "packets can get past the policies on this node",
        State::Failing => "changes of policies and pods are not applied on this node",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn each_state_but_enforcing_is_an_event_on_the_node_and_so_is_silence() {
        let report = |name: &str, state: &str, reason: &str| {
            let report = json!({
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
                "metadata": {"name": name}, "spec": {"nodeName": name},
                "status": {"state": state, "conditions": [{"type": "Enforcing", "status": "False",
                    "reason": reason, "message": "m", "lastTransitionTime": "1970-01-01T00:00:09Z"}]},
            });
            let report = serde_json::from_value(report).expect("a report");
            (name.to_owned(), Known::new(report, None, Instant::now()))
        };
        let reports = [
            report("a", "Enforcing", "PoliciesEnforced"),
            report("b", "Degraded", "NodeUnknown"),
            report("c", "Failing", "ApplyFailed"),
            report("d", "Enforcing", "Silent"),
            report("gone", "Failing", "ApplyFailed"),
        ];
        let nodes = ["a", "b", "c", "d", "without a report"];
        let nodes = nodes.map(|name| (Str::from(name), Str::from(format!("uid-{name}")))).into();
        let reports = BTreeMap::from(reports);
        let found = findings(&nodes, &reports, |known| known.reason != "Silent");
        let shown: Vec<String> = found
            .iter()
            .map(|found| {
                assert_eq!((found.object.kind, found.generation), (Kind::Node, 9));
                assert_eq!(found.uid, format!("uid-{}", found.object.name));
                let message = found.finding.message.split(['(', ':']).next().unwrap_or_default();
                format!("{} {}", found.object.name, message.trim())
            })
            .collect();
        assert_eq!(shown, ["b Degraded", "c Failing", "d AgentSilent"]);
    }
}
