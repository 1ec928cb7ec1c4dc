//! The peers that rules mention, each numbered once, and which of them match a pod.

use std::collections::{BTreeMap, BTreeSet};

use crate::labels::{Labels, Str};
use crate::model::NamedPort;
use crate::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer};
use crate::port::Protocol;
use crate::selector::{Operator, Selector};
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

    /// The named ports of a pod that some egress rule mentions.
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

    /// All blocks with their numbers.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (AtomId, &IpBlock)> {
        self.blocks.values.iter().enumerate()
    }
}

/// Finds the pod peers that match a pod. Equal labels in one namespace are matched once.
pub(super) struct Matcher<'a> {
    world: &'a World,
    atoms: &'a Atoms,
    named: BTreeMap<&'a Str, Vec<AtomId>>,
    /// The peers by a label that the namespace must have, and one that the pod must have.
    selected: BTreeMap<(Option<Anchor<'a>>, Option<Anchor<'a>>), Vec<AtomId>>,
    /// The keys that pod selectors mention; only labels with these keys are compared.
    keys: BTreeSet<&'a Str>,
    found: BTreeMap<(Str, Labels), Vec<AtomId>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(world: &'a World, atoms: &'a Atoms) -> Self {
        let mut named: BTreeMap<&Str, Vec<AtomId>> = BTreeMap::new();
        let mut selected: BTreeMap<_, Vec<AtomId>> = BTreeMap::new();
        let mut keys = BTreeSet::new();
        for (id, peer) in atoms.pods.values.iter().enumerate() {
            keys.extend(peer.pods.requirements().map(|requirement| &requirement.key));
            match &peer.namespaces {
                Namespaces::Named(name) => named.entry(name).or_default().push(id),
                Namespaces::Selected(namespaces) => {
                    let anchors = (anchor(namespaces), anchor(&peer.pods));
                    selected.entry(anchors).or_default().push(id);
                }
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
        let candidates = self.candidates(known, &key.1);
        let selected = candidates.iter().filter(|id| of_pods(id) && selects(id));
        let mut matching: Vec<AtomId> = named.chain(selected).copied().collect();
        matching.sort_unstable();
        self.found.insert(key, matching.clone());
        matching
    }

    /// The peers by namespace labels whose required labels the namespace and the pod have.
    fn candidates(&self, namespace: Option<&Labels>, pod: &Labels) -> Vec<AtomId> {
        let (of_namespace, of_pod) = (anchors(namespace), anchors(Some(pod)));
        let mut found = Vec::new();
        for namespace in &of_namespace {
            let known = of_pod.iter().filter_map(|pod| self.selected.get(&(*namespace, *pod)));
            found.extend(known.flatten());
        }
        found
    }
}

/// A label that every match of a selector has; without a value if several match.
type Anchor<'l> = (&'l Str, Option<&'l Str>);

fn anchor(selector: &Selector) -> Option<Anchor<'_>> {
    let one = selector.required_label().map(|(key, value)| (key, Some(value)));
    one.or_else(|| {
        selector.requirements().find_map(|requirement| match requirement.operator {
            Operator::In(_) | Operator::Exists => Some((&requirement.key, None)),
            Operator::NotIn(_) | Operator::DoesNotExist => None,
        })
    })
}

/// Every anchor that can match an object with these labels.
fn anchors(labels: Option<&Labels>) -> Vec<Option<Anchor<'_>>> {
    let each = labels.into_iter().flat_map(Labels::iter);
    let each = each.flat_map(|(key, value)| [Some((key, Some(value))), Some((key, None))]);
    each.chain([None]).collect()
}
