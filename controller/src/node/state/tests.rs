//! The signals for each fact: state, condition, metrics and alerts.

use std::time::Duration;

use policy_engine::engine::hashes::Hashes;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::world::enforcement::Enforcement;
use portcullis_crds::diagnostic::{About, Severity};
use portcullis_crds::path::FieldPath;

use super::*;
use crate::dataplane::TableName;
use crate::dataplane::applied::HookPlaces;
use crate::dataplane::conflict::Conflict;
use crate::dataplane::drift::DisplacedHook;
use crate::dataplane::examine::Examination;
use crate::dataplane::preflight::{self, Finding};
use crate::dataplane::rule::Hook;
use crate::node::metrics::Metrics;
use crate::node::publisher::Publisher;
use crate::node::report::pace::News;
use crate::node::report::render::{news, tests::condition};
use crate::node::signals::Signals;
use crate::node::status::{Findings, Round};
use crate::serve::pulse::Pulse;

const UNREADY_AFTER: Duration = Duration::from_secs(30);

/// The facts that an agent publishes, and its signals.
struct Agent {
    publisher: Publisher,
    metrics: Metrics,
    signals: Signals,
}

impl Agent {
    fn new() -> Self {
        let (metrics, pulse) = (Metrics::default(), Pulse::default());
        let publisher = Publisher::new(metrics.clone(), pulse.clone());
        let signals = Signals::new(publisher.subscribe(), pulse, UNREADY_AFTER);
        publisher.beat();
        Self { publisher, metrics, signals }
    }

    fn enforced(&mut self) {
        let (selection, latency) = (None, None);
        let apply = Duration::ZERO;
        self.publisher.enforced(Round {
            selection,
            rulesets: 0,
            sets: 0,
            hashes: Hashes::default(),
            nodes: 0,
            apply,
            latency,
        });
    }

    fn examined(&mut self, conflicts: &[Conflict]) {
        let finding = Finding {
            severity: preflight::Severity::Error,
            what: "found".to_owned(),
            what_to_do: "do".to_owned(),
        };
        let detect =
            |conflict: &Conflict| Detected { conflict: *conflict, finding: finding.clone() };
        let conflicts = conflicts.iter().map(detect).collect();
        self.publisher.examined(&Examination { conflicts, ..Examination::default() });
    }

    fn displaced(&mut self, is_displaced: bool) {
        let places = HookPlaces::default();
        let (family, table, hook) = (Family::V4, TableName::Mangle, Hook::Forward);
        let hook = DisplacedHook { family, table, hook, places };
        self.publisher.displaced(if is_displaced { std::slice::from_ref(&hook) } else { &[] });
    }

    fn found(&mut self, abouts: &[About]) {
        let all: Vec<Diagnostic> = abouts
            .iter()
            .map(|about| Diagnostic {
                severity: Severity::Error,
                source: None,
                about: about.clone(),
                field: FieldPath::default(),
                message: "m".to_owned(),
            })
            .collect();
        self.publisher.found(Findings::of(all.iter(), &[]));
    }

    /// The series with the value 1 or more.
    fn series(&self) -> Vec<String> {
        let mut text = String::new();
        let registry = self.metrics.registry(self.signals.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let set = lines.filter_map(|line| line.split_once(' ')).filter(|(_, value)| *value != "0");
        set.map(|(name, _)| name.to_owned()).collect()
    }

    /// The signals in one line: state, reason, condition, unenforced parts, and firing alerts.
    fn signals(&self) -> String {
        let (status, series) = (self.signals.latest(), self.series());
        let state = status.state();
        let condition = condition(&status);
        assert_eq!(condition.reason, state.reason());
        assert_eq!(condition.message, state.to_string());
        // A node in audit mode is ready, and enforces nothing.
        let is_ready = condition.status == "True" || state == State::Auditing;
        assert_eq!(state.ready().is_ok(), is_ready, "{state:?}");
        let own = series.iter().filter_map(|name| name.strip_prefix("portcullis_node_state"));
        let own: Vec<&str> = own.collect();
        assert_eq!(own, [format!("{{state=\"{}\"}}", state.name())]);
        let what =
            |name: &&str| series.contains(&format!("portcullis_node_degraded{{what=\"{name}\"}}"));
        let unenforced: Vec<&str> = Unenforced::NAMES.into_iter().filter(what).collect();
        let alerts = alerts(&series).join(" ");
        let (state, unenforced) = (state.name(), unenforced.join(" "));
        format!("{state} {} {} | {unenforced} | {alerts}", condition.reason, condition.status)
    }
}

/// The alerts of deploy/alerts.yaml that concern the state or objects, and fire for these series.
fn alerts(series: &[String]) -> Vec<&'static str> {
    let text = include_str!("../../../../deploy/alerts.yaml");
    let about = ["portcullis_node_", "portcullis_conflicts", "portcullis_diagnostics"];
    let mut name = "";
    let mut firing = Vec::new();
    for line in text.lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: Portcullis") {
            name = alert;
        }
        let expression = line.trim().strip_prefix("expr: ").unwrap_or_default();
        // An exception does not make an alert one about the state.
        let expression = expression.split(" unless ").next().unwrap_or_default();
        if about.iter().any(|about| expression.contains(about)) && is_true(expression, series) {
            firing.push(name);
        }
    }
    firing
}

