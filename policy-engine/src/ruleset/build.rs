//! Writes the rules of one tier.
//!
//! A run with few rules is written as it is. If the last run has many port ranges, a new connection
//! would be compared with all of them. They are written as a tree instead: a rule for the ports of each
//! group leads to the ruleset with its rules, or with smaller groups. The tree has as few levels as
//! keep the rules that a connection meets below a bound, since `nf_tables` accepts only 16 chains that
//! lead from one to the next: see [`Bounds::depth`].
//!
//! ```text
//! TCP 10-99 ─►   TCP 10-39 ─►  10: peers A, 20-30: peers B, …
//!                TCP 40-99 ─►  …
//! TCP 100-300 ─► TCP 100-150 ─► 100: peers A, 110-150: peers C, …
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Bounds, DefinedRuleset, PodMatch, PodPort, PortRef, Run, SetDefinition, hash};
use crate::allow_set::{AllowSet, PeerUnion, PortSets};
use crate::cidr::CidrSet;
use crate::compiled::{Match, Rule, Ruleset, Target, TrafficMatch};
use crate::direction::Direction;
use crate::id::{RulesetId, SetId};
use crate::labels::Str;
use crate::policy::{Namespaces, PodPeer};
use crate::port::{PortRange, Protocol};
use crate::ranges::Ranges;
use crate::tier::Tier;

/// A last run with more rules than this is written in groups.
const FLAT_RULES: usize = 8;

/// At most about how many rules of a last run a new connection is to meet.
const RULES_MET: usize = 24;

/// How many ports the match of one rule can list; a range counts twice.
const PORT_SLOTS: usize = 15;

/// With more unions than this for a few ports, they are merged into one set of addresses and ports:
/// the cost of a chain grows with the number of rules, the cost of a set lookup does not.
const FOLD_ABOVE_UNIONS: usize = 4;

/// A union with more ports than this is not merged into such a set: each port would be a member for
/// each pod.
const FOLD_AT_MOST_PORTS: u32 = 15;

/// If no more peers of a union than this may match many pods, each of them has a set of its own, which
/// all unions share.
const OWN_SETS: usize = 4;

/// A set of addresses and ports is defined by no more peers with ports than this.
const FOLD_AT_MOST_ITEMS: usize = 32_768;

/// Writes the rulesets of one tier.
pub(super) struct Builder<'b> {
    direction: Direction,
    tier: Tier,
    bounds: Bounds<'b>,
    /// How many rulesets of this tier may follow one another.
    depth: usize,
    /// The rulesets that were written, and the one of the tiers below.
    known: BTreeMap<RulesetId, Arc<DefinedRuleset>>,
    /// The sets of addresses and ports by number that the rules ask for, also if they are not used.
    candidates: BTreeMap<SetId, Arc<SetDefinition>>,
}

/// The rules of one ruleset.
#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    sets: BTreeMap<SetId, Arc<SetDefinition>>,
}

impl Rules {
    fn push(&mut self, matches: Match, target: Target) {
        self.rules.push(Rule { matches, target });
    }

    /// The rules for the traffic with one of the peers.
    fn peers(&mut self, traffic: &TrafficMatch, peers: &Referred<'_>, target: Target) {
        // The rule with the networks comes first. Where they are a whole family, it is enough.
        let mut cidrs = peers.cidrs.clone();
        let mut sets: Vec<Option<SetId>> = peers.sets.iter().map(|(id, _)| Some(*id)).collect();
        self.sets.extend(peers.sets.iter().cloned());
        if sets.is_empty() && !cidrs.is_empty() {
            sets.push(None);
        }
        for labelled in sets {
            let (traffic, cidrs) = (traffic.clone(), std::mem::take(&mut cidrs));
            self.push(Match::Peers { traffic, labelled, cidrs }, target);
        }
    }
}

/// The peers of a union as rules refer to them. They are written once for all rules, since naming a set
/// takes as long as reading its definition.
struct Referred<'u> {
    cidrs: &'u CidrSet,
    sets: Vec<(SetId, Arc<SetDefinition>)>,
}

impl<'u> Referred<'u> {
    fn new(union: &'u PeerUnion) -> Self {
        let sets = definitions(union).into_iter().map(|set| (set.id(), Arc::new(set)));
        Self { cidrs: &union.cidrs, sets: sets.collect() }
    }

    fn without_pods(union: &'u PeerUnion) -> Self {
        let (pods, nodes) = (BTreeSet::new(), union.nodes.clone());
        let set = SetDefinition::Peers { pods, nodes };
        let set = (!union.nodes.is_empty()).then(|| (set.id(), Arc::new(set)));
        Self { cidrs: &union.cidrs, sets: set.into_iter().collect() }
    }

