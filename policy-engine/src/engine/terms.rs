//! The pod peers in the definitions of live sets, indexed by the labels that a match must have.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::slots::Slots;
use crate::id::SetId;
use crate::labels::{Labels, Str};
use crate::policy::{Namespaces, PodPeer, Required, RequiredNamespace};
use crate::work::{self, Work};

/// The number of a live peer. It is used again after the peer was removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct TermId(u32);

/// A peer in the definition of at least one live set.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) peer: Arc<PodPeer>,
    pub(super) sets: BTreeSet<SetId>,
    /// How many pods it matches.
    pub(super) pods: usize,
}

/// All live peers.
#[derive(Default, Debug)]
pub(super) struct Terms {
    slots: Slots<Term>,
    by_content: HashMap<Arc<PodPeer>, TermId>,
    by_hint: ByHint,
}

/// Peers by what a match must have.
pub(super) type ByHint = HashMap<Required, BTreeSet<TermId>>;

impl Terms {
    pub(super) fn get(&self, id: TermId) -> &Term {
        self.slots.get(id.0)
    }

    /// Counts `pods` more pods, or less, that these peers match.
    pub(super) fn count(&mut self, ids: &[TermId], pods: isize) {
        for id in ids {
            let term = self.slots.get_mut(id.0);
            term.pods = term.pods.saturating_add_signed(pods);
        }
    }

    /// Adds `set` to the users of `peer`. Returns whether the peer is new.
    pub(super) fn acquire(&mut self, peer: &Arc<PodPeer>, set: SetId) -> (TermId, bool) {
        if let Some(&id) = self.by_content.get(peer) {
            self.slots.get_mut(id.0).sets.insert(set);
            return (id, false);
        }
        let slot = self.slots.insert(Term { peer: peer.clone(), sets: [set].into(), pods: 0 });
        let id = TermId(slot);
        self.by_content.insert(peer.clone(), id);
        self.by_hint.entry(peer.required()).or_default().insert(id);
        (id, true)
    }

    /// Removes `set` from the users of a peer. Returns the peer when that was the last user.
    pub(super) fn release(&mut self, id: TermId, set: SetId) -> Option<Arc<PodPeer>> {
        let term = self.slots.get_mut(id.0);
        term.sets.remove(&set);
        if !term.sets.is_empty() {
            return None;
        }
        let peer = self.slots.remove(id.0).peer;
        self.by_content.remove(&peer);
        let hint = peer.required();
        if let Some(same) = self.by_hint.get_mut(&hint) {
            same.remove(&id);
            if same.is_empty() {
                self.by_hint.remove(&hint);
            }
        }
        Some(peer)
    }

    /// Some of the peers, by what a match must have.
    pub(super) fn index(&self, ids: &[TermId]) -> ByHint {
        let mut index = ByHint::new();
        for id in ids {
            index.entry(self.get(*id).peer.required()).or_default().insert(*id);
        }
        index
    }

    /// All peers that match pods with `labels` in a namespace, ascending. A namespace that is not known yet is
    /// matched only by its name and by `{}`.
    pub(super) fn matching(
        &self,
        namespace: &Str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
    ) -> Vec<TermId> {
        self.matching_of(&self.by_hint, namespace, namespace_labels, labels)
    }

    /// [`Terms::matching`] for the peers of an index.
    pub(super) fn matching_of(
        &self,
        index: &ByHint,
        namespace: &Str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
    ) -> Vec<TermId> {
        let mut namespaces =
            vec![RequiredNamespace::Named(namespace.clone()), RequiredNamespace::Unknown];
        let labelled = namespace_labels.into_iter().flat_map(Labels::iter);
        namespaces.extend(
            labelled.map(|(key, value)| RequiredNamespace::Labelled(key.clone(), value.clone())),
        );
        let mut found = Vec::new();
        for namespace_hint in namespaces {
            let pods = labels.iter().map(|(key, value)| Some((key.clone(), value.clone())));
            for pod_hint in pods.chain([None]) {
                let hinted = index.get(&(namespace_hint.clone(), pod_hint));
                found.extend(hinted.into_iter().flatten().copied().filter(|id| {
                    matches(&self.get(*id).peer, namespace, namespace_labels, labels)
                }));
            }
        }
        // Each peer has one hint, so none is found twice.
        found.sort_unstable();
        found
    }
}

/// Whether a peer matches pods with `labels` in a namespace.
pub(super) fn matches(
    peer: &PodPeer,
    namespace: &Str,
    namespace_labels: Option<&Labels>,
    labels: &Labels,
) -> bool {
    work::done(Work::Compare, 1);
    let in_namespace = match &peer.namespaces {
        Namespaces::Named(name) => name == namespace,
        Namespaces::Selected(selector) => {
            selector.is_everything()
                || namespace_labels.is_some_and(|labels| selector.matches(labels))
        }
        Namespaces::Own => false,
    };
    in_namespace && peer.pods.matches(labels)
}
