//! The members of all live sets, updated by retracting and asserting pods.
//!
//! A change to a pod takes three steps: retract the old pod, and all pods that claim the same
//! address; change the world; assert them again as they are now. A member that was retracted and
//! asserted again is not in the delta.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::identities::{Identities, IdentityId};
use super::terms::{TermId, Terms, matches};
use crate::cidr::CidrSet;
use crate::compiled::{AddressSet, Member, SetDelta, SetKind, Update};
use crate::flow::Endpoint;
use crate::id::SetId;
use crate::labels::Str;
use crate::model::{Pod, PodKey};
use crate::policy::Namespaces;
use crate::port::Protocol;
use crate::ruleset::{PodMatch, PortRef, SetDefinition};
use crate::selector::Selector;
use crate::world::World;

/// Live sets, the peers in their definitions, and the identities that match those peers.
#[derive(Default, Debug)]
pub(super) struct Members {
    identities: Identities,
    terms: Terms,
    sets: BTreeMap<SetId, LiveSet>,
    /// The sets with pods by address in their definition.
    by_address: BTreeSet<SetId>,
    /// The sets with nodes in their definition.
    by_node: BTreeSet<SetId>,
    /// The members that were retracted or asserted since the last flush.
    touched: HashMap<SetId, HashMap<Member, Before>>,
    created: BTreeSet<SetId>,
    removed: BTreeSet<SetId>,
}

/// Whether a member was in its set at the last flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    Present,
    Absent,
}

#[derive(Debug)]
struct LiveSet {
    kind: SetKind,
    references: usize,
    terms: BTreeSet<TermId>,
    nodes: BTreeSet<Arc<Selector>>,
    /// For address-port sets: the ports, and the pods for which each counts.
    ports: Vec<(Wanted, Protocol, PortRef)>,
}

/// The pods for which a port counts.
#[derive(Debug)]
enum Wanted {
    Term(TermId),
    Addresses(CidrSet),
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
    fn apply(
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
    /// Whether an address belongs to a node that the set's definition selects.
    fn has_node(&self, world: &World, address: IpAddr) -> bool {
        let Endpoint::Node(name, _) = world.endpoint(address) else { return false };
        let node = world.nodes().get(&name);
        node.is_some_and(|node| self.nodes.iter().any(|wanted| wanted.matches(&node.labels)))
    }
}

type Sets = BTreeMap<SetId, AddressSet>;

impl Members {
    /// Removes the pod's addresses from the sets whose definitions match it, or adds them.
    pub(super) fn change(
        &mut self,
        world: &World,
        sets: &mut Sets,
        key: &PodKey,
        presence: Presence,
    ) {
        let Some(identity) = self.identities.of(key) else { return };
        let Some(pod) = world.pods().get(key) else { return };
        let owned = peer_addresses(world, pod);
        let affected = identity.terms.iter().flat_map(|term| &self.terms.get(*term).sets);
        let affected: BTreeSet<SetId> = affected.chain(&self.by_address).copied().collect();
        for id in affected {
            let (Some(live), Some(set)) = (self.sets.get(&id), sets.get_mut(&id)) else { continue };
            let contributions = self.contributions(live, pod, &owned);
            let touched = self.touched.entry(id).or_default();
            presence.apply(contributions, set, touched);
        }
    }

    /// Removes those of `addresses` that belong to nodes from the sets whose definitions select the
    /// nodes, or adds them.
    pub(super) fn change_nodes(
        &mut self,
        world: &World,
        sets: &mut Sets,
        addresses: &BTreeSet<IpAddr>,
        presence: Presence,
    ) {
        for id in &self.by_node {
            let (Some(live), Some(set)) = (self.sets.get(id), sets.get_mut(id)) else { continue };
            let held = addresses.iter().filter(|address| live.has_node(world, **address));
            let members = held.map(|address| Member::Address(*address));
            presence.apply(members, set, self.touched.entry(*id).or_default());
        }
    }

    /// The addresses of hostNetwork pods on a node; empty when no set has nodes in its definition.
    pub(super) fn addresses_on(&self, world: &World, node: &Str) -> BTreeSet<IpAddr> {
        if self.by_node.is_empty() {
            return BTreeSet::new();
        }
        let pods = world.pods().values();
        let there = pods.filter(|pod| pod.host_network && pod.node.as_ref() == Some(node));
        there.flat_map(|pod| &pod.addresses).copied().collect()
    }

    /// Updates the identity of a pod that was added, changed or removed. The pod must be retracted.
    pub(super) fn place(&mut self, world: &World, key: &PodKey) {
        let Some(pod) = world.pods().get(key).filter(|pod| pod.takes_part()) else {
            return self.identities.remove(key);
        };
        let namespace = world.namespaces().get(&key.namespace).map(|found| &found.labels);
        let terms = &self.terms;
        self.identities
            .place(key, &pod.labels, |labels| terms.matching(&key.namespace, namespace, labels));
    }