    fn is_nothing(&self) -> bool {
        self.sets.is_empty() && self.cidrs.is_empty()
    }

    /// At most how many rules it needs for one match of ports.
    fn rules(&self) -> usize {
        self.sets.len() + usize::from(!self.cidrs.is_empty())
    }

    /// Whether both match the same peers.
    fn is(&self, other: &Self) -> bool {
        let ids = |peers: &Self| peers.sets.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        std::ptr::eq(self, other) || (ids(self) == ids(other) && self.cidrs == other.cidrs)
    }
}

impl<'b> Builder<'b> {
    pub(super) fn new(
        direction: Direction,
        tier: Tier,
        below: Option<&Arc<DefinedRuleset>>,
        bounds: Bounds<'b>,
    ) -> Self {
        let known = below.into_iter().map(|below| (below.id, below.clone())).collect();
        let depth = bounds.depth.saturating_sub(below.map_or(0, |below| below.depth));
        Self { direction, tier, bounds, depth, known, candidates: BTreeMap::new() }
    }

    /// Writes the runs, and the target of the traffic that none of them matches.
    pub(super) fn build(&mut self, runs: &[Run], otherwise: Target) -> Arc<DefinedRuleset> {
        let mut rules = Rules::default();
        for (at, run) in runs.iter().enumerate() {
            let target = run.target;
            rules.peers(&TrafficMatch::Any, &Referred::new(&run.matches.anything), target);
            let folded = self.foldable(&run.matches);
            // In front of the groups, because a packet does not return from a group.
            fold(&mut rules, run, &folded);
            let rest = rest(&run.matches, &folded);
            let is_last = at + 1 == runs.len();
            if is_last && flat_rules(&rest) > FLAT_RULES {
                self.grouped(&mut rules, &rest, target, otherwise);
            } else {
                for (peers, ports) in &rest {
                    for (protocol, ranges) in *ports {
                        let ranges = ranges.iter().copied().collect();
                        rules.peers(&TrafficMatch::Ports(*protocol, ranges), peers, target);
                    }
                }
            }
        }
        self.finish(rules, otherwise)
    }

    /// The sets of addresses and ports by number that were wanted.
    pub(super) fn candidates(self) -> BTreeMap<SetId, Arc<SetDefinition>> {
        self.candidates
    }

    /// Writes one ruleset. What its targets lead to must have been written.
    fn finish(&mut self, rules: Rules, otherwise: Target) -> Arc<DefinedRuleset> {
        let Rules { rules, sets } = rules;
        let targets = rules.iter().map(|rule| rule.target).chain([otherwise]);
        let next: BTreeSet<RulesetId> = targets
            .filter_map(|target| match target {
                Target::Next(id) => Some(id),
                Target::Allow | Target::Deny => None,
            })
            .collect();
        let children: Vec<_> = next.iter().filter_map(|id| self.known.get(id)).cloned().collect();
        let depth = 1 + children.iter().map(|child| child.depth).max().unwrap_or(0);
        let (direction, tier) = (self.direction, self.tier);
        let ruleset = Ruleset { direction, tier, rules, otherwise };
        let id = hash::ruleset_id(&ruleset);
        let ruleset = Arc::new(ruleset);
        let written = Arc::new(DefinedRuleset { id, ruleset, sets, children, depth });
        self.known.entry(id).or_insert(written).clone()
    }

