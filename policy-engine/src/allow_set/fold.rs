//! Merges the rules of one direction to an [`AllowSet`], within [`Budgets`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{AllowSet, NamedPeers, PeerUnion, PortSets};
use crate::budget::{Budget, Budgets, Exceeded};
use crate::cidr::CidrSet;
use crate::direction::Direction;
use crate::labels::Str;
use crate::model::NamedPort;
use crate::policy::{Namespaces, Peer, Peers, PodPeer, PortMatch, Ports, Required, Rule};
use crate::port::{PortRange, Protocol};
use crate::ranges::{Ranges, Step};
use crate::selector::Selector;
use crate::work::{self, Work};

/// A peer whose selectors list more values than this counts once for each of so many.
const VALUES_OF_A_PEER: usize = 10;

/// The parameters for reading rules.
#[derive(Clone, Copy)]
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
    /// Returns a peer that is shared with those who read it before: pods with different ports are
    /// compiled one by one from the same policies.
    pub share: &'a dyn Fn(&PodPeer) -> Arc<PodPeer>,
}

impl AllowSet {
    /// Merges rules of one direction.
    ///
    /// # Errors
    ///
    /// When the rules exceed [`Budget::PortRanges`], [`Budget::Peers`] or [`Budget::SimilarPeers`].
    pub fn fold<'r>(
        rules: impl IntoIterator<Item = &'r Rule>,
        reading: Reading<'_>,
    ) -> Result<Self, Exceeded> {
        let mut fold = Fold::default();
        rules.into_iter().for_each(|rule| fold.rule(rule, reading));
        fold.finish(reading.budgets)
    }
}