/// Terms of the form `max by (…) (series{label}) > 0`, joined by `and`.
fn is_true(expression: &str, series: &[String]) -> bool {
    expression.split(" and on (node) ").all(|term| {
        let (_, selector) = term.split_once(") (").expect("it aggregates");
        let selector = selector.strip_suffix(") > 0").expect("it compares with 0");
        let (metric, labels) = selector.split_once('{').unwrap_or((selector, "}"));
        let labels = labels.trim_end_matches('}').split(',');
        let is_of = |one: &&String| one.split('{').next() == Some(metric);
        series.iter().filter(is_of).any(|one| labels.clone().all(|label| one.contains(label)))
    })
}

type Fact = fn(&mut Agent);

const ENFORCING: &str = "Enforcing PoliciesEnforced True |  | ";

fn unread(agent: &mut Agent) {
    agent.found(&[About::Unread("Pod a".to_owned())]);
}

/// The name of a case, its facts, and the signals after them.
const TABLE: [(&str, &[Fact], &str); 19] = [
    ("at the start", &[], "Loading Loading Unknown |  | NodeLoading"),
    ("the node is not examined", &[Agent::enforced], "Loading Loading Unknown |  | NodeLoading"),
    ("", &[Agent::enforced, |a| a.examined(&[])], ENFORCING),
    (
        "a conflict while objects load",
        &[|a| a.examined(&[Conflict::KubeProxyIpvs])],
        "Loading Loading Unknown |  | NodeLoading NodeBypassed",
    ),
    (
        "a conflict",
        &[Agent::enforced, |a| {
            a.examined(&[Conflict::KubeProxyIpvs, Conflict::SecondEnforcer]);
        }],
        "Bypassed KubeProxyIpvs False |  | NodeBypassed",
    ),
    (
        "a conflict, and then a failure",
        &[
            |a| a.examined(&[Conflict::KubeProxyIpvs]),
            |a| a.publisher.failed("no tool", None, Rules::Last),
        ],
        "Bypassed KubeProxyIpvs False |  | NodeBypassed",
    ),
    (
        "a displaced hook",
        &[Agent::enforced, |a| a.examined(&[]), |a| a.displaced(true), |a| a.publisher.verified(0)],
        "Bypassed HookDisplaced False |  | NodeBypassed",
    ),
    (
        "a restored hook",
        &[Agent::enforced, |a| a.examined(&[]), |a| a.displaced(true), |a| a.displaced(false)],
        ENFORCING,
    ),
    (
        "a failed round",
        &[
            Agent::enforced,
            |a| a.examined(&[]),
            |a| a.publisher.failed("no tool", None, Rules::Last),
        ],
        "Failing ApplyFailed False |  | NodeFailing",
    ),
    (
        "a comparison without a failure after it",
        &[
            |a| a.examined(&[]),
            |a| a.publisher.failed("no tool", None, Rules::Last),
            |a| a.publisher.verified(0),
        ],
        ENFORCING,
    ),
    (
        "audit mode",
        &[|a| a.publisher.enforcing(&Enforcement::Nowhere), Agent::enforced, |a| a.examined(&[])],
        "Auditing AuditOnly False |  | ",
    ),
    (
        "audit mode, and one family fails",
        &[
            |a| a.publisher.enforcing(&Enforcement::Nowhere),
            |a| a.examined(&[]),
            |a| a.publisher.failed("no tool", Some(Family::V6), Rules::Last),
        ],
        "Degraded IPv6NotEnforced False | IPv6NotEnforced | NodeDegraded",
    ),
    (
        "one family fails",
        &[|a| a.examined(&[]), |a| a.publisher.failed("no tool", Some(Family::V6), Rules::Last)],
        "Degraded IPv6NotEnforced False | IPv6NotEnforced | NodeDegraded",
    ),
    (
        "the node is unknown",
        &[Agent::enforced, |a| a.publisher.node_unknown(Some("no Node".into()))],
        "Degraded NodeUnknown False | NodeUnknown | NodeDegraded",
    ),
    (
        "the node is unknown, and nothing can be applied",
        &[
            Agent::enforced,
            |a| a.examined(&[]),
            |a| a.publisher.node_unknown(Some("no Node".into())),
            |a| a.publisher.failed("no tool", None, Rules::Last),
        ],
        "Failing ApplyFailed False | NodeUnknown | NodeFailing NodeDegraded",
    ),
    (
        "rules are refused",
        &[Agent::enforced, |a| a.examined(&[]), |a| a.publisher.refused(2, Some("a set".into()))],
        "Degraded RulesRefused False | RulesRefused | NodeDegraded",
    ),
    (
        "an object cannot be read",
        &[Agent::enforced, |a| a.examined(&[]), unread],
        "Degraded ObjectsUnread False | ObjectsUnread | NodeDegraded ObjectErrors",
    ),
    (
        "a kind cannot be read, and rules of an earlier run stay",
        &[|a| a.examined(&[]), unread],
        "Failing ObjectsUnread False | ObjectsUnread | NodeFailing NodeDegraded ObjectErrors",
    ),
    (
        "other errors",
        &[Agent::enforced, |a| a.examined(&[]), |a| a.found(&[About::nothing()])],
        "Enforcing PoliciesEnforced True |  | ObjectErrors",
    ),
];

