//! Ports of rules: names that no pod has, and numbers that only a Service has.

use std::collections::BTreeSet;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::policy::{Peer, Peers, Policy, PortMatch, Ports};
use policy_engine::port::Protocol;
use portcullis_crds::convert::service::Service;

use crate::answers::{Answers, PortName};
use crate::pods::{Group, Pods};
use crate::{Code, Context, Finding, Place, finding, near, places};

/// The findings about the ports of a policy.
pub(super) fn findings<'c>(context: &Context<'c>, policy: &'c Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in places(policy) {
        found.extend(unknown(&context.answers, place));
        let Ports::Listed(ports) = &place.rule.ports else { continue };
        let single = ports.iter().enumerate().filter_map(|(number, port)| match port {
            PortMatch::Numbers(protocol, range) if range.count() == 1 => {
                Some((number, (*protocol, range.first())))
            }
            PortMatch::Numbers(..) | PortMatch::Named(..) | PortMatch::Invalid => None,
        });
        let mut asked = None;
        for (number, port) in single {
            let asked = asked.get_or_insert_with(|| destinations(context.pods, place));
            found.extend(of_service(context, place, number, port, asked));
        }
    }
    found
}

/// Ports by which machines are administered, and the programs that listen there.
const ADMIN_PORTS: [(u16, &str); 10] = [
    (22, "SSH"),
    (23, "Telnet"),
    (2375, "the Docker API"),
    (2376, "the Docker API"),
    (2379, "etcd"),
    (2380, "etcd"),
    (3389, "RDP"),
    (5900, "VNC"),
    (10250, "the kubelet"),
    (10255, "the kubelet"),
];

/// Ports for administration that a rule allows from every address.
pub(super) fn admin(policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in places(policy).filter(|place| place.direction == Direction::Ingress) {
        let (Peers::Listed(peers), Ports::Listed(ports)) = (&place.rule.peers, &place.rule.ports)
        else {
            continue;
        };
        let whole = peers.iter().find_map(|peer| match peer {
            Peer::Block(block) if block.cidr.prefix_len() == 0 => Some(block.cidr),
            _ => None,
        });
        let Some(whole) = whole else { continue };
        for (number, port) in ports.iter().enumerate() {
            let PortMatch::Numbers(Protocol::Tcp, range) = port else { continue };
            let admin = ADMIN_PORTS.iter().find(|(port, _)| *port == range.first());
            // A range of ports is not meant for this port.
            let Some((port, what)) = admin.filter(|_| range.count() == 1) else { continue };
            let message = format!(
                "{port} is usually the port of {what}, and the rule allows it from {whole}: every \
                 address; list the networks of those who administer it"
            );
            let field = place.port(number);
            found.push(finding(Code::AdminPortOpen, &policy.name, field, message));
        }
    }
    found
}

/// The pods whose ports a rule names.
fn destinations<'c>(pods: &'c Pods, place: Place<'c>) -> Vec<&'c Group> {
    match (place.direction, &place.rule.peers) {
        (Direction::Ingress, _) => {
            let subject = place.policy.subject.any_pods();
            pods.matching(&place.policy.name.namespace, subject).collect()
        }
        (Direction::Egress, Peers::Any) => pods.subjects().collect(),
        (Direction::Egress, Peers::Listed(peers)) => {
            let mut found = Vec::new();
            for peer in peers {
                match peer {
                    Peer::Pods(peer) => found.extend(pods.peer(peer)),
                    // The pods that will have the address may not be known yet.
                    Peer::Block(_) => return pods.subjects().collect(),
                    Peer::Nodes(_) | Peer::Invalid => {}
                }
            }
            found
        }
    }
}

