//! Parts that several kinds of policies share: the rules of NetworkPolicy and
//! ClusterDefaultNetworkPolicy, and the `spec` of policies of the cluster.

use std::sync::LazyLock;

use policy_engine::direction::Direction;
use policy_engine::policy::{Namespaces, Peers, PortMatch, Ports, Rule};
use serde_json::Value;

use super::peer::peer;
use super::port::port_match;
use crate::decode::{Field, wanted};
use crate::path::Path;
use crate::report::Report;

const BOTH: &str = "the policy isolates for ingress and egress";
const NO_RULE: &str = "nothing is allowed in this direction";
const RULE: &str = "this rule matches nothing";

/// The directions that `policyTypes` lists; both if it cannot be understood; `None` if it is
/// missing or empty.
pub(super) fn types(spec: &Field<'_>, report: &mut Report<'_>) -> Option<Vec<Direction>> {
    let both = Direction::BOTH.to_vec();
    if spec.repeats("policyTypes", report, BOTH) {
        return Some(both);
    }
    let field = spec.get("policyTypes")?;
    let Some(listed) = field.list(report, BOTH) else { return Some(both) };
    let mut directions = Vec::new();
    for (at, value) in listed.iter().enumerate() {
        let known = Direction::BOTH.into_iter().find(|known| value == known.as_str());
        if let Some(direction) = known {
            directions.push(direction);
        } else {
            let message = format!("{value} is no policy type (Ingress or Egress); {BOTH}");
            report.error(&field.path.index(at), message);
            directions.extend(Direction::BOTH);
        }
    }
    (!directions.is_empty()).then_some(directions)
}

/// The rules for `direction`; `own` is the namespace of a peer without a `namespaceSelector`.
pub(super) fn rules(
    spec: &Field<'_>,
    direction: Direction,
    own: &Namespaces,
    report: &mut Report<'_>,
) -> Vec<Rule> {
    let name = direction.field();
    if spec.repeats(name, report, NO_RULE) {
        return Vec::new();
    }
    let Some(list) = spec.get(name) else { return Vec::new() };
    let items = list.list(report, NO_RULE).unwrap_or_default();
    let fields = items.iter().enumerate().map(|(at, value)| (list.path.index(at), value));
    fields.map(|(path, value)| rule(&Field { path, value }, direction, own, report)).collect()
}

fn rule(
    field: &Field<'_>,
    direction: Direction,
    own: &Namespaces,
    report: &mut Report<'_>,
) -> Rule {
    let peers_name = direction.peers_field();
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
            let peer = |(path, value)| peer(&Field { path, value }, own, report);
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

/// The value of a list in a rule.
enum Items<'a> {
    /// The list is missing or empty: no restriction.
    Absent,
    /// The value is not a list, which was reported.
    Broken,
    /// The list has at least one item.
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

/// The spec of an object without a `spec`: one without fields.
static NO_SPEC: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));

/// The `spec` of a policy of the cluster; `None`, after a report of the `effect`, when its fields
/// cannot be read.
pub(super) fn spec_of<'a>(
    root: &'a Field<'a>,
    effect: &str,
    report: &mut Report<'_>,
) -> Option<Field<'a>> {
    if root.repeats("spec", report, effect) {
        return None;
    }
    let spec = root.get("spec").unwrap_or(Field { path: Path::ROOT.key("spec"), value: &NO_SPEC });
    if !spec.value.is_object() {
        report.error(&spec.path, format!("{}; {effect}", wanted("a mapping", spec.value)));
        return None;
    }
    Some(spec)
}