    /// Matches the identities of a namespace again after its labels changed.
    pub(super) fn rematch(&mut self, world: &World, sets: &mut Sets, namespace: &Str) {
        let labels = world.namespaces().get(namespace).map(|found| &found.labels);
        let ids: Vec<IdentityId> = self.identities.in_namespace(namespace).collect();
        for id in ids {
            let identity = self.identities.get(id);
            let terms = self.terms.matching(namespace, labels, &identity.labels);
            if terms == identity.terms {
                continue;
            }
            let pods = identity.pods.clone();
            for pod in &pods {
                self.change(world, sets, pod, Presence::Retract);
            }
            self.identities.get_mut(id).terms = terms;
            for pod in &pods {
                self.change(world, sets, pod, Presence::Assert);
            }
        }
    }

    /// Counts one more use of each set. Sets that did not exist are created and filled.
    pub(super) fn acquire<'d>(
        &mut self,
        world: &World,
        sets: &mut Sets,
        definitions: impl IntoIterator<Item = (SetId, &'d SetDefinition)>,
    ) {
        let (mut keys, mut terms, mut created) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (id, definition) in definitions {
            if let Some(set) = self.sets.get_mut(&id) {
                set.references += 1;
                continue;
            }
            let set = self.define(id, definition, &mut keys, &mut terms);
            sets.insert(id, AddressSet { kind: set.kind, members: BTreeSet::new() });
            self.sets.insert(id, set);
            self.created.insert(id);
            created.push(id);
        }
        // This comes before new peers are matched: identities must have all keys that peers
        // mention.
        self.identities.rekey(world, &keys);
        for term in terms {
            self.match_term(world, term);
        }
        for id in created {
            self.fill(world, sets, id);
        }
    }

    /// Counts one use less of each set. Unreferenced sets are removed.
    pub(super) fn release(
        &mut self,
        world: &World,
        sets: &mut Sets,
        ids: impl IntoIterator<Item = SetId>,
    ) {
        let mut keys = BTreeSet::new();
        for id in ids {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            set.references -= 1;
            if set.references > 0 {
                continue;
            }
            let Some(set) = self.sets.remove(&id) else { continue };
            for term in set.terms {
                if let Some(peer) = self.terms.release(term, id) {
                    self.identities.release_keys(&peer, &mut keys);
                    self.forget_term(world, term, &peer.namespaces);
                }
            }
            self.by_address.remove(&id);
            self.by_node.remove(&id);
            sets.remove(&id);
            if !self.created.remove(&id) {
                self.removed.insert(id);
            }
        }
        self.identities.rekey(world, &keys);
    }

    /// Returns what changed since the last call.
    pub(super) fn take_update(&mut self, sets: &Sets) -> Update {
        let mut update = Update {
            sets_created: std::mem::take(&mut self.created),
            sets_removed: std::mem::take(&mut self.removed),
            ..Update::default()
        };
        for (id, members) in self.touched.drain() {
            let Some(set) = sets.get(&id).filter(|_| !update.sets_created.contains(&id)) else {
                continue;
            };
            let mut delta = SetDelta::default();
            for (member, before) in members {
                match (before, set.members.contains(&member)) {
                    (Before::Absent, true) => delta.added.insert(member),
                    (Before::Present, false) => delta.removed.insert(member),
                    (Before::Absent, false) | (Before::Present, true) => continue,
                };
            }
            if delta != SetDelta::default() {
                update.sets_changed.insert(id, delta);
            }
        }
        update
    }

    fn define(
        &mut self,
        id: SetId,
        definition: &SetDefinition,
        keys: &mut BTreeSet<Str>,
        new_terms: &mut Vec<TermId>,
    ) -> LiveSet {
        let mut set = LiveSet {
            kind: definition.kind(),
            references: 1,
            terms: BTreeSet::new(),
            nodes: BTreeSet::new(),
            ports: Vec::new(),
        };
        let mut term = |peer| {
            let (term, is_new) = self.terms.acquire(peer, id);
            if is_new {
                self.identities.acquire_keys(peer, keys);
                new_terms.push(term);
            }
            set.terms.insert(term);
            term
        };
        match definition {
            SetDefinition::Peers { pods, nodes } => {
                for peer in pods {
                    term(peer);
                }
                if !nodes.is_empty() {
                    set.nodes.clone_from(nodes);
                    self.by_node.insert(id);
                }
            }
            SetDefinition::PodPorts(ports) => {
                for port in ports {
                    let wanted = match &port.pods {
                        PodMatch::Labels(peer) => Wanted::Term(term(peer)),
                        PodMatch::Addresses(cidrs) => {
                            self.by_address.insert(id);
                            Wanted::Addresses(cidrs.clone())
                        }
                    };
                    set.ports.push((wanted, port.protocol, port.port.clone()));
                }
            }
        }
        set
    }

