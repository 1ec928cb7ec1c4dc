//! What the controller decides to write, and how often it checks whether a write is due.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use portcullis_apiserver::watch::Event as Watched;
use portcullis_crds::api::cluster_default_network_policy::ClusterDefaultNetworkPolicy;
use portcullis_crds::convert::{self, Converted, Object};
use portcullis_crds::lean::{Lean, LeanKind};
use serde_json::{Value, json};

use super::events::ledger::ObjectFinding;
use super::findings::coverage::Coverage;
use super::findings::{Finding, Reason};
use super::outbox::FORBIDDEN_FIRST;
use super::progress::Progress;
use super::standing::{Judged, Standing};
use super::write::NewStanding;
use super::*;
use crate::watch::Event;

const SILENT_AFTER: Duration = Duration::from_mins(10);

/// The state of the controller, without its watches and writes.
struct State {
    analysis: Analysis,
    rollout: Rollout,
    outbox: Outbox,
    metrics: Metrics,
}

impl State {
    fn sum_up(&mut self, now: Instant, leads: bool) {
        self.rollout.sum_up(&self.analysis, now, leads);
    }

    fn next(&mut self, now: Instant) -> Option<Write> {
        self.outbox.next(&self.analysis, &mut self.rollout, now)
    }

    fn done(&mut self, write: &Write, outcome: Outcome, now: Instant) {
        self.outbox.done(write, outcome, now);
    }
}

/// A state of `nodes` nodes, each with a report that lacks the condition `Current`.
fn state(nodes: usize) -> (State, Instant) {
    let options = policy_engine::world::Options::default();
    let (metrics, now) = (Metrics::default(), Instant::now());
    let mut state = State {
        analysis: Analysis::new(options, now),
        rollout: Rollout::new(SILENT_AFTER, metrics.clone(), now),
        outbox: Outbox::new(Duration::from_secs(1), metrics.clone(), now),
        metrics,
    };
    state.analysis.take(Event::Synced);
    state.rollout.take(vec![Watched::Init, Watched::InitDone], now);
    for number in 0..nodes {
        add_node(&mut state, &format!("n{number}"), now);
    }
    (state, now)
}

fn add_node(state: &mut State, name: &str, now: Instant) {
    add::<Node>(state, json!({"metadata": {"name": name, "uid": name}}));
    let report: Lean<_> = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": name, "uid": name}, "spec": {"nodeName": name}, "status": {},
    }))
    .expect("a report");
    state.rollout.take(vec![Watched::Apply(report)], now);
}

/// Adds an object as the API server sends it.
fn add<K: LeanKind>(state: &mut State, object: Value) {
    let object: Lean<K> = serde_json::from_value(object).expect("any JSON has a lean form");
    let (Converted::Object(change), _) = convert::lean(&object) else { panic!("{object:?}") };
    state.analysis.take(Event::Changes(vec![Object { change, meta: convert::meta(&object) }]));
}

#[test]
fn reports_are_summed_up_in_a_small_share_of_the_time() {
    let (mut state, now) = state(100);
    state.sum_up(now, true);
    assert_eq!(state.metrics.nodes.get(), 100);
    add_node(&mut state, "another", now);
    state.sum_up(now, false);
    assert_eq!(state.metrics.leading.get(), 0);
    assert_eq!(state.metrics.nodes.get(), 100, "it took some time, and now rests");
    state.sum_up(now + Duration::from_hours(1), false);
    assert_eq!(state.metrics.nodes.get(), 101);
}

