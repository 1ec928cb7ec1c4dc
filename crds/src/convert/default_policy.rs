//! `portcullis.dev/v1alpha1` ClusterDefaultNetworkPolicy.
//!
//! As in NetworkPolicy, a part that cannot be understood fails closed: a port, peer or rule allows
//! nothing, a subject isolates every pod that it may mean, `policyTypes` isolates both directions.
//! A missing part isolates nothing: a spec without `policyTypes` must not isolate a whole cluster,
//! nor must `includeSystemNamespaces` with a value that is neither true nor false.

use std::sync::Arc;

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::labels::Str;
use policy_engine::policy::{Namespaces, Policy, Subject};
use policy_engine::selector::Selector;
use policy_engine::tier::Mode;

use super::labels::selector;
use super::policy::{OBJECT_FIELDS, UNLESS_LISTED, revision};
use super::rules::{rules, spec_of, types};
use crate::decode::Field;
use crate::lean::MODE_ANNOTATION;
use crate::report::Report;

const SPEC_FIELDS: [&str; 9] = [
    "namespaceSelector",
    "podSelector",
    "policyTypes",
    "ingress",
    "egress",
    "allowDNS",
    "allowAPIServer",
    "includeSystemNamespaces",
    "mode",
];

const EVERY_NAMESPACE: &str =
    "the policy isolates pods of every namespace but those of the system, and allows nothing there";
const EVERY_POD: &str = "the policy isolates every pod of its namespaces, and allows nothing there";
const ENFORCED: &str = "the policy is enforced";
const NO_DNS: &str = "DNS is not allowed";
const NO_API_SERVER: &str = "the API server is not allowed";
const NO_SYSTEM: &str = "namespaces of the system are left out";

/// The message for [`closed`].
const CLOSED_EFFECT: &str = "the policy isolates every pod outside namespaces of the system, for \
                             ingress and egress, and allows nothing";

/// The policy `name` as written at `root`.
pub(super) fn policy(name: &Str, root: &Field<'_>, report: &mut Report<'_>) -> Policy {
    let strange = root.has_unknown(&OBJECT_FIELDS, report, UNLESS_LISTED);
    warn_of_annotation(root, report);
    let Some(spec) = spec_of(root, CLOSED_EFFECT, report) else { return closed(name, root) };
    let strange = spec.has_unknown(&SPEC_FIELDS, report, UNLESS_LISTED) || strange;
    let types = isolated(&spec, strange, report);
    let rules = PerDirection::new(|direction| {
        let isolates = types.contains(&direction);
        if !isolates && !types.is_empty() {
            warn_of_rules(&spec, direction, report);
        }
        isolates.then(|| rules(&spec, direction, &Namespaces::Own, report))
    });
    let subject = Subject {
        namespaces: part(&spec, "namespaceSelector", EVERY_NAMESPACE, report),
        pods: part(&spec, "podSelector", EVERY_POD, report),
        spares_system: !truth(&spec, "includeSystemNamespaces", false, NO_SYSTEM, report),
    };
    let allow_dns = truth(&spec, "allowDNS", true, NO_DNS, report);
    let api_server = truth(&spec, "allowAPIServer", false, NO_API_SERVER, report);
    let (mode, revision) = (mode(&spec, report), revision(root.value));
    let policy = Policy::cluster_default(name.clone(), subject, rules, allow_dns);
    let policy = policy.with_api_server(api_server.then(Arc::default));
    Policy { mode, revision, ..policy }
}

/// The policy that replaces one that cannot be understood at all.
fn closed(name: &Str, root: &Field<'_>) -> Policy {
    let subject = Subject { spares_system: true, ..Subject::unknown() };
    let rules = PerDirection::new(|_| Some(Vec::new()));
    let policy = Policy::cluster_default(name.clone(), subject, rules, false);
    Policy { revision: revision(root.value), ..policy }
}

/// The directions that the policy isolates for.
fn isolated(spec: &Field<'_>, strange: bool, report: &mut Report<'_>) -> Vec<Direction> {
    if let Some(listed) = types(spec, report) {
        return listed;
    }
    // A field that is not known may be meant as this field.
    if strange {
        return Direction::BOTH.to_vec();
    }
    let message = "lists no direction, so the policy isolates nothing; \
                   write `policyTypes: [Ingress]`, `[Egress]` or `[Ingress, Egress]`";
    report.error(&spec.path.key("policyTypes"), message);
    Vec::new()
}

fn warn_of_rules(spec: &Field<'_>, direction: Direction, report: &mut Report<'_>) {
    let fields: &[&str] = match direction {
        Direction::Ingress => &["ingress"],
        Direction::Egress => &["egress", "allowDNS", "allowAPIServer"],
    };
    for name in fields {
        if spec.get(name).is_some() {
            let message = format!(
                "is without effect: `policyTypes` does not list {direction}; \
                 list it there or delete this"
            );
            report.error(&spec.path.key(name), message);
        }
    }
}

/// A selector of the subject: everything if it is missing, `None` if it was not understood.
fn part(spec: &Field<'_>, name: &str, effect: &str, report: &mut Report<'_>) -> Option<Selector> {
    if spec.repeats(name, report, effect) {
        return None;
    }
    match spec.get(name) {
        None => Some(Selector::everything()),
        Some(field) => selector(&field, report, effect),
    }
}

/// A boolean field; `false` if the value is not a boolean.
fn truth(
    spec: &Field<'_>,
    name: &str,
    missing: bool,
    effect: &str,
    report: &mut Report<'_>,
) -> bool {
    if spec.repeats(name, report, effect) {
        return false;
    }
    let Some(field) = spec.get(name) else { return missing };
    field.decode::<bool>(report, effect).unwrap_or(false)
}

fn mode(spec: &Field<'_>, report: &mut Report<'_>) -> Mode {
    if spec.repeats("mode", report, ENFORCED) {
        return Mode::Enforce;
    }
    let Some(field) = spec.get("mode") else { return Mode::Enforce };
    match field.text(report, ENFORCED) {
        Some("Audit") => Mode::Audit,
        Some("Enforce") | None => Mode::Enforce,
        Some(other) => {
            let message = format!("`{other}` is no mode (write Audit or Enforce); {ENFORCED}");
            report.error(&field.path, message);
            Mode::Enforce
        }
    }
}

fn warn_of_annotation(root: &Field<'_>, report: &mut Report<'_>) {
    let Some(metadata) = root.get("metadata") else { return };
    let Some(annotations) = metadata.get("annotations") else { return };
    if annotations.value.is_object() && annotations.get(MODE_ANNOTATION).is_some() {
        let message = "is without effect on this kind; write `mode` in its spec";
        report.error(&annotations.path.key(MODE_ANNOTATION), message);
    }
}
