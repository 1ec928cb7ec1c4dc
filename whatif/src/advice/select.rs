//! Label selectors that match given pods of a namespace and, if labels permit, no other pods.

use std::collections::BTreeSet;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::{Pod, PodKey};
use policy_engine::selector::{Operator, Requirement};
use policy_engine::world::World;

/// The keys that usually name what a pod is, the best first.
const NAMES: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];

/// Keys whose values change with a release, and not with the program that the pod runs.
const UNSTABLE: [&str; 6] = [
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "chart",
    "helm.sh/chart",
    "heritage",
    "version",
];

/// How many requirements are tried together before the best ones are taken one by one.
const TRIED_TOGETHER: usize = 3;

/// How many requirements are tried in every combination.
const MAX_CANDIDATES: usize = 16;

/// The fewest selectors that match all `wanted` pods of a namespace, and as few others as labels allow.
pub(crate) fn selectors(
    world: &World,
    namespace: &Str,
    wanted: &BTreeSet<PodKey>,
) -> Vec<Vec<Requirement>> {
    let here = || {
        world
            .pods()
            .values()
            .map(AsRef::as_ref)
            .filter(|pod: &&Pod| pod.takes_part() && pod.key.namespace == *namespace)
    };
    let own: BTreeSet<Labels> =
        here().filter(|pod| wanted.contains(&pod.key)).map(usable).collect();
    let others: BTreeSet<Labels> =
        here().filter(|pod| !wanted.contains(&pod.key)).map(usable).collect();
    let (together, left) = selector(&own, &others);
    if left == 0 || own.len() < 2 {
        return vec![together];
    }
    let each = own.into_iter().map(|labels| selector(&[labels].into(), &others).0);
    let each: BTreeSet<Vec<Requirement>> = each.collect();
    each.into_iter().collect()
}

/// The labels of a pod that a selector may use. Pods with equal labels cannot be distinguished.
pub(crate) fn usable(pod: &Pod) -> Labels {
    pod.labels.filtered(|key| !is_generated(key))
}

/// Whether a controller sets the label, so that the next pod has another value.
fn is_generated(key: &str) -> bool {
    const KEYS: [&str; 6] = [
        "apps.kubernetes.io/pod-index",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
    ];
    KEYS.contains(&key)
        || key.starts_with("batch.kubernetes.io/")
        || key.ends_with("pod-template-hash")
}

/// A requirement that all wanted pods meet, how hard it is to read, and which other pods fail it.
struct Candidate {
    requirement: Requirement,
    cost: u32,
    excludes: BTreeSet<usize>,
}

/// One selector for all `own` labels, and how many of `others` match it too.
fn selector(own: &BTreeSet<Labels>, others: &BTreeSet<Labels>) -> (Vec<Requirement>, usize) {
    let others: Vec<&Labels> = others.iter().collect();
    let keys: BTreeSet<&Str> = own
        .iter()
        .chain(others.iter().copied())
        .flat_map(Labels::iter)
        .map(|(key, _)| key)
        .collect();
    let mut candidates: Vec<Candidate> =
        keys.into_iter().filter_map(|key| candidate(key, own, &others)).collect();
    candidates.sort_by(|a, b| (a.cost, &a.requirement).cmp(&(b.cost, &b.requirement)));
    if others.is_empty() {
        // Any label also excludes pods that are created later.
        let first = candidates.into_iter().find(|one| is_label(&one.requirement));
        return (first.into_iter().map(|one| one.requirement).collect(), 0);
    }
    candidates.retain(|candidate| !candidate.excludes.is_empty());
    let chosen = cheapest(&candidates, others.len()).unwrap_or_else(|| greedy(&candidates));
    let mut left: BTreeSet<usize> = (0..others.len()).collect();
    for one in &chosen {
        left.retain(|other| !one.excludes.contains(other));
    }
    let mut chosen: Vec<Requirement> = chosen.iter().map(|one| one.requirement.clone()).collect();
    if chosen.is_empty() {
        // No label distinguishes them. A label that all have excludes pods that are created later.
        let first = own.iter().next().into_iter().flat_map(Labels::iter).map(|(key, _)| key);
        let shared = first.filter_map(|key| candidate(key, own, &[]));
        let best = shared.filter(|one| is_label(&one.requirement)).min_by_key(|one| one.cost);
        chosen.extend(best.map(|one| one.requirement));
    }
    (chosen, left.len())
}

/// The strongest requirement for a key that all `own` labels meet.
fn candidate(key: &Str, own: &BTreeSet<Labels>, others: &[&Labels]) -> Option<Candidate> {
    let values: BTreeSet<Str> = own.iter().filter_map(|labels| labels.get(key)).cloned().collect();
    let all_have = own.iter().all(|labels| labels.get(key).is_some());
    let label_cost = match NAMES.iter().position(|name| **name == **key) {
        Some(at) => 10 + u32::try_from(at).unwrap_or_default(),
        None if UNSTABLE.contains(&key.as_ref()) => 24,
        None => 15,
    };
    let (operator, cost) = if all_have {
        let more = if values.len() > 1 { 10 } else { 0 };
        (Operator::In(values.into()), label_cost + more)
    } else if values.is_empty() {
        (Operator::DoesNotExist, label_cost + 30)
    } else {
        let other = others.iter().filter_map(|labels| labels.get(key));
        let refused: BTreeSet<Str> =
            other.filter(|value| !values.contains(*value)).cloned().collect();
        if refused.is_empty() {
            return None;
        }
        (Operator::NotIn(refused.into()), label_cost + 40)
    };
    let requirement = Requirement { key: key.clone(), operator };
    let numbered = others.iter().enumerate();
    let excludes = numbered.filter(|(_, labels)| !requirement.matches(labels)).map(|(at, _)| at);
    let excludes = excludes.collect();
    Some(Candidate { requirement, cost, excludes })
}

