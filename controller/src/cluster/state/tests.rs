//! What the state decides to write, and how often it looks.

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
    state.done(&next, Outcome::Forbidden("403".to_owned()), now);
    assert!(state.next(now + Duration::from_secs(59)).is_none());
    assert!(state.next(now + FORBIDDEN_PAUSE).is_some(), "it is tried again");

    // A server that cannot answer is left alone.
    let failed = Outcome::Failed("503".to_owned(), Duration::from_secs(5));
    state.done(&standing, failed, now + FORBIDDEN_PAUSE);
    assert!(state.next(now + FORBIDDEN_PAUSE + Duration::from_secs(4)).is_none());
}

fn judged() -> Judged {
    let (mode, coverage) = (policy_engine::tier::Mode::Enforce, Coverage::default());
    Judged { generation: 1, mode, coverage, failed: Vec::new() }
}
