//! How far an answer can be trusted when a part of the cluster could not be read.
//!
//! An unread policy of an earlier tier can change any decision. An unread policy of the deciding
//! tier can isolate a pod that no policy isolates; if some policy isolates the pod, it can only
//! allow more. A policy of a later tier changes nothing. One direction that certainly denies is
//! enough.

use std::sync::Arc;

use policy_engine::evaluate::{Decision, Reason};
use policy_engine::explain::PeerMiss;
use policy_engine::flow::Endpoint;
use policy_engine::model::PodKey;
use policy_engine::object::Kind;
use policy_engine::policy::Policy;
use policy_engine::tier::Tier;

use super::{Part, Verdict};
use crate::gap::Gap;
use crate::model::Cluster;

/// Marks the part as undetermined where the answer depends on what could not be read.
pub(super) fn qualify(cluster: &Cluster, part: &mut Part) {
    let unsure: Vec<&Gap> = cluster.gaps.iter().filter(|gap| hides(cluster, gap, part)).collect();
    for gap in unsure {
        part.verdict = Verdict::Undetermined;
        part.notes.push(format!("it depends on what could not be read: {gap}"));
    }
}

fn hides(cluster: &Cluster, gap: &Gap, part: &Part) -> bool {
    let sides = [pod(&part.flow.source), pod(&part.flow.destination)];
    let judged = part.decisions();
    match gap.kind {
        kind if kind.is_policy() => {
            let directions = [(&judged.egress, sides[0]), (&judged.ingress, sides[1])];
            let unsure = |(decision, pod): &(&Decision, Option<&PodKey>)| {
                let hidden = pod.is_some_and(|pod| gap.hides(kind, &pod.namespace));
                hidden && may_be_otherwise(kind, decision)
            };
            if part.verdict == Verdict::Denied {
                let mut denials = directions.iter().filter(|(one, _)| !one.is_allowed());
                return denials.all(unsure);
            }
            directions.iter().any(unsure)
        }
        Kind::Namespace
            if sides.into_iter().flatten().any(|pod| is_subject_unsure(cluster, pod)) =>
        {
            true
        }
        Kind::Namespace => {
            let directions = [
                (&judged.egress, &part.explanation.egress, sides[1]),
                (&judged.ingress, &part.explanation.ingress, sides[0]),
            ];
            directions.into_iter().any(|(decision, misses, peer)| {
                let unknown = peer.is_some_and(|pod| cluster.assumed.contains(&pod.namespace));
                let by_labels = misses
                    .iter()
                    .flat_map(|miss| &miss.peers)
                    .any(|peer| matches!(peer, PeerMiss::NamespaceLabels { .. }));
                let isolated = !decision.isolated_by.is_empty();
                let by_rule = !decision.decided_by.is_empty() && !isolated;
                let tiers = by_rule || !decision.passed_by.is_empty();
                unknown && (tiers || isolated && (decision.is_allowed() || by_labels))
            })
        }
        // An address may be the address of an unread pod.
        Kind::Pod => part.outside.as_ref().is_some_and(|set| {
            let nets = policy_engine::cidr::Family::BOTH.map(|family| set.networks(family));
            let nets: Vec<_> = nets.into_iter().flatten().collect();
            matches!(nets.as_slice(), [net] if net.prefix_len() == net.max_prefix_len())
        }),
        _ => false,
    }
}

/// Whether an unread label of the namespace may make a policy of the cluster apply to a pod.
fn is_subject_unsure(cluster: &Cluster, pod: &PodKey) -> bool {
    let world = &cluster.world;
    let by_labels = |policy: &Arc<Policy>| {
        let namespaces = policy.subject.namespaces.as_ref();
        namespaces.is_none_or(|selector| !selector.is_everything())
    };
    cluster.assumed.contains(&pod.namespace) && world.policies_in("").any(by_labels)
}

/// Whether an unread policy of this kind could change a decision.
fn may_be_otherwise(kind: Kind, decision: &Decision) -> bool {
    let exempt = matches!(
        decision.reason,
        Reason::NoSubject | Reason::SamePod | Reason::OwnNode | Reason::EgressToOwnNode
    );
    match (kind, decision.tier) {
        _ if exempt => false,
        // A tier that is evaluated earlier has decided.
        (Kind::NetworkPolicy, Some(Tier::Admin))
        | (
            Kind::ClusterDefaultNetworkPolicy,
            Some(Tier::Admin | Tier::NetworkPolicy | Tier::Baseline),
        ) => false,
        // The rules of isolating policies are united: one more can allow, and cannot deny.
        (Kind::NetworkPolicy, Some(Tier::NetworkPolicy))
        | (Kind::ClusterDefaultNetworkPolicy, Some(Tier::Default)) => !decision.is_allowed(),
        // An unread ClusterNetworkPolicy may be evaluated first, and accept or deny the connection.
        _ => true,
    }
}

fn pod(side: &Endpoint) -> Option<&PodKey> {
    match side {
        Endpoint::Pod(key, _) => Some(key),
        Endpoint::Node(..) | Endpoint::External(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] =
        [Kind::ClusterNetworkPolicy, Kind::NetworkPolicy, Kind::ClusterDefaultNetworkPolicy];

    fn decision(reason: Reason, tier: Option<Tier>) -> Decision {
        let (isolated_by, decided_by, passed_by) = (Vec::new(), Vec::new(), Vec::new());
        Decision { reason, tier, isolated_by, decided_by, passed_by }
    }

    /// Checks for which kinds an unread policy could change a decision.
    #[track_caller]
    fn check(reason: Reason, tier: Option<Tier>, unsure: &[Kind]) {
        let decision = decision(reason, tier);
        let found: Vec<Kind> =
            KINDS.into_iter().filter(|kind| may_be_otherwise(*kind, &decision)).collect();
        assert_eq!(found, unsure, "{reason:?} {tier:?}");
    }

    #[test]
    fn unread_policies_matter_from_their_tier_on() {
        let all = KINDS;
        check(Reason::SamePod, None, &[]);
        check(Reason::NoSubject, None, &[]);
        check(Reason::NotIsolated, None, &all);
        check(Reason::RuleDenies, Some(Tier::Admin), &all[..1]);
        check(Reason::RuleAccepts, Some(Tier::Baseline), &all[..2]);
        // The rules of isolating policies are united: one more can allow, and cannot deny.
        check(Reason::NoRuleAllows, Some(Tier::NetworkPolicy), &all[..2]);
        check(Reason::RuleAllows, Some(Tier::NetworkPolicy), &all[..1]);
        check(Reason::NoRuleAllows, Some(Tier::Default), &all);
        check(Reason::RuleAllows, Some(Tier::Default), &all[..2]);
    }
}
