//! The peers that rules mention, each once by number, and which of them match a pod.

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

/// One kind of peer that a rule matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Atom {
    /// Every address, and every pod.
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
    /// Names of ports that egress rules ask their destinations for.
    names: BTreeSet<(Protocol, Str)>,
}

/// Values by number, and numbers by value.
#[derive(Debug)]
pub(super) struct Interned<T> {
    by_value: BTreeMap<T, usize>,
    pub(super) values: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { by_value: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Ord + Clone> Interned<T> {
    pub(super) fn number(&mut self, value: &T) -> usize {
        if let Some(number) = self.by_value.get(value) {
            return *number;
        }
        self.values.push(value.clone());
        self.by_value.insert(value.clone(), self.values.len() - 1);
        self.values.len() - 1
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

    /// Notes that an egress rule asks its destinations for these names.
    pub(super) fn ask(&mut self, names: &BTreeSet<(Protocol, Str)>) {
        self.names.extend(names.iter().cloned());
    }

    /// The named ports that some egress rule asks for.
    pub(super) fn asked_for(&self, ports: &[NamedPort]) -> Vec<NamedPort> {
        let asked = |port: &&NamedPort| self.names.contains(&(port.protocol, port.name.clone()));
        ports.iter().filter(asked).cloned().collect()
    }

    /// A block by number.
    pub(super) fn block(&self, id: AtomId) -> Option<&IpBlock> {
        self.blocks.values.get(id)
    }

    /// A selector of nodes by number.
    pub(super) fn nodes(&self, id: AtomId) -> Option<&Selector> {
        self.nodes.values.get(id)
    }

    /// The blocks that hold `address`, ascending. None holds a pod without one, not even
    /// `0.0.0.0/0`: a workload that is not running yet.
    pub(super) fn blocks_with(&self, address: Option<IpAddr>) -> Vec<AtomId> {
        let Some(address) = address else { return Vec::new() };
        let numbered = self.blocks.values.iter().enumerate();
        numbered.filter(|(_, block)| block.contains(address)).map(|(id, _)| id).collect()
    }
}

/// Finds the pod peers that match a pod, matching equal labels of a namespace once.
pub(super) struct Matcher<'a> {
    world: &'a World,
    atoms: &'a Atoms,
    named: BTreeMap<&'a Str, Vec<AtomId>>,
    selected: Vec<AtomId>,
    /// The keys that some pod selector mentions: labels are cut down to these.
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
                // Rules are asked for by namespace: there is none left.
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
        let peers = &self.atoms.pods.values;
        let of_pods = |id: &AtomId| peers.get(*id).is_some_and(|peer| peer.pods.matches(labels));
        let known = self.world.namespaces().get(namespace).map(|found| &found.labels);
        let selects = |id: &AtomId| match peers.get(*id).map(|peer| &peer.namespaces) {
            // A namespace that is not known matches where all are meant.
            Some(Namespaces::Selected(selector)) => {
                selector.is_everything() || known.is_some_and(|l| selector.matches(l))
            }
            Some(Namespaces::Named(_) | Namespaces::Own) | None => false,
        };
        let named = self.named.get(namespace).into_iter().flatten().filter(|id| of_pods(id));
        let selected = self.selected.iter().filter(|id| of_pods(id) && selects(id));
        let mut matching: Vec<AtomId> = named.chain(selected).copied().collect();
        matching.sort_unstable();
        self.found.insert(key, matching.clone());
        matching
    }
}
