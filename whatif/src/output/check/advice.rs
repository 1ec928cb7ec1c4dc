//! What to do about a connection that is denied.

use policy_engine::direction::Direction;
use policy_engine::evaluate::{Decision, Reason, RuleRef};
use policy_engine::explain::{NearMiss, PeerMiss, PortMiss};
use policy_engine::flow::{Endpoint, Traffic};
use policy_engine::labels::Labels;
use policy_engine::selector::{Operator, Requirement};
use policy_engine::tier::Tier;

use crate::judge::Part;
use crate::model::Cluster;
use crate::output::words;

/// Lines that say what would open the direction that denies; `misses` has the closest rule first.
///
/// Policies of the whole cluster are not the application's to change: where a NetworkPolicy is
/// enough, that is the advice.
pub(super) fn advice(
    cluster: &Cluster,
    direction: Direction,
    (decision, misses): (&Decision, &[NearMiss]),
    part: &Part,
) -> Vec<String> {
    let (list, other, there) = match direction {
        Direction::Ingress => ("from", "source", &part.flow.source),
        Direction::Egress => ("to", "destination", &part.flow.destination),
    };
    let asked = match part.flow.traffic {
        Traffic::Port(protocol, number) => words::port(protocol, number),
        Traffic::Other => "ICMP".to_owned(),
    };
    let word = direction.as_str().to_lowercase();
    let head = match (decision.reason, decision.tier) {
        (Reason::RuleDenies, Some(Tier::Baseline)) | (_, Some(Tier::Default)) => {
            let also = match direction {
                Direction::Ingress => "",
                Direction::Egress => ", and list DNS in it",
            };
            Some(format!(
                "To allow it, add a NetworkPolicy with an {word} rule, which decides before{also}:"
            ))
        }
        (Reason::RuleDenies, _) => {
            let denying = words::rules(&decision.decided_by);
            // Its place is not known, so nothing comes before it.
            let how = if decision.decided_by.iter().any(|rule| is_misplaced(cluster, rule)) {
                "mend its policy, which cannot be understood".to_owned()
            } else {
                format!("change that rule, or accept {asked} in one before it")
            };
            return vec![format!(
                "No NetworkPolicy can allow it: {denying} comes first. To allow it, {how}."
            )];
        }
        _ => None,
    };
    if let Some(head) = head {
        return [head].into_iter().chain(peer(cluster, list, there, part)).collect();
    }
    let Some(closest) = misses.first() else {
        let mut lines = vec![format!(
            "To allow it, add a policy with an {word} rule; those that isolate have none:"
        )];
        lines.extend(peer(cluster, list, there, part));
        return lines;
    };
    let name = &closest.rule;
    if closest.peers.is_empty() {
        return vec![match service_port(closest, part) {
            Some((service, number)) => format!(
                "{name} lists {service}, the Service's port. Policies see the pod's: write {number}."
            ),
            None => format!("To allow it, add {asked} to the ports of {name}."),
        }];
    }
    let label = closest.peers.iter().find_map(|peer| match peer {
        PeerMiss::PodLabels { failed, .. } if can_be_set(failed) => {
            Some(format!("label the {other} pod {}", words::requirements(failed)))
        }
        PeerMiss::NamespaceLabels { failed, .. } if can_be_set(failed) => {
            Some(format!("label the {other}'s namespace {}", words::requirements(failed)))
        }
        _ => None,
    });
    let label = label.filter(|_| closest.ports.is_empty());
    let label = label.map(|label| format!("{label}, or ")).unwrap_or_default();
    let place = if closest.ports.is_empty() {
        format!("add this to `{list}` of {name}")
    } else {
        format!("add a rule for {asked} with this peer")
    };
    let mut lines = vec![format!("To allow it, {label}{place}:")];
    lines.extend(peer(cluster, list, there, part));
    lines
}

/// Whether the policy of a rule is asked before all others because its tier or priority could not
/// be understood.
fn is_misplaced(cluster: &Cluster, rule: &RuleRef) -> bool {
    let policy = cluster.world.policy(&rule.policy);
    policy.is_some_and(|policy| policy.priority() == i32::MIN)
}

/// Whether labels meet the requirements by being set: not by being taken away.
fn can_be_set(failed: &[Requirement]) -> bool {
    // The API server sets this one, to the namespace's name.
    const NAME: &str = "kubernetes.io/metadata.name";
    failed.iter().all(|requirement| match &requirement.operator {
        _ if requirement.key.as_ref() == NAME => false,
        Operator::In(values) => values.len() == 1,
        Operator::Exists => true,
        Operator::NotIn(_) | Operator::DoesNotExist => false,
    })
}

/// The Service's port and the pod's, when the rule lists the one for the other.
fn service_port(closest: &NearMiss, part: &Part) -> Option<(u16, u16)> {
    let asked = part.asked.as_ref()?;
    let service = asked.service_port.filter(|service| *service != asked.number)?;
    let lists =
        |miss: &PortMiss| matches!(miss, PortMiss::OutsideRange(range) if range.contains(service));
    closest.ports.iter().any(lists).then_some((service, asked.number))
}

/// A peer that matches the other side, as it would be written.
fn peer(cluster: &Cluster, list: &str, side: &Endpoint, part: &Part) -> Vec<String> {
    let pod = match side {
        Endpoint::Pod(key, _) => cluster.world.pods().get(key).filter(|pod| pod.takes_part()),
        Endpoint::Node(..) | Endpoint::External(_) => None,
    };
    let lines = match (pod, side.address()) {
        (Some(pod), _) => {
            let namespace = &pod.key.namespace;
            vec![
                format!(
                    "- namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}"
                ),
                format!("  podSelector: {{matchLabels: {{{}}}}}", telling(&pod.labels)),
            ]
        }
        (None, Some(address)) => {
            let single = ipnet::IpNet::from(address).to_string();
            let outside = part.outside.as_ref().filter(|_| matches!(side, Endpoint::External(_)));
            let nets = outside.map_or_else(|| vec![single], words::networks);
            nets.iter().take(3).map(|net| format!("- ipBlock: {{cidr: {net}}}")).collect()
        }
        (None, None) => vec!["- ipBlock: {cidr: ADDRESS-OF-THE-NODE/32}".to_owned()],
    };
    let head = format!("  {list}:");
    [head].into_iter().chain(lines.into_iter().map(|line| format!("  {line}"))).collect()
}

/// The label that names what a pod is, as far as one can tell.
fn telling(labels: &Labels) -> String {
    const NAMES: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];
    let usual = NAMES.iter().find_map(|name| Some((*name, labels.get(name)?)));
    let label = usual.or_else(|| {
        let mut others = labels.iter().filter(|(key, _)| !key.contains("hash"));
        others.next().map(|(key, value)| (key.as_ref(), value))
    });
    label.map(|(key, value)| format!("{key}: {value}")).unwrap_or_default()
}
