//! Rules merged into one canonical value: disjoint ports, each with one union of peers.
//!
//! ```text
//! rules   A:80-90   B:85   C:(no ports)
//! ports   80-84 ► A,C   85 ► A,B,C   86-90 ► A,C      C is everywhere, so it is listed once:
//! result  anything ► C   |   80-84,86-90 ► A   |   85 ► A,B
//! ```
//!
//! The length of the result follows the number of distinct unions, not the number of rules or
//! policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cidr::CidrSet;
use crate::labels::Str;
use crate::policy::{Body, PodPeer, Policy};
use crate::port::Protocol;
use crate::ranges::Ranges;
use crate::selector::Selector;

mod fold;

pub use fold::Reading;

/// Ports of each protocol.
pub type PortSets = BTreeMap<Protocol, Ranges<u16>>;

/// The traffic of one direction that rules with the same action match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowSet {
    /// The peers that match with every protocol and port.
    pub anything: PeerUnion,
    /// The peers that match with some ports, without those that are in `anything`.
    pub ports: BTreeMap<PeerUnion, PortSets>,
    /// For egress only: the peers for destination ports by name, which each destination pod
    /// resolves.
    pub named: BTreeMap<(Protocol, Str), PeerUnion>,
}

/// The peers of a rule for which a port by name counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamedPeers {
    /// All peers: in isolating policies.
    All,
    /// Pods by labels only: in policies with ordered rules.
    ByLabels,
}

/// A union of peers: it matches when one of its parts matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PeerUnion {
    /// Pods by labels; empty when `cidrs` is everything.
    pub pods: BTreeSet<Arc<PodPeer>>,
    /// Nodes by labels; empty when `cidrs` is everything.
    pub nodes: BTreeSet<Arc<Selector>>,
    /// Addresses, of pods, nodes or external hosts.
    pub cidrs: CidrSet,
}

impl NamedPeers {
    /// The peers for the rules of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        match policy.body {
            Body::Ordered { .. } => Self::ByLabels,
            Body::Isolating { .. } => Self::All,
        }
    }
}

impl PeerUnion {
    /// Whether it matches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty() && self.cidrs.is_empty()
    }
}

