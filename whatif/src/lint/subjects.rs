//! Whom policies select, and whom none selects.

use std::collections::BTreeMap;

use policy_engine::labels::Str;
use policy_engine::model::Pod;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Policy;
use policy_engine::tier::Tier;
use policy_engine::world::World;
use portcullis_crds::diagnostic::{About, Origin};
use portcullis_crds::path::FieldPath;

use super::{Code, Context, Finding, Severity, spec, words};
use crate::model::WorkloadRef;

/// Whether the policy selects nothing, or pods that no policy is about.
pub(super) fn findings(context: &Context<'_>, policy: &Policy) -> Vec<Finding> {
    let (namespace, subject) = (&policy.name.namespace, policy.subject.any_pods());
    let groups = &context.groups;
    let on_host = groups.matching(namespace, subject, true);
    if !on_host.is_empty() {
        let names = context.names(&on_host);
        let mut finding = context.finding(
            Code::SelectsHostNetwork,
            policy,
            spec("podSelector"),
            format!(
                "selects {names} with hostNetwork, whose traffic is the node's: no policy \
                 restricts it; select other pods, or protect the node itself"
            ),
        );
        // `{}` means every pod that can be protected.
        if subject.is_everything() {
            finding.severity = Severity::Note;
        }
        return vec![finding];
    }
    let selects = !groups.matching(namespace, subject, false).is_empty();
    // `{}` is right in a namespace that is empty today.
    if subject.is_everything() || selects {
        return Vec::new();
    }
    let there = groups.of(namespace);
    let hint = if there.is_empty() {
        format!("namespace {namespace} has no pods")
    } else {
        let known = there.iter().filter_map(|group| {
            let pod = group.pods.first()?;
            Some((context.name(pod), &pod.labels))
        });
        words::nearest(subject, known)
            .unwrap_or_else(|| format!("no pod of namespace {namespace} has labels like these"))
    };
    let message = format!(
        "selects no pod, so the policy protects nothing; {hint}; give the labels that the pods have"
    );
    vec![context.finding(Code::SelectsNothing, policy, spec("podSelector"), message)]
}

/// Whether a policy is there for the pod: its own, or one for pods that no NetworkPolicy isolates.
fn has_policy(world: &World, pod: &Pod) -> bool {
    world.selecting(pod).iter().any(|(policy, _)| policy.tier != Tier::Admin)
}

/// The workloads that no policy selects, one finding for each namespace.
///
/// Those of `kube-…` namespaces are a cluster's own, and left alone by nearly everyone.
pub(super) fn without_policy(context: &Context<'_>) -> Vec<Finding> {
    let world = &context.cluster.world;
    let mut found: BTreeMap<&Str, BTreeMap<&WorkloadRef, Option<Origin>>> = BTreeMap::new();
    for group in context.groups.all() {
        let covered = group.pods.first().is_some_and(|pod| has_policy(world, pod));
        if group.host_network || covered || group.namespace.starts_with("kube-") {
            continue;
        }
        let workloads = group.pods.iter().filter_map(|pod| context.cluster.workload_of(&pod.key));
        for workload in workloads {
            let inventory = &context.sources.after;
            found.entry(group.namespace).or_default().entry(workload).or_insert_with(|| {
                Some(inventory.workload(workload)?.document.as_ref()?.origin_at(&super::name_field()))
            });
        }
    }
    let finding = |(namespace, workloads): (&Str, BTreeMap<&WorkloadRef, Option<Origin>>)| {
        let names = workloads.keys().map(ToString::to_string).collect();
        let (names, are) = (words::few(&names), words::are(workloads.len()));
        let origin = workloads.values().flatten().min().cloned();
        Finding {
            code: Code::NoPolicy,
            severity: Code::NoPolicy.severity(),
            about: About::Object(ObjectRef::cluster(Kind::Namespace, namespace.clone())),
            field: FieldPath::default(),
            message: format!(
                "no policy selects {names}, which {are} open in both directions; a policy with \
                 `podSelector: {{}}` covers a whole namespace"
            ),
            origin,
            related: Vec::new(),
        }
    };
    found.into_iter().map(finding).collect()
}
