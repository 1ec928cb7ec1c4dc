//! The pods that the policies of the cluster select, those for which a default decides, and the
//! nodes of the pods of all policies.
//!
//! A default decides for a pod and a direction that no enforced NetworkPolicy isolates. Rules of
//! the tiers Admin and Baseline decide flows, not pods: they do not count here.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::{Direction, PerDirection};
use policy_engine::labels::Str;
use policy_engine::object::ObjectRef;
use policy_engine::policy::{Policy, Subject};
use policy_engine::tier::Mode;
use policy_engine::world::World;
use portcullis_lint::pods::{Group, Index, Pods};

/// The namespaces, pods and nodes that one policy of the cluster applies to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Coverage {
    /// How many namespaces it covers, those without a pod among them.
    pub namespaces: usize,
    /// How many pods it selects.
    pub selected: usize,
    /// For how many of these pods it decides in a direction: no NetworkPolicy isolates them there.
    pub decided: usize,
    /// The nodes of the pods that it selects.
    pub nodes: BTreeSet<Str>,
}

/// The nodes of the pods that each policy in a namespace selects.
pub(super) type Nodes = BTreeMap<ObjectRef, BTreeSet<Str>>;

/// The pods that each policy of the cluster applies to, and the nodes of the pods of all others. `pods`
/// are those of `world`.
///
/// The selectors of a namespace's policies are matched once for both.
pub(super) fn coverage(world: &World, pods: &Pods) -> (BTreeMap<ObjectRef, Coverage>, Nodes) {
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
    let mut nodes = Nodes::new();
    for (namespace, index) in pods.by_namespace() {
        let isolated = isolated_in(world, namespace, index, &mut nodes);
        let covering = all.iter_mut().filter(|(policy, _)| covers(policy, namespace));
        for (policy, coverage) in covering {
            // A part that could not be understood may mean any pod: all traffic of all is denied.
            let groups = index.matching(policy.subject.any_pods());
            for (at, group) in groups.filter(|(_, group)| !group.host_network) {
                let isolated = isolated.get(at).expect("one for each group");
                let pods = group.pods().len();
                let open = |direction| policy.isolates(direction) && !isolated.get(direction);
                coverage.selected += pods;
                coverage.decided += if Direction::BOTH.into_iter().any(open) { pods } else { 0 };
                coverage.nodes.extend(group.nodes.iter().cloned());
            }
        }
    }
    (all.into_iter().map(|(policy, coverage)| (policy.name.clone(), coverage)).collect(), nodes)
}

/// Whether a subject may have pods in a namespace; a selector may match one that is not known yet.
fn covers(world: &World, subject: &Subject, namespace: &Str) -> bool {
    let selector = subject.namespaces.as_ref();
    let known = selector.zip(world.namespaces().get(namespace));
    known.is_none_or(|(selector, namespace)| selector.matches(&namespace.labels))
}

/// In which directions an enforced NetworkPolicy isolates each group of pods of a namespace. Adds the
/// nodes of the pods that each policy there selects to `nodes`.
fn isolated_in(
    world: &World,
    namespace: &Str,
    index: &Index<Group>,
    nodes: &mut Nodes,
) -> Vec<PerDirection<bool>> {
    let mut isolated = vec![PerDirection::default(); index.len()];
    for policy in world.policies_in(namespace) {
        let of_policy = nodes.entry(policy.name.clone()).or_default();
        for (at, group) in index.matching(policy.subject.any_pods()) {
            if !group.host_network {
                of_policy.extend(group.nodes.iter().cloned());
            }
            let isolated = isolated.get_mut(at).expect("one for each group");
            for direction in Direction::BOTH.into_iter().filter(|_| policy.mode == Mode::Enforce) {
                *isolated.get_mut(direction) |= policy.isolates(direction);
            }
        }
    }
    isolated
}
