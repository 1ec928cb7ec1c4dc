//! What the state decides to write, and how often it looks.

use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Event as Watched;
use portcullis_crds::api::node_policy_report::NodePolicyReport;
use serde_json::json;

use super::*;

const SILENT_AFTER: Duration = Duration::from_mins(10);

/// A state that knows `nodes` nodes, and the report of each, that nobody told current.
fn state(nodes: usize) -> (State, Instant) {
    let options = Options::default();
    let mut state = State::new(options, Duration::from_secs(1), SILENT_AFTER, Metrics::default());
    let now = Instant::now();
    state.source(Event::Synced);
    for fact in [
        Fact::Policy(Watched::Init),
        Fact::Policy(Watched::InitDone),
        Fact::Node(Watched::Init),
        Fact::Node(Watched::InitDone),
        Fact::Report(Box::new(Watched::Init)),
        Fact::Report(Box::new(Watched::InitDone)),
    ] {
        state.fact(fact, now);
    }
    for number in 0..nodes {
        add_node(&mut state, &format!("n{number}"), now);
    }
    (state, now)
}

fn add_node(state: &mut State, name: &str, now: Instant) {
    let node = json!({"metadata": {"name": name, "uid": name}});
    let node = serde_json::from_value(node).expect("a node");
    state.fact(Fact::Node(Watched::Apply(node)), now);
    let report: NodePolicyReport = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": name, "uid": name}, "spec": {"nodeName": name}, "status": {},
    }))
    .expect("a report");
    state.fact(Fact::Report(Box::new(Watched::Apply(report))), now);
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
    let next = state.next(now).expect("a report is to be told current");
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

    // A server that cannot answer is left alone.
    let failed = Outcome::Failed("503".to_owned(), Duration::from_secs(5));
    state.done(&standing, failed, now);
    assert!(state.next(now + Duration::from_secs(4)).is_none());
}

#[test]
fn a_node_that_is_gone_is_not_waited_for() {
    let (mut state, now) = state(1);
    let mut judged = judged();
    judged.coverage.nodes = ["n0", "gone"].into_iter().map(Into::into).collect();
    state.judged.insert(ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, "deny"), judged);
    state.sum_up(now, true);
    let standing = state.standings.get("deny").expect("it is summed up");
    let told = standing.patch("deny", "u", &Value::Null, Timestamp::UNIX_EPOCH);
    assert_eq!(told["status"]["nodes"], json!({"concerned": 1, "realised": 0}));
}

#[test]
fn a_status_is_written_when_all_reports_are_known_and_of_the_generation_that_was_judged() {
    let (mut state, now) = state(1);
    let deny = ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, "deny");
    state.judged.insert(deny, judged());
    state.sum_up(now, true);
    let is_due = |state: &mut State, now: Instant| {
        let first = state.next_standing(now);
        first.or_else(|| state.next_standing(now + pace::SETTLE)).is_some()
    };
    add_default(&mut state, 2, now);
    assert!(!is_due(&mut state, now), "what was judged is another generation");
    add_default(&mut state, 1, now);
    let reports = std::mem::take(&mut state.reports);
    assert!(!is_due(&mut state, now), "nodes may have it in force, for all that is known");
    state.reports = reports;
    assert!(is_due(&mut state, now));
}

fn add_default(state: &mut State, generation: i64, now: Instant) {
    let default = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "ClusterDefaultNetworkPolicy",
        "metadata": {"name": "deny", "uid": "u", "generation": generation},
    });
    let default = serde_json::from_value(default).expect("a default");
    state.fact(Fact::Default(Box::new(Watched::Apply(default))), now);
}

fn judged() -> Judged {
    let (mode, coverage) = (policy_engine::tier::Mode::Enforce, Coverage::default());
    Judged { generation: 1, mode, coverage, failed: Vec::new() }
}
