//! The report in each state of an agent, and the changes that are no news.

use std::collections::BTreeMap;

use policy_engine::direction::Direction;
use policy_engine::engine::hashes::Hashes;
use policy_engine::id::digest;
use policy_engine::object::Kind;
use policy_engine::policy::Revision;
use policy_engine::tier::Tier;
use portcullis_crds::diagnostic::About;
use portcullis_crds::path::FieldPath;

use super::*;
use crate::dataplane::denial::{Cause, Counts, Denial};
use crate::dataplane::examine::Examination;
use crate::node::metrics::Metrics;
use crate::node::publisher::Publisher;
use crate::node::status::{Findings, Phase, Round, Rules};
use crate::serve::pulse::Pulse;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn facts() -> Facts {
    Facts {
        agent: api::Agent {
            version: "1.2.3".to_owned(),
            pod_name: Some("portcullis-x".to_owned()),
        },
        backend: api::Backend {
            name: api::BackendName::IptablesNft,
            reason: Some("iptables and ipset work".to_owned()),
            families: vec![api::Family::IPv4],
        },
        options: OptionFacts::new(&world::Options::default()),
    }
}

fn revision(generation: Option<i64>) -> Revision {
    Revision { uid: generation.map(|_| "u".into()), generation }
}

fn policy(name: &str, generation: i64) -> (ObjectRef, Applied) {
    let policy = Applied { mode: Mode::Enforce, revision: revision(Some(generation)), pods: 1 };
    (ObjectRef::new(Kind::NetworkPolicy, "shop", name), policy)
}

fn default(name: &str, mode: Mode) -> (ObjectRef, Applied) {
    let policy = Applied { mode, revision: revision(Some(7)), pods: 3 };
    (ObjectRef::cluster(Kind::ClusterDefaultNetworkPolicy, name), policy)
}

fn selection(policies: impl IntoIterator<Item = (ObjectRef, Applied)>) -> Selection {
    Selection {
        pods: 3,
        isolated: 2,
        isolated_ingress: 2,
        isolated_egress: 0,
        policies: policies.into_iter().collect(),
    }
}

fn enforced(selection: Selection) -> Status {
    Status {
        phase: Phase::Applied,
        selection: Arc::new(selection),
        last_success: Some(NOW),
        examination: Some(Arc::default()),
        ..Status::default()
    }
}

/// The condition of the report of `status`.
pub(crate) fn condition(status: &Status) -> Condition {
    let report = render(&facts(), status, None, NOW);
    report.conditions.into_iter().next().expect("there is one")
}

fn failing(error: &str) -> Status {
    Status {
        phase: Phase::Failing { error: error.into(), family: None, rules: Rules::Last },
        ..Status::default()
    }
}

/// The counts for `packets` that were denied, and that would have been denied, in each direction.
fn denials(packets: [u64; 2]) -> Arc<BTreeMap<Denial, Counts>> {
    let outcomes = Outcome::ALL.into_iter().zip(packets);
    let all = outcomes.flat_map(|(outcome, packets)| {
        Direction::BOTH.map(|direction| {
            let denial = Denial { outcome, direction, cause: Cause::Policies(Tier::Default) };
            (denial, Counts { packets, bytes: 0 })
        })
    });
    Arc::new(all.collect())
}

