//! Identities: namespace and labels, reduced to the keys that some live peer mentions.
//!
//! Peers match identities, not pods: a thousand replicas are matched once. A peer is live when some
//! set has it in its definition. Identities split when the first live peer mentions a key, and join
//! when the last one is removed; neither changes what they match.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::slots::Slots;
use super::terms::TermId;
use crate::labels::{Labels, Str};
use crate::model::PodKey;
use crate::policy::PodPeer;
use crate::world::World;

/// The number of a live identity. It is used again after the identity was removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct IdentityId(usize);

/// All pods of a namespace that no live peer tells apart.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) namespace: Str,
    pub(super) labels: Labels,
    pub(super) pods: BTreeSet<PodKey>,
    /// The live peers that match these pods.
    pub(super) terms: BTreeSet<TermId>,
}

/// All identities, and the identity of each pod.
#[derive(Default, Debug)]
pub(super) struct Identities {
    slots: Slots<Identity>,
    by_content: HashMap<(Str, Labels), IdentityId>,
    by_namespace: HashMap<Str, BTreeSet<IdentityId>>,
    of_pod: HashMap<PodKey, IdentityId>,
    /// How many times live peers mention each key.
    keys: BTreeMap<Str, usize>,
}

impl Identities {
    pub(super) fn get(&self, id: IdentityId) -> &Identity {
        self.slots.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: IdentityId) -> &mut Identity {
        self.slots.get_mut(id.0)
    }

    pub(super) fn of(&self, pod: &PodKey) -> Option<&Identity> {
        self.of_pod.get(pod).map(|id| self.get(*id))
    }

    /// The namespaces that have pods.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Str> {
        self.by_namespace.keys()
    }

    pub(super) fn in_namespace(&self, namespace: &Str) -> impl Iterator<Item = IdentityId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Moves a pod to the identity of its labels. `terms` returns the peers that match a new
    /// identity.
    pub(super) fn place(
        &mut self,
        pod: &PodKey,
        labels: &Labels,
        terms: impl FnOnce(&Labels) -> BTreeSet<TermId>,
    ) {
        let cut = labels.filtered(|key| self.keys.contains_key(key));
        let content = (pod.namespace.clone(), cut);
        let id = match self.by_content.get(&content) {
            Some(id) => *id,
            None => self.create(content, terms),
        };
        if self.of_pod.get(pod) != Some(&id) {
            self.remove(pod);
            self.get_mut(id).pods.insert(pod.clone());
            self.of_pod.insert(pod.clone(), id);
        }
    }

    pub(super) fn remove(&mut self, pod: &PodKey) {
        let Some(id) = self.of_pod.remove(pod) else { return };
        let identity = self.get_mut(id);
        identity.pods.remove(pod);
        if !identity.pods.is_empty() {
            return;
        }
        let Identity { namespace, labels, .. } = self.slots.remove(id.0);
        if let Some(same) = self.by_namespace.get_mut(&namespace) {
            same.remove(&id);
            if same.is_empty() {
                self.by_namespace.remove(&namespace);
            }
        }
        self.by_content.remove(&(namespace, labels));
    }

    /// Counts the keys that a new peer mentions, and adds those that no other peer mentions to
    /// `changed`.
    pub(super) fn acquire_keys(&mut self, peer: &PodPeer, changed: &mut BTreeSet<Str>) {
        for requirement in peer.pods.requirements() {
            let count = self.keys.entry(requirement.key.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                changed.insert(requirement.key.clone());
            }
        }
    }

    /// Reverses `acquire_keys` for a peer that was removed.
    pub(super) fn release_keys(&mut self, peer: &PodPeer, changed: &mut BTreeSet<Str>) {
        for requirement in peer.pods.requirements() {
            if let Some(count) = self.keys.get_mut(&requirement.key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(&requirement.key);
                    changed.insert(requirement.key.clone());
                }
            }
        }
    }

    /// Moves the pods that have a label with one of the `changed` keys. The same peers match their
    /// new identities: no peer that was matched before depends on these keys.
    pub(super) fn rekey(&mut self, world: &World, changed: &BTreeSet<Str>) {
        if changed.is_empty() {
            return;
        }
        for (key, pod) in world.pods() {
            if changed.iter().any(|label| pod.labels.get(label).is_some())
                && let Some(terms) = self.of(key).map(|identity| identity.terms.clone())
            {
                self.place(key, &pod.labels, |_| terms);
            }
        }
    }

    fn create(
        &mut self,
        content: (Str, Labels),
        terms: impl FnOnce(&Labels) -> BTreeSet<TermId>,
    ) -> IdentityId {
        let (namespace, labels) = content.clone();
        let terms = terms(&labels);
        let identity =
            Identity { namespace: namespace.clone(), labels, pods: BTreeSet::new(), terms };
        let id = IdentityId(self.slots.insert(identity));
        self.by_content.insert(content, id);
        self.by_namespace.entry(namespace).or_default().insert(id);
        id
    }
}
