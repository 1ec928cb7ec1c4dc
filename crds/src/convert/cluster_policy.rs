//! `policy.networking.k8s.io` ClusterNetworkPolicy: v1beta1 and v1alpha2, which have one schema.
//!
//! A part that cannot be understood fails closed: see [`self::rule`] for rules. A subject may be
//! any pod. A policy whose place in the order is not known (no tier, no priority) is evaluated
//! before all others, and accepts nothing: an Accept at the wrong place would override policies
//! that deny.

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::labels::Str;
use policy_engine::policy::{OrderedRule, Peers, Policy, Subject};
use policy_engine::selector::Selector;
use policy_engine::tier::{Action, Tier};
use serde::Deserialize;
mod effects;
mod peer;
mod port;
mod rule;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use self::peer::NamespacedPods;
use self::rule::rule;
use super::labels::typed_selector;
use super::mode::annotated;
use super::policy::{OBJECT_FIELDS, revision};
use super::rules::spec_of;
use crate::decode::{Field, Mapping};
use crate::report::Report;

const SPEC_FIELDS: [&str; 5] = ["tier", "priority", "subject", "ingress", "egress"];

const UNLESS_WRITTEN: &str = "a direction without rules denies everything";
const ALL: &str = "this direction denies everything";
const ANY_POD: &str =
    "it may mean any pod: for all of those, Accept rules match nothing and Pass rules deny";
const FIRST: &str = "the policy is asked before all others; its Accept rules match nothing, its \
                     Pass rules deny";

/// The message for [`closed`].
const CLOSED_EFFECT: &str = "the policy denies everything, to and from every pod";

/// The place of a policy that is evaluated before all others.
const BEFORE_ALL: (Tier, i32) = (Tier::Admin, i32::MIN);

/// The priorities that the API allows.
const PRIORITIES: std::ops::RangeInclusive<i32> = 0..=1000;

/// `spec.subject`: exactly one of these.
#[derive(Deserialize)]
struct SubjectFields {
    namespaces: Option<LabelSelector>,
    pods: Option<Mapping<NamespacedPods>>,
}

/// The policy `name` as written at `root`.
pub(super) fn policy(name: &Str, root: &Field<'_>, report: &mut Report<'_>) -> Policy {
    // A field at the wrong level (`egress` beside `spec`) may be meant to deny.
    let strange = root.has_unknown(&OBJECT_FIELDS, report, UNLESS_WRITTEN);
    let Some(spec) = spec_of(root, CLOSED_EFFECT, report) else {
        return closed(name, root, report);
    };
    let strange = spec.has_unknown(&SPEC_FIELDS, report, UNLESS_WRITTEN) || strange;
    let (tier, priority) = (tier(&spec, report), priority(&spec, report));
    let subject = subject(&spec, report);
    let mut rules = PerDirection::new(|direction| rules(&spec, direction, strange, report));
    let place = tier.zip(priority);
    if place.is_none() {
        rules.ingress.iter_mut().chain(&mut rules.egress).for_each(accept_nothing);
    }
    let (mode, revision) = (annotated(root, report), revision(root.value));
    let place = place.unwrap_or(BEFORE_ALL);
    let policy = Policy::cluster_network_policy(name.clone(), place, subject, rules);
    Policy { mode, revision, ..policy }
}

/// The policy that replaces one that cannot be understood at all. A policy in audit stays in audit.
fn closed(name: &Str, root: &Field<'_>, report: &mut Report<'_>) -> Policy {
    let rules = PerDirection::new(|_| vec![OrderedRule::deny_everything()]);
    let (mode, revision) = (annotated(root, report), revision(root.value));
    let subject = Subject::unknown();
    let policy = Policy::cluster_network_policy(name.clone(), BEFORE_ALL, subject, rules);
    Policy { mode, revision, ..policy }
}

/// Changes a rule of a policy whose place in the order is not known.
fn accept_nothing(rule: &mut OrderedRule) {
    match rule.action {
        Action::Accept => rule.rule.peers = Peers::Listed(Vec::new()),
        Action::Pass | Action::Deny => rule.action = Action::Deny,
    }
}

fn tier(spec: &Field<'_>, report: &mut Report<'_>) -> Option<Tier> {
    const HINT: &str = "write Admin or Baseline";
    let field = wanted_field(spec, "tier", HINT, report)?;
    match field.text(report, FIRST)? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            report.error(&field.path, format!("`{other}` is no tier ({HINT}); {FIRST}"));
            None
        }
    }
}

fn priority(spec: &Field<'_>, report: &mut Report<'_>) -> Option<i32> {
    let field = wanted_field(spec, "priority", "write a number from 0 to 1000", report)?;
    let priority = field.decode::<i32>(report, FIRST)?;
    if PRIORITIES.contains(&priority) {
        return Some(priority);
    }
    report.error(&field.path, format!("{priority} is not from 0 to 1000; {FIRST}"));
    None
}

/// A required field, which may be given only once.
fn wanted_field<'a>(
    spec: &'a Field<'a>,
    name: &'a str,
    hint: &str,
    report: &mut Report<'_>,
) -> Option<Field<'a>> {
    if spec.repeats(name, report, FIRST) {
        return None;
    }
    let field = spec.get(name);
    if field.is_none() {
        report.error(&spec.path.key(name), format!("is missing; {FIRST}; {hint}"));
    }
    field
}

fn subject(spec: &Field<'_>, report: &mut Report<'_>) -> Subject {
    let any = Subject::unknown();
    if spec.repeats("subject", report, ANY_POD) {
        return any;
    }
    let path = spec.path.key("subject");
    let Some(field) = spec.get("subject") else {
        let hint = "write `subject: {namespaces: {}}` for every pod";
        report.error(&path, format!("is missing; {ANY_POD}; {hint}"));
        return any;
    };
    let fields = field.decode::<Mapping<SubjectFields>>(report, ANY_POD);
    let Some(Mapping(fields)) = fields else { return any };
    match (&fields.namespaces, &fields.pods) {
        (Some(selector), None) => {
            let namespaces = typed_selector(selector, &path.key("namespaces"), report, ANY_POD);
            Subject { namespaces, ..Subject::pods(Selector::everything()) }
        }
        (None, Some(Mapping(pods))) => {
            let (namespaces, pods) = pods.selectors(&path.key("pods"), report, ANY_POD);
            Subject { namespaces, pods, spares_system: false }
        }
        (Some(_), Some(_)) | (None, None) => {
            let message = "must have exactly one of `namespaces` and `pods`";
            report.error(&path, format!("{message}; {ANY_POD}"));
            any
        }
    }
}

fn rules(
    spec: &Field<'_>,
    direction: Direction,
    strange: bool,
    report: &mut Report<'_>,
) -> Vec<OrderedRule> {
    let name = direction.field();
    if spec.repeats(name, report, ALL) {
        return vec![OrderedRule::deny_everything()];
    }
    let Some(list) = spec.get(name) else {
        return if strange { vec![OrderedRule::deny_everything()] } else { Vec::new() };
    };
    let Some(items) = list.list(report, ALL) else { return vec![OrderedRule::deny_everything()] };
    let fields = items.iter().enumerate().map(|(at, value)| (list.path.index(at), value));
    fields.map(|(path, value)| rule(&Field { path, value }, direction, report)).collect()
}
