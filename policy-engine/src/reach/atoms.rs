//! The peers that rules mention, each numbered once, and which of them match a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::labels::{Labels, Str};
use crate::model::NamedPort;
use crate::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer};
use crate::port::Protocol;
use crate::selector::Selector;
use crate::world::World;

/// The number of a [`PodPeer`], node selector or [`IpBlock`] in [`Atoms`].
pub(super) type AtomId = usize;

/// A peer that a rule mentions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Atom {
    /// Every address and every pod.
    Any,
    /// Pods by labels.
    Pods(AtomId),
    /// Nodes by labels.
    Nodes(AtomId),
    /// Addresses.
    Block(AtomId),
}

/// All peers that rules mention, each once.
#[derive(Default, Debug)]
pub(super) struct Atoms {
    pods: Interned<PodPeer>,
    nodes: Interned<Selector>,
    blocks: Interned<IpBlock>,
    /// The port names that egress rules mention.
    names: BTreeSet<(Protocol, Str)>,
}

/// Values by number, and numbers by value.
#[derive(Debug)]
pub(super) struct Interned<T> {
    by_value: BTreeMap<T, usize>,
    values: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { by_value: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Ord + Clone> Interned<T> {
    /// The number of a value: a new one when the value has none yet.
    pub(super) fn number(&mut self, value: &T) -> usize {
        if let Some(number) = self.by_value.get(value) {
            return *number;
        }
        self.values.push(value.clone());
        self.by_value.insert(value.clone(), self.values.len() - 1);
        self.values.len() - 1
    }

    /// The value of a number that [`Interned::number`] returned.
    pub(super) fn get(&self, number: usize) -> &T {
        self.values.get(number).expect("the number comes from this table")
    }

    /// All values by number.
    pub(super) fn into_values(self) -> Vec<T> {
        self.values
    }
}

impl Atoms {
    /// Calls `visit` for each of `peers` that can match something.
    pub(super) fn each(&mut self, peers: &Peers, mut visit: impl FnMut(Atom)) {
        let items = match peers {
            Peers::Any => return visit(Atom::Any),
            Peers::Listed(items) => items,
        };
        for item in items {
            match item {
                Peer::Pods(peer) => visit(Atom::Pods(self.pods.number(peer))),
                Peer::Nodes(selector) => visit(Atom::Nodes(self.nodes.number(selector))),
                Peer::Block(block) => visit(Atom::Block(self.blocks.number(block))),
                Peer::Invalid => {}
            }
        }
    }

    /// Records that an egress rule mentions these port names.
    pub(super) fn mention(&mut self, names: &BTreeSet<(Protocol, Str)>) {
        self.names.extend(names.iter().cloned());
    }

    /// Those of a pod's named ports that some egress rule mentions.
    pub(super) fn mentioned(&self, ports: &[NamedPort]) -> Vec<NamedPort> {
        let known = |port: &&NamedPort| self.names.contains(&(port.protocol, port.name.clone()));
        ports.iter().filter(known).cloned().collect()
    }

    /// A block by number.
    pub(super) fn block(&self, id: AtomId) -> &IpBlock {
        self.blocks.get(id)
    }

    /// A selector of nodes by number.
    pub(super) fn nodes(&self, id: AtomId) -> &Selector {
        self.nodes.get(id)
    }

    /// The blocks that contain `address`, ascending. No block, not even `0.0.0.0/0`, contains a pod
    /// without an address: a workload that is not running yet.
    pub(super) fn blocks_with(&self, address: Option<IpAddr>) -> Vec<AtomId> {
        let Some(address) = address else { return Vec::new() };
        let numbered = self.blocks.values.iter().enumerate();
        numbered.filter(|(_, block)| block.contains(address)).map(|(id, _)| id).collect()
    }
}

/// Finds the pod peers that match a pod. Equal labels in one namespace are matched once.
pub(super) struct Matcher<'a> {
    world: &'a World,
    atoms: &'a Atoms,
    named: BTreeMap<&'a Str, Vec<AtomId>>,
    selected: Vec<AtomId>,
    /// The keys that pod selectors mention; only labels with these keys are looked at.
    keys: BTreeSet<&'a Str>,
    found: BTreeMap<(Str, Labels), Vec<AtomId>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(world: &'a World, atoms: &'a Atoms) -> Self {
        let mut named: BTreeMap<&Str, Vec<AtomId>> = BTreeMap::new();
        let (mut selected, mut keys) = (Vec::new(), BTreeSet::new());
        for (id, peer) in atoms.pods.values.iter().enumerate() {
            keys.extend(peer.pods.requirements().map(|requirement| &requirement.key));
            match &peer.namespaces {
                Namespaces::Named(name) => named.entry(name).or_default().push(id),
                Namespaces::Selected(_) => selected.push(id),
                // `Rule::in_namespace` has replaced it.
                Namespaces::Own => {}
            }
        }
        Self { world, atoms, named, selected, keys, found: BTreeMap::new() }
    }

    /// The peers that match pods of `namespace` with these labels, ascending.
    pub(super) fn matching(&mut self, namespace: &Str, labels: &Labels) -> Vec<AtomId> {
        let cut = labels.filtered(|key| self.keys.contains(key));
        let key = (namespace.clone(), cut);
        if let Some(found) = self.found.get(&key) {
            return found.clone();
        }
        let peers = &self.atoms.pods;
        let of_pods = |id: &AtomId| peers.get(*id).pods.matches(labels);
        let known = self.world.namespaces().get(namespace).map(|found| &found.labels);
        let selects = |id: &AtomId| match &peers.get(*id).namespaces {
            // `{}` selects every namespace, also one that is not known yet.
            Namespaces::Selected(selector) => {
                selector.is_everything() || known.is_some_and(|l| selector.matches(l))
            }
            Namespaces::Named(_) | Namespaces::Own => false,
        };
        let named = self.named.get(namespace).into_iter().flatten().filter(|id| of_pods(id));
        let selected = self.selected.iter().filter(|id| of_pods(id) && selects(id));
        let mut matching: Vec<AtomId> = named.chain(selected).copied().collect();
        matching.sort_unstable();
        self.found.insert(key, matching.clone());
        matching
    }
}