    /// Writes the tree of the port ranges of `unions`. `otherwise` is the target of the traffic that no
    /// rule of a group matches.
    fn grouped(
        &mut self,
        rules: &mut Rules,
        unions: &[RestPorts<'_>],
        target: Target,
        otherwise: Target,
    ) {
        let mut ranges_of: BTreeMap<Protocol, Vec<(PortRange, &Referred<'_>)>> = BTreeMap::new();
        for (peers, ports) in unions {
            for (protocol, ranges) in *ports {
                let of_protocol = ranges_of.entry(*protocol).or_default();
                of_protocol.extend(ranges.iter().map(|range| (*range, peers)));
            }
        }
        let pieces: BTreeMap<Protocol, Vec<Piece<'_>>> =
            ranges_of.into_iter().map(|(protocol, ranges)| (protocol, joined(ranges))).collect();
        let count: usize = pieces.values().flatten().map(|piece| piece.peers.rules()).sum();
        let (levels, width) = shape(count, self.depth);
        for (protocol, pieces) in pieces {
            let tree = Tree { protocol, width, target, otherwise };
            self.tree(rules, &tree, &pieces, levels);
        }
    }

    /// Writes `pieces` in so many levels: at the last one as they are, and else in groups.
    fn tree(&mut self, rules: &mut Rules, tree: &Tree, pieces: &[Piece<'_>], levels: u32) {
        let all: usize = pieces.iter().map(|piece| piece.peers.rules()).sum();
        if levels <= 1 || all <= tree.width {
            for Piece { ranges, peers } in pieces {
                let traffic = TrafficMatch::Ports(tree.protocol, ranges.clone());
                rules.peers(&traffic, peers, tree.target);
            }
            return;
        }
        for group in groups(pieces, tree.width.saturating_pow(levels - 1)) {
            let mut of_group = Rules::default();
            self.tree(&mut of_group, tree, group, levels - 1);
            let all = group.iter().flat_map(|piece| &piece.ranges).copied();
            let Some(all) = all.reduce(|first, last| PortRange { last: last.last, ..first }) else {
                continue;
            };
            let group = self.finish(of_group, tree.otherwise).id;
            let traffic = TrafficMatch::Ports(tree.protocol, vec![all]);
            let cidrs = CidrSet::everything();
            let matches = Match::Peers { traffic, labelled: None, cidrs };
            rules.push(matches, Target::Next(group));
        }
    }

    /// The unions whose pods become members of one set of addresses and ports.
    fn foldable<'u>(&mut self, matches: &'u AllowSet) -> Vec<UnionPorts<'u>> {
        let small = |(union, ports): &UnionPorts<'_>| {
            !union.pods.is_empty() && count(ports) <= FOLD_AT_MOST_PORTS
        };
        let found: Vec<UnionPorts<'u>> = matches.ports.iter().filter(small).collect();
        let items = found.iter().map(|(union, ports)| union.pods.len() * count(ports) as usize);
        if found.len() <= FOLD_ABOVE_UNIONS || items.sum::<usize>() > FOLD_AT_MOST_ITEMS {
            return Vec::new();
        }
        let ports = found.iter().flat_map(|(union, ports)| {
            union.pods.iter().flat_map(|peer| numbered_ports(peer, ports))
        });
        let definition = SetDefinition::PodPorts(ports.collect());
        let id = definition.id();
        self.candidates.insert(id, Arc::new(definition));
        if (self.bounds.may_fold)(id) { found } else { Vec::new() }
    }
}

/// The values that all levels of a tree of port ranges share.
struct Tree {
    protocol: Protocol,
    /// About how many rules each ruleset has.
    width: usize,
    target: Target,
    otherwise: Target,
}

/// Port ranges with their peers, as many as the match of one rule can list. No port of other peers is
/// between them.
struct Piece<'u> {
    ranges: Vec<PortRange>,
    peers: &'u Referred<'u>,
}

/// The pieces for `ranges`, in order.
fn joined<'u>(mut ranges: Vec<(PortRange, &'u Referred<'u>)>) -> Vec<Piece<'u>> {
    ranges.sort_unstable_by_key(|(range, _)| *range);
    let (mut pieces, mut free): (Vec<Piece<'_>>, usize) = (Vec::new(), 0);
    for (range, peers) in ranges {
        let slots = slots_of(range);
        match pieces.last_mut() {
            Some(piece) if piece.peers.is(peers) && slots <= free => piece.ranges.push(range),
            _ => {
                pieces.push(Piece { ranges: vec![range], peers });
                free = PORT_SLOTS;
            }
        }
        free -= slots;
    }
    pieces
}

/// The levels and the width of a tree of `count` rules. It has two levels, or as many more as it takes
/// until a connection meets few rules, but at most `depth`.
fn shape(count: usize, depth: usize) -> (u32, usize) {
    let deepest = u32::try_from(depth).unwrap_or(1).max(1);
    let shape = |levels: u32| {
        let width = (1..=count).find(|width| width.saturating_pow(levels) >= count);
        (levels, width.unwrap_or(1))
    };
    let met = |(levels, width): (u32, usize)| width.saturating_mul(levels as usize);
    let mut best = shape(deepest.min(2));
    for deeper in (3..=deepest).map(shape) {
        if met(best) > RULES_MET && met(deeper) < met(best) {
            best = deeper;
        }
    }
    best
}

/// `pieces` in order, in groups of at most `size` rules, or of one piece.
fn groups<'p, 'u>(pieces: &'p [Piece<'u>], size: usize) -> Vec<&'p [Piece<'u>]> {
    let (mut groups, mut rest, mut count, mut at) = (Vec::new(), pieces, 0, 0);
    for piece in pieces {
        let rules = piece.peers.rules();
        if at > 0 && count + rules > size {
            let (group, others) = rest.split_at(at);
            groups.push(group);
            (rest, count, at) = (others, 0, 0);
        }
        count += rules;
        at += 1;
    }
    groups.push(rest);
    groups
}