#[tokio::test(start_paused = true)]
async fn every_signal_follows_from_the_state_and_the_state_from_the_facts() {
    let policy = About::Object(ObjectRef::new(Kind::NetworkPolicy, "shop", "p"));
    for (name, facts, expected) in TABLE {
        let mut agent = Agent::new();
        let before = agent.signals.latest();
        facts.iter().for_each(|fact| fact(&mut agent));
        assert_eq!(agent.signals(), expected, "{name}");
        if agent.signals.latest().state() != before.state() {
            assert_eq!(news(Some(&before), &agent.signals.latest()), News::Some, "{name}");
        }
        // A policy with an error drops no packets where it is not enforced.
        agent.found(std::slice::from_ref(&policy));
        let signals = agent.signals();
        let is_enforcing = signals.starts_with("Enforcing");
        assert_eq!(signals.contains("PolicyFailedClosed"), is_enforcing, "{name}: {signals}");
        // An agent that hangs is Failing in any state but Bypassed, which is worse.
        tokio::time::advance(UNREADY_AFTER + Duration::from_secs(1)).await;
        let stalled = agent.signals();
        assert!(
            stalled.starts_with("Failing Stalled") || stalled.starts_with("Bypassed"),
            "{stalled}"
        );
        agent.publisher.beat();
        assert!(!agent.signals().contains("Stalled"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_state_describes_its_effect_on_packets() {
    let mut agent = Agent::new();
    let text = |agent: &Agent| agent.signals.latest().state().ready().expect_err("not enforcing");
    agent.examined(&[]);
    agent.publisher.failed("no tool", None, Rules::Last);
    assert_eq!(
        text(&agent),
        "Failing: no tool; no rules were applied since the agent started: those of an earlier run \
         stay, and without any all packets pass"
    );
    agent.enforced();
    agent.publisher.failed("no tool", None, Rules::Last);
    assert_eq!(text(&agent), "Failing: no tool; the rules that were applied last stay");
    agent.publisher.failed("no ipset", None, Rules::WithoutSets);
    assert_eq!(text(&agent), "Failing: no ipset; everything else that policies deny is denied");
    agent.publisher.failed("no tool", None, Rules::Last);
    tokio::time::advance(UNREADY_AFTER + Duration::from_secs(1)).await;
    assert_eq!(
        text(&agent),
        "Failing: no progress for 31 s; the rules that were applied last stay"
    );
    agent.publisher.beat();
    agent.publisher.failed("no IPv6", Some(Family::V6), Rules::Last);
    agent.publisher.node_unknown(Some("no Node".into()));
    let both = "Degraded: no Node. changes are not applied to IPv6: no IPv6";
    assert_eq!(text(&agent), both);
    agent.examined(&[Conflict::KubeProxyIpvs, Conflict::SecondEnforcer]);
    let all = "Bypassed: KubeProxyIpvs: found; do. SecondEnforcer: found; do";
    assert_eq!(text(&agent), all);
}
