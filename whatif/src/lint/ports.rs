//! Which ports rules name: names that no pod knows, and ports that only a Service has.

use std::collections::BTreeSet;
use std::rc::Rc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::policy::{Peer, Peers, Policy, PortMatch, Ports};
use policy_engine::port::Protocol;
use portcullis_crds::convert::service::Service;

use super::groups::Group;
use super::{Code, Context, Finding, Place, places};

type Found<'c> = Vec<Rc<Group<'c>>>;

/// What is wrong with the ports of a policy.
pub(super) fn findings<'c>(context: &Context<'c>, policy: &'c Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in places(policy) {
        let Ports::Listed(ports) = &place.rule.ports else { continue };
        let special = |port: &PortMatch| match port {
            PortMatch::Named(..) => true,
            PortMatch::Numbers(_, range) => range.count() == 1,
            PortMatch::Invalid => false,
        };
        if !ports.iter().any(special) {
            continue;
        }
        let asked = destinations(context, place);
        // Where nobody is asked, another finding says so.
        if asked.is_empty() {
            continue;
        }
        for (number, port) in ports.iter().enumerate() {
            found.extend(match port {
                PortMatch::Named(protocol, name) => {
                    unknown(context, place, number, (*protocol, name), &asked)
                }
                PortMatch::Numbers(protocol, range) if range.count() == 1 => {
                    let port = (*protocol, range.first());
                    of_service(context, place, number, port, &asked)
                }
                PortMatch::Numbers(..) | PortMatch::Invalid => None,
            });
        }
    }
    found
}

/// The pods whose ports a rule speaks of.
fn destinations<'c>(context: &Context<'c>, place: Place<'c>) -> Found<'c> {
    let everyone = || context.groups.all().filter(|group| !group.host_network).cloned().collect();
    match (place.direction, &place.rule.peers) {
        (Direction::Ingress, _) => {
            let subject = place.policy.subject.any_pods();
            context.groups.matching(&place.policy.name.namespace, subject, false)
        }
        (Direction::Egress, Peers::Any) => everyone(),
        (Direction::Egress, Peers::Listed(peers)) => {
            let mut found: Found<'c> = Vec::new();
            for peer in peers {
                match peer {
                    Peer::Pods(peer) => found.extend(context.groups.peer(peer).iter().cloned()),
                    // Whose address it is may not be known yet.
                    Peer::Block(_) => return everyone(),
                    Peer::Nodes(_) | Peer::Invalid => {}
                }
            }
            found
        }
    }
}

fn unknown(
    context: &Context<'_>,
    place: Place<'_>,
    number: usize,
    (protocol, name): (Protocol, &Str),
    asked: &Found<'_>,
) -> Option<Finding> {
    let ports = || asked.iter().flat_map(|group| group.ports);
    if ports().any(|port| port.name == *name && port.protocol == protocol) {
        return None;
    }
    let whose = match place.direction {
        Direction::Ingress => "that the policy selects",
        Direction::Egress => "that this rule's `to` matches",
    };
    let known: BTreeSet<&str> = ports().map(|port| port.name.as_ref()).collect();
    let other = ports().find(|port| port.name == *name).map(|port| port.protocol);
    let near = crate::model::nearest(name, known.iter().copied());
    let hint = match (other, near.first(), known.is_empty()) {
        (Some(other), ..) => format!("there is one for {other}: set `protocol: {other}`"),
        (None, Some(near), _) => format!("did you mean `{near}`?"),
        (None, None, true) => "they name no ports; give the port's number".to_owned(),
        (None, None, false) => {
            let known: Vec<&str> = known.into_iter().take(5).collect();
            format!("they have {}", known.join(", "))
        }
    };
    let message = format!(
        "no pod {whose} has a {protocol} container port named `{name}`, so this port admits \
         nothing; {hint}"
    );
    Some(context.finding(Code::PortNameUnknown, place.policy, place.port(number), message))
}

fn of_service(
    context: &Context<'_>,
    place: Place<'_>,
    number: usize,
    (protocol, port): (Protocol, u16),
    asked: &Found<'_>,
) -> Option<Finding> {
    // Outside the cluster the number is right.
    let all_pods = match (place.direction, &place.rule.peers) {
        (Direction::Ingress, _) => true,
        (Direction::Egress, Peers::Any) => false,
        (Direction::Egress, Peers::Listed(peers)) => {
            peers.iter().all(|peer| matches!(peer, Peer::Pods(_) | Peer::Invalid))
        }
    };
    let declared = asked
        .iter()
        .flat_map(|group| group.ports)
        .any(|known| known.number == port && known.protocol == protocol);
    if declared || !all_pods {
        return None;
    }
    let mut found: Option<(&Service, BTreeSet<u16>)> = None;
    for service in services(context, asked) {
        let pods = || asked.iter().filter_map(|group| group.pods.first());
        let pods = || pods().filter(|pod| service.selects(pod));
        for known in service.ports.iter().filter(|known| known.protocol == protocol) {
            let targets: BTreeSet<u16> = pods().flat_map(|pod| known.resolve(pod)).collect();
            // Somebody does answer there.
            if targets.contains(&port) {
                return None;
            }
            if known.number == port && !targets.is_empty() && found.is_none() {
                found = Some((service, targets));
            }
        }
    }
    let (service, targets) = found?;
    let admitted = |target: &u16| match &place.rule.ports {
        Ports::Any => true,
        Ports::Listed(items) => items.iter().any(|item| match item {
            PortMatch::Numbers(known, range) => *known == protocol && range.contains(*target),
            PortMatch::Named(known, name) => {
                let mut ports = asked.iter().flat_map(|group| group.ports);
                *known == protocol && ports.any(|p| p.name == *name && p.number == *target)
            }
            PortMatch::Invalid => false,
        }),
    };
    if targets.iter().all(admitted) {
        return None;
    }
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let message = format!(
        "{port} is the port of Service {}/{}, and policies see the pod's, which is {}; write the pod's",
        service.namespace,
        service.name,
        targets.join(" or ")
    );
    Some(context.finding(Code::ServicePort, place.policy, place.port(number), message))
}

/// The Services of the namespaces that pods are in.
fn services<'a>(context: &'a Context<'_>, asked: &Found<'_>) -> impl Iterator<Item = &'a Service> {
    let namespaces: BTreeSet<Str> = asked.iter().map(|group| group.namespace.clone()).collect();
    namespaces.into_iter().flat_map(|namespace| {
        let first = (namespace.clone(), Str::from(""));
        let all = context.cluster.services.range(first..);
        all.take_while(move |((of, _), _)| *of == namespace).map(|(_, service)| service)
    })
}