#[test]
fn a_report_names_what_is_enforced() {
    let status = Status {
        latency: Some(Latency {
            last: Duration::from_micros(900),
            p50: Duration::from_millis(1),
            max: Duration::from_secs(1),
            samples: 7,
        }),
        drift_repairs: 2,
        denials: denials([3, 5]),
        ..enforced(selection([policy("b", 4), policy("a", 1)]))
    };
    let shown = serde_json::to_value(render(&facts(), &status, None, NOW)).expect("it is JSON");
    let expected = serde_json::json!({
        "observedAt": "1970-01-01T00:00:00Z",
        "state": "Enforcing",
        "agent": {"version": "1.2.3", "podName": "portcullis-x"},
        "backend": {"name": "iptables-nft", "reason": "iptables and ipset work", "families": ["IPv4"]},
        "compiledState": {
            "rules": "aaaaaaaaaaaaaaaa",
            "members": "aaaaaaaaaaaaaaaa",
            "options": {
                "allowEgressToOwnNode": false,
                "ownNamespace": "portcullis-system",
                "systemNamespaces": [],
                "budgets": world::Options::default().budgets.to_string(),
                "isAudit": false,
            },
        },
        "pods": {"local": 3, "isolated": 2, "isolatedIngress": 2, "isolatedEgress": 0},
        "policies": [
            {"kind": "NetworkPolicy", "namespace": "shop", "name": "a", "uid": "u", "observedGeneration": 1,
             "pods": 1},
            {"kind": "NetworkPolicy", "namespace": "shop", "name": "b", "uid": "u", "observedGeneration": 4,
             "pods": 1},
        ],
        "policiesEnforced": 2,
        "policiesOmitted": 0,
        "lastSuccessfulSync": "1970-01-01T00:00:00Z",
        "syncLatencyMicroseconds": {"last": 900, "p50": 1000, "max": 1_000_000, "samples": 7},
        "syncLatency": "1.0ms",
        "driftRepairs": 2,
        "denials": {"denied": 6, "wouldDeny": 10},
        "diagnosticsFound": 0,
        "diagnosticsOmitted": 0,
        "conditions": [{
            "type": "Enforcing",
            "status": "True",
            "reason": "PoliciesEnforced",
            "message": "the kernel does what the policies say",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }],
    });
    assert_eq!(shown, expected);
}

#[test]
fn policies_of_the_cluster_come_first_and_say_that_they_are_in_audit() {
    let many = (0..api::POLICIES_MAX).map(|n| policy(&format!("p{n:05}"), 1));
    let guardrails = ObjectRef::cluster(Kind::ClusterNetworkPolicy, "guardrails");
    let of_cluster = [
        default("deny", Mode::Enforce),
        default("watch", Mode::Audit),
        (guardrails, Applied { mode: Mode::Enforce, revision: revision(None), pods: 2 }),
    ];
    let status = enforced(selection(many.chain(of_cluster)));
    let report = render(&facts(), &status, None, NOW);
    assert_eq!((report.policies.len(), report.policies_omitted), (api::POLICIES_MAX, Some(3)));
    let first = serde_json::to_value(report.policies.get(..4)).expect("it is JSON");
    let expected = serde_json::json!([
        {"kind": "ClusterNetworkPolicy", "name": "guardrails", "pods": 2},
        {"kind": "ClusterDefaultNetworkPolicy", "name": "deny", "uid": "u", "observedGeneration": 7, "pods": 3},
        {"kind": "ClusterDefaultNetworkPolicy", "name": "watch", "uid": "u", "observedGeneration": 7,
         "mode": "Audit", "pods": 3},
        {"kind": "NetworkPolicy", "namespace": "shop", "name": "p00000", "uid": "u", "observedGeneration": 1,
         "pods": 1},
    ]);
    assert_eq!(first, expected);
}

#[test]
fn a_report_of_much_is_cut_and_says_how_much_it_leaves_out() {
    let many = (0..api::POLICIES_MAX + 5).map(|n| policy(&format!("p{n:05}"), 1));
    let found = |n: usize| Diagnostic {
        severity: if n == 99 { Severity::Error } else { Severity::Warning },
        source: None,
        about: About::Other("o".repeat(9999)),
        field: FieldPath::new(["f".repeat(9999).as_str()]),
        message: "ä\n".repeat(9999),
    };
    let all: Vec<Diagnostic> = (0..100).map(found).collect();
    let diagnostics = Arc::new(Findings::of(all.iter(), &[]));
    let status = Status { diagnostics, ..enforced(selection(many)) };
    let report = render(&facts(), &status, None, NOW);
    assert_eq!(report.policies.len(), api::POLICIES_MAX);
    assert_eq!(report.policies_enforced, Some(1005));
    assert_eq!(report.policies_omitted, Some(5));
    assert_eq!(report.diagnostics.len(), api::DIAGNOSTICS_MAX);
    assert_eq!((report.diagnostics_found, report.diagnostics_omitted), (Some(100), Some(50)));
    let first = report.diagnostics.first().expect("there are some");
    assert_eq!(first.severity, api::Severity::Error, "errors come first");
    assert_eq!(first.object.chars().count(), api::PLACE_LENGTH_MAX);
    assert_eq!(first.field.chars().count(), api::PLACE_LENGTH_MAX);
    assert_eq!(first.message.chars().count(), api::MESSAGE_LENGTH_MAX);
    assert!(first.message.ends_with('…') && !first.message.contains('\n'), "{}", first.message);
}

