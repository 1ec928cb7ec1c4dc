//! Policies of the whole cluster, and policies in audit: the pods that they select, and the order
//! in which they are evaluated.

use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::object::Kind;
use policy_engine::policy::{Policy, Rule, Selected};
use policy_engine::selector::Selector;
use policy_engine::tier::{Action, Mode};
use portcullis_crds::path::FieldPath;

use crate::answers::Answers;
use crate::pods::Group;
use crate::redundant::covered;
use crate::{Code, Context, Finding, finding, name, near, spec};

/// The findings that do not depend on the selected pods.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let mut found = in_audit(context);
    for policy in context.world.policies_in("") {
        for direction in Direction::BOTH {
            found.extend(never_matching(context, policy, direction));
        }
    }
    found
}

/// The findings about the selected pods.
pub(super) fn about_pods(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.world.policies_in("");
    let mut found: Vec<Finding> =
        policies.filter_map(|policy| selects_nothing(&context.answers, policy)).collect();
    found.extend(equal_priorities(context));
    found
}

fn in_audit(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.world.policies();
    let audited = policies.filter(|policy| policy.mode == Mode::Audit);
    let in_audit = |policy: &Arc<Policy>| {
        let field = match policy.name.kind {
            Kind::ClusterDefaultNetworkPolicy => spec("mode"),
            _ => FieldPath::new(["metadata", "annotations"]),
        };
        let message = "is in audit: what it would deny is reported, and nothing is denied; `plan \
                       --audit` tells what enforcing it closes"
            .to_owned();
        finding(Code::InAudit, &policy.name, field, message)
    };
    audited.map(in_audit).collect()
}

/// Rules all of whose flows are matched by earlier rules of the policy.
fn never_matching(context: &Context<'_>, policy: &Policy, direction: Direction) -> Vec<Finding> {
    // Another finding reports a subject that could not be understood.
    if policy.subject.namespaces.is_none() || policy.subject.pods.is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut before: Vec<(usize, &Rule)> = Vec::new();
    for (at, rule) in policy.ordered(direction).iter().enumerate() {
        let by = covered(context.world, &rule.rule, &before);
        before.push((at, &rule.rule));
        let Some(by) = by.filter(|by| !by.is_empty()) else { continue };
        let list = direction.field();
        let names: Vec<String> = by.iter().map(|at| format!("rule {}", at + 1)).collect();
        let plural = if by.len() == 1 { "es" } else { "" };
        let message = format!(
            "never matches: {} match{plural} all of it before; remove it, or move it up",
            names.join(", ")
        );
        let field = spec(list).index(at);
        let related = by
            .iter()
            .filter_map(|at| context.related(&policy.name, &spec(list).index(*at), "comes before"));
        let never = finding(Code::NeverMatches, &policy.name, field, message);
        found.push(Finding { related: related.collect(), ..never });
    }
    found
}

/// The finding that a policy of the cluster selects no pod.
pub(super) fn selects_nothing(answers: &Answers<'_>, policy: &Policy) -> Option<Finding> {
    let subject = &policy.subject;
    let (namespaces, pods) = (subject.namespaces.as_ref()?, subject.pods.as_ref()?);
    let counts = |name: &Str| !(subject.spares_system && answers.world.is_system(name));
    let (field, hint) = without_pods(answers, namespaces, pods, counts)?;
    let field = if policy.name.kind == Kind::ClusterNetworkPolicy { "subject" } else { field };
    let message = format!("selects no pod, so it decides nothing; {hint}");
    Some(finding(Code::SelectsNothing, &policy.name, spec(field), message))
}

/// The field because of which a subject selects no pod, and a hint. `None` when the subject selects
/// pods, or is correct for later pods and namespaces.
fn without_pods(
    answers: &Answers<'_>,
    namespaces: &Selector,
    pods: &Selector,
    counts: impl Fn(&Str) -> bool,
) -> Option<(&'static str, String)> {
    let mut selected: Vec<&Str> = answers.pods.namespaces(namespaces).collect();
    selected.sort_unstable();
    let counting: Vec<&Str> = selected.iter().copied().filter(|name| counts(name)).collect();
    if counting.is_empty() {
        if namespaces.is_everything() {
            return None;
        }
        if selected.is_empty() {
            return Some(("namespaceSelector", near::namespace(answers, namespaces)));
        }
        let hint = "the namespaces that it selects are the system's, which are left out without \
                    `includeSystemNamespaces: true`";
        return Some(("namespaceSelector", hint.to_owned()));
    }
    // `{}` also matches later pods, so it is correct when there is no pod today.
    let mut here = counting.iter().flat_map(|name| answers.pods.matching(name, pods));
    if pods.is_everything() || here.next().is_some() {
        return None;
    }
    let nearest = |names: &_| {
        let known = counting.iter().flat_map(|name| answers.pods.of(name)).map(Group::first);
        near::labels(pods, known.map(|pod| (name(names, pod), &pod.labels)))
            .unwrap_or_else(|| "no pod of the namespaces has labels like these".to_owned())
    };
    Some(("podSelector", answers.hint(nearest, "-A")))
}

/// Pairs of policies of one tier and priority that decide differently about the same pods.
fn equal_priorities(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.world.policies_in("");
    let all: Vec<&Policy> = policies.map(AsRef::as_ref).collect();
    let mut found = Vec::new();
    for (at, later) in all.iter().enumerate() {
        let same = all.iter().take(at).filter(|one| {
            (one.tier, one.priority(), one.mode) == (later.tier, later.priority(), later.mode)
        });
        // One such policy is enough for a finding.
        let clash = same.filter(|one| matters(one, later)).find_map(|one| {
            let both = selected_by_both(context, one, later);
            (!both.is_empty()).then_some((one, both))
        });
        let Some((earlier, both)) = clash else { continue };
        let message = format!(
            "has priority {} in tier {}, as {} has, and both select {}: which of the two is asked \
             first is for the implementation to say (here {}, by name); give them different \
             priorities",
            later.priority(),
            later.tier,
            earlier.name.name,
            context.names(both.iter().copied()),
            earlier.name.name
        );
        let related = context.related(&earlier.name, &spec("priority"), "the same");
        let equal = finding(Code::EqualPriority, &later.name, spec("priority"), message);
        found.push(Finding { related: related.into_iter().collect(), ..equal });
    }
    found
}

/// Whether the order of two policies can make a difference, because their actions differ.
fn matters(one: &Policy, other: &Policy) -> bool {
    Direction::BOTH.into_iter().any(|direction| {
        let (left, right) = (one.ordered(direction), other.ordered(direction));
        let actions = |action: Action| left.iter().all(|rule| rule.action == action);
        let alike = right.first().is_none_or(|first| {
            actions(first.action) && right.iter().all(|rule| rule.action == first.action)
        });
        !left.is_empty() && !alike
    })
}

fn selected_by_both<'c>(context: &Context<'c>, one: &Policy, other: &Policy) -> Vec<&'c Group> {
    let selects = |policy: &Policy, group: &Group| {
        context.world.selected(policy, group.first()) == Selected::Yes
    };
    let groups = context.pods.subjects();
    groups.filter(|group| selects(one, group) && selects(other, group)).collect()
}