impl AllowSet {
    /// Whether it matches no flow.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.anything.is_empty() && self.ports.is_empty() && self.named.is_empty()
    }

    /// Whether it matches every flow.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.anything.cidrs.is_everything()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Budgets, Exceeded};
    use crate::direction::Direction;
    use crate::policy::{IpBlock, Namespaces, Peer, Peers, PortMatch, Ports, Rule};
    use crate::port::PortRange;

    fn fold(rules: &[Rule]) -> Result<AllowSet, Exceeded> {
        let (direction, named) = (Direction::Ingress, NamedPeers::All);
        let budgets = &Budgets { port_ranges: 1_000, peers: 10_000, ..Budgets::default() };
        let share = &|peer: &PodPeer| Arc::new(peer.clone());
        AllowSet::fold(rules, Reading { direction, named, subject_ports: &[], budgets, share })
    }

    fn pods(name: &str) -> Peers {
        Peers::Listed(vec![Peer::Pods(PodPeer {
            namespaces: Namespaces::Named("shop".into()),
            pods: Selector::label("app", name),
        })])
    }

    fn block(cidr: &str) -> Peers {
        let cidr = cidr.parse().unwrap();
        Peers::Listed(vec![Peer::Block(IpBlock { cidr, except: Vec::new() })])
    }

    fn tcp(first: u16, last: u16) -> Ports {
        let range = PortRange::new(first, last).unwrap();
        Ports::Listed(vec![PortMatch::Numbers(Protocol::Tcp, range)])
    }

    /// A short text with `anything` and each union with its ports.
    fn shown(rules: &[(Peers, Ports)]) -> String {
        let rules: Vec<Rule> = rules
            .iter()
            .map(|(peers, ports)| Rule { peers: peers.clone(), ports: ports.clone() })
            .collect();
        let set = fold(&rules).unwrap();
        let mut lines = vec![format!("any: {}", names(&set.anything))];
        for (union, ports) in &set.ports {
            let ports: Vec<String> = ports
                .iter()
                .flat_map(|(protocol, ranges)| {
                    ranges.iter().map(move |r| format!("{protocol} {r}"))
                })
                .collect();
            lines.push(format!("{}: {}", ports.join(", "), names(union)));
        }
        lines.sort();
        lines.join(" | ")
    }

    fn names(union: &PeerUnion) -> String {
        let pods = union.pods.iter().filter_map(|peer| peer.pods.required_label());
        let pods = pods.map(|(_, value)| value.to_string());
        let nets = union.cidrs.networks(crate::cidr::Family::V4);
        pods.chain(nets.iter().map(ToString::to_string)).collect::<Vec<_>>().join("+")
    }

    #[test]
    fn a_set_matches_nothing_everything_or_something() {
        let is = |rules: &[Rule]| {
            let set = fold(rules).unwrap();
            (set.is_nothing(), set.is_everything())
        };
        let rule = |peers, ports| [Rule { peers, ports }];
        assert_eq!(is(&[]), (true, false));
        assert_eq!(is(&rule(Peers::Any, Ports::Any)), (false, true));
        assert_eq!(is(&rule(Peers::Any, tcp(80, 80))), (false, false));
        assert_eq!(is(&rule(pods("a"), Ports::Any)), (false, false));
    }

    #[test]
    fn overlapping_ranges_are_cut_and_equal_unions_joined() {
        let rules = [(pods("a"), tcp(80, 90)), (pods("b"), tcp(85, 85)), (pods("c"), Ports::Any)];
        assert_eq!(shown(&rules), "TCP 80-84, TCP 86-90: a | TCP 85: a+b | any: c");
    }

    #[test]
    fn a_thousand_policies_for_one_port_are_one_union() {
        let rules: Vec<_> = (0..1000).map(|n| (pods(&n.to_string()), tcp(80, 80))).collect();
        let rules: Vec<Rule> =
            rules.into_iter().map(|(peers, ports)| Rule { peers, ports }).collect();
        let set = fold(&rules).unwrap();
        assert_eq!(set.ports.len(), 1);
    }

    #[test]
    fn a_peer_for_every_port_is_not_listed_again() {
        let rules = [(pods("a"), Ports::Any), (pods("a"), tcp(80, 80))];
        assert_eq!(shown(&rules), "any: a");
    }

    #[test]
    fn any_peer_includes_pods_and_blocks() {
        let rules = [(Peers::Any, tcp(80, 80)), (pods("a"), tcp(80, 81))];
        assert_eq!(shown(&rules), "TCP 80: 0.0.0.0/0 | TCP 81: a | any: ");
    }

    #[test]
    fn overlapping_blocks_are_united() {
        let rules = [(block("10.0.0.0/9"), tcp(1, 65535)), (block("10.128.0.0/9"), tcp(1, 65535))];
        assert_eq!(shown(&rules), "TCP 1-65535: 10.0.0.0/8 | any: ");
    }

    #[test]
    fn a_port_name_that_the_pod_lacks_matches_nothing() {
        let ports = Ports::Listed(vec![PortMatch::Named(Protocol::Tcp, "http".into())]);
        assert_eq!(shown(&[(Peers::Any, ports)]), "any: ");
    }

    #[test]
    fn nested_ranges_exceed_the_budget_before_they_cost() {
        let nested = |count: u16| -> Vec<Rule> {
            let rule = |n: u16| (pods(&n.to_string()), tcp(1 + n, 60_000 - n));
            (0..count).map(rule).map(|(peers, ports)| Rule { peers, ports }).collect()
        };
        assert_eq!(fold(&nested(100)).unwrap().ports.len(), 100);
        let exceeded = |budget, limit| Err(Exceeded { budget, limit });
        assert_eq!(fold(&nested(200)), exceeded(Budget::Peers, 10_000));
        let apart: Vec<Rule> =
            (0..1001).map(|n| Rule { peers: pods("a"), ports: tcp(n * 2, n * 2) }).collect();
        assert_eq!(fold(&apart[1..]).unwrap().ports.len(), 1);
        assert_eq!(fold(&apart), exceeded(Budget::PortRanges, 1_000));
    }

    #[test]
    fn forty_thousand_blocks_of_one_rule_are_one_union() {
        let block = |n: u32| {
            Peer::Block(IpBlock {
                cidr: ipnet::Ipv4Net::from(std::net::Ipv4Addr::from(n * 2)).into(),
                except: Vec::new(),
            })
        };
        let peers = Peers::Listed((0..40_000).rev().map(block).collect());
        let set = fold(&[Rule { peers, ports: Ports::Any }]).unwrap();
        assert_eq!(set.anything.cidrs.networks(crate::cidr::Family::V4).len(), 40_000);
    }
}
