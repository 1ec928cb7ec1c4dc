//! Identities: all pods of a namespace with the same labels.
//!
//! Peers match identities, not pods: a thousand replicas are matched once.

use std::collections::{BTreeSet, HashMap};

use super::slots::Slots;
use super::terms::TermId;
use crate::labels::{Labels, Str};
use crate::model::PodKey;

/// The number of a live identity. It is used again after the identity was removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct IdentityId(u32);

/// All pods of a namespace with the same labels.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) namespace: Str,
    pub(super) labels: Labels,
    /// The pods, in no order.
    pub(super) pods: Vec<PodKey>,
    /// The live peers that match these pods, ascending.
    pub(super) terms: Vec<TermId>,
}

impl Identity {
    /// Whether a live peer matches these pods.
    pub(super) fn has(&self, term: TermId) -> bool {
        self.terms.binary_search(&term).is_ok()
    }

    /// Adds peers that match these pods.
    pub(super) fn add(&mut self, terms: &[TermId]) {
        self.terms.extend_from_slice(terms);
        // The stable sort takes linear time for two sorted runs.
        self.terms.sort();
        self.terms.dedup();
    }

    /// Removes peers, which are ascending.
    pub(super) fn remove(&mut self, terms: &[TermId]) {
        self.terms.retain(|term| terms.binary_search(term).is_err());
    }
}

/// The place of a pod.
#[derive(Clone, Copy, Debug)]
struct Place {
    identity: IdentityId,
    /// The index in [`Identity::pods`].
    index: u32,
}

/// All identities, and the identity of each pod.
#[derive(Default, Debug)]
pub(super) struct Identities {
    slots: Slots<Identity>,
    by_content: HashMap<(Str, Labels), IdentityId>,
    by_namespace: HashMap<Str, BTreeSet<IdentityId>>,
    of_pod: HashMap<PodKey, Place>,
}

impl Identities {
    pub(super) fn get(&self, id: IdentityId) -> &Identity {
        self.slots.get(id.0)
    }

    /// The identity that has this number now, which may be another one than before.
    pub(super) fn find(&self, id: IdentityId) -> Option<&Identity> {
        self.slots.find(id.0)
    }

    pub(super) fn get_mut(&mut self, id: IdentityId) -> &mut Identity {
        self.slots.get_mut(id.0)
    }

    pub(super) fn of(&self, pod: &PodKey) -> Option<&Identity> {
        self.of_pod.get(pod).map(|place| self.get(place.identity))
    }

    /// The namespaces that have pods.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Str> {
        self.by_namespace.keys()
    }

    pub(super) fn in_namespace(&self, namespace: &Str) -> impl Iterator<Item = IdentityId> {
        self.by_namespace.get(namespace).into_iter().flatten().copied()
    }

    /// Moves a pod to the identity of its labels. `terms` returns the peers that match a new
    /// identity, ascending.
    pub(super) fn place(
        &mut self,
        pod: &PodKey,
        labels: &Labels,
        terms: impl FnOnce(&Labels) -> Vec<TermId>,
    ) {
        let content = (pod.namespace.clone(), labels.clone());
        let id = match self.by_content.get(&content) {
            Some(id) => *id,
            None => self.create(content, terms),
        };
        if self.of_pod.get(pod).is_some_and(|place| place.identity == id) {
            return;
        }
        self.remove(pod);
        let pods = &mut self.slots.get_mut(id.0).pods;
        let index = u32::try_from(pods.len()).expect("fewer than 2^32 pods are alive");
        self.of_pod.insert(pod.clone(), Place { identity: id, index });
        pods.push(pod.clone());
    }

    pub(super) fn remove(&mut self, pod: &PodKey) {
        let Some(Place { identity: id, index }) = self.of_pod.remove(pod) else { return };
        let pods = &mut self.slots.get_mut(id.0).pods;
        pods.swap_remove(index as usize);
        if let Some(place) = pods.get(index as usize).and_then(|moved| self.of_pod.get_mut(moved)) {
            place.index = index;
        }
        if !pods.is_empty() {
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

    fn create(
        &mut self,
        content: (Str, Labels),
        terms: impl FnOnce(&Labels) -> Vec<TermId>,
    ) -> IdentityId {
        let (namespace, labels) = content.clone();
        let terms = terms(&labels);
        let identity = Identity { namespace: namespace.clone(), labels, pods: Vec::new(), terms };
        let id = IdentityId(self.slots.insert(identity));
        self.by_content.insert(content, id);
        self.by_namespace.entry(namespace).or_default().insert(id);
        id
    }
}
