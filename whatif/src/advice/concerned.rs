//! Finds the pods between which new policies change connections: mostly few, in a cluster of many.

use std::collections::BTreeSet;

use policy_engine::direction::Direction;
use policy_engine::evaluate::pod_peer_matches;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::policy::{Peer, Peers, Policy, Rule, Selected};
use policy_engine::tier::{Mode, Tier};
use policy_engine::world::World;

/// The pods that new NetworkPolicies select, and those that their rules match. `None` if the
/// policies may change connections of other pods: where no policy of `world` isolates a pod, every
/// pod may lose its connections to it.
pub(super) fn concerned(world: &World, changes: &[Change]) -> Option<BTreeSet<PodKey>> {
    let mut found = BTreeSet::new();
    for change in changes {
        let Change::Policy(name, Some(policy)) = change else { return None };
        for pod in world.pods().values().filter(|pod| pod.takes_part()) {
            let selected = world.selected(policy, pod);
            if selected == Selected::Unsure {
                return None;
            }
            if selected == Selected::Yes {
                let mut isolates = Direction::BOTH.iter().filter(|side| policy.isolates(**side));
                if !isolates.all(|side| is_isolated(world, pod, *side)) {
                    return None;
                }
                found.insert(pod.key.clone());
            }
        }
        for rule in policy.all_rules() {
            found.extend(matched(world, &rule.in_namespace(&name.namespace))?);
        }
    }
    Some(found)
}

/// Whether an enforced NetworkPolicy isolates a pod; if so, another one only allows more.
fn is_isolated(world: &World, pod: &Pod, direction: Direction) -> bool {
    let isolates = |policy: &Policy| {
        policy.tier == Tier::NetworkPolicy
            && policy.isolates(direction)
            && world.mode(policy, &pod.key.namespace) == Mode::Enforce
    };
    let mut policies = world.selecting(pod).into_iter();
    policies.any(|(policy, selected)| selected == Selected::Yes && isolates(policy))
}

/// The pods that a rule matches; `None` for every pod.
fn matched(world: &World, rule: &Rule) -> Option<Vec<PodKey>> {
    let Peers::Listed(peers) = &rule.peers else { return None };
    let matches = |pod: &Pod| {
        peers.iter().any(|peer| match peer {
            Peer::Pods(peer) => pod_peer_matches(world, peer, pod),
            Peer::Block(block) => pod.addresses.iter().any(|address| block.contains(*address)),
            Peer::Nodes(_) | Peer::Invalid => false,
        })
    };
    let pods = world.pods().values().filter(|pod| pod.takes_part() && matches(pod));
    Some(pods.map(|pod| pod.key.clone()).collect())
}

#[cfg(test)]
mod tests {
    use policy_engine::world::Options;

    use super::*;
    use crate::advice::changes;
    use crate::model::{Cluster, Inventory};
    use portcullis_crds::manifest::Manifest;

    /// Checks for which pods a new policy of namespace `a` may change connections.
    #[track_caller]
    fn check(spec: &str, expected: Option<&[&str]>) {
        let pod = |namespace: &str, name: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, \
                 labels: {{app: {name}}}}}, status: {{podIPs: [{{ip: 10.0.0.{}}}]}}}}\n",
                name.len()
            )
        };
        let policy = |name: &str, spec: &str| {
            format!(
                "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: \
                 {name}, namespace: a}}, spec: {spec}}}\n"
            )
        };
        let pods = [pod("a", "x"), pod("a", "yy"), pod("b", "zzz"), pod("b", "other")].concat();
        let there = policy("there", "{podSelector: {matchLabels: {app: x}}}");
        let mut inventory = Inventory::default();
        inventory.add_path(Manifest::parse("f", &(pods + &there)).documents, "default");
        let cluster = Cluster::new(&inventory, Options::default());
        let new = changes(&policy("new", spec)).expect("it is read");
        let found = concerned(&cluster.world, &new);
        let names = |pods: BTreeSet<PodKey>| {
            pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect()
        };
        let expected = expected.map(|all| all.iter().map(ToString::to_string).collect());
        assert_eq!(found.map(names), expected as Option<Vec<String>>, "{spec}");
    }

    #[test]
    fn a_policy_that_isolates_no_other_pod_concerns_only_its_pods() {
        let x = "podSelector: {matchLabels: {app: x}}";
        let z = "podSelector: {matchLabels: {app: zzz}}, namespaceSelector: {}";
        check(&format!("{{{x}, ingress: [{{from: [{{{z}}}]}}]}}"), Some(&["a/x", "b/zzz"]));
        let block = "ipBlock: {cidr: 10.0.0.4/30}";
        check(&format!("{{{x}, ingress: [{{from: [{{{block}}}]}}]}}"), Some(&["a/x", "b/other"]));
        // The policy also isolates yy, so all other pods may lose their connections to it.
        check(&format!("{{podSelector: {{}}, ingress: [{{from: [{{{z}}}]}}]}}"), None);
        // No policy isolates a pod for egress yet.
        check(&format!("{{{x}, policyTypes: [Egress], egress: [{{to: [{{{z}}}]}}]}}"), None);
        check(&format!("{{{x}, ingress: [{{}}]}}"), None);
    }
}