    fn match_term(&mut self, world: &World, term: TermId) {
        let peer = self.terms.get(term).peer.clone();
        for namespace in namespaces(world, &self.identities, &peer.namespaces) {
            let labels = world.namespaces().get(&namespace).map(|found| &found.labels);
            let ids: Vec<IdentityId> = self.identities.in_namespace(&namespace).collect();
            for id in ids {
                let identity = self.identities.get_mut(id);
                if matches(&peer, &namespace, labels, &identity.labels) {
                    identity.terms.insert(term);
                }
            }
        }
    }

    fn forget_term(&mut self, world: &World, term: TermId, scope: &Namespaces) {
        for namespace in namespaces(world, &self.identities, scope) {
            let ids: Vec<IdentityId> = self.identities.in_namespace(&namespace).collect();
            for id in ids {
                self.identities.get_mut(id).terms.remove(&term);
            }
        }
    }

    fn fill(&self, world: &World, sets: &mut Sets, id: SetId) {
        let (Some(live), Some(set)) = (self.sets.get(&id), sets.get_mut(&id)) else { return };
        if !live.nodes.is_empty() {
            let nodes = world.nodes().values().flat_map(|node| &node.addresses);
            let host_pods = world.pods().values().filter(|pod| pod.host_network);
            let all = nodes.chain(host_pods.flat_map(|pod| &pod.addresses));
            let held = all.filter(|address| live.has_node(world, **address));
            set.members.extend(held.map(|address| Member::Address(*address)));
        }
        let by_address = self.by_address.contains(&id);
        let found: BTreeSet<Str> = if by_address {
            self.identities.namespaces().cloned().collect()
        } else {
            let scopes = live.terms.iter().map(|term| &self.terms.get(*term).peer.namespaces);
            let scopes: BTreeSet<&Namespaces> = scopes.collect();
            scopes.into_iter().flat_map(|s| namespaces(world, &self.identities, s)).collect()
        };
        let ids = found.iter().flat_map(|namespace| self.identities.in_namespace(namespace));
        for identity in ids.map(|id| self.identities.get(id)) {
            if !by_address && identity.terms.is_disjoint(&live.terms) {
                continue;
            }
            for pod in identity.pods.iter().filter_map(|key| world.pods().get(key)) {
                let owned = peer_addresses(world, pod);
                set.members.extend(self.contributions(live, pod, &owned));
            }
        }
    }

    /// The members of a set that come from a pod with these addresses.
    fn contributions(&self, set: &LiveSet, pod: &Pod, owned: &[IpAddr]) -> Vec<Member> {
        let Some(identity) = self.identities.of(&pod.key) else { return Vec::new() };
        let mut members = Vec::new();
        for &address in owned {
            if set.kind == SetKind::Addresses {
                members.push(Member::Address(address));
                continue;
            }
            for (wanted, protocol, port) in &set.ports {
                let counts = match wanted {
                    Wanted::Term(term) => identity.terms.contains(term),
                    Wanted::Addresses(cidrs) => cidrs.contains(address),
                };
                if !counts {
                    continue;
                }
                let mut add = |number| {
                    members.push(Member::AddressPort(address, *protocol, number));
                };
                match port {
                    PortRef::Number(number) => add(*number),
                    PortRef::Named(name) => pod
                        .ports
                        .iter()
                        .filter(|port| port.name == *name && port.protocol == *protocol)
                        .for_each(|port| add(port.number)),
                }
            }
        }
        members
    }
}

/// The addresses at which selectors match a pod.
fn peer_addresses(world: &World, pod: &Pod) -> Vec<IpAddr> {
    let is_peer = |address: &IpAddr| world.peer(*address).is_some_and(|peer| peer.key == pod.key);
    pod.addresses.iter().copied().filter(is_peer).collect()
}

/// The namespaces in which a peer can match.
fn namespaces(world: &World, identities: &Identities, scope: &Namespaces) -> Vec<Str> {
    match scope {
        Namespaces::Named(name) => vec![name.clone()],
        Namespaces::Own => Vec::new(),
        // `{}` also selects a namespace that is not known yet, when there are pods in it.
        Namespaces::Selected(selector) if selector.is_everything() => {
            identities.namespaces().cloned().collect()
        }
        Namespaces::Selected(selector) => world
            .namespaces()
            .iter()
            .filter(|(_, namespace)| selector.matches(&namespace.labels))
            .map(|(name, _)| name.clone())
            .collect(),
    }
}
