//! Whom the policies of the cluster select, and whom a default decides for.
//!
//! A default decides for a pod and a direction that no NetworkPolicy in force isolates. Rules of
//! the tiers Admin and Baseline decide flows, not pods: they do not count here.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::labels::Str;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::{Policy, Subject};
use policy_engine::selector::Selector;
use policy_engine::tier::Mode;
use policy_engine::world::World;

use super::index::Index;
use super::pods::{Group, Pods};
use super::{Finding, Reason};

/// Whom one policy of the cluster is about.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Coverage {
    /// How many namespaces it covers, those without a pod among them.
    pub namespaces: usize,
    /// How many pods it selects.
    pub selected: usize,
    /// For how many of these it is the last word in a direction, where that makes sense.
    pub decided: usize,
    /// The nodes of the pods that it selects.
    pub nodes: BTreeSet<Str>,
}

/// Whom each policy of the cluster is about. `pods` are those of `world`.
pub(super) fn coverage(world: &World, pods: &Pods) -> BTreeMap<ObjectRef, Coverage> {
    let mut all: Vec<(&Policy, Coverage)> =
        world.policies_in("").map(|policy| (policy.as_ref(), Coverage::default())).collect();
    let covers = |policy: &Policy, namespace: &Str| {
        !(policy.subject.spares_system && world.is_system(namespace))
            && covers(world, &policy.subject, namespace)
    };
    for namespace in world.namespaces().keys() {
        for (policy, coverage) in &mut all {
            coverage.namespaces += usize::from(covers(policy, namespace));
        }
    }
    for (namespace, index) in pods.by_namespace() {
        let covering = all.iter_mut().filter(|(policy, _)| covers(policy, namespace));
        let mut isolated = None;
        for (policy, coverage) in covering {
            let isolated = isolated.get_or_insert_with(|| isolated_in(world, namespace, index));
            // What could not be understood may be any pod, and is closed for all.
            for (at, group) in index.places(policy.subject.any_pods()) {
                let isolated = isolated.get(at).copied().unwrap_or_default();
                let open = |direction| policy.isolates(direction) && !isolated.get(direction);
                coverage.selected += group.pods;
                coverage.decided +=
                    if Direction::BOTH.into_iter().any(open) { group.pods } else { 0 };
                coverage.nodes.extend(group.nodes.iter().cloned());
            }
        }
    }
    all.into_iter().map(|(policy, coverage)| (policy.name.clone(), coverage)).collect()
}

/// What is wrong with a policy that selects no pod, unless more pods alone would mend it.
pub(super) fn nobody(world: &World, policy: &Policy, coverage: &Coverage) -> Option<Finding> {
    if coverage.selected > 0 {
        return None;
    }
    let subject = &policy.subject;
    let [namespaces, pods] = match policy.name.kind {
        Kind::ClusterNetworkPolicy => ["spec.subject"; 2],
        _ => ["spec.namespaceSelector", "spec.podSelector"],
    };
    let is_typed = |selector: &Option<Selector>| {
        selector.as_ref().is_some_and(|selector| !selector.is_everything())
    };
    let (field, message) = if coverage.namespaces > 0 || !is_typed(&subject.namespaces) {
        if !is_typed(&subject.pods) {
            return None;
        }
        let said = "selects no pod (hostNetwork and finished pods do not count), so the policy \
                    decides nothing; compare it with `kubectl get pods -A --show-labels`";
        (pods, said)
    } else if subject.spares_system
        && world.namespaces().keys().any(|name| covers(world, subject, name))
    {
        let said = "matches no namespace but those of the system, which a default leaves out, so \
                    the policy decides nothing; if they are meant, set \
                    `includeSystemNamespaces: true`";
        (namespaces, said)
    } else {
        let said = "matches no namespace, so the policy decides nothing; compare it with \
                    `kubectl get namespaces --show-labels`";
        (namespaces, said)
    };
    let (reason, field) = (Reason::SelectsNothing, field.to_owned());
    Some(Finding { reason, field, message: message.to_owned() })
}

/// Whether a subject may have pods in a namespace; one that is not known yet may be any.
fn covers(world: &World, subject: &Subject, namespace: &Str) -> bool {
    let selector = subject.namespaces.as_ref();
    let known = selector.zip(world.namespaces().get(namespace));
    known.is_none_or(|(selector, namespace)| selector.matches(&namespace.labels))
}

/// In which directions a NetworkPolicy in force isolates each group of pods of a namespace.
fn isolated_in(world: &World, namespace: &Str, index: &Index<Group>) -> Vec<PerDirection<bool>> {
    let mut found = vec![PerDirection::default(); index.len()];
    let in_force = world.policies_in(namespace).filter(|policy| policy.mode == Mode::Enforce);
    for policy in in_force {
        for (at, _) in index.places(policy.subject.any_pods()) {
            let Some(found) = found.get_mut(at) else { continue };
            for direction in Direction::BOTH {
                *found.get_mut(direction) |= policy.isolates(direction);
            }
        }
    }
    found
}
