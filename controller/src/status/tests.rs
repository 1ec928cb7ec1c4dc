//! What counts as enforcing, and what is said of a node that does not.

use serde_json::json;

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(1)
}

fn pod(name: &str, node: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}]}})
}

fn report(node: &str, state: &str, author: &str, minute: u64) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": node}, "spec": {"nodeName": node},
        "status": {
            "observedAt": format!("1970-01-01T00:{minute:02}:00Z"), "state": state,
            "agent": {"version": "1", "podName": author},
            "conditions": [{"type": "Enforcing", "status": "False", "reason": "Why",
                "message": "words", "lastTransitionTime": "1970-01-01T00:00:00Z"}],
        },
    })
}

fn installation(wanted: u64, pods: Vec<Value>, reports: Vec<Value>) -> Installation {
    let daemon_set = json!({"metadata": {"generation": 2},
        "status": {"observedGeneration": 2, "desiredNumberScheduled": wanted}});
    Installation { daemon_set, pods, reports }
}

/// What is said of one node, empty if it counts as enforcing.
fn of(pod: Value, report: Option<Value>) -> String {
    installation(1, vec![pod], report.into_iter().collect()).problems(now()).join("\n")
}

#[test]
fn a_node_counts_when_its_agent_is_ready_and_reports_that_it_enforces_or_audits() {
    for state in ["Enforcing", "Auditing"] {
        assert_eq!(of(pod("a", "n1", true), Some(report("n1", state, "a", 59))), "");
    }
    for state in ["Loading", "Degraded", "Bypassed", "Failing"] {
        let said = of(pod("a", "n1", false), Some(report("n1", state, "a", 59)));
        assert_eq!(said, format!("n1: {state}: Why: words"));
    }
}

#[test]
fn a_report_of_an_agent_that_is_not_there_any_more_does_not_count() {
    let good = |author, minute| Some(report("n1", "Enforcing", author, minute));
    for (pod, report, said) in [
        (
            pod("a", "n1", true),
            good("a", 46),
            "n1: Unknown: its agent has not written a report for 14 minutes; see whether it runs",
        ),
        (
            pod("b", "n1", true),
            good("a", 59),
            "n1: Enforcing: an earlier agent wrote this, and the present one has not reported yet",
        ),
        (pod("a", "n1", false), good("a", 59), "n1: Enforcing: pod a is not ready (Running)"),
        (
            pod("a", "n1", false),
            None,
            "n1: Unknown: the node has no NodePolicyReport; pod a is not ready (Running)",
        ),
    ] {
        assert_eq!(of(pod, report), said);
    }
    let mut leaving = pod("a", "n1", true);
    leaving["metadata"]["deletionTimestamp"] = "1970-01-01T00:59:00Z".into();
    assert_eq!(of(leaving, good("a", 59)), "n1: Enforcing: pod a is being deleted");
    let mut crashing = pod("a", "n1", false);
    crashing["status"]["containerStatuses"] =
        json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    let said = of(crashing, good("a", 59));
    assert_eq!(said, "n1: Enforcing: pod a is not ready (CrashLoopBackOff)");
}

#[test]
fn every_node_that_the_daemon_set_wants_has_to_have_a_pod() {
    let pods = || vec![pod("a", "n1", true)];
    let reports = || vec![report("n1", "Enforcing", "a", 59)];
    let said = |found: &Installation| found.problems(now()).join("\n");
    assert_eq!(said(&installation(1, pods(), reports())), "");
    assert!(said(&installation(2, pods(), reports())).contains("on 2 nodes, and has pods for 1"));
    assert!(said(&installation(0, Vec::new(), Vec::new())).contains("wants no agent"));
    let mut updated = installation(1, pods(), reports());
    updated.daemon_set["metadata"]["generation"] = 3.into();
    assert!(said(&updated).contains("has not processed"));

    // The pod of a node that has no room for it waits.
    let waiting = json!({"metadata": {"name": "b"}, "status": {"phase": "Pending"},
        "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}}}});
    let both = [pods(), vec![waiting]].concat();
    let missing = "n2: Unknown: the node has no NodePolicyReport; pod b is not ready (Pending)";
    assert_eq!(said(&installation(2, both, reports())), missing);
}
