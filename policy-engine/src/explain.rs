//! Explains why a flow is denied: for every rule that could have allowed it, what did not match.

use std::net::IpAddr;

use crate::direction::Direction;
use crate::evaluate::{
    Decision, RuleRef, Verdict, evaluate_as, peer_matches, port_matches, reading,
};
use crate::flow::{Endpoint, Flow, Traffic};
use crate::labels::{Labels, Str};
use crate::model::NamedPort;
use crate::policy::{Namespaces, Peer, Peers, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::selector::{Requirement, Selector};
use crate::tier::{Action, View};
use crate::world::World;

/// A verdict, with the rules that nearly allowed the flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The verdict, the same as [`evaluate_as`] returns.
    pub verdict: Verdict,
    /// The rules at the source that do not match, the closest first; empty when egress is allowed.
    pub egress: Vec<NearMiss>,
    /// The rules at the destination that do not match, the closest first; empty when ingress is
    /// allowed.
    pub ingress: Vec<NearMiss>,
}

/// A rule that does not match the flow, and every part that does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// Why each peer does not match, in the order of `from` or `to`; empty when a peer matches.
    pub peers: Vec<PeerMiss>,
    /// Why each port does not match, in the order of `ports`; empty when a port matches.
    pub ports: Vec<PortMiss>,
}

/// The reason why a peer does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMiss {
    /// The peer selects pods, and the flow's peer is a node or an external address.
    NotAPod,
    /// The peer selects pods, and pods of two nodes claim the address, so it belongs to none of
    /// them: see [`World::is_contested`].
    Contested(IpAddr),
    /// The peer selects pods of another namespace.
    OtherNamespace {
        /// The namespace that the peer selects.
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
    /// The peer selects nodes, and the flow's peer is not a node.
    NotANode,
    /// The node's labels do not match.
    NodeLabels {
        /// The requirements that fail.
        failed: Vec<Requirement>,
        /// The labels that the node has; `None` when the node is not known.
        had: Option<Labels>,
    },
    /// The peer could not be understood.
    Invalid,
}

/// The reason why a port does not match.
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
    /// The destination has the name for other port numbers.
    NameElsewhere {
        /// The name that the policy asks for.
        name: Str,
        /// The port numbers of that name.
        numbers: Vec<u16>,
    },
    /// In a ClusterNetworkPolicy a port by name counts only for pods matched by labels, and only
    /// other peers match.
    NameWithoutLabels,
    /// The flow's protocol has no ports.
    NoPorts,
    /// The port could not be understood.
    Invalid,
}

/// Evaluates a flow with the policies that are enforced, and finds the rules that nearly allowed
/// it.
#[must_use]
pub fn explain(world: &World, flow: &Flow) -> Explanation {
    explain_as(world, flow, View::Enforced)
}

/// Evaluates a flow with the policies of a view, and finds the rules that nearly allowed it.
#[must_use]
pub fn explain_as(world: &World, flow: &Flow, view: View) -> Explanation {
    let verdict = evaluate_as(world, flow, view);
    let egress = near_misses(world, flow, Direction::Egress, view, &verdict.egress);
    let ingress = near_misses(world, flow, Direction::Ingress, view, &verdict.ingress);
    Explanation { verdict, egress, ingress }
}

fn near_misses(
    world: &World,
    flow: &Flow,
    direction: Direction,
    view: View,
    decision: &Decision,
) -> Vec<NearMiss> {
    let flow = &*world.judged(flow, direction);
    let (subject, peer) = flow.sides(direction);
    let Some(pod) = world.participant(subject) else { return Vec::new() };
    let Some(tier) = decision.tier.filter(|_| !decision.is_allowed()) else { return Vec::new() };
    // Only rules before the rule that denies could have allowed the flow.
    let candidates = reading(world, pod, direction, tier, view)
        .rules
        .into_iter()
        .take_while(|(name, ..)| !decision.decided_by.contains(name))
        .filter(|(_, action, _)| *action != Action::Deny);
    let mut misses: Vec<NearMiss> =
        candidates.map(|(name, _, rule)| near_miss(world, name, &rule, peer, flow)).collect();
    misses.sort_by_key(NearMiss::distance);
    misses
}

/// The parts of a rule that do not match the flow.
pub(crate) fn near_miss(
    world: &World,
    name: RuleRef,
    rule: &Rule,
    peer: &Endpoint,
    flow: &Flow,
) -> NearMiss {
    let peers = peer_misses(world, rule, peer);
    let mut ports = port_misses(world, rule, flow);
    if peers.is_empty() && ports.is_empty() {
        ports.push(PortMiss::NameWithoutLabels);
    }
    NearMiss { rule: name, peers, ports }
}

