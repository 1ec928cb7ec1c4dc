//! What an answer is worth when not all of the cluster could be read.
//!
//! A policy that nobody saw can isolate a pod, never admit to one that others isolate in a namespace
//! that was read. So a denial by what was read stands, and what is allowed may not be.

use policy_engine::explain::PeerMiss;
use policy_engine::flow::Endpoint;
use policy_engine::model::PodKey;

use super::{Part, Verdict};
use crate::model::Cluster;
use crate::source::gap::Gap;

/// Says so where the answer depends on what could not be read.
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
    match gap.kind.as_str() {
        "networkpolicy" => {
            let hidden = |pod: &&PodKey| gap.hides("networkpolicy", &pod.namespace);
            part.verdict != Verdict::Denied && sides.into_iter().flatten().any(|pod| hidden(&pod))
        }
        "namespace" => {
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
                unknown && isolated && (decision.is_allowed() || by_labels)
            })
        }
        // An address may be that of a pod.
        "pod" => part.outside.as_ref().is_some_and(|set| {
            let nets = policy_engine::cidr::Family::BOTH.map(|family| set.networks(family));
            let nets: Vec<_> = nets.into_iter().flatten().collect();
            matches!(nets.as_slice(), [net] if net.prefix_len() == net.max_prefix_len())
        }),
        _ => false,
    }
}

fn pod(side: &Endpoint) -> Option<&PodKey> {
    match side {
        Endpoint::Pod(key, _) => Some(key),
        Endpoint::Node(..) | Endpoint::External(_) => None,
    }
}