/// A union of peers with its ports.
type UnionPorts<'u> = (&'u PeerUnion, &'u PortSets);

/// The peers of the remainder of a union, with its ports.
type RestPorts<'u> = (Referred<'u>, &'u PortSets);

fn count(ports: &PortSets) -> u32 {
    ports.values().flatten().map(|range| range.count()).sum()
}

/// The remainders of all unions without `folded`.
fn rest<'u>(matches: &'u AllowSet, folded: &[UnionPorts<'u>]) -> Vec<RestPorts<'u>> {
    let folded: BTreeSet<&PeerUnion> = folded.iter().map(|(union, _)| *union).collect();
    let rest = matches.ports.iter().map(|(union, ports)| {
        let is_folded = folded.contains(union);
        let peers = if is_folded { Referred::without_pods } else { Referred::new };
        (peers(union), ports)
    });
    rest.filter(|(peers, _)| !peers.is_nothing()).collect()
}

/// How many rules the unions need where each is written as it is.
fn flat_rules(unions: &[RestPorts<'_>]) -> usize {
    unions.iter().map(|(peers, ports)| peers.rules() * matches(ports)).sum()
}

/// How many matches the ports need: a rule has one.
pub(super) fn matches(ports: &PortSets) -> usize {
    ports.values().map(|ranges| slots(ranges).div_ceil(PORT_SLOTS)).sum()
}

/// Writes one rule for the ports by name and for the pods of `foldable`.
fn fold(rules: &mut Rules, run: &Run, foldable: &[UnionPorts<'_>]) {
    let mut folded: BTreeSet<PodPort> = run.matches.named.iter().flat_map(named_ports).collect();
    for (union, ports) in foldable {
        folded.extend(union.pods.iter().flat_map(|peer| numbered_ports(peer, ports)));
    }
    if !folded.is_empty() {
        let definition = SetDefinition::PodPorts(folded);
        let set = definition.id();
        rules.sets.insert(set, Arc::new(definition));
        rules.push(Match::PeerPorts { set }, run.target);
    }
}

fn slots(ranges: &Ranges<u16>) -> usize {
    ranges.iter().copied().map(slots_of).sum()
}

fn slots_of(range: PortRange) -> usize {
    if range.count() == 1 { 1 } else { 2 }
}

/// The sets for the pods and nodes of a union.
fn definitions(union: &PeerUnion) -> Vec<SetDefinition> {
    let set = |pods, nodes| SetDefinition::Peers { pods, nodes };
    let own: BTreeSet<Arc<PodPeer>> = own_sets(union).cloned().collect();
    let rest: BTreeSet<Arc<PodPeer>> = union.pods.difference(&own).cloned().collect();
    let rest = Some(set(rest, union.nodes.clone()))
        .filter(|_| union.pods.len() > own.len() || !union.nodes.is_empty());
    own.into_iter().map(|peer| set([peer].into(), BTreeSet::new())).chain(rest).collect()
}

/// The peers of a union that have sets of their own.
fn own_sets(union: &PeerUnion) -> impl Iterator<Item = &Arc<PodPeer>> {
    let many = union.pods.iter().filter(|peer| may_match_many(peer));
    let few = many.clone().nth(OWN_SETS).is_none();
    many.filter(move |_| few)
}

/// Whether a peer may match the pods of many workloads: it requires no label, and selects namespaces.
fn may_match_many(peer: &PodPeer) -> bool {
    matches!(peer.namespaces, Namespaces::Selected(_)) && peer.pods.required_label().is_none()
}

fn named_ports(
    ((protocol, name), union): (&(Protocol, Str), &PeerUnion),
) -> impl Iterator<Item = PodPort> {
    let labels = union.pods.iter().cloned().map(PodMatch::Labels);
    let addresses = Some(&union.cidrs).filter(|cidrs| !cidrs.is_empty());
    let all: Vec<PodMatch> = labels.chain(addresses.cloned().map(PodMatch::Addresses)).collect();
    all.into_iter().map(|pods| PodPort {
        pods,
        protocol: *protocol,
        port: PortRef::Named(name.clone()),
    })
}

fn numbered_ports(peer: &Arc<PodPeer>, ports: &PortSets) -> impl Iterator<Item = PodPort> {
    ports.iter().flat_map(move |(protocol, ranges)| {
        ranges.iter().flat_map(move |range| {
            (range.first()..=range.last()).map(move |number| PodPort {
                pods: PodMatch::Labels(peer.clone()),
                protocol: *protocol,
                port: PortRef::Number(number),
            })
        })
    })
}