#[test]
fn before_the_first_round_nothing_is_claimed() {
    for status in [Status::default(), failing("no\ntool")] {
        let report = render(&facts(), &status, None, NOW);
        assert_eq!((report.pods, report.policies_enforced), (None, None));
        assert_eq!(report.last_successful_sync, None);
    }
    let report = render(&facts(), &failing("no\ntool"), None, NOW);
    let condition = report.conditions.first().expect("there is one");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "ApplyFailed"));
    assert!(condition.message.starts_with("no tool; no rules were applied"), "{condition:?}");
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let since = time(NOW + Duration::from_mins(1));
    let later = NOW + Duration::from_mins(2);
    let before = Transition { status: "True".to_owned(), since: since.clone() };
    let at = |status: &Status| {
        let report = render(&facts(), status, Some(&before), later);
        report.conditions.into_iter().next().map(|found| found.last_transition_time)
    };
    assert_eq!(at(&enforced(Selection::default())), Some(since));
    assert_eq!(at(&failing("")), Some(time(later)));
}

#[test]
fn a_round_that_does_not_change_the_report_is_no_news() {
    let mut publisher = Publisher::new(Metrics::default(), Pulse::default());
    let status = publisher.subscribe();
    let latest = || status.borrow().clone();
    assert_eq!(news(None, &latest()), News::Loading);
    publisher.examined(&Examination::default());
    assert_eq!(news(None, &latest()), News::Loading);
    let round = |selection| Round {
        selection,
        rulesets: 1,
        sets: 1,
        hashes: Hashes::default(),
        nodes: 1,
        apply: Duration::from_millis(1),
        latency: Some(Duration::from_millis(2)),
    };
    publisher.enforced(round(Some(selection([policy("a", 1)]))));
    assert_eq!(news(None, &latest()), News::Some);
    let written = latest();

    // A peer that was added and removed, the same selection again, a comparison without repairs.
    publisher.enforced(round(None));
    publisher.enforced(round(Some(selection([policy("a", 1)]))));
    publisher.verified(0);
    publisher.found(Findings::default());
    publisher.denied(BTreeMap::clone(&denials([1, 2])));
    assert_ne!(latest(), written, "times and latencies changed");
    assert_eq!(news(Some(&written), &latest()), News::None);

    // A pod of another node is a member of a set now.
    let mut hashes = Hashes::default();
    hashes.members.toggle(digest(["10.0.0.1"]));
    publisher.enforced(Round { hashes, ..round(None) });
    assert_eq!(news(Some(&written), &latest()), News::None);
    hashes.rules.toggle(digest(["10.0.0.1"]));
    publisher.enforced(Round { hashes, ..round(None) });
    assert_eq!(news(Some(&written), &latest()), News::Some, "other rules");
    publisher.enforced(round(None));
    assert_eq!(news(Some(&written), &latest()), News::None);

    publisher.selected(selection([policy("a", 2)]));
    assert_eq!(news(Some(&written), &latest()), News::Some, "another generation");
    publisher.selected(selection([policy("a", 1)]));
    assert_eq!(news(Some(&written), &latest()), News::None);
    publisher.failed("no tool", None, Rules::Last);
    assert_eq!(news(Some(&written), &latest()), News::Some, "it fails");
    publisher.verified(0);
    assert_eq!(news(Some(&written), &latest()), News::None);
    publisher.verified(1);
    assert_eq!(news(Some(&written), &latest()), News::Some, "a repair");
}

#[test]
fn a_latency_for_people_has_a_unit() {
    let micros = Duration::from_micros;
    let shown = [0, 440, 14_205, 999_900, 1_540_000].map(|time| with_unit(micros(time)));
    assert_eq!(shown, ["0.0ms", "0.4ms", "14.2ms", "999.9ms", "1.5s"]);
}

#[test]
fn options_that_a_report_cannot_hold_leave_the_hashes_out() {
    let status = Status { last_success: Some(NOW), ..Status::default() };
    assert!(render(&facts(), &status, None, NOW).compiled_state.is_some());
    let mut facts = facts();
    facts.options.system_namespaces = vec!["a".to_owned(); 1001];
    assert_eq!(render(&facts, &status, None, NOW).compiled_state, None);
}
