//! How new sets get their members: all at once, or, if they may have many, a slice in each flush.

use super::super::identities::IdentityId;
use super::super::live_set::Presence;
use super::{Members, Sets, peer_addresses};
use crate::compiled::Member;
use crate::id::SetId;
use crate::world::World;

/// What a set lacks.
#[derive(Debug)]
pub(super) struct Left {
    identities: Vec<IdentityId>,
    /// How many pods of the last identity were not visited; `None`: all.
    pods: Option<usize>,
}

impl Left {
    pub(super) fn new(identities: Vec<IdentityId>) -> Self {
        Self { identities, pods: None }
    }
}

impl Members {
    /// Adds about `limit` members to sets that are filled in slices: one half of them to those that
    /// lack least, so that a small set does not wait for a large one, and one half to the others, so
    /// that no set waits for ever.
    pub(in super::super) fn fill(&mut self, world: &World, sets: &mut Sets, limit: usize) {
        let mut order: Vec<(usize, SetId)> =
            self.filling.iter().map(|(id, left)| (left.identities.len(), *id)).collect();
        order.sort_unstable();
        let ids: Vec<SetId> = order.into_iter().map(|(_, id)| id).collect();
        let smallest_first = self.fill_each(world, sets, ids.iter(), limit.div_ceil(2));
        self.fill_each(world, sets, ids.iter().rev(), limit - smallest_first.min(limit));
    }

    /// Adds at most about `limit` members. Returns how many.
    fn fill_each<'i>(
        &mut self,
        world: &World,
        sets: &mut Sets,
        ids: impl Iterator<Item = &'i SetId>,
        limit: usize,
    ) -> usize {
        let mut added = 0;
        for id in ids {
            if added >= limit {
                break;
            }
            added += self.fill_one(world, sets, *id, limit - added);
        }
        added
    }

    /// Whether members are still to be added to a set.
    pub(in super::super) fn is_filling(&self, id: &SetId) -> bool {
        self.filling.contains_key(id)
    }

    /// Adds the members of a new set that come from nodes.
    pub(super) fn add_nodes(&self, world: &World, sets: &mut Sets, id: SetId) {
        let (Some(live), Some(set)) = (self.sets.get(&id), sets.get_mut(&id)) else { return };
        if live.has_nodes() {
            let nodes = world.nodes().values().flat_map(|node| &node.addresses);
            let host_pods = world.pods().values().filter(|pod| pod.host_network);
            let all = nodes.chain(host_pods.flat_map(|pod| &pod.addresses));
            let held = all.filter(|address| live.has_node(world, **address));
            set.members.extend(held.map(|address| Member::Address(*address)));
        }
    }

    /// The identities whose pods can be members of a set.
    pub(super) fn identities_for(&self, world: &World, id: SetId) -> Vec<IdentityId> {
        let Some(live) = self.sets.get(&id) else { return Vec::new() };
        if self.by_address.contains(&id) {
            let all = self.identities.namespaces();
            return all.flat_map(|namespace| self.identities.in_namespace(namespace)).collect();
        }
        let scopes = live.terms().map(|term| self.terms.get(term).peer.namespaces.clone());
        let mut ids = self.identities_of(world, &scopes.collect());
        ids.retain(|id| live.matches(self.identities.get(*id)));
        ids
    }

    /// Adds the next pods to a set, about as many as there may be members more. Returns how many were
    /// visited, or added.
    ///
    /// An identity may have got other pods and labels meanwhile, or its number another identity: its
    /// pods are members if they match now. A pod that is added or moved is put behind those that were not
    /// visited, or it was visited already; and pods that came since are members already.
    pub(super) fn fill_one(
        &mut self,
        world: &World,
        sets: &mut Sets,
        id: SetId,
        limit: usize,
    ) -> usize {
        let (Some(live), Some(set)) = (self.sets.get(&id), sets.get_mut(&id)) else { return 0 };
        let Some(left) = self.filling.get_mut(&id) else { return 0 };
        // The difference to a set that is new does not matter.
        let is_new = self.created.contains(&id);
        let mut done = 0;
        while done < limit
            && let Some(identity) = left.identities.last()
        {
            let found = self.identities.find(*identity);
            let pods = found.map(|identity| identity.pods.as_slice()).unwrap_or_default();
            let next = left.pods.unwrap_or(pods.len()).min(pods.len()).checked_sub(1);
            let (Some(identity), Some(next)) = (found, next) else {
                left.identities.pop();
                left.pods = None;
                continue;
            };
            left.pods = Some(next);
            let pod = pods.get(next).and_then(|key| world.pods().get(key));
            let members = pod.map(|pod| live.members(identity, pod, &peer_addresses(world, pod)));
            let members = members.unwrap_or_default();
            done += members.len().max(1);
            if is_new {
                set.members.extend(members);
            } else {
                let touched = self.touched.entry(id).or_default();
                Presence::Assert.apply(members, set, touched);
            }
        }
        if left.identities.is_empty() {
            self.filling.remove(&id);
        }
        done
    }
}
