//! Why a flow is denied: for every rule that could have admitted it, what did not match.

use std::net::IpAddr;

use crate::evaluate::{
    Decision, RuleRef, Verdict, evaluate, isolating, participant, peer_admits, port_admits, sides,
};
use crate::flow::{Endpoint, Flow, Traffic};
use crate::labels::{Labels, Str};
use crate::model::{Direction, NamedPort};
use crate::policy::{Namespaces, Peer, Peers, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::selector::Requirement;
use crate::world::World;

/// A verdict with what nearly admitted the flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The verdict, the same as [`evaluate`] gives.
    pub verdict: Verdict,
    /// Rules at the source that do not admit it, the closest first; empty when egress allows.
    pub egress: Vec<NearMiss>,
    /// Rules at the destination that do not admit it, the closest first; empty when it allows.
    pub ingress: Vec<NearMiss>,
}

/// A rule that does not admit the flow, and every part that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// Empty when a peer matches, else why each does not, in the order of `from` or `to`.
    pub peers: Vec<PeerMiss>,
    /// Empty when a port matches, else why each does not, in the order of `ports`.
    pub ports: Vec<PortMiss>,
}

/// Why a peer does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMiss {
    /// Selects pods, and the other side is a node or an external address.
    NotAPod,
    /// Selects pods of another namespace.
    OtherNamespace {
        /// The namespace that the peer is about.
        wanted: Str,
    },
    /// The namespace's labels do not match.
    NamespaceLabels {
        /// The requirements that fail.
        failed: Vec<Requirement>,
        /// The labels that the namespace has; `None` when the namespace is not known.
        had: Option<Labels>,
    },
    /// The pod's labels do not match.
    PodLabels {
        /// The requirements that fail.
        failed: Vec<Requirement>,
        /// The labels that the pod has.
        had: Labels,
    },
    /// The pod has no address yet, so no `ipBlock` can match it.
    NoAddress,
    /// The address is outside the block, or of the other family.
    OutsideBlock(IpAddr),
    /// The address is inside one of the block's exceptions.
    InExcept(IpAddr),
    /// The peer could not be understood.
    Invalid,
}

/// Why a port does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortMiss {
    /// The port is of another protocol.
    OtherProtocol(Protocol),
    /// The port is outside the range.
    OutsideRange(PortRange),
    /// The destination has no port of that name and protocol.
    NameMissing {
        /// The name that the policy asks for.
        name: Str,
        /// The named ports that the destination has.
        had: Vec<NamedPort>,
    },
    /// The name stands for other numbers there.
    NameElsewhere {
        /// The name that the policy asks for.
        name: Str,
        /// The numbers that it stands for.
        numbers: Vec<u16>,
    },
    /// The flow's protocol has no ports.
    NoPorts,
    /// The port could not be understood.
    Invalid,
}

/// Judges a flow and says what nearly admitted it.
#[must_use]
pub fn explain(world: &World, flow: &Flow) -> Explanation {
    let verdict = evaluate(world, flow);
    let egress = near_misses(world, flow, Direction::Egress, &verdict.egress);
    let ingress = near_misses(world, flow, Direction::Ingress, &verdict.ingress);
    Explanation { verdict, egress, ingress }
}

fn near_misses(
    world: &World,
    flow: &Flow,
    direction: Direction,
    decision: &Decision,
) -> Vec<NearMiss> {
    let (subject, peer) = sides(flow, direction);
    let Some(pod) = participant(world, subject).filter(|_| !decision.is_allowed()) else {
        return Vec::new();
    };
    let mut misses: Vec<NearMiss> = isolating(world, pod, direction)
        .flat_map(|(policy, rules)| {
            rules.iter().enumerate().map(|(index, rule)| NearMiss {
                rule: RuleRef { policy: policy.key.clone(), rule: index + 1 },
                peers: peer_misses(world, rule, peer),
                ports: port_misses(world, rule, flow),
            })
        })
        .collect();
    misses.sort_by_key(NearMiss::distance);
    misses
}

impl NearMiss {
    /// How far the rule is from admitting: fewer kinds of failure first, then the port before the
    /// peer, for a wrong port is the commoner slip.
    fn distance(&self) -> (usize, bool, usize) {
        let failed_requirements = self.peers.iter().map(PeerMiss::requirements).min();
        let kinds = usize::from(!self.peers.is_empty()) + usize::from(!self.ports.is_empty());
        (kinds, !self.peers.is_empty(), failed_requirements.unwrap_or(0))
    }
}