#[test]
fn a_write_that_is_forbidden_holds_up_its_own_kind_alone() {
    let (mut state, now) = state(1);
    let standing = Write::Standing(Box::new(NewStanding {
        name: "deny".to_owned(),
        uid: "u".to_owned(),
        standing: Standing::new(&judged(), &Progress::default()),
        before: Value::Null,
    }));
    state.done(&standing, Outcome::Forbidden("403".to_owned()), now);
    let next = state.next(now).expect("the condition Current of a report is to be set");
    assert_eq!(next.kind(), Write::REPORT);
    let (mut now, forbidden) = (now, || Outcome::Forbidden("403".to_owned()));
    for seconds in [5, 10, 20, 40, 60, 60] {
        state.done(&next, forbidden(), now);
        state.done(&next, forbidden(), now);
        let rest = Duration::from_secs(seconds);
        assert!(state.next(now + rest - Duration::from_millis(1)).is_none());
        now += rest;
        let again = state.next(now).expect("it is tried again");
        assert_eq!(again.kind(), next.kind(), "after {seconds} s");
    }
    state.done(&next, Outcome::Written, now);
    state.done(&next, forbidden(), now);
    now += FORBIDDEN_FIRST;
    assert!(state.next(now).is_some(), "it was allowed in between");

    // A server that cannot answer gets no further request for a while.
    let failed = Outcome::Failed("503".to_owned(), Duration::from_secs(5));
    state.done(&standing, failed, now);
    assert!(state.next(now + Duration::from_secs(4)).is_none());
}

#[test]
fn a_deleted_node_is_not_waited_for() {
    let (mut state, now) = state(1);
    let mut judged = judged();
    judged.coverage.nodes = ["n0", "gone"].into_iter().map(Into::into).collect();
    let deny = ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, "deny");
    state.analysis.judged.insert(deny.clone(), judged);
    state.sum_up(now, true);
    let standing = state.rollout.standings.get(&deny).expect("it is summed up");
    let patch = standing.patch("deny", "u", &Value::Null, Timestamp::UNIX_EPOCH);
    assert_eq!(patch["status"]["nodes"], json!({"concerned": 1, "realised": 0}));
}

#[test]
fn a_policy_that_all_nodes_with_its_pods_have_applied_is_reported_once_per_generation() {
    let (mut state, mut now) = state(3);
    for (name, node) in [("a", "n0"), ("b", "n1")] {
        add_pod(&mut state, name, node);
    }
    add_policy(&mut state, "before", 1);
    for node in ["n0", "n1"] {
        add_report(&mut state, node, &[("before", 1)], now);
    }
    let applied = |state: &mut State, now: &mut Instant| -> Vec<String> {
        *now += Duration::from_mins(1);
        let now = *now;
        state.analysis.round(now);
        state.sum_up(now, true);
        let found = state.rollout.applied(now).into_iter();
        found.map(|found| format!("{} {}", found.object.short(), found.finding.message)).collect()
    };
    assert_eq!(
        applied(&mut state, &mut now),
        [""; 0],
        "it was applied before this process started"
    );

    add_policy(&mut state, "deny", 1);
    add_report(&mut state, "n0", &[("before", 1), ("deny", 1)], now);
    assert_eq!(applied(&mut state, &mut now), [""; 0], "a node with a pod does not report it yet");
    add_report(&mut state, "n1", &[("before", 1), ("deny", 1)], now);
    let first = "shop/deny generation 1 is applied on all 2 nodes with pods that it selects";
    assert_eq!(applied(&mut state, &mut now), [first]);
    assert_eq!(applied(&mut state, &mut now), [first], "until it was written");

    // A node that is concerned later has its own time.
    add_pod(&mut state, "c", "n2");
    assert_eq!(applied(&mut state, &mut now), [first]);
    for _ in 0..10 {
        for node in ["n0", "n1", "n2"] {
            add_report(&mut state, node, &[("before", 1), ("deny", 1)], now);
        }
        applied(&mut state, &mut now);
    }
    assert_eq!(applied(&mut state, &mut now), [""; 0], "it is not recent any more");

    add_policy(&mut state, "deny", 2);
    assert_eq!(applied(&mut state, &mut now), [""; 0]);
    for node in ["n0", "n1", "n2"] {
        add_report(&mut state, node, &[("before", 1), ("deny", 2)], now);
    }
    assert_eq!(
        applied(&mut state, &mut now),
        ["shop/deny generation 2 is applied on all 3 nodes with pods that it selects"]
    );
}

