//! What one tier says as rules, and the sets that those rules look up.
//!
//! Neighbouring rules that lead to the same place fold into one allow-set: their order decides
//! nothing. Where a run matches everything the tier ends; a run at its end that leads where the end
//! leads is left out. A tier that says nothing is the next one itself.
//!
//! A set is named by its definition (which pods, which ports), so its name stays while pods come
//! and go, and rulesets that ask for the same peers share it.

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

/// With more unions for a few ports than this, they are folded into one look-up of address and
/// port: a chain of rules costs per rule, a set does not.
const FOLD_ABOVE_UNIONS: usize = 4;

/// A union for more ports than this keeps a rule of its own: each port is a member per pod.
const FOLD_AT_MOST_PORTS: u32 = 15;

/// What the members of a set are, in terms of pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SetDefinition {
    /// The addresses of the pods, and of the nodes, that any of these matches.
    Peers {
        /// Pods by labels.
        pods: BTreeSet<Arc<PodPeer>>,
        /// Nodes by labels.
        nodes: BTreeSet<Arc<Selector>>,
    },
    /// Addresses with ports.
    PodPorts(BTreeSet<PodPort>),
}

/// A port of the pods that a peer matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodPort {
    /// Which pods.
    pub pods: PodMatch,
    /// The protocol.
    pub protocol: Protocol,
    /// Which port.
    pub port: PortRef,
}

/// Pods as a port by name or number asks for them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PodMatch {
    /// By labels.
    Labels(Arc<PodPeer>),
    /// By address: an `ipBlock` with a named port matches pods that have the port.
    Addresses(CidrSet),
}

/// A port by number, or by the name that each pod resolves for itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By name.
    Named(Str),
}

/// A ruleset with the definitions of the sets it refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DefinedRuleset {
    /// The name of the ruleset.
    pub id: RulesetId,
    /// The rules.
    pub ruleset: Arc<Ruleset>,
    /// Each set that a rule names.
    pub sets: BTreeMap<SetId, SetDefinition>,
    /// The ruleset of the tiers below, where this one leads to it.
    pub next: Option<Arc<DefinedRuleset>>,
}

/// Rules of one tier with the same verdict, and where they lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What they match.
    pub matches: AllowSet,
    /// What becomes of that.
    pub target: Target,
}

impl SetDefinition {
    /// What the members are.
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
    /// The ruleset of `tier`, of which `runs` lead where they say, in order, and what none of them
    /// matches leads to `otherwise`. [`Target::Next`] is `next`. `None` when all may pass.
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
            otherwise = runs.get(last).map_or(otherwise, |run| run.target);
            runs.truncate(last);
        }
        while runs.pop_if(|last| last.target == otherwise).is_some() {}
        if runs.is_empty() && otherwise == Target::Allow {
            return None;
        }
        let leads = |target| matches!(target, Target::Next(_));
        if let Some(next) = next.filter(|_| runs.is_empty() && leads(otherwise)) {
            return Some(next.clone());
        }
        let mut builder = Builder::default();
        for run in &runs {
            builder.target = run.target;
            builder.peers(&TrafficMatch::Any, &run.matches.anything);
            builder.ports(&run.matches);
        }
        let Builder { rules, sets, .. } = builder;
        let is_asked = leads(otherwise) || runs.iter().any(|run| leads(run.target));
        let next = next.filter(|_| is_asked).cloned();
        let ruleset = Ruleset { direction, tier, rules, otherwise };
        let id = ruleset_id(&ruleset);
        Some(Arc::new(Self { id, ruleset: Arc::new(ruleset), sets, next }))
    }

    /// This ruleset and those that it leads to.
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
                hasher.text(&labelled.map(|set| set.to_string()).unwrap_or_default());
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