impl PeerMiss {
    fn requirements(&self) -> usize {
        match self {
            Self::NamespaceLabels { failed, .. } | Self::PodLabels { failed, .. } => failed.len(),
            Self::OtherNamespace { .. } | Self::InExcept(_) => 2,
            Self::OutsideBlock(_) | Self::NoAddress => 3,
            Self::NotAPod | Self::Invalid => 4,
        }
    }
}

fn peer_misses(world: &World, rule: &Rule, peer: &Endpoint) -> Vec<PeerMiss> {
    match &rule.peers {
        Peers::Any => Vec::new(),
        Peers::Listed(items) if items.iter().any(|item| peer_admits(world, item, peer)) => {
            Vec::new()
        }
        // A rule that could not be understood has no peers at all.
        Peers::Listed(items) if items.is_empty() => vec![PeerMiss::Invalid],
        Peers::Listed(items) => items.iter().map(|item| peer_miss(world, item, peer)).collect(),
    }
}

fn peer_miss(world: &World, item: &Peer, peer: &Endpoint) -> PeerMiss {
    let item = match item {
        Peer::Invalid => return PeerMiss::Invalid,
        Peer::Block(block) => {
            return match peer.address() {
                None => PeerMiss::NoAddress,
                Some(address) if block.cidr.contains(&address) => PeerMiss::InExcept(address),
                Some(address) => PeerMiss::OutsideBlock(address),
            };
        }
        Peer::Pods(item) => item,
    };
    let Some(pod) = participant(world, peer) else { return PeerMiss::NotAPod };
    match &item.namespaces {
        Namespaces::Named(name) if *name != pod.key.namespace => {
            return PeerMiss::OtherNamespace { wanted: name.clone() };
        }
        Namespaces::Named(_) => {}
        Namespaces::Selected(selector) => {
            let had = world.namespaces().get(&pod.key.namespace).map(|found| found.labels.clone());
            if !had.as_ref().is_some_and(|labels| selector.matches(labels)) {
                let known = had.clone().unwrap_or_default();
                let failed = failed(selector.requirements(), &known);
                return PeerMiss::NamespaceLabels { failed, had };
            }
        }
    }
    let failed = failed(item.pods.requirements(), &pod.labels);
    PeerMiss::PodLabels { failed, had: pod.labels.clone() }
}

fn failed<'r>(
    requirements: impl Iterator<Item = &'r Requirement>,
    labels: &Labels,
) -> Vec<Requirement> {
    requirements.filter(|requirement| !requirement.matches(labels)).cloned().collect()
}

fn port_misses(world: &World, rule: &Rule, flow: &Flow) -> Vec<PortMiss> {
    match &rule.ports {
        Ports::Any => Vec::new(),
        Ports::Listed(items) if items.iter().any(|item| port_admits(world, item, flow)) => {
            Vec::new()
        }
        Ports::Listed(items) => items.iter().map(|item| port_miss(world, item, flow)).collect(),
    }
}

fn port_miss(world: &World, item: &PortMatch, flow: &Flow) -> PortMiss {
    let Traffic::Port(protocol, _) = flow.traffic else { return PortMiss::NoPorts };
    match item {
        PortMatch::Invalid => PortMiss::Invalid,
        PortMatch::Numbers(wanted, _) | PortMatch::Named(wanted, _) if *wanted != protocol => {
            PortMiss::OtherProtocol(*wanted)
        }
        PortMatch::Numbers(_, range) => PortMiss::OutsideRange(*range),
        PortMatch::Named(_, name) => {
            let pod = participant(world, &flow.destination);
            let had: Vec<NamedPort> = pod.map(|pod| pod.ports.clone()).unwrap_or_default();
            let same = had.iter().filter(|port| port.name == *name && port.protocol == protocol);
            let numbers: Vec<u16> = same.map(|port| port.number).collect();
            if numbers.is_empty() {
                PortMiss::NameMissing { name: name.clone(), had }
            } else {
                PortMiss::NameElsewhere { name: name.clone(), numbers }
            }
        }
    }
}
