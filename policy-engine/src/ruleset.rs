//! The rules of one tier, and the definitions of the address sets that they refer to.
//!
//! Consecutive rules with the same target are merged into one allow-set, because their order does
//! not matter: they are a run. A run that matches everything ends the tier. A last run with the
//! same target as the rest of the traffic is left out. A tier without rules is replaced by the next
//! tier.
//!
//! A set is named by its definition (which pods, which ports). Its name stays the same when pods
//! are added and removed, and rulesets with the same peers share the set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::allow_set::{AllowSet, PeerUnion};
use crate::cidr::{CidrSet, Family};
use crate::compiled::{Match, Rule, Ruleset, SetKind, Target, TrafficMatch};
use crate::direction::Direction;
use crate::id::{ContentHasher, RulesetId, SetId};
use crate::labels::Str;
use crate::policy::{Namespaces, PodPeer};
use crate::port::Protocol;
use crate::ranges::Ranges;
use crate::selector::{Operator, Selector};
use crate::tier::Tier;

/// With more unions for a few ports than this, they are merged into one set of addresses and ports:
/// the cost of a chain grows with the number of rules, the cost of a set lookup does not.
const FOLD_ABOVE_UNIONS: usize = 4;

/// A union for more ports than this keeps a rule of its own: each port would be a member for each
/// pod.
const FOLD_AT_MOST_PORTS: u32 = 15;

/// The definition of a set: the pods and nodes that its members belong to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SetDefinition {
    /// The addresses of the pods and nodes that match one of the items.
    Peers {
        /// Pods by labels.
        pods: BTreeSet<Arc<PodPeer>>,
        /// Nodes by labels.
        nodes: BTreeSet<Arc<Selector>>,
    },
    /// Addresses of pods, with ports.
    PodPorts(BTreeSet<PodPort>),
}

/// A port of the pods that a peer matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodPort {
    /// The pods.
    pub pods: PodMatch,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: PortRef,
}

/// The pods for which a [`PodPort`] counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PodMatch {
    /// Pods by labels.
    Labels(Arc<PodPeer>),
    /// Pods by address: an `ipBlock` with a port by name matches the pods that have the port.
    Addresses(CidrSet),
}

/// A port by number, or by the name that each pod resolves for itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortRef {
    /// A port by number.
    Number(u16),
    /// A port by name.
    Named(Str),
}

/// A ruleset with the definitions of the sets that it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DefinedRuleset {
    /// The name of the ruleset.
    pub id: RulesetId,
    /// The rules.
    pub ruleset: Arc<Ruleset>,
    /// The definition of each set that a rule refers to.
    pub sets: BTreeMap<SetId, SetDefinition>,
    /// The ruleset of the tiers below, when a target of this ruleset is [`Target::Next`].
    pub next: Option<Arc<DefinedRuleset>>,
}

/// Consecutive rules of one tier with the same target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The traffic that they match.
    pub matches: AllowSet,
    /// The target of this traffic.
    pub target: Target,
}

impl SetDefinition {
    /// The kind of the members.
    #[must_use]
    pub fn kind(&self) -> SetKind {
        match self {
            Self::Peers { .. } => SetKind::Addresses,
            Self::PodPorts(_) => SetKind::AddressPorts,
        }
    }

    /// The name of the set.
    #[must_use]
    pub fn id(&self) -> SetId {
        let mut hasher = ContentHasher::new("set");
        match self {
            Self::Peers { pods, nodes } => {
                hasher.text("peers");
                hasher.number(pods.len());
                pods.iter().for_each(|peer| hash_peer(&mut hasher, peer));
                hasher.number(nodes.len());
                nodes.iter().for_each(|node| hash_selector(&mut hasher, node));
            }
            Self::PodPorts(ports) => {
                hasher.text("pod-ports");
                hasher.number(ports.len());
                ports.iter().for_each(|port| hash_pod_port(&mut hasher, port));
            }
        }
        SetId::new(hasher.finish())
    }
}

impl DefinedRuleset {
    /// The ruleset of `tier` with `runs` in order, and the target `otherwise` for the traffic that
    /// no run matches. `next` is the ruleset of the tiers below, to which [`Target::Next`] refers.
    /// `None` when all traffic is allowed.
    #[must_use]
    pub fn new(
        direction: Direction,
        tier: Tier,
        mut runs: Vec<Run>,
        mut otherwise: Target,
        next: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        runs.retain(|run| !run.matches.is_nothing());
        if let Some(last) = runs.iter().position(|run| run.matches.is_everything()) {
            otherwise = runs[last].target;
            runs.truncate(last);
        }
        while runs.pop_if(|last| last.target == otherwise).is_some() {}
        if runs.is_empty() && otherwise == Target::Allow {
            return None;
        }
        let is_next = |target| matches!(target, Target::Next(_));
        if let Some(next) = next.filter(|_| runs.is_empty() && is_next(otherwise)) {
            return Some(next.clone());
        }
        let mut builder = Builder::default();
        for run in &runs {
            builder.target = run.target;
            builder.peers(&TrafficMatch::Any, &run.matches.anything);
            builder.ports(&run.matches);
        }
        let Builder { rules, sets, .. } = builder;
        let has_next = is_next(otherwise) || runs.iter().any(|run| is_next(run.target));
        let next = next.filter(|_| has_next).cloned();
        let ruleset = Ruleset { direction, tier, rules, otherwise };
        let id = ruleset_id(&ruleset);
        Some(Arc::new(Self { id, ruleset: Arc::new(ruleset), sets, next }))
    }

    /// This ruleset and the rulesets of the tiers below that it refers to.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |defined| defined.next.as_deref())
    }
}

