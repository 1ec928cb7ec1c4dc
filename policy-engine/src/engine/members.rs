//! The members of all live sets, updated by retracting and asserting pods.
//!
//! A change to a pod takes three steps: retract the old pod, and all pods that claim the same
//! address; change the world; assert them again as they are now. A member that was retracted and
//! asserted again is not in the delta.

mod filling;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use self::filling::Left;
use super::identities::{Identities, IdentityId};
use super::live_set::{Before, LiveSet, Presence};
use super::terms::{TermId, Terms, matches};
use crate::compiled::{AddressSet, Member, SetDelta, Update};
use crate::id::SetId;
use crate::labels::Str;
use crate::model::{Pod, PodKey};
use crate::policy::Namespaces;
use crate::ruleset::SetDefinition;
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
    /// Sets that are filled, with the pods that may not be members yet.
    filling: BTreeMap<SetId, Left>,
    /// How many pods changed the peers that match them, since the start.
    changes: usize,
}

type Sets = BTreeMap<SetId, AddressSet>;

/// So many peers are compared with pods one by one. For more, an index of them is made first, so that
/// a pod is compared only with those that require one of its labels.
const FEW: usize = 8;

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
        let affected = identity.terms.iter().flat_map(|term| &self.terms.get(*term).sets);
        let affected: BTreeSet<SetId> = affected.chain(&self.by_address).copied().collect();
        self.change_in(world, sets, &affected, key, presence);
    }

    /// [`Members::change`] for some sets only.
    fn change_in(
        &mut self,
        world: &World,
        sets: &mut Sets,
        affected: &BTreeSet<SetId>,
        key: &PodKey,
        presence: Presence,
    ) {
        let Some(identity) = self.identities.of(key) else { return };
        let Some(pod) = world.pods().get(key) else { return };
        let owned = peer_addresses(world, pod);
        for id in affected {
            let (Some(live), Some(set)) = (self.sets.get(id), sets.get_mut(id)) else { continue };
            let members = live.members(identity, pod, &owned);
            presence.apply(members, set, self.touched.entry(*id).or_default());
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
        let matched = |identities: &Identities| identities.of(key).map(|found| found.terms.clone());
        let before = matched(&self.identities);
        match world.pods().get(key).filter(|pod| pod.takes_part()) {
            None => self.identities.remove(key),
            Some(pod) => {
                let namespace = world.namespaces().get(&key.namespace).map(|found| &found.labels);
                let terms = &self.terms;
                self.identities.place(key, &pod.labels, |labels| {
                    terms.matching(&key.namespace, namespace, labels)
                });
            }
        }
        let after = matched(&self.identities);
        if before != after {
            self.changes += 1;
            self.terms.count(before.as_deref().unwrap_or_default(), -1);
            self.terms.count(after.as_deref().unwrap_or_default(), 1);
        }
    }

    /// Matches the identities of a namespace again after its labels changed.
    pub(super) fn rematch(&mut self, world: &World, sets: &mut Sets, namespace: &Str) {
        let labels = world.namespaces().get(namespace).map(|found| &found.labels);
        let ids: Vec<IdentityId> = self.identities.in_namespace(namespace).collect();
        for id in ids {
            let identity = self.identities.get(id);
            let terms = self.terms.matching(namespace, labels, &identity.labels);
            let in_one = |term: &&TermId| identity.has(**term) != terms.binary_search(term).is_ok();
            let changed = identity.terms.iter().chain(&terms).filter(in_one);
            // Only the sets with a peer that matches now and did not, or the reverse.
            let affected: BTreeSet<SetId> =
                changed.flat_map(|term| &self.terms.get(*term).sets).copied().collect();
            if affected.is_empty() {
                continue;
            }
            let pods = identity.pods.clone();
            for pod in &pods {
                self.change_in(world, sets, &affected, pod, Presence::Retract);
            }
            let count = isize::try_from(pods.len()).unwrap_or(isize::MAX);
            self.changes += pods.len();
            self.terms.count(&terms, count);
            let before = std::mem::replace(&mut self.identities.get_mut(id).terms, terms);
            self.terms.count(&before, -count);
            for pod in &pods {
                self.change_in(world, sets, &affected, pod, Presence::Assert);
            }
        }
    }

    /// Counts one more reference to each set. The peers of sets that did not exist are matched; the
    /// sets get no members yet.
    pub(super) fn define<'d>(
        &mut self,
        world: &World,
        definitions: impl IntoIterator<Item = (SetId, &'d SetDefinition)>,
    ) {
        let mut terms = Vec::new();
        for (id, definition) in definitions {
            let set = match self.sets.entry(id) {
                Entry::Occupied(set) => set.into_mut(),
                Entry::Vacant(_) => {
                    let set = self.live_set(id, definition, &mut terms);
                    self.sets.entry(id).or_insert(set)
                }
            };
            set.references += 1;
        }
        self.match_terms(world, &terms);
    }

    /// Counts one reference less to each set. Sets without references are removed.
    pub(super) fn forget(&mut self, world: &World, ids: impl IntoIterator<Item = SetId>) {
        let (mut forgotten, mut scopes) = (Vec::new(), BTreeSet::new());
        for id in ids {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            set.references -= 1;
            if set.references > 0 {
                continue;
            }
            let Some(set) = self.sets.remove(&id) else { continue };
            for term in set.terms() {
                if let Some(peer) = self.terms.release(term, id) {
                    forgotten.push(term);
                    scopes.insert(peer.namespaces.clone());
                }
            }
            self.by_address.remove(&id);
            self.by_node.remove(&id);
        }
        // Before the numbers are used again.
        forgotten.sort_unstable();
        for id in self.identities_of(world, &scopes) {
            self.identities.get_mut(id).remove(&forgotten);
        }
    }

    /// Counts one more use of each defined set. Sets that were not used get their members; if they
    /// may have more than `limit` together, in slices: see `filling`. Returns these.
    pub(super) fn acquire(
        &mut self,
        world: &World,
        sets: &mut Sets,
        ids: impl IntoIterator<Item = SetId>,
        limit: Option<usize>,
    ) -> Vec<SetId> {
        let mut new = Vec::new();
        for id in ids {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            set.uses += 1;
            if set.uses == 1 {
                sets.insert(id, AddressSet { kind: set.kind, members: BTreeSet::new() });
                self.created.insert(id);
                new.push(id);
            }
        }
        for id in &new {
            self.add_nodes(world, sets, *id);
            self.filling.insert(*id, Left::new(self.identities_for(world, *id)));
        }
        let by_address = |id: &SetId| self.by_address.contains(id).then(|| world.pods().len());
        let most = |id: &SetId| self.weight(id) + by_address(id).unwrap_or_default();
        if limit.is_some_and(|limit| new.iter().map(most).sum::<usize>() > limit) {
            return new;
        }
        for id in &new {
            self.fill_one(world, sets, *id, usize::MAX);
        }
        Vec::new()
    }

    /// Counts one use less of each set. Unused sets are removed.
    pub(super) fn release(&mut self, sets: &mut Sets, ids: impl IntoIterator<Item = SetId>) {
        for id in ids {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            set.uses -= 1;
            if set.uses > 0 {
                continue;
            }
            sets.remove(&id);
            self.filling.remove(&id);
            if !self.created.remove(&id) {
                self.removed.insert(id);
            }
        }
    }

    /// The definition of a set in words; `None` when there is no such set.
    pub(super) fn words(&self, id: &SetId) -> Option<Vec<String>> {
        Some(self.sets.get(id)?.words(|term| &self.terms.get(term).peer))
    }

    /// How many pods changed the peers that match them, since the start.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    /// At most how many members a set has: the pods that each peer matches, times its ports. Ports
    /// by name are left out, since a pod has few of them.
    pub(super) fn weight(&self, id: &SetId) -> usize {
        let terms = self.sets.get(id).into_iter().flat_map(LiveSet::weights);
        terms.map(|(term, ports)| self.terms.get(term).pods * ports).sum()
    }

    /// At most by how much one change to a pod changes the weight of a set.
    pub(super) fn step(&self, id: &SetId) -> usize {
        let terms = self.sets.get(id).into_iter().flat_map(LiveSet::weights);
        terms.map(|(_, ports)| ports).sum()
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

    fn live_set(
        &mut self,
        id: SetId,
        definition: &SetDefinition,
        new_terms: &mut Vec<TermId>,
    ) -> LiveSet {
        let set = LiveSet::new(definition, |peer| {
            let (term, is_new) = self.terms.acquire(peer, id);
            if is_new {
                new_terms.push(term);
            }
            term
        });
        if set.has_nodes() {
            self.by_node.insert(id);
        }
        if set.has_blocks() {
            self.by_address.insert(id);
        }
        set
    }

    /// Matches new peers. All pods are visited once, however many peers there are.
    fn match_terms(&mut self, world: &World, new: &[TermId]) {
        let scopes = new.iter().map(|term| self.terms.get(*term).peer.namespaces.clone());
        let ids = self.identities_of(world, &scopes.collect());
        let index = (new.len() > FEW).then(|| self.terms.index(new));
        for id in ids {
            let identity = self.identities.get_mut(id);
            let namespace = &identity.namespace;
            let labels = world.namespaces().get(namespace).map(|found| &found.labels);
            let peer = |term: &TermId| &self.terms.get(*term).peer;
            let found = if let Some(index) = &index {
                self.terms.matching_of(index, namespace, labels, &identity.labels)
            } else {
                let all = new.iter().copied();
                all.filter(|term| matches(peer(term), namespace, labels, &identity.labels))
                    .collect()
            };
            if found.is_empty() {
                continue;
            }
            identity.add(&found);
            let pods = isize::try_from(identity.pods.len()).unwrap_or(isize::MAX);
            self.terms.count(&found, pods);
        }
    }

    /// The identities in all namespaces in which peers of these scopes can match.
    fn identities_of(&self, world: &World, scopes: &BTreeSet<Namespaces>) -> Vec<IdentityId> {
        let is_named = |scope: &Namespaces| matches!(scope, Namespaces::Named(_));
        let found: BTreeSet<Str> = if scopes.len() <= FEW || scopes.iter().all(is_named) {
            scopes.iter().flat_map(|scope| namespaces(world, &self.identities, scope)).collect()
        } else {
            self.identities.namespaces().cloned().collect()
        };
        found.iter().flat_map(|namespace| self.identities.in_namespace(namespace)).collect()
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