impl NearMiss {
    /// How far the rule is from matching: fewer kinds of mismatch first, then a wrong port before a
    /// wrong peer, because a wrong port is the more frequent mistake.
    pub(crate) fn distance(&self) -> (usize, bool, usize) {
        let failed_requirements = self.peers.iter().map(PeerMiss::requirements).min();
        let kinds = usize::from(!self.peers.is_empty()) + usize::from(!self.ports.is_empty());
        (kinds, !self.peers.is_empty(), failed_requirements.unwrap_or(0))
    }
}

impl PeerMiss {
    fn requirements(&self) -> usize {
        match self {
            Self::NamespaceLabels { failed, .. }
            | Self::PodLabels { failed, .. }
            | Self::NodeLabels { failed, .. } => failed.len(),
            Self::OtherNamespace { .. } | Self::InExcept(_) => 2,
            Self::OutsideBlock(_) | Self::NoAddress => 3,
            Self::NotAPod | Self::NotANode | Self::Contested(_) | Self::Invalid => 4,
        }
    }
}

fn peer_misses(world: &World, rule: &Rule, peer: &Endpoint) -> Vec<PeerMiss> {
    match &rule.peers {
        Peers::Any => Vec::new(),
        Peers::Listed(items) if items.iter().any(|item| peer_matches(world, item, peer)) => {
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
        Peer::Nodes(selector) => return node_miss(world, selector, peer),
        Peer::Pods(item) => item,
    };
    let Some(pod) = world.participant(peer) else {
        let contested = peer.address().filter(|address| world.is_contested(*address));
        return contested.map_or(PeerMiss::NotAPod, PeerMiss::Contested);
    };
    match &item.namespaces {
        Namespaces::Named(name) if *name != pod.key.namespace => {
            return PeerMiss::OtherNamespace { wanted: name.clone() };
        }
        Namespaces::Named(_) | Namespaces::Own => {}
        Namespaces::Selected(selector) => {
            let had = world.namespaces().get(&pod.key.namespace).map(|found| found.labels.clone());
            let matches = had.as_ref().is_some_and(|labels| selector.matches(labels));
            if !matches && !selector.is_everything() {
                let known = had.clone().unwrap_or_default();
                let failed = failed(selector.requirements(), &known);
                return PeerMiss::NamespaceLabels { failed, had };
            }
        }
    }
    let failed = failed(item.pods.requirements(), &pod.labels);
    PeerMiss::PodLabels { failed, had: pod.labels.clone() }
}

fn node_miss(world: &World, selector: &Selector, peer: &Endpoint) -> PeerMiss {
    let Endpoint::Node(name, _) = peer else { return PeerMiss::NotANode };
    let had = world.nodes().get(name).map(|node| node.labels.clone());
    let known = had.clone().unwrap_or_default();
    PeerMiss::NodeLabels { failed: failed(selector.requirements(), &known), had }
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
        Ports::Listed(items) if items.iter().any(|item| port_matches(world, item, flow)) => {
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
            let pod = world.participant(&flow.destination);
            let had: Vec<NamedPort> = pod.map(|pod| pod.ports.to_vec()).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::PerDirection;
    use crate::model::{Change, Namespace, Pod, PodKey};
    use crate::policy::{IpBlock, PodPeer, Policy};
    use crate::world::Options;

    const CLIENT: &str = "10.0.0.1";
    const SERVER: &str = "10.0.0.2";

    fn pod(name: &str, address: &str, ports: Vec<NamedPort>) -> Change {
        let pod = Pod::new(PodKey::new("shop", name), Labels::from_iter([("app", name)]));
        Pod { addresses: vec![address.parse().unwrap()].into(), ports: ports.into(), ..pod }.into()
    }

    /// Checks why a rule with this peer and port does not allow TCP 80 from `client` to `server`.
    fn check(peer: Peer, port: PortMatch, peers: &[PeerMiss], ports: &[PortMiss]) {
        let mut world = World::new(Options::default());
        let web = NamedPort { name: "web".into(), protocol: Protocol::Tcp, number: 81 };
        let rule = Rule { peers: Peers::Listed(vec![peer]), ports: Ports::Listed(vec![port]) };
        let rules = PerDirection { ingress: Some(vec![rule]), egress: None };
        let subject = Selector::label("app", "server");
        let policy = Policy::network_policy("shop", "server", subject, rules);
        let labels = Labels::from_iter([("team", "a")]);
        for change in [
            Change::Namespace("shop".into(), Some(Namespace { labels })),
            pod("client", CLIENT, Vec::new()),
            pod("server", SERVER, vec![web]),
            policy.into(),
        ] {
            world.apply(change);
        }
        let traffic = Traffic::Port(Protocol::Tcp, 80);
        let flow = world.flow(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), traffic);
        let explained = explain(&world, &flow);
        assert!(!explained.verdict.is_allowed() && explained.egress.is_empty());
        let [miss] = explained.ingress.as_slice() else { panic!("{explained:?}") };
        assert_eq!((miss.rule.rule, &*miss.peers, &*miss.ports), (1, peers, ports));
    }

    fn pods(namespaces: Namespaces, app: &str) -> Peer {
        Peer::Pods(PodPeer { namespaces, pods: Selector::label("app", app) })
    }

    fn own(app: &str) -> Peer {
        pods(Namespaces::Named("shop".into()), app)
    }

    fn tcp(port: u16) -> PortMatch {
        PortMatch::Numbers(Protocol::Tcp, PortRange::single(port))
    }

    fn failed(key: &str, value: &str) -> Vec<Requirement> {
        Selector::label(key, value).requirements().cloned().collect()
    }

    #[test]
    fn a_peer_with_other_labels_says_which_it_wanted_and_had() {
        let had = Labels::from_iter([("app", "client")]);
        let miss = PeerMiss::PodLabels { failed: failed("app", "web"), had };
        check(own("web"), tcp(80), &[miss], &[]);
    }

    #[test]
    fn a_namespace_that_does_not_match_is_reported_before_the_pod() {
        let had = Some(Labels::from_iter([("team", "a")]));
        let miss = PeerMiss::NamespaceLabels { failed: failed("team", "b"), had };
        check(
            pods(Namespaces::Selected(Selector::label("team", "b")), "web"),
            tcp(80),
            &[miss],
            &[],
        );
        let other = PeerMiss::OtherNamespace { wanted: "jobs".into() };
        check(pods(Namespaces::Named("jobs".into()), "client"), tcp(80), &[other], &[]);
    }

    #[test]
    fn an_address_that_pods_of_two_nodes_claim_is_reported_as_contested() {
        let mut world = World::new(Options::default());
        let peers = Peers::Listed(vec![own("client")]);
        let rules = vec![Rule { peers, ports: Ports::Any }];
        let rules = PerDirection { ingress: Some(rules), egress: None };
        let subject = Selector::label("app", "server");
        world.apply(Policy::network_policy("shop", "server", subject, rules).into());
        world.apply(pod("server", SERVER, Vec::new()));
        let traffic = Traffic::Port(Protocol::Tcp, 80);
        for (name, node) in [("client", "n1"), ("copy", "n2")] {
            let labels = Labels::from_iter([("app", "client")]);
            let pod = Pod::new(PodKey::new("shop", name), labels);
            let addresses = vec![CLIENT.parse().unwrap()].into();
            world.apply(Pod { node: Some(node.into()), addresses, ..pod }.into());
            let flow = world.flow(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), traffic);
            let explained = explain(&world, &flow);
            assert_eq!(explained.verdict.is_allowed(), name == "client");
            let missed = explained.ingress.first().map(|miss| miss.peers.clone());
            let contested = vec![PeerMiss::Contested(CLIENT.parse().unwrap())];
            assert_eq!(missed, (name == "copy").then_some(contested));
        }
    }

    #[test]
    fn an_address_outside_a_block_is_not_one_inside_its_except() {
        let block = |cidr: &str, except: &[&str]| {
            let except = except.iter().map(|net| net.parse().unwrap()).collect();
            Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
        };
        let client = CLIENT.parse().unwrap();
        check(block("10.1.0.0/16", &[]), tcp(80), &[PeerMiss::OutsideBlock(client)], &[]);
        let except = block("10.0.0.0/16", &["10.0.0.0/24"]);
        check(except, tcp(80), &[PeerMiss::InExcept(client)], &[]);
    }

    #[test]
    fn a_port_that_does_not_match_is_not_reported_as_a_peer() {
        let outside = PortMiss::OutsideRange(PortRange::single(81));
        check(own("client"), tcp(81), &[], &[outside]);
        let udp = PortMatch::Numbers(Protocol::Udp, PortRange::ALL);
        check(own("client"), udp, &[], &[PortMiss::OtherProtocol(Protocol::Udp)]);
    }

    #[test]
    fn a_port_name_is_reported_with_its_numbers_or_with_the_names_that_exist() {
        let named = |name: &str| PortMatch::Named(Protocol::Tcp, name.into());
        let elsewhere = PortMiss::NameElsewhere { name: "web".into(), numbers: vec![81] };
        check(own("client"), named("web"), &[], &[elsewhere]);
        let had = vec![NamedPort { name: "web".into(), protocol: Protocol::Tcp, number: 81 }];
        let missing = PortMiss::NameMissing { name: "http".into(), had };
        check(own("client"), named("http"), &[], &[missing]);
    }

    #[test]
    fn parts_that_were_not_understood_are_listed() {
        check(Peer::Invalid, PortMatch::Invalid, &[PeerMiss::Invalid], &[PortMiss::Invalid]);
    }
}
