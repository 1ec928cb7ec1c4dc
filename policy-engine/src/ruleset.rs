//! An allow-set as rules, and the sets that those rules look up.
//!
//! A set is named by its definition (which pods, which ports), so its name stays while pods come
//! and go, and rulesets that ask for the same peers share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::allow_set::{AllowSet, PeerUnion};
use crate::cidr::{CidrSet, Family};
use crate::compiled::{AllowRule, Ruleset, SetKind, TrafficMatch};
use crate::id::{ContentHasher, RulesetId, SetId};
use crate::labels::Str;
use crate::model::Direction;
use crate::policy::{Namespaces, PodPeer};
use crate::port::{PortRange, Protocol};
use crate::selector::{Operator, Selector};

/// With more unions for a few ports than this, they are folded into one look-up of address and
/// port: a chain of rules costs per rule, a set does not.
const FOLD_ABOVE_UNIONS: usize = 4;

/// A union for more ports than this keeps a rule of its own: each port is a member per pod.
const FOLD_AT_MOST_PORTS: u32 = 15;

/// What the members of a set are, in terms of pods.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SetDefinition {
    /// The addresses of the pods that any of these matches.
    Pods(BTreeSet<Arc<PodPeer>>),
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
}

impl SetDefinition {
    /// What the members are.
    #[must_use]
    pub fn kind(&self) -> SetKind {
        match self {
            Self::Pods(_) => SetKind::Addresses,
            Self::PodPorts(_) => SetKind::AddressPorts,
        }
    }

    /// The name of the set.
    #[must_use]
    pub fn id(&self) -> SetId {
        let mut hasher = ContentHasher::new("set");
        match self {
            Self::Pods(peers) => {
                hasher.text("pods");
                hasher.number(peers.len());
                peers.iter().for_each(|peer| hash_peer(&mut hasher, peer));
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
    /// The rules that admit what `allowed` holds; `None` when that is everything.
    #[must_use]
    pub fn new(allowed: &AllowSet, direction: Direction) -> Option<Self> {
        if allowed.is_everything() {
            return None;
        }
        let mut builder = Builder::default();
        builder.peers(&TrafficMatch::Any, &allowed.anything);
        builder.ports(allowed);
        let Builder { rules, sets } = builder;
        let ruleset = Ruleset { direction, rules };
        Some(Self { id: ruleset_id(&ruleset), ruleset: Arc::new(ruleset), sets })
    }
}

#[derive(Default)]
struct Builder {
    rules: Vec<AllowRule>,
    sets: BTreeMap<SetId, SetDefinition>,
}

impl Builder {
    fn peers(&mut self, traffic: &TrafficMatch, union: &PeerUnion) {
        if union.is_empty() {
            return;
        }
        let pods =
            (!union.pods.is_empty()).then(|| self.set(SetDefinition::Pods(union.pods.clone())));
        let (traffic, cidrs) = (traffic.clone(), union.cidrs.clone());
        self.rules.push(AllowRule::Peers { traffic, pods, cidrs });
    }

    fn ports(&mut self, allowed: &AllowSet) {
        let mut folded: BTreeSet<PodPort> = allowed.named.iter().flat_map(named_ports).collect();
        let small = |union: &PeerUnion, ports: &BTreeMap<Protocol, Vec<PortRange>>| {
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
                self.peers(&TrafficMatch::Ports(*protocol, ranges.clone()), &rest);
            }
        }
        if !folded.is_empty() {
            let set = self.set(SetDefinition::PodPorts(folded));
            self.rules.push(AllowRule::PeerPorts { set });
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
    ports: &BTreeMap<Protocol, Vec<PortRange>>,
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
    hasher.number(ruleset.rules.len());
    for rule in &ruleset.rules {
        match rule {
            AllowRule::Peers { traffic, pods, cidrs } => {
                hasher.text("peers");
                hash_traffic(&mut hasher, traffic);
                hasher.text(&pods.map(|set| set.to_string()).unwrap_or_default());
                hash_cidrs(&mut hasher, cidrs);
            }
            AllowRule::PeerPorts { set } => {
                hasher.text("peer-ports");
                hasher.text(&set.to_string());
            }
        }
    }
    RulesetId::new(hasher.finish())
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
