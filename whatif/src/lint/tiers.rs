//! Policies of the whole cluster, and policies in audit: whom they select, and in which order they
//! are asked.

use std::rc::Rc;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::object::Kind;
use policy_engine::policy::{Policy, Rule, Selected};
use policy_engine::selector::Selector;
use policy_engine::tier::{Action, Mode};
use portcullis_crds::path::FieldPath;

use super::groups::Group;
use super::redundant::covered;
use super::{Code, Context, Finding, spec, words};

/// What policies say by themselves, whoever they select.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let mut found = in_audit(context);
    for policy in context.cluster.world.policies_in("") {
        for direction in Direction::BOTH {
            found.extend(never_matching(context, policy, direction));
        }
    }
    found
}

/// Whom they select.
pub(super) fn about_pods(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.cluster.world.policies_in("");
    let mut found: Vec<Finding> =
        policies.filter_map(|policy| selects_nothing(context, policy)).collect();
    found.extend(equal_priorities(context));
    found
}

fn in_audit(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.cluster.world.policies();
    let audited = policies.filter(|policy| policy.mode == Mode::Audit);
    let finding = |policy: &Arc<Policy>| {
        let field = match policy.name.kind {
            Kind::ClusterDefaultNetworkPolicy => spec("mode"),
            _ => FieldPath::new(["metadata", "annotations"]),
        };
        let message = "is in audit: what it would deny is reported, and nothing is denied; `plan \
                       --audit` tells what enforcing it closes"
            .to_owned();
        context.finding(Code::InAudit, policy, field, message)
    };
    audited.map(finding).collect()
}

/// Rules all of whose flows are matched by earlier rules of the policy.
fn never_matching(context: &Context<'_>, policy: &Policy, direction: Direction) -> Vec<Finding> {
    // Of a subject that could not be understood another finding tells first.
    if policy.subject.namespaces.is_none() || policy.subject.pods.is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut before: Vec<(usize, &Rule)> = Vec::new();
    for (at, rule) in policy.ordered(direction).iter().enumerate() {
        let by = covered(&context.cluster.world, &rule.rule, &before);
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
        let mut finding = context.finding(Code::NeverMatches, policy, field, message);
        let origin = |at: &usize| context.cluster.rule_origin(&policy.name, direction, at + 1);
        let origins = by.iter().filter_map(origin);
        finding.related.extend(origins.map(|origin| (origin, "comes before".to_owned())));
        found.push(finding);
    }
    found
}

fn selects_nothing(context: &Context<'_>, policy: &Policy) -> Option<Finding> {
    let subject = &policy.subject;
    let (namespaces, pods) = (subject.namespaces.as_ref()?, subject.pods.as_ref()?);
    let world = &context.cluster.world;
    let counts = |name: &Str| !(subject.spares_system && world.is_system(name));
    let (field, hint) = nobody(context, namespaces, pods, counts)?;
    let field = if policy.name.kind == Kind::ClusterNetworkPolicy { "subject" } else { field };
    let message = format!("selects no pod, so it decides nothing; {hint}");
    Some(context.finding(Code::SelectsNothing, policy, spec(field), message))
}

/// The field because of which a subject selects nobody, and what comes nearest. `None` when it
/// selects somebody, or is right for pods and namespaces to come.
fn nobody(
    context: &Context<'_>,
    namespaces: &Selector,
    pods: &Selector,
    counts: impl Fn(&Str) -> bool,
) -> Option<(&'static str, String)> {
    let selected = context.groups.namespaces(namespaces);
    let counting: Vec<&Str> = selected.iter().copied().filter(|name| counts(name)).collect();
    if counting.is_empty() {
        if namespaces.is_everything() {
            return None;
        }
        if !selected.is_empty() {
            let hint = "the namespaces that it selects are the system's, which are left out \
                        without `includeSystemNamespaces: true`";
            return Some(("namespaceSelector", hint.to_owned()));
        }
        let known = context.cluster.world.namespaces().iter();
        let known = known.map(|(name, found)| (format!("Namespace {name}"), &found.labels));
        let hint = words::nearest(namespaces, known)
            .unwrap_or_else(|| "no Namespace has labels like these".to_owned());
        return Some(("namespaceSelector", hint));
    }
    // `{}` is every pod there will be: right where there is none today.
    if pods.is_everything() {
        return None;
    }
    let here = |name: &&Str| context.groups.matching(name, pods, false);
    if counting.iter().any(|name| !here(name).is_empty()) {
        return None;
    }
    let there = counting.iter().flat_map(|name| context.groups.of(name));
    let known = there.filter_map(|group| {
        let pod = group.pods.first()?;
        Some((context.name(pod), &pod.labels))
    });
    let hint = words::nearest(pods, known)
        .unwrap_or_else(|| "no pod of the namespaces has labels like these".to_owned());
    Some(("podSelector", hint))
}

/// Pairs of one tier and priority that decide differently about the same pods.
fn equal_priorities(context: &Context<'_>) -> Vec<Finding> {
    let policies = context.cluster.world.policies_in("");
    let all: Vec<&Policy> = policies.map(AsRef::as_ref).collect();
    let mut found = Vec::new();
    for (at, later) in all.iter().enumerate() {
        let same = all.iter().take(at).filter(|one| {
            (one.tier, one.priority(), one.mode) == (later.tier, later.priority(), later.mode)
        });
        // One is enough to be told.
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
            context.names(&both),
            earlier.name.name
        );
        let mut finding = context.finding(Code::EqualPriority, later, spec("priority"), message);
        let origin = context.cluster.field_origin(&earlier.name, &spec("priority"));
        finding.related.extend(origin.map(|origin| (origin, "the same".to_owned())));
        found.push(finding);
    }
    found
}

/// Whether the order of two policies can make a difference: their rules do different things.
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

fn selected_by_both<'c>(context: &Context<'c>, one: &Policy, other: &Policy) -> Vec<Rc<Group<'c>>> {
    let world = &context.cluster.world;
    let groups = context.groups.all().filter(|group| !group.host_network);
    let both = groups.filter(|group| {
        group.pods.first().is_some_and(|pod| {
            [one, other].into_iter().all(|policy| world.selected(policy, pod) == Selected::Yes)
        })
    });
    both.cloned().collect()
}
