//! Merges the rules of one direction to an [`AllowSet`], within [`Budgets`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{AllowSet, NamedPeers, PeerUnion, PortSets};
use crate::budget::{Budget, Budgets, Exceeded};
use crate::cidr::CidrSet;
use crate::direction::Direction;
use crate::labels::Str;
use crate::model::NamedPort;
use crate::policy::{Peer, Peers, PodPeer, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::ranges::Step;

/// The parameters for reading rules.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The direction of the rules.
    pub direction: Direction,
    /// The peers for which a port by name counts.
    pub named: NamedPeers,
    /// The ports of the subject, which resolve the port names of ingress rules; port names of egress
    /// rules stay.
    pub subject_ports: &'a [&'a NamedPort],
    /// The budgets that the rules must not exceed.
    pub budgets: &'a Budgets,
}

impl AllowSet {
    /// Merges rules of one direction.
    ///
    /// # Errors
    ///
    /// When the rules exceed [`Budget::PortRanges`] or [`Budget::Peers`].
    pub fn fold<'r>(
        rules: impl IntoIterator<Item = &'r Rule>,
        reading: Reading<'_>,
    ) -> Result<Self, Exceeded> {
        let mut fold = Fold::default();
        for rule in rules {
            let peers = Arc::new(PeerUnion::of(&rule.peers));
            match &rule.ports {
                Ports::Any => fold.anything.push(peers),
                Ports::Listed(items) => {
                    let by_labels = match reading.named {
                        NamedPeers::All => None,
                        NamedPeers::ByLabels => Some(Arc::new(PeerUnion::by_labels(&rule.peers))),
                    };
                    for item in items {
                        let is_name = matches!(item, PortMatch::Named(..));
                        let peers = by_labels.as_ref().filter(|_| is_name).unwrap_or(&peers);
                        fold.port(item, peers, reading);
                    }
                }
            }
        }
        fold.finish(reading.budgets)
    }
}

impl PeerUnion {
    fn of(peers: &Peers) -> Self {
        let Peers::Listed(items) = peers else {
            return Self { cidrs: CidrSet::everything(), ..Self::default() };
        };
        let (mut union, mut blocks) = (Self::default(), Vec::new());
        for item in items {
            match item {
                Peer::Invalid => {}
                Peer::Pods(peer) => drop(union.pods.insert(Arc::new(peer.clone()))),
                Peer::Nodes(selector) => drop(union.nodes.insert(Arc::new(selector.clone()))),
                Peer::Block(block) => blocks.push(CidrSet::from(block)),
            }
        }
        // All at once: one after another would take quadratic time.
        union.cidrs = blocks.iter().collect();
        union.canonical()
    }

    /// The pods by labels alone. [`PeerUnion::of`] cannot be used: it drops them when the addresses
    /// are everything.
    fn by_labels(peers: &Peers) -> Self {
        let pods = peers.listed().iter().filter_map(|item| match item {
            Peer::Pods(peer) => Some(Arc::<PodPeer>::new(peer.clone())),
            Peer::Invalid | Peer::Nodes(_) | Peer::Block(_) => None,
        });
        Self { pods: pods.collect(), ..Self::default() }
    }

    /// The peers that are in any of the unions. Takes as long as sorting them.
    fn union<'u>(unions: impl Iterator<Item = &'u Self> + Clone) -> Self {
        Self {
            pods: unions.clone().flat_map(|union| &union.pods).cloned().collect(),
            nodes: unions.clone().flat_map(|union| &union.nodes).cloned().collect(),
            cidrs: unions.map(|union| &union.cidrs).collect(),
        }
        .canonical()
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

    /// How many peers it lists.
    fn len(&self) -> usize {
        self.pods.len() + self.nodes.len() + self.cidrs.ranges()
    }
}

/// Unions of peers that are not joined yet.
type Unions = Vec<Arc<PeerUnion>>;

/// A union of peers with the ports for which it counts.
struct Merged {
    union: PeerUnion,
    ports: PortSets,
}

/// The unions of the peers of the rules that were read so far.
#[derive(Default)]
struct Fold {
    anything: Unions,
    /// The unions by port range; ranges may still overlap.
    ranges: BTreeMap<Protocol, BTreeMap<PortRange, Unions>>,
    named: BTreeMap<(Protocol, Str), Unions>,
}