#[test]
fn news_of_applied_policies_do_not_hold_up_what_is_wrong() {
    let (mut state, now) = state(0);
    let finding = |name: String, reason| ObjectFinding {
        object: ObjectRef::new(Kind::NetworkPolicy, "shop", name),
        uid: "u".to_owned(),
        generation: 1,
        finding: Finding { reason, field: String::new(), message: String::new() },
    };
    let many = (0..1_000).map(|at| finding(format!("p{at}"), Reason::Applied));
    state.outbox.update_applied(many.collect(), now);
    while let Some(write) = state.next(now) {
        state.done(&write, Outcome::Written, now);
    }
    let later = now + Duration::from_secs(1);
    state.outbox.update([finding("bad".to_owned(), Reason::FailedClosed)].into(), now);
    let Some(Write::Event(next)) = state.next(later) else { panic!("one is due") };
    assert_eq!(next.finding.reason, Reason::FailedClosed);
}

fn add_pod(state: &mut State, name: &str, node: &str) {
    add::<Pod>(
        state,
        json!({"metadata": {"namespace": "shop", "name": name, "uid": name},
            "spec": {"nodeName": node, "containers": []}}),
    );
}

fn add_policy(state: &mut State, name: &str, generation: i64) {
    add::<NetworkPolicy>(
        state,
        json!({"metadata": {"namespace": "shop", "name": name, "uid": name, "generation": generation},
            "spec": {"podSelector": {}}}),
    );
}

/// The report of a node that enforces these policies, by name and generation.
fn add_report(state: &mut State, node: &str, policies: &[(&str, i64)], now: Instant) {
    let policies = policies.iter().map(|(name, generation)| {
        json!({"kind": "NetworkPolicy", "namespace": "shop", "name": name, "uid": name,
            "observedGeneration": generation})
    });
    let conditions = json!([{"type": "Enforcing", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "1970-01-01T00:00:00Z"}]);
    let report: Lean<_> = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": node, "uid": node}, "spec": {"nodeName": node},
        "status": {"policies": policies.collect::<Vec<_>>(), "conditions": conditions,
            "observedAt": format!("2026-01-01T00:00:00.{:06}Z", fastrand::u32(..1_000_000))},
    }))
    .expect("a report");
    state.rollout.take(vec![Watched::Apply(report)], now);
}

#[test]
fn a_status_is_written_when_all_reports_are_known_and_of_the_generation_that_was_judged() {
    let (mut state, now) = state(1);
    let deny = ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, "deny");
    state.analysis.judged.insert(deny, judged());
    state.sum_up(now, true);
    let is_due = |state: &mut State, now: Instant| {
        let State { analysis, rollout, outbox, .. } = state;
        let mut next = |now| outbox.next_standing(analysis, rollout, now);
        next(now).or_else(|| next(now + pace::SETTLE)).is_some()
    };
    add_default(&mut state, 2);
    assert!(!is_due(&mut state, now), "what was judged is another generation");
    add_default(&mut state, 1);
    let reports = std::mem::take(&mut state.rollout.reports);
    assert!(!is_due(&mut state, now), "nodes may have it enforced, for all that is known");
    state.rollout.reports = reports;
    assert!(is_due(&mut state, now));
}

fn add_default(state: &mut State, generation: i64) {
    let metadata = json!({"name": "deny", "uid": "u", "generation": generation});
    add::<ClusterDefaultNetworkPolicy>(state, json!({"metadata": metadata}));
}

fn judged() -> Judged {
    let (mode, coverage) = (policy_engine::tier::Mode::Enforce, Coverage::default());
    let revision = Revision { uid: Some("u".into()), generation: Some(1) };
    Judged { revision, mode, coverage, failed: Vec::new() }
}
