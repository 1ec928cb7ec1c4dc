//! One set: its definition by the numbers of its peers, and the members that come from an object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::identities::Identity;
use super::terms::TermId;
use crate::cidr::{CidrSet, Family};
use crate::compiled::{AddressSet, Member, SetKind};
use crate::flow::Endpoint;
use crate::model::Pod;
use crate::policy::PodPeer;
use crate::port::Protocol;
use crate::ruleset::{PodMatch, PodPort, PortRef, SetDefinition};
use crate::selector::Selector;
use crate::words;
use crate::world::World;

/// How many networks of a definition are written out.
const NETWORKS_NAMED: usize = 4;

/// Whether a member was in its set at the last flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Before {
    Present,
    Absent,
}

/// A set that is defined; it has members while a ruleset refers to it.
#[derive(Debug)]
pub(super) struct LiveSet {
    pub(super) kind: SetKind,
    /// How many weights contain the set in their sum.
    pub(super) references: usize,
    /// How many rulesets refer to the set: it has members if there is one.
    pub(super) uses: usize,
    /// The peers in the definition, for address-port sets each with its ports.
    terms: BTreeMap<TermId, Vec<(Protocol, PortRef)>>,
    nodes: BTreeSet<Arc<Selector>>,
    /// For address-port sets: the ports that count for pods by address.
    blocks: Vec<(CidrSet, Protocol, PortRef)>,
}

/// What happens to the members of sets that come from an object.
#[derive(Clone, Copy)]
pub(super) enum Presence {
    /// They are removed, before the world changes.
    Retract,
    /// They are added, after the world changed.
    Assert,
}

impl Presence {
    pub(super) fn apply(
        self,
        members: impl IntoIterator<Item = Member>,
        set: &mut AddressSet,
        touched: &mut HashMap<Member, Before>,
    ) {
        for member in members {
            let was_there = match self {
                Self::Retract => set.members.remove(&member),
                Self::Assert => !set.members.insert(member),
            };
            let before = if was_there { Before::Present } else { Before::Absent };
            touched.entry(member).or_insert(before);
        }
    }
}

impl LiveSet {
    /// The set of a definition. `term` returns the number of a peer.
    pub(super) fn new(
        definition: &SetDefinition,
        mut term: impl FnMut(&Arc<PodPeer>) -> TermId,
    ) -> Self {
        let kind = definition.kind();
        let (mut terms, mut blocks) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        let mut selected = BTreeSet::new();
        match definition {
            SetDefinition::Peers { pods, nodes } => {
                terms.extend(pods.iter().map(|peer| (term(peer), Vec::new())));
                selected.clone_from(nodes);
            }
            SetDefinition::PodPorts(ports) => {
                for PodPort { pods, protocol, port } in ports {
                    let port = port.clone();
                    match pods {
                        PodMatch::Labels(peer) => {
                            terms.entry(term(peer)).or_default().push((*protocol, port));
                        }
                        PodMatch::Addresses(cidrs) => {
                            blocks.push((cidrs.clone(), *protocol, port));
                        }
                    }
                }
            }
        }
        Self { kind, references: 0, uses: 0, terms, nodes: selected, blocks }
    }

    /// The peers in the definition.
    pub(super) fn terms(&self) -> impl Iterator<Item = TermId> {
        self.terms.keys().copied()
    }

    /// The definition in words, one for each item. `peer` gives the peer of a number.
    pub(super) fn words<'t>(&'t self, peer: impl Fn(TermId) -> &'t PodPeer) -> Vec<String> {
        let port = |protocol: &Protocol, port: &PortRef| match port {
            PortRef::Number(number) => format!("{number}/{protocol}"),
            PortRef::Named(name) => format!("{name}/{protocol}"),
        };
        let pods = self.terms.iter().map(|(term, ports)| {
            let pods = words::pod_peer(peer(*term));
            match self.kind {
                SetKind::Addresses => pods,
                SetKind::AddressPorts => {
                    let ports = ports.iter().map(|(protocol, number)| port(protocol, number));
                    format!("{pods} at {}", ports.collect::<Vec<_>>().join(", "))
                }
            }
        });
        let nodes = self.nodes.iter().map(|selector| words::nodes(selector));
        let blocks = self.blocks.iter().map(|(cidrs, protocol, name)| {
            let networks = Family::BOTH.into_iter().flat_map(|family| cidrs.networks(family));
            let networks = words::few(networks, NETWORKS_NAMED);
            format!("pods with an address in {networks} at {}", port(protocol, name))
        });
        pods.chain(nodes).chain(blocks).collect()
    }

    /// Whether one of the peers matches pods.
    pub(super) fn matches(&self, identity: &Identity) -> bool {
        identity.terms.iter().any(|term| self.terms.contains_key(term))
    }

    /// Whether the definition selects nodes.
    pub(super) fn has_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether the definition has pods by address.
    pub(super) fn has_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Each peer with the number of members that one of its pods is.
    pub(super) fn weights(&self) -> impl Iterator<Item = (TermId, usize)> {
        self.terms.iter().map(|(term, ports)| {
            let numbers = ports.iter().filter(|(_, port)| matches!(port, PortRef::Number(_)));
            let count = match self.kind {
                SetKind::Addresses => 1,
                SetKind::AddressPorts => numbers.count(),
            };
            (*term, count)
        })
    }

    /// Whether an address belongs to a node that the set's definition selects.
    pub(super) fn has_node(&self, world: &World, address: IpAddr) -> bool {
        let Endpoint::Node(name, _) = world.endpoint(address) else { return false };
        let node = world.nodes().get(&name);
        node.is_some_and(|node| self.nodes.iter().any(|wanted| wanted.matches(&node.labels)))
    }

    /// The members of a set that come from a pod with these addresses.
    pub(super) fn members(&self, identity: &Identity, pod: &Pod, owned: &[IpAddr]) -> Vec<Member> {
        if self.kind == SetKind::Addresses {
            let matches = self.matches(identity);
            let owned = owned.iter().filter(|_| matches);
            return owned.map(|address| Member::Address(*address)).collect();
        }
        let by_labels = identity.terms.iter().filter_map(|term| self.terms.get(term)).flatten();
        let by_labels = by_labels.map(|(protocol, port)| (*protocol, port));
        let mut members = Vec::new();
        for &address in owned {
            let by_address = self.blocks.iter().filter(|(cidrs, ..)| cidrs.contains(address));
            let by_address = by_address.map(|(_, protocol, port)| (*protocol, port));
            for (protocol, port) in by_labels.clone().chain(by_address) {
                let mut add = |number| {
                    members.push(Member::AddressPort(address, protocol, number));
                };
                match port {
                    PortRef::Number(number) => add(*number),
                    PortRef::Named(name) => pod
                        .ports
                        .iter()
                        .filter(|port| port.name == *name && port.protocol == protocol)
                        .for_each(|port| add(port.number)),
                }
            }
        }
        members
    }
}
