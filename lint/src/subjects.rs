//! The pods that policies select, and pods that no policy selects.

use std::collections::BTreeMap;

use policy_engine::labels::Str;
use policy_engine::model::Pod;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Policy;
use policy_engine::tier::Tier;
use policy_engine::world::World;
use portcullis_crds::diagnostic::{About, Origin};
use portcullis_crds::path::FieldPath;

use crate::answers::Answers;
use crate::pods::Group;
use crate::{Code, Context, Finding, Severity, are, few, finding, name, near, spec};

const SELECTOR: &str = "podSelector";

/// The finding that the policy selects no pod, or pods to which policies do not apply.
pub(super) fn findings<'c>(context: &Context<'c>, policy: &'c Policy) -> Option<Finding> {
    let (namespace, subject) = (&policy.name.namespace, policy.subject.any_pods());
    let on_host: Vec<&Group> = context.pods.on_host(namespace, subject).collect();
    if on_host.is_empty() {
        return selects_nothing(&context.answers, policy);
    }
    let message = format!(
        "selects {} with hostNetwork, whose traffic is the node's: no policy restricts it; select \
         other pods, or protect the node itself",
        context.names(on_host)
    );
    let mut found = finding(Code::SelectsHostNetwork, &policy.name, spec(SELECTOR), message);
    // `{}` means every pod to which policies apply.
    if subject.is_everything() {
        found.severity = Severity::Note;
    }
    Some(found)
}

/// The finding that the policy selects no pod to which it applies.
pub(super) fn selects_nothing<'w>(answers: &Answers<'w>, policy: &'w Policy) -> Option<Finding> {
    let (namespace, subject) = (&policy.name.namespace, policy.subject.any_pods());
    // `{}` is correct in a namespace that is empty today.
    if subject.is_everything() || answers.selects(policy) {
        return None;
    }
    let nearest = |names: &_| {
        let there: Vec<&Group> = answers.pods.of(namespace).collect();
        let hint = if there.is_empty() {
            format!("namespace {namespace} has no pods")
        } else {
            let known = there.into_iter().map(Group::first);
            near::labels(subject, known.map(|pod| (name(names, pod), &pod.labels)))
                .unwrap_or_else(|| format!("no pod of namespace {namespace} has labels like these"))
        };
        format!("{hint}; give the labels that the pods have")
    };
    let hint = answers.hint(nearest, &format!("-n {namespace}"));
    let message = format!("selects no pod, so the policy protects nothing; {hint}");
    Some(finding(Code::SelectsNothing, &policy.name, spec(SELECTOR), message))
}

/// Whether a policy applies to the pod: a NetworkPolicy, or one of the tiers Baseline and Default.
fn has_policy(world: &World, pod: &Pod) -> bool {
    world.selecting(pod).iter().any(|(policy, _)| policy.tier != Tier::Admin)
}

/// The workloads that no policy selects, one finding for each namespace.
///
/// System namespaces are part of the cluster, and users rarely write policies for them.
pub(super) fn without_policy(context: &Context<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<&Str, BTreeMap<String, Option<Origin>>> = BTreeMap::new();
    for group in context.pods.subjects() {
        let namespace = group.namespace();
        if context.world.is_system(namespace) || has_policy(context.world, group.first()) {
            continue;
        }
        for pod in group.pods() {
            let called = context.input.names.get(&pod.key);
            let origin = called.and_then(|called| called.origin.clone());
            found.entry(namespace).or_default().insert(context.name(pod), origin);
        }
    }
    let finding = |(namespace, workloads): (&Str, BTreeMap<String, Option<Origin>>)| {
        let about = About::Object(ObjectRef::cluster(Kind::Namespace, namespace.clone()));
        let origin = workloads.values().flatten().min().cloned();
        let message = format!(
            "no policy selects {}, which {} open in both directions; a policy with \
             `podSelector: {{}}` covers a whole namespace",
            few(&workloads.keys().cloned().collect()),
            are(workloads.len())
        );
        let finding = Finding::new(Code::NoPolicy, about, FieldPath::default(), message);
        Finding { origin, ..finding }
    };
    found.into_iter().map(finding).collect()
}
