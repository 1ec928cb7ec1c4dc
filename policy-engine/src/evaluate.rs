//! The specification of NetworkPolicy read naively: one flow, every policy, every rule.
//!
//! Shares no code with the compiler, so that each can be tested against the other. It is not fast.

use std::net::IpAddr;

use crate::flow::{Endpoint, Flow, Traffic};
use crate::model::{Direction, Pod};
use crate::policy::{Namespaces, NetworkPolicy, Peer, Peers, PolicyKey, PortMatch, Ports, Rule};
use crate::world::World;

/// Whether a flow is allowed: when both directions allow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What holds at the source.
    pub egress: Decision,
    /// What holds at the destination.
    pub ingress: Decision,
}

impl Verdict {
    /// Whether the connection can be opened.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }

    /// The decision for one direction.
    #[must_use]
    pub fn decision(&self, direction: Direction) -> &Decision {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What one direction says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Why it allows or denies.
    pub reason: Reason,
    /// The policies that isolate the subject in this direction, by name.
    pub isolated_by: Vec<PolicyKey>,
    /// The rules that admit the flow, in order of their policies.
    pub decided_by: Vec<RuleRef>,
}

impl Decision {
    /// Whether this direction lets the flow pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reason != Reason::NoRuleAdmits
    }

    fn exempt(reason: Reason) -> Self {
        Self { reason, isolated_by: Vec::new(), decided_by: Vec::new() }
    }
}

/// Why a direction allows or denies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Allowed: this side is no pod, so no policy is about it.
    NoSubject,
    /// Allowed: no policy isolates the pod in this direction.
    NotIsolated,
    /// Allowed: a rule of an isolating policy admits it.
    RuleAdmits,
    /// Allowed: a pod always reaches itself.
    SamePod,
    /// Allowed: a node always reaches its pods.
    OwnNode,
    /// Allowed: `allow_egress_to_own_node` is set.
    EgressToOwnNode,
    /// Denied: the pod is isolated, and no rule admits it.
    NoRuleAdmits,
}

/// One rule of a policy; rules count from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyKey,
    /// The position of the rule in `ingress` or `egress`, from 1.
    pub rule: usize,
}

/// Judges one flow by what the world holds.
#[must_use]
pub fn evaluate(world: &World, flow: &Flow) -> Verdict {
    Verdict {
        egress: decide(world, flow, Direction::Egress),
        ingress: decide(world, flow, Direction::Ingress),
    }
}

/// The policies that isolate `pod` in `direction`, by name.
pub(crate) fn isolating<'w>(
    world: &'w World,
    pod: &'w Pod,
    direction: Direction,
) -> impl Iterator<Item = (&'w NetworkPolicy, &'w [Rule])> {
    world.policies().values().filter_map(move |policy| {
        let selects =
            policy.key.namespace == pod.key.namespace && policy.subject.matches(&pod.labels);
        policy.rules(direction).filter(|_| selects).map(|rules| (policy.as_ref(), rules))
    })
}

fn decide(world: &World, flow: &Flow, direction: Direction) -> Decision {
    let (subject, peer) = sides(flow, direction);
    let Some(pod) = participant(world, subject) else { return Decision::exempt(Reason::NoSubject) };
    if let Some(reason) = exemption(world, pod, peer, direction) {
        return Decision::exempt(reason);
    }
    let mut decision = Decision::exempt(Reason::NotIsolated);
    for (policy, rules) in isolating(world, pod, direction) {
        decision.isolated_by.push(policy.key.clone());
        for (index, rule) in rules.iter().enumerate() {
            if rule_admits(world, rule, peer, flow) {
                let policy = policy.key.clone();
                decision.decided_by.push(RuleRef { policy, rule: index + 1 });
            }
        }
    }
    if !decision.isolated_by.is_empty() {
        let admitted = !decision.decided_by.is_empty();
        decision.reason = if admitted { Reason::RuleAdmits } else { Reason::NoRuleAdmits };
    }
    decision
}

/// The subject and the peer of a direction.
pub(crate) fn sides(flow: &Flow, direction: Direction) -> (&Endpoint, &Endpoint) {
    match direction {
        Direction::Ingress => (&flow.destination, &flow.source),
        Direction::Egress => (&flow.source, &flow.destination),
    }
}

/// The pod behind an endpoint, when it can be subject and peer.
pub(crate) fn participant<'w>(world: &'w World, endpoint: &Endpoint) -> Option<&'w Pod> {
    match endpoint {
        Endpoint::Pod(key, _) => {
            world.pods().get(key).map(AsRef::as_ref).filter(|p| p.takes_part())
        }
        Endpoint::Node(..) | Endpoint::External(_) => None,
    }
}

fn exemption(
    world: &World,
    subject: &Pod,
    peer: &Endpoint,
    direction: Direction,
) -> Option<Reason> {
    match (peer, direction) {
        (Endpoint::Pod(key, _), _) if *key == subject.key => Some(Reason::SamePod),
        (Endpoint::Node(name, _), Direction::Ingress) if subject.node.as_ref() == Some(name) => {
            Some(Reason::OwnNode)
        }
        (Endpoint::Node(name, _), Direction::Egress)
            if world.options.allow_egress_to_own_node && subject.node.as_ref() == Some(name) =>
        {
            Some(Reason::EgressToOwnNode)
        }
        _ => None,
    }
}

fn rule_admits(world: &World, rule: &Rule, peer: &Endpoint, flow: &Flow) -> bool {
    let peer_matches = match &rule.peers {
        Peers::Any => true,
        Peers::Listed(peers) => peers.iter().any(|item| peer_admits(world, item, peer)),
    };
    let port_matches = match &rule.ports {
        Ports::Any => true,
        Ports::Listed(ports) => ports.iter().any(|item| port_admits(world, item, flow)),
    };
    peer_matches && port_matches
}

pub(crate) fn peer_admits(world: &World, item: &Peer, peer: &Endpoint) -> bool {
    match item {
        Peer::Invalid => false,
        Peer::Block(block) => peer.address().is_some_and(|address| block.contains(address)),
        Peer::Pods(item) => participant(world, peer).is_some_and(|pod| {
            let in_namespace = match &item.namespaces {
                Namespaces::Named(name) => *name == pod.key.namespace,
                Namespaces::Selected(selector) => world
                    .namespaces()
                    .get(&pod.key.namespace)
                    .is_some_and(|namespace| selector.matches(&namespace.labels)),
            };
            in_namespace && item.pods.matches(&pod.labels)
        }),
    }
}

pub(crate) fn port_admits(world: &World, item: &PortMatch, flow: &Flow) -> bool {
    let Traffic::Port(protocol, number) = flow.traffic else { return false };
    match item {
        PortMatch::Invalid => false,
        PortMatch::Numbers(wanted, range) => *wanted == protocol && range.contains(number),
        PortMatch::Named(wanted, name) => {
            // The name is looked up on the destination, whichever side the policy selects.
            *wanted == protocol
                && participant(world, &flow.destination).is_some_and(|pod| {
                    pod.ports.iter().any(|port| {
                        port.name == *name && port.protocol == protocol && port.number == number
                    })
                })
        }
    }
}

impl World {
    /// The flow between two addresses, each standing for whoever owns it.
    #[must_use]
    pub fn flow(&self, source: IpAddr, destination: IpAddr, traffic: Traffic) -> Flow {
        Flow { source: self.endpoint(source), destination: self.endpoint(destination), traffic }
    }
}