impl Fold {
    fn port(&mut self, item: &PortMatch, peers: &Arc<PeerUnion>, reading: Reading<'_>) {
        match (item, reading.direction) {
            (PortMatch::Invalid, _) => {}
            (PortMatch::Numbers(protocol, range), _) => self.range(*protocol, *range, peers),
            (PortMatch::Named(protocol, name), Direction::Ingress) => {
                // Two containers may use one name: both numbers count.
                let ports = reading.subject_ports.iter();
                for port in ports.filter(|port| port.name == *name && port.protocol == *protocol) {
                    self.range(*protocol, PortRange::single(port.number), peers);
                }
            }
            (PortMatch::Named(protocol, name), Direction::Egress) => {
                self.named.entry((*protocol, name.clone())).or_default().push(peers.clone());
            }
        }
    }

    fn range(&mut self, protocol: Protocol, range: PortRange, peers: &Arc<PeerUnion>) {
        let ranges = self.ranges.entry(protocol).or_default();
        ranges.entry(range).or_default().push(peers.clone());
    }

    fn finish(self, budgets: &Budgets) -> Result<AllowSet, Exceeded> {
        let anything = PeerUnion::union(self.anything.iter().map(AsRef::as_ref));
        // PortSetss inside of the same ranges have the same peers.
        let mut found: BTreeMap<Vec<*const PeerUnion>, Merged> = BTreeMap::new();
        let (mut pieces, mut peers) = (0, 0);
        for (protocol, ranges) in &self.ranges {
            for (range, unions) in cut(ranges) {
                pieces += 1;
                budgets.check(Budget::PortRanges, pieces)?;
                let key = unions.iter().map(|union| Arc::as_ptr(union)).collect();
                let merged = match found.entry(key) {
                    Entry::Occupied(merged) => merged.into_mut(),
                    Entry::Vacant(new) => {
                        peers += unions.iter().map(|union| union.len()).sum::<usize>();
                        budgets.check(Budget::Peers, peers)?;
                        let union = PeerUnion::union(unions.iter().map(|union| &***union));
                        new.insert(Merged {
                            union: union.without(&anything),
                            ports: PortSets::new(),
                        })
                    }
                };
                merged.ports.entry(*protocol).or_default().insert(range);
            }
        }
        let mut ports: BTreeMap<PeerUnion, PortSets> = BTreeMap::new();
        for merged in found.into_values().filter(|merged| !merged.union.is_empty()) {
            let same = ports.entry(merged.union).or_default();
            for (protocol, ranges) in merged.ports {
                same.entry(protocol).or_default().add(&ranges);
            }
        }
        let named = self.named.into_iter().map(|(port, unions)| {
            (port, PeerUnion::union(unions.iter().map(AsRef::as_ref)).without(&anything))
        });
        let named = named.filter(|(_, union)| !union.is_empty()).collect();
        Ok(AllowSet { anything, ports, named })
    }
}

/// Cuts overlapping ranges where any of them starts or ends. Returns each piece that lies in a range,
/// ascending, with the unions of the ranges around it.
fn cut(
    ranges: &BTreeMap<PortRange, Unions>,
) -> impl Iterator<Item = (PortRange, Vec<&Arc<PeerUnion>>)> {
    let mut starts: BTreeSet<u16> = BTreeSet::new();
    for range in ranges.keys() {
        starts.insert(range.first());
        starts.extend(range.last().after());
    }
    let ends: Vec<u16> = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]).collect();
    let pieces = starts.into_iter().zip(ends).map(|(first, last)| PortRange { first, last });
    let mut later = ranges.iter().peekable();
    // The ranges that started and may not have ended.
    let mut open: Vec<(PortRange, &Unions)> = Vec::new();
    pieces.filter_map(move |piece| {
        while let Some((range, unions)) = later.next_if(|(range, _)| range.first() <= piece.first) {
            open.push((*range, unions));
        }
        open.retain(|(range, _)| range.last() >= piece.first);
        let unions: Vec<_> = open.iter().flat_map(|(_, unions)| unions.iter()).collect();
        (!unions.is_empty()).then_some((piece, unions))
    })
}
