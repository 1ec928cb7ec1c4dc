//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! What cannot be understood is closed where it stands: a port or peer matches nothing, so does a
//! rule, a subject selects every pod of the namespace, `policyTypes` isolates both directions.

use policy_engine::model::Direction;
use policy_engine::policy::{NetworkPolicy, Peers, PolicyKey, PortMatch, Ports, Rule};
use policy_engine::selector::Selector;
use policy_engine::tier::Mode;
use serde_json::Value;

use super::labels::selector;
use super::peer::peer;
use super::port::port_match;
use crate::decode::{Field, wanted};
use crate::report::Report;

const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const SPEC_FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

const EVERY_POD: &str = "the policy selects every pod of the namespace";
const BOTH: &str = "the policy isolates for ingress and egress";
const UNLESS_LISTED: &str = "without policyTypes the policy isolates for ingress and egress";
const CLOSED: &str = "the policy isolates every pod of the namespace, for ingress and egress";
const NO_RULE: &str = "nothing is allowed in this direction";
const RULE: &str = "this rule matches nothing";

/// The policy `key` as written at `root`.
pub(super) fn policy(key: PolicyKey, root: &Field<'_>, report: &mut Report<'_>) -> NetworkPolicy {
    // A field at the wrong level (`egress` beside `spec`) may have been meant to isolate.
    let strange = root.has_unknown(&OBJECT_FIELDS, report, UNLESS_LISTED);
    if root.repeats("spec", report, CLOSED) {
        return NetworkPolicy { generation: generation(root), ..closed(key) };
    }
    let absent = Value::Object(serde_json::Map::new());
    let spec = root.get("spec").unwrap_or(Field { path: root.path, value: &absent });
    if !spec.value.is_object() {
        report.error(&spec.path, format!("{}; {CLOSED}", wanted("a mapping", spec.value)));
        return NetworkPolicy { generation: generation(root), ..closed(key) };
    }
    let strange = spec.has_unknown(&SPEC_FIELDS, report, UNLESS_LISTED) || strange;
    let types = types(&spec, strange, report);
    let mut rules = |direction| {
        let isolates = types.contains(&direction);
        isolates.then(|| rules(&spec, direction, &key, report))
    };
    let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
    // NetworkPolicy v1: a missing podSelector selects every pod.
    let subject = match spec.get("podSelector") {
        Some(field) if !spec.repeats("podSelector", report, EVERY_POD) => {
            selector(&field, report, EVERY_POD).unwrap_or_default()
        }
        _ => Selector::everything(),
    };
    let mode = Mode::Enforce;
    NetworkPolicy { key, subject, ingress, egress, mode, generation: generation(root) }
}

/// The policy that a policy which cannot be understood at all counts as.
pub(super) fn closed(key: PolicyKey) -> NetworkPolicy {
    NetworkPolicy {
        key,
        subject: Selector::everything(),
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
        mode: Mode::Enforce,
        generation: None,
    }
}

/// `metadata.generation`. Whatever else stands there changes nothing that is in force, so nothing
/// is said of it.
pub(super) fn generation(root: &Field<'_>) -> Option<i64> {
    root.value.get("metadata")?.get("generation")?.as_i64()
}

/// What [`closed`] is told as.
pub(super) const CLOSED_EFFECT: &str = CLOSED;

/// The directions that the policy isolates for.
fn types(spec: &Field<'_>, strange: bool, report: &mut Report<'_>) -> Vec<Direction> {
    let both = Direction::BOTH.to_vec();
    if spec.repeats("policyTypes", report, BOTH) {
        return both;
    }
    let listed = match spec.get("policyTypes") {
        None => &[],
        Some(field) => match field.list(report, BOTH) {
            None => return both,
            Some(list) => list,
        },
    };
    if listed.is_empty() {
        // Defaulting of networking.k8s.io/v1: Ingress, and Egress when there are egress rules.
        let egress = spec.get("egress").map(|field| field.value);
        let has_egress = egress.is_some_and(|value| value.as_array().is_none_or(|a| !a.is_empty()));
        let repeats = report.is_repeated(&spec.path.key("egress"));
        return if strange || has_egress || repeats { both } else { vec![Direction::Ingress] };
    }
    let mut directions = Vec::new();
    for (at, value) in listed.iter().enumerate() {
        let known = Direction::BOTH.into_iter().find(|known| value == known.as_str());
        if let Some(direction) = known {
            directions.push(direction);
        } else {
            let types = spec.path.key("policyTypes");
            let message = format!("{value} is no policy type (Ingress or Egress); {BOTH}");
            report.error(&types.index(at), message);
            directions.extend(Direction::BOTH);
        }
    }
    directions
}

fn rules(
    spec: &Field<'_>,
    direction: Direction,
    key: &PolicyKey,
    report: &mut Report<'_>,
) -> Vec<Rule> {
    let name = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    if spec.repeats(name, report, NO_RULE) {
        return Vec::new();
    }
    let Some(list) = spec.get(name) else { return Vec::new() };
    let items = list.list(report, NO_RULE).unwrap_or_default();
    let fields = items.iter().enumerate().map(|(at, value)| (list.path.index(at), value));
    fields.map(|(path, value)| rule(&Field { path, value }, direction, key, report)).collect()
}

fn rule(field: &Field<'_>, direction: Direction, key: &PolicyKey, report: &mut Report<'_>) -> Rule {
    let peers_name = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    if !field.value.is_object() {
        let hint = "write `{}` for a rule that allows everything";
        let found = wanted("a mapping", field.value);
        report.error(&field.path, format!("{found}; {RULE}; {hint}"));
        return Rule { peers: Peers::Listed(Vec::new()), ports: Ports::Any };
    }
    let known = [peers_name, "ports"];
    let mut strange = field.has_unknown(&known, report, RULE);
    for name in known {
        strange |= field.repeats(name, report, RULE);
    }
    // NetworkPolicy v1: an empty or missing `from`/`to` matches every peer, external included.
    let peers = match items(field, peers_name, report) {
        Items::Absent => Peers::Any,
        Items::Broken => Peers::Listed(Vec::new()),
        Items::Found(list, values) => {
            let fields = values.iter().enumerate().map(|(at, value)| (list.path.index(at), value));
            let peer = |(path, value)| peer(&Field { path, value }, &key.namespace, report);
            Peers::Listed(fields.map(peer).collect())
        }
    };
    // NetworkPolicy v1: empty or missing `ports` match every port of every protocol.
    let ports = match items(field, "ports", report) {
        Items::Absent => Ports::Any,
        Items::Broken => Ports::Listed(vec![PortMatch::Invalid]),
        Items::Found(list, values) => {
            let fields = values.iter().enumerate().map(|(at, value)| (list.path.index(at), value));
            let port = |(path, value)| port_match(&Field { path, value }, report);
            Ports::Listed(fields.map(port).collect())
        }
    };
    Rule { peers: if strange { Peers::Listed(Vec::new()) } else { peers }, ports }
}

/// A list of a rule.
enum Items<'a> {
    /// Missing or empty: no restriction.
    Absent,
    /// Not a list: reported.
    Broken,
    /// At least one item.
    Found(Field<'a>, &'a [Value]),
}

fn items<'a>(rule: &'a Field<'a>, name: &'a str, report: &mut Report<'_>) -> Items<'a> {
    let Some(field) = rule.get(name) else { return Items::Absent };
    match field.list(report, RULE) {
        None => Items::Broken,
        Some([]) => Items::Absent,
        Some(values) => Items::Found(field, values),
    }
}
