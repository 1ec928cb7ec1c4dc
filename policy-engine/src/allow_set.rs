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
use crate::direction::Direction;
use crate::labels::Str;
use crate::model::NamedPort;
use crate::policy::{Body, Peer, Peers, PodPeer, Policy, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::ranges::{Ranges, Step};
use crate::selector::Selector;

/// The traffic of one direction that rules with the same action match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowSet {
    /// The peers that match with every protocol and port.
    pub anything: PeerUnion,
    /// The peers that match with some ports, without those that are in `anything`.
    pub ports: BTreeMap<PeerUnion, BTreeMap<Protocol, Ranges<u16>>>,
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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
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

    fn of(peers: &Peers) -> Self {
        let mut union = Self::default();
        let Peers::Listed(items) = peers else {
            return Self { cidrs: CidrSet::everything(), ..union };
        };
        for item in items {
            match item {
                Peer::Invalid => {}
                Peer::Pods(peer) => drop(union.pods.insert(Arc::new(peer.clone()))),
                Peer::Nodes(selector) => drop(union.nodes.insert(Arc::new(selector.clone()))),
                Peer::Block(block) => union.cidrs.add(&CidrSet::from(block)),
            }
        }
        union.canonical()
    }

    /// The pods by labels alone. [`PeerUnion::of`] cannot be used: it drops them when the addresses
    /// are everything.
    fn by_labels(peers: &Peers) -> Self {
        let items = match peers {
            Peers::Any => &[],
            Peers::Listed(items) => items.as_slice(),
        };
        let pods = items.iter().filter_map(|item| match item {
            Peer::Pods(peer) => Some(Arc::new(peer.clone())),
            Peer::Invalid | Peer::Nodes(_) | Peer::Block(_) => None,
        });
        Self { pods: pods.collect(), ..Self::default() }
    }

    fn add(&mut self, other: &Self) {
        self.pods.extend(other.pods.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
        self.cidrs.add(&other.cidrs);
    }

    fn canonical(mut self) -> Self {
        if self.cidrs.is_everything() {
            self.pods.clear();
            self.nodes.clear();
        }
        self
    }

    fn without(&self, other: &Self) -> Self {
        Self {
            pods: self.pods.difference(&other.pods).cloned().collect(),
            nodes: self.nodes.difference(&other.nodes).cloned().collect(),
            cidrs: self.cidrs.difference(&other.cidrs),
        }
    }
}

impl AllowSet {
    /// Merges rules of one direction. `subject_ports` resolve the port names of ingress rules; port
    /// names of egress rules stay.
    pub fn fold<'r>(
        rules: impl IntoIterator<Item = &'r Rule>,
        named: NamedPeers,
        direction: Direction,
        subject_ports: &[NamedPort],
    ) -> Self {
        let mut fold = Fold::default();
        for rule in rules {
            let peers = PeerUnion::of(&rule.peers);
            match &rule.ports {
                Ports::Any => fold.anything.add(&peers),
                Ports::Listed(items) => {
                    let by_labels = match named {
                        NamedPeers::All => None,
                        NamedPeers::ByLabels => Some(PeerUnion::by_labels(&rule.peers)),
                    };
                    for item in items {
                        let is_name = matches!(item, PortMatch::Named(..));
                        let peers = by_labels.as_ref().filter(|_| is_name).unwrap_or(&peers);
                        fold.port(item, peers, direction, subject_ports);
                    }
                }
            }
        }
        fold.finish()
    }

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

/// The peers of the rules merged so far, by port range; ranges may still overlap.
#[derive(Default)]
struct Fold {
    anything: PeerUnion,
    ranges: BTreeMap<Protocol, BTreeMap<PortRange, PeerUnion>>,
    named: BTreeMap<(Protocol, Str), PeerUnion>,
}

impl Fold {
    fn port(
        &mut self,
        item: &PortMatch,
        peers: &PeerUnion,
        direction: Direction,
        subject_ports: &[NamedPort],
    ) {
        match (item, direction) {
            (PortMatch::Invalid, _) => {}
            (PortMatch::Numbers(protocol, range), _) => self.range(*protocol, *range, peers),
            (PortMatch::Named(protocol, name), Direction::Ingress) => {
                // Two containers may use one name: both numbers count.
                let matching = subject_ports
                    .iter()
                    .filter(|port| port.name == *name && port.protocol == *protocol);
                for port in matching {
                    self.range(*protocol, PortRange::single(port.number), peers);
                }
            }
            (PortMatch::Named(protocol, name), Direction::Egress) => {
                self.named.entry((*protocol, name.clone())).or_default().add(peers);
            }
        }
    }

    fn range(&mut self, protocol: Protocol, range: PortRange, peers: &PeerUnion) {
        self.ranges.entry(protocol).or_default().entry(range).or_default().add(peers);
    }

    fn finish(self) -> AllowSet {
        let anything = self.anything.canonical();
        let mut ports: BTreeMap<PeerUnion, BTreeMap<Protocol, Ranges<u16>>> = BTreeMap::new();
        for (protocol, ranges) in &self.ranges {
            for (range, union) in disjoint(ranges) {
                let rest = union.canonical().without(&anything);
                if !rest.is_empty() {
                    ports.entry(rest).or_default().entry(*protocol).or_default().insert(range);
                }
            }
        }
        let named = self.named.into_iter().map(|(port, union)| (port, union.canonical()));
        let named = named
            .map(|(port, union)| (port, union.without(&anything)))
            .filter(|(_, union)| !union.is_empty())
            .collect();
        AllowSet { anything, ports, named }
    }
}

/// Cuts overlapping ranges where any of them starts or ends. The pieces ascend; the peers of a
/// piece that lies in no range are empty.
fn disjoint(ranges: &BTreeMap<PortRange, PeerUnion>) -> Vec<(PortRange, PeerUnion)> {
    let mut starts: BTreeSet<u16> = BTreeSet::new();
    for range in ranges.keys() {
        starts.insert(range.first());
        starts.extend(range.last().after());
    }
    let ends = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]);
    let piece = |(first, last): (&u16, u16)| {
        let mut union = PeerUnion::default();
        // Ranges ascend by their first port: those that start behind the piece end the search.
        let started = ranges.iter().take_while(|(range, _)| range.first() <= *first);
        started.filter(|(range, _)| range.contains(*first)).for_each(|(_, peers)| union.add(peers));
        (PortRange { first: *first, last }, union)
    };
    starts.iter().zip(ends).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{IpBlock, Namespaces};

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

    /// `anything` and each union with its ports, in short.
    fn shown(rules: &[(Peers, Ports)]) -> String {
        let rules: Vec<Rule> = rules
            .iter()
            .map(|(peers, ports)| Rule { peers: peers.clone(), ports: ports.clone() })
            .collect();
        let set = AllowSet::fold(&rules, NamedPeers::All, Direction::Ingress, &[]);
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
    fn overlapping_ranges_are_cut_and_equal_unions_joined() {
        let rules = [(pods("a"), tcp(80, 90)), (pods("b"), tcp(85, 85)), (pods("c"), Ports::Any)];
        assert_eq!(shown(&rules), "TCP 80-84, TCP 86-90: a | TCP 85: a+b | any: c");
    }

    #[test]
    fn a_thousand_policies_for_one_port_are_one_union() {
        let rules: Vec<_> = (0..1000).map(|n| (pods(&n.to_string()), tcp(80, 80))).collect();
        let rules: Vec<Rule> =
            rules.into_iter().map(|(peers, ports)| Rule { peers, ports }).collect();
        let set = AllowSet::fold(&rules, NamedPeers::All, Direction::Ingress, &[]);
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
}