struct Builder {
    target: Target,
    rules: Vec<Rule>,
    sets: BTreeMap<SetId, SetDefinition>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { target: Target::Deny, rules: Vec::new(), sets: BTreeMap::new() }
    }
}

impl Builder {
    fn rule(&mut self, matches: Match) {
        self.rules.push(Rule { matches, target: self.target });
    }

    fn peers(&mut self, traffic: &TrafficMatch, union: &PeerUnion) {
        if union.is_empty() {
            return;
        }
        let by_labels = !union.pods.is_empty() || !union.nodes.is_empty();
        let labelled =
            || SetDefinition::Peers { pods: union.pods.clone(), nodes: union.nodes.clone() };
        let labelled = by_labels.then(|| self.set(labelled()));
        let (traffic, cidrs) = (traffic.clone(), union.cidrs.clone());
        self.rule(Match::Peers { traffic, labelled, cidrs });
    }

    fn ports(&mut self, allowed: &AllowSet) {
        let mut folded: BTreeSet<PodPort> = allowed.named.iter().flat_map(named_ports).collect();
        let small = |union: &PeerUnion, ports: &BTreeMap<Protocol, Ranges<u16>>| {
            let count: u32 = ports.values().flatten().map(|range| range.count()).sum();
            !union.pods.is_empty() && count <= FOLD_AT_MOST_PORTS
        };
        let fold = allowed.ports.iter().filter(|(union, ports)| small(union, ports)).count()
            > FOLD_ABOVE_UNIONS;
        for (union, ports) in &allowed.ports {
            let mut rest = union.clone();
            if fold && small(union, ports) {
                let pods = std::mem::take(&mut rest.pods);
                folded.extend(pods.iter().flat_map(|peer| numbered_ports(peer, ports)));
            }
            for (protocol, ranges) in ports {
                self.peers(
                    &TrafficMatch::Ports(*protocol, ranges.iter().copied().collect()),
                    &rest,
                );
            }
        }
        if !folded.is_empty() {
            let set = self.set(SetDefinition::PodPorts(folded));
            self.rule(Match::PeerPorts { set });
        }
    }

    fn set(&mut self, definition: SetDefinition) -> SetId {
        let id = definition.id();
        self.sets.insert(id, definition);
        id
    }
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

fn numbered_ports(
    peer: &Arc<PodPeer>,
    ports: &BTreeMap<Protocol, Ranges<u16>>,
) -> impl Iterator<Item = PodPort> {
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

fn ruleset_id(ruleset: &Ruleset) -> RulesetId {
    let mut hasher = ContentHasher::new("ruleset");
    hasher.text(ruleset.direction.as_str());
    hasher.text(ruleset.tier.as_str());
    hasher.number(ruleset.rules.len());
    for rule in &ruleset.rules {
        match &rule.matches {
            Match::Peers { traffic, labelled, cidrs } => {
                hasher.text("peers");
                hash_traffic(&mut hasher, traffic);
                // No set is hashed as an empty text, which no set has as its name.
                hasher.text(&labelled.map_or_else(String::new, |set| set.to_string()));
                hash_cidrs(&mut hasher, cidrs);
            }
            Match::PeerPorts { set } => {
                hasher.text("peer-ports");
                hasher.text(&set.to_string());
            }
        }
        hash_target(&mut hasher, rule.target);
    }
    hash_target(&mut hasher, ruleset.otherwise);
    RulesetId::new(hasher.finish())
}

fn hash_target(hasher: &mut ContentHasher, target: Target) {
    match target {
        Target::Allow => hasher.text("allow"),
        Target::Deny => hasher.text("deny"),
        Target::Next(next) => {
            hasher.text("next");
            hasher.text(&next.to_string());
        }
    }
}

fn hash_traffic(hasher: &mut ContentHasher, traffic: &TrafficMatch) {
    match traffic {
        TrafficMatch::Any => hasher.text("any"),
        TrafficMatch::Ports(protocol, ranges) => {
            hasher.text(protocol.as_str());
            hasher.number(ranges.len());
            for range in ranges {
                hasher.number(range.first().into());
                hasher.number(range.last().into());
            }
        }
    }
}

fn hash_cidrs(hasher: &mut ContentHasher, cidrs: &CidrSet) {
    for family in Family::BOTH {
        let networks = cidrs.networks(family);
        hasher.number(networks.len());
        networks.iter().for_each(|net| hasher.text(&net.to_string()));
    }
}

fn hash_pod_port(hasher: &mut ContentHasher, port: &PodPort) {
    match &port.pods {
        PodMatch::Labels(peer) => {
            hasher.text("labels");
            hash_peer(hasher, peer);
        }
        PodMatch::Addresses(cidrs) => {
            hasher.text("addresses");
            hash_cidrs(hasher, cidrs);
        }
    }
    hasher.text(port.protocol.as_str());
    match &port.port {
        PortRef::Number(number) => {
            hasher.text("number");
            hasher.number((*number).into());
        }
        PortRef::Named(name) => {
            hasher.text("name");
            hasher.text(name);
        }
    }
}

fn hash_peer(hasher: &mut ContentHasher, peer: &PodPeer) {
    match &peer.namespaces {
        Namespaces::Named(name) => {
            hasher.text("named");
            hasher.text(name);
        }
        Namespaces::Selected(selector) => {
            hasher.text("selected");
            hash_selector(hasher, selector);
        }
        Namespaces::Own => hasher.text("own"),
    }
    hash_selector(hasher, &peer.pods);
}

fn hash_selector(hasher: &mut ContentHasher, selector: &Selector) {
    hasher.number(selector.requirements().count());
    for requirement in selector.requirements() {
        hasher.text(&requirement.key);
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        hasher.text(operator);
        hasher.number(values.map_or(0, BTreeSet::len));
        values.into_iter().flatten().for_each(|value| hasher.text(value));
    }
}
