//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! A part that cannot be understood fails closed: a port, peer or rule matches nothing, a subject
//! selects every pod of the namespace, `policyTypes` isolates both directions.

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::{Namespaces, Policy, Revision, Rule};
use policy_engine::selector::Selector;
use serde_json::Value;

use super::labels::selector;
use super::mode::annotated;
use super::rules::{rules, types};
use crate::decode::{Field, wanted};
use crate::report::Report;

/// The fields of any object with a spec.
pub(super) const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const SPEC_FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

const EVERY_POD: &str = "the policy selects every pod of the namespace";
pub(super) const UNLESS_LISTED: &str =
    "without policyTypes the policy isolates for ingress and egress";
const CLOSED: &str = "the policy isolates every pod of the namespace, for ingress and egress";

/// The policy `name` as written at `root`.
pub(super) fn policy(name: &ObjectRef, root: &Field<'_>, report: &mut Report<'_>) -> Policy {
    // A field at the wrong level (`egress` beside `spec`) may be meant to isolate.
    let strange = root.has_unknown(&OBJECT_FIELDS, report, UNLESS_LISTED);
    if root.repeats("spec", report, CLOSED) {
        return closed(name, root, report);
    }
    let absent = Value::Object(serde_json::Map::new());
    let spec = root.get("spec").unwrap_or(Field { path: root.path, value: &absent });
    if !spec.value.is_object() {
        report.error(&spec.path, format!("{}; {CLOSED}", wanted("a mapping", spec.value)));
        return closed(name, root, report);
    }
    let strange = spec.has_unknown(&SPEC_FIELDS, report, UNLESS_LISTED) || strange;
    let types = types(&spec, report);
    let types = types.unwrap_or_else(|| default_types(&spec, strange, report));
    let own = Namespaces::Named(name.namespace.clone());
    let rules = PerDirection::new(|direction| {
        let isolates = types.contains(&direction);
        isolates.then(|| rules(&spec, direction, &own, report))
    });
    // NetworkPolicy v1: a missing podSelector selects every pod.
    let pods = match spec.get("podSelector") {
        Some(field) if !spec.repeats("podSelector", report, EVERY_POD) => {
            selector(&field, report, EVERY_POD).unwrap_or_default()
        }
        _ => Selector::everything(),
    };
    isolating(name, pods, rules, root, report)
}

/// The policy that replaces one that cannot be understood at all. A policy in audit stays in audit.
fn closed(name: &ObjectRef, root: &Field<'_>, report: &mut Report<'_>) -> Policy {
    isolating(name, Selector::everything(), PerDirection::new(|_| Some(Vec::new())), root, report)
}

fn isolating(
    name: &ObjectRef,
    pods: Selector,
    rules: PerDirection<Option<Vec<Rule>>>,
    root: &Field<'_>,
    report: &mut Report<'_>,
) -> Policy {
    let (mode, revision) = (annotated(root, report), revision(root.value));
    let (namespace, name) = (name.namespace.clone(), name.name.clone());
    Policy { mode, revision, ..Policy::network_policy(namespace, name, pods, rules) }
}

/// `metadata.uid` and `metadata.generation`. Nothing that is enforced depends on them, so errors in
/// them are not reported.
#[must_use]
pub fn revision(object: &Value) -> Revision {
    let metadata = |field: &str| object.get("metadata")?.get(field);
    let uid = metadata("uid").and_then(Value::as_str).filter(|uid| uid.len() <= UID_LENGTH_MAX);
    let generation = metadata("generation").and_then(Value::as_i64);
    Revision { uid: uid.map(Str::from), generation }
}

/// An API server writes 36 characters. A longer uid can only be in a file, and is ignored.
const UID_LENGTH_MAX: usize = 128;

/// Defaulting of networking.k8s.io/v1: Ingress, and Egress when there are egress rules.
fn default_types(spec: &Field<'_>, strange: bool, report: &Report<'_>) -> Vec<Direction> {
    let egress = spec.get("egress").map(|field| field.value);
    let has_egress = egress.is_some_and(|value| value.as_array().is_none_or(|a| !a.is_empty()));
    let repeats = report.is_repeated(&spec.path.key("egress"));
    if strange || has_egress || repeats {
        Direction::BOTH.to_vec()
    } else {
        vec![Direction::Ingress]
    }
}