impl PeerUnion {
    fn of(peers: &Peers, reading: Reading<'_>) -> Self {
        let Peers::Listed(items) = peers else {
            return Self { cidrs: CidrSet::everything(), ..Self::default() };
        };
        let (mut union, mut blocks) = (Self::default(), Vec::new());
        for item in items {
            match item {
                Peer::Invalid => {}
                Peer::Pods(peer) => drop(union.pods.insert((reading.share)(peer))),
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
    fn by_labels(peers: &Peers, reading: Reading<'_>) -> Self {
        let pods = peers.listed().iter().filter_map(|item| match item {
            Peer::Pods(peer) => Some((reading.share)(peer)),
            Peer::Invalid | Peer::Nodes(_) | Peer::Block(_) => None,
        });
        Self { pods: pods.collect(), ..Self::default() }
    }

    /// The peers that are in any of the unions. Takes as long as sorting them.
    fn union<'u>(unions: impl Iterator<Item = &'u Self> + Clone) -> Self {
        work::done(Work::Join, unions.clone().map(|union| union.pods.len()).sum());
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

    /// What it adds to [`Budget::Peers`].
    fn size(&self) -> usize {
        let pods = self.pods.iter().map(|peer| {
            let namespaces = match &peer.namespaces {
                Namespaces::Selected(selector) => values(selector),
                Namespaces::Named(_) | Namespaces::Own => 0,
            };
            count(namespaces + values(&peer.pods))
        });
        let nodes = self.nodes.iter().map(|selector| count(values(selector)));
        pods.chain(nodes).sum::<usize>() + self.cidrs.ranges()
    }
}

/// How many values the requirements of a selector list; a requirement without values counts once.
fn values(selector: &Selector) -> usize {
    let values = selector.requirements().map(|found| found.operator.name_and_values().1);
    values.map(|values| values.map_or(1, <[_]>::len)).sum()
}

/// How many times a peer whose selectors list so many values counts: the longer they are, the longer
/// it takes to compare them.
fn count(values: usize) -> usize {
    values.div_ceil(VALUES_OF_A_PEER).max(1)
}

/// The indices of unions in [`Fold::unions`].
type Unions = Vec<usize>;

/// The traffic of all rules with the same peers.
#[derive(Default)]
struct Traffic {
    anything: bool,
    /// May overlap.
    ranges: BTreeMap<Protocol, Vec<PortRange>>,
    named: BTreeSet<(Protocol, Str)>,
}

/// The rules that were read so far. Rules with the same peers are joined, so that rules that are written
/// more than once cost no more.
#[derive(Default)]
struct Fold {
    unions: Vec<(Arc<PeerUnion>, Traffic)>,
    index: BTreeMap<Arc<PeerUnion>, usize>,
}

impl Fold {
    fn rule(&mut self, rule: &Rule, reading: Reading<'_>) {
        let Ports::Listed(items) = &rule.ports else {
            let anything = Traffic { anything: true, ..Traffic::default() };
            self.add(PeerUnion::of(&rule.peers, reading), anything);
            return;
        };
        let (mut numbers, mut names) = (Traffic::default(), Traffic::default());
        for item in items {
            match (item, reading.direction) {
                (PortMatch::Invalid, _) => {}
                (PortMatch::Numbers(protocol, range), _) => numbers.range(*protocol, *range),
                (PortMatch::Named(protocol, name), Direction::Ingress) => {
                    // Two containers may use one name: both numbers count.
                    let ports = reading.subject_ports.iter();
                    let same =
                        |port: &&&NamedPort| port.name == *name && port.protocol == *protocol;
                    for port in ports.filter(same) {
                        names.range(*protocol, PortRange::single(port.number));
                    }
                }
                (PortMatch::Named(protocol, name), Direction::Egress) => {
                    names.named.insert((*protocol, name.clone()));
                }
            }
        }
        match reading.named {
            NamedPeers::All => numbers.add(names),
            NamedPeers::ByLabels if names.is_nothing() => {}
            NamedPeers::ByLabels => self.add(PeerUnion::by_labels(&rule.peers, reading), names),
        }
        self.add(PeerUnion::of(&rule.peers, reading), numbers);
    }

    fn add(&mut self, union: PeerUnion, traffic: Traffic) {
        if union.is_empty() || traffic.is_nothing() {
            return;
        }
        let union = Arc::new(union);
        let at = *self.index.entry(union.clone()).or_insert(self.unions.len());
        match self.unions.get_mut(at) {
            Some((_, known)) => known.add(traffic),
            None => self.unions.push((union, traffic)),
        }
    }

    /// The most peers that require the same label, or none.
    fn similar_peers(&self) -> usize {
        let mut similar: BTreeMap<Required, BTreeSet<&PodPeer>> = BTreeMap::new();
        for peer in self.unions.iter().flat_map(|(union, _)| &union.pods) {
            similar.entry(peer.required()).or_default().insert(peer);
        }
        similar.values().map(BTreeSet::len).max().unwrap_or(0)
    }

    fn finish(self, budgets: &Budgets) -> Result<AllowSet, Exceeded> {
        let listed: usize = self.unions.iter().map(|(union, _)| union.pods.len()).sum();
        // Few peers cannot exceed the limit, and need not be grouped.
        if listed > budgets.similar_peers {
            budgets.check(Budget::SimilarPeers, self.similar_peers())?;
        }
        let mut anything = Vec::new();
        let mut ranges_of: BTreeMap<Protocol, BTreeMap<PortRange, Unions>> = BTreeMap::new();
        let mut by_name: BTreeMap<(Protocol, Str), Unions> = BTreeMap::new();
        let mut unions = Vec::with_capacity(self.unions.len());
        for (at, (union, traffic)) in self.unions.into_iter().enumerate() {
            if traffic.anything {
                anything.push(at);
            }
            for (protocol, ranges) in traffic.ranges {
                let of_protocol = ranges_of.entry(protocol).or_default();
                for range in &ranges.into_iter().collect::<Ranges<u16>>() {
                    of_protocol.entry(*range).or_default().push(at);
                }
            }
            for name in traffic.named {
                by_name.entry(name).or_default().push(at);
            }
            unions.push((union.size(), union));
        }
        // Ports inside of the same ranges have the same peers.
        let mut found: BTreeMap<Unions, PortSets> = BTreeMap::new();
        let mut pieces = 0;
        let mut peers = PeerCount { unions: &unions, budgets, count: 0 };
        for (protocol, ranges) in &ranges_of {
            for (range, mut key) in cut(ranges) {
                pieces += 1;
                budgets.check(Budget::PortRanges, pieces)?;
                key.sort_unstable();
                if !found.contains_key(&key) {
                    peers.add(&key)?;
                }
                found.entry(key).or_default().entry(*protocol).or_default().insert(range);
            }
        }
        by_name.values().try_for_each(|key| peers.add(key))?;
        // Nothing is joined before all peers are counted.
        let union = |key: &[usize]| {
            let unions = key.iter().filter_map(|at| unions.get(*at));
            PeerUnion::union(unions.map(|(_, union)| &**union))
        };
        let anything = union(&anything);
        let mut ports: BTreeMap<PeerUnion, PortSets> = BTreeMap::new();
        for (key, of_key) in found {
            let union = union(&key).without(&anything);
            if !union.is_empty() {
                let same = ports.entry(union).or_default();
                for (protocol, ranges) in of_key {
                    same.entry(protocol).or_default().add(&ranges);
                }
            }
        }
        let named = by_name.into_iter().map(|(name, key)| (name, union(&key).without(&anything)));
        let named = named.filter(|(_, union)| !union.is_empty()).collect();
        Ok(AllowSet { anything, ports, named })
    }
}

impl Traffic {
    fn is_nothing(&self) -> bool {
        !self.anything && self.ranges.is_empty() && self.named.is_empty()
    }

    fn range(&mut self, protocol: Protocol, range: PortRange) {
        self.ranges.entry(protocol).or_default().push(range);
    }

    fn add(&mut self, other: Self) {
        self.anything |= other.anything;
        for (protocol, ranges) in other.ranges {
            self.ranges.entry(protocol).or_default().extend(ranges);
        }
        self.named.extend(other.named);
    }
}

/// Counts the peers of unions that are to be joined.
struct PeerCount<'b> {
    /// Each with its size.
    unions: &'b [(usize, Arc<PeerUnion>)],
    budgets: &'b Budgets,
    count: usize,
}

impl PeerCount<'_> {
    fn add(&mut self, indices: &[usize]) -> Result<(), Exceeded> {
        let sizes = indices.iter().filter_map(|at| self.unions.get(*at)).map(|(size, _)| size);
        self.count = self.count.saturating_add(sizes.sum());
        self.budgets.check(Budget::Peers, self.count)
    }
}

/// Cuts overlapping ranges where any of them starts or ends. Returns each piece that lies in a range,
/// ascending, with the unions of the ranges around it.
fn cut(ranges: &BTreeMap<PortRange, Unions>) -> impl Iterator<Item = (PortRange, Unions)> {
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
        let unions: Unions = open.iter().flat_map(|(_, unions)| unions.iter().copied()).collect();
        (!unions.is_empty()).then_some((piece, unions))
    })
}