/// The cheapest few candidates that together exclude all others.
fn cheapest(candidates: &[Candidate], others: usize) -> Option<Vec<&Candidate>> {
    let candidates = candidates.get(..candidates.len().min(MAX_CANDIDATES))?;
    let mut best: Option<(u32, Vec<&Candidate>)> = None;
    for chosen in 1_u32..1 << candidates.len() {
        if usize::try_from(chosen.count_ones()).is_ok_and(|count| count > TRIED_TOGETHER) {
            continue;
        }
        let numbered = candidates.iter().enumerate();
        let set: Vec<&Candidate> =
            numbered.filter(|(at, _)| chosen & (1 << at) != 0).map(|(_, one)| one).collect();
        let cost = set.iter().map(|one| one.cost).sum();
        let cheaper = best.as_ref().is_none_or(|(known, _)| cost < *known);
        if cheaper && (0..others).all(|at| set.iter().any(|one| one.excludes.contains(&at))) {
            best = Some((cost, set));
        }
    }
    best.map(|(_, set)| set)
}

/// Adds candidates until none excludes more of the other pods.
fn greedy(candidates: &[Candidate]) -> Vec<&Candidate> {
    let (mut chosen, mut done) = (Vec::new(), BTreeSet::new());
    loop {
        let gain = |one: &&Candidate| one.excludes.difference(&done).count();
        let best = candidates.iter().rev().max_by_key(gain).filter(|one| gain(one) > 0);
        let Some(best) = best else { return chosen };
        done.extend(best.excludes.iter().copied());
        chosen.push(best);
    }
}

/// Whether `matchLabels` can express the requirement.
pub(super) fn is_label(requirement: &Requirement) -> bool {
    matches!(&requirement.operator, Operator::In(values) if values.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_engine::model::Change;
    use policy_engine::words::requirements;
    use policy_engine::world::Options;

    /// The selectors of the first pods, where there are others with these labels.
    fn check(wanted: &[&[(&str, &str)]], others: &[&[(&str, &str)]], expected: &[&str]) {
        let mut world = World::new(Options::default());
        let mut own = BTreeSet::new();
        for (number, labels) in wanted.iter().chain(others).enumerate() {
            let key = PodKey::new("x", &format!("pod-{number}"));
            if number < wanted.len() {
                own.insert(key.clone());
            }
            world.apply(Change::from(Pod::new(key, labels.iter().copied().collect())));
        }
        let found = selectors(&world, &"x".into(), &own);
        let found: Vec<String> = found.iter().map(|one| requirements(one)).collect();
        assert_eq!(found, expected, "{wanted:?} without {others:?}");
    }

    #[test]
    fn one_usual_label_is_enough_where_it_tells_pods_apart() {
        check(&[&[("app", "a"), ("tier", "x")]], &[&[("app", "b"), ("tier", "x")]], &["app=a"]);
        check(&[&[("app", "a"), ("tier", "x")]], &[], &["app=a"]);
        check(&[&[("app", "a"), ("tier", "x")]], &[&[("app", "a"), ("tier", "y")]], &["tier=x"]);
    }

    #[test]
    fn several_labels_are_taken_where_one_does_not_do() {
        let others: &[&[(&str, &str)]] =
            &[&[("app", "a"), ("tier", "y")], &[("app", "b"), ("tier", "x")]];
        check(&[&[("app", "a"), ("tier", "x")]], others, &["app=a,tier=x"]);
    }

    #[test]
    fn a_pod_without_labels_is_selected_by_labels_that_it_lacks() {
        check(&[&[]], &[&[("app", "a")]], &["!app"]);
        check(&[&[]], &[], &[""]);
    }

    #[test]
    fn labels_that_controllers_generate_are_never_taken() {
        let own: &[(&str, &str)] = &[
            ("controller-uid", "1"),
            ("job-name", "j"),
            ("batch.kubernetes.io/controller-uid", "1"),
            ("pod-template-hash", "5d8f"),
        ];
        check(&[own], &[&[]], &[""]);
        check(&[own], &[&[("app", "a")]], &["!app"]);
    }

    #[test]
    fn pods_with_several_values_are_one_selector_or_one_each() {
        check(&[&[("app", "a")], &[("app", "b")]], &[&[("app", "c")]], &["app in (a,b)"]);
        let others: &[&[(&str, &str)]] =
            &[&[("app", "a"), ("tier", "y")], &[("app", "b"), ("tier", "x")]];
        check(
            &[&[("app", "a"), ("tier", "x")], &[("app", "b"), ("tier", "y")]],
            others,
            &["app=a,tier=x", "app=b,tier=y"],
        );
    }
}
