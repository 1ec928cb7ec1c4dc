//! One set: its definition by the numbers of its peers, and the members that come from an object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::identities::Identity;
use super::terms::TermId;
use crate::cidr::{CidrSet, Family};
use crate::compiled::{AddressSet, Member, SetKind};
use crate::flow::Endpoint;
use crate::labels::Str;
use crate::model::{NamedPort, Pod};
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
    terms: BTreeMap<TermId, MemberPorts>,
    nodes: BTreeSet<Arc<Selector>>,
    /// For address-port sets: the ports that count for pods by address.
    blocks: Vec<(CidrSet, MemberPorts)>,
}

/// The ports of a peer in an address-port set.
#[derive(Default, Debug)]
struct MemberPorts {
    numbers: BTreeSet<(Protocol, u16)>,
    /// A peer can have many names, and a pod has few: the pod's are looked up.
    names: BTreeSet<(Protocol, Str)>,
}

impl MemberPorts {
    fn insert(&mut self, protocol: Protocol, port: &PortRef) {
        match port {
            PortRef::Number(number) => drop(self.numbers.insert((protocol, *number))),
            PortRef::Named(name) => drop(self.names.insert((protocol, name.clone()))),
        }
    }

    /// The ports by number, and those that the names resolve to in a pod with these ports.
    fn of(&self, ports: &[NamedPort]) -> impl Iterator<Item = (Protocol, u16)> {
        let has = |port: &&NamedPort| {
            !self.names.is_empty() && self.names.contains(&(port.protocol, port.name.clone()))
        };
        let named = ports.iter().filter(has).map(|port| (port.protocol, port.number));
        self.numbers.iter().copied().chain(named)
    }

    fn words(&self) -> impl Iterator<Item = String> {
        let numbers = self.numbers.iter().map(|(protocol, number)| format!("{number}/{protocol}"));
        numbers.chain(self.names.iter().map(|(protocol, name)| format!("{name}/{protocol}")))
    }
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
        let mut terms: BTreeMap<TermId, MemberPorts> = BTreeMap::new();
        let mut blocks: BTreeMap<&CidrSet, MemberPorts> = BTreeMap::new();
        let mut selected = BTreeSet::new();
        match definition {
            SetDefinition::Peers { pods, nodes } => {
                terms.extend(pods.iter().map(|peer| (term(peer), MemberPorts::default())));
                selected.clone_from(nodes);
            }
            SetDefinition::PodPorts(ports) => {
                for PodPort { pods, protocol, port } in ports {
                    let of_peer = match pods {
                        PodMatch::Labels(peer) => terms.entry(term(peer)).or_default(),
                        PodMatch::Addresses(cidrs) => blocks.entry(cidrs).or_default(),
                    };
                    of_peer.insert(*protocol, port);
                }
            }
        }
        let blocks = blocks.into_iter().map(|(cidrs, ports)| (cidrs.clone(), ports)).collect();
        Self { kind, references: 0, uses: 0, terms, nodes: selected, blocks }
    }

    /// The peers in the definition.
    pub(super) fn terms(&self) -> impl Iterator<Item = TermId> {
        self.terms.keys().copied()
    }

    /// The definition in words, one for each item. `peer` gives the peer of a number.
    pub(super) fn words<'t>(&'t self, peer: impl Fn(TermId) -> &'t PodPeer) -> Vec<String> {
        let pods = self.terms.iter().map(|(term, ports)| {
            let pods = words::pod_peer(peer(*term));
            match self.kind {
                SetKind::Addresses => pods,
                SetKind::AddressPorts => {
                    format!("{pods} at {}", ports.words().collect::<Vec<_>>().join(", "))
                }
            }
        });
        let nodes = self.nodes.iter().map(|selector| words::nodes(selector));
        let blocks = self.blocks.iter().flat_map(|(cidrs, ports)| {
            let networks = Family::BOTH.into_iter().flat_map(|family| cidrs.networks(family));
            let networks = words::few(networks, NETWORKS_NAMED);
            ports.words().map(move |port| format!("pods with an address in {networks} at {port}"))
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
            let count = match self.kind {
                SetKind::Addresses => 1,
                SetKind::AddressPorts => ports.numbers.len(),
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
        let by_labels = identity.terms.iter().filter_map(|term| self.terms.get(term));
        let mut members = Vec::new();
        for &address in owned {
            let by_address = self.blocks.iter().filter(|(cidrs, _)| cidrs.contains(address));
            let ports = by_labels.clone().chain(by_address.map(|(_, ports)| ports));
            for (protocol, number) in ports.flat_map(|ports| ports.of(&pod.ports)) {
                members.push(Member::AddressPort(address, protocol, number));
            }
        }
        members
    }
}