/// The ports of a rule by names that no pod has.
pub(super) fn unknown<'w>(answers: &Answers<'w>, place: Place<'w>) -> Vec<Finding> {
    let Ports::Listed(ports) = &place.rule.ports else { return Vec::new() };
    let named = ports.iter().enumerate().filter_map(|(at, port)| match port {
        PortMatch::Named(protocol, name) => Some((at, (*protocol, name.clone()))),
        PortMatch::Numbers(..) | PortMatch::Invalid => None,
    });
    let mut named = named.peekable();
    // If there is no pod at all, another finding reports it.
    if named.peek().is_none() || !answers.has_destinations(place) {
        return Vec::new();
    }
    let whose = match place.direction {
        Direction::Ingress => "that the policy selects",
        Direction::Egress => "that this rule's `to` matches",
    };
    let unknown = named.filter(|(_, wanted)| !answers.resolves(place, wanted));
    let finding = unknown.map(|(at, wanted)| {
        let (protocol, name) = &wanted;
        let message = format!(
            "no pod {whose} has a {protocol} container port named `{name}`, so this port allows \
             nothing; {}",
            correction(answers, place, &wanted)
        );
        finding(Code::PortNameUnknown, &place.policy.name, place.port(at), message)
    });
    finding.collect()
}

/// The correction of a port name that no pod has.
fn correction<'w>(answers: &Answers<'w>, place: Place<'w>, (protocol, name): &PortName) -> String {
    let mut others = Protocol::ALL.into_iter().filter(|other| other != protocol);
    if let Some(other) = others.find(|other| answers.resolves(place, &(*other, name.clone()))) {
        return format!("there is one for {other}: set `protocol: {other}`");
    }
    if answers.names.is_none() {
        return "name it in `ports` of a container, or give the port's number".to_owned();
    }
    let groups = destinations(answers.pods, place);
    let ports = groups.iter().flat_map(|group| group.ports());
    let known: BTreeSet<&str> = ports.map(|port| port.name.as_ref()).collect();
    match near::names(name, known.iter().copied()).first() {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "they name no ports; give the port's number".to_owned(),
        None => {
            let known: Vec<&str> = known.into_iter().take(5).collect();
            format!("they have {}", known.join(", "))
        }
    }
}

fn of_service(
    context: &Context<'_>,
    place: Place<'_>,
    number: usize,
    (protocol, port): (Protocol, u16),
    asked: &[&Group],
) -> Option<Finding> {
    // For destinations outside the cluster, the number is correct.
    let all_pods = match (place.direction, &place.rule.peers) {
        (Direction::Ingress, _) => true,
        (Direction::Egress, Peers::Any) => false,
        (Direction::Egress, Peers::Listed(peers)) => {
            peers.iter().all(|peer| matches!(peer, Peer::Pods(_) | Peer::Invalid))
        }
    };
    let declared = asked
        .iter()
        .flat_map(|group| group.ports())
        .any(|known| known.number == port && known.protocol == protocol);
    if declared || !all_pods {
        return None;
    }
    let mut found: Option<(&Service, BTreeSet<u16>)> = None;
    for service in services(context, asked) {
        let pods = || asked.iter().map(|group| group.first()).filter(|pod| service.selects(pod));
        for known in service.ports.iter().filter(|known| known.protocol == protocol) {
            let targets: BTreeSet<u16> = pods().flat_map(|pod| known.resolve(pod)).collect();
            // A pod listens on this port.
            if targets.contains(&port) {
                return None;
            }
            if known.number == port && !targets.is_empty() && found.is_none() {
                found = Some((service, targets));
            }
        }
    }
    let (service, targets) = found?;
    let allowed = |target: &u16| match &place.rule.ports {
        Ports::Any => true,
        Ports::Listed(items) => items.iter().any(|item| match item {
            PortMatch::Numbers(known, range) => *known == protocol && range.contains(*target),
            PortMatch::Named(known, name) => {
                let mut ports = asked.iter().flat_map(|group| group.ports());
                *known == protocol && ports.any(|p| p.name == *name && p.number == *target)
            }
            PortMatch::Invalid => false,
        }),
    };
    if targets.iter().all(allowed) {
        return None;
    }
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let message = format!(
        "{port} is the port of Service {}/{}, and policies see the pod's, which is {}; write the pod's",
        service.namespace,
        service.name,
        targets.join(" or ")
    );
    Some(finding(Code::ServicePort, &place.policy.name, place.port(number), message))
}

/// The Services of the namespaces that pods are in.
fn services<'c>(context: &Context<'c>, asked: &[&Group]) -> impl Iterator<Item = &'c Service> {
    let input = context.input;
    let namespaces: BTreeSet<Str> = asked.iter().map(|group| group.namespace().clone()).collect();
    namespaces.into_iter().flat_map(move |namespace| input.services_of(&namespace))
}
