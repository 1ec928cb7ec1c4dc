//! What the policies of a pod admit in one direction: peers by number, each with its ports.
//!
//! Other than an [allow-set](crate::allow_set), this knows pods without an address: workloads that
//! are not running yet. No `ipBlock` matches those, not even `0.0.0.0/0`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ports::PortSet;
use crate::labels::{Labels, Str};
use crate::model::{Direction, NamedPort};
use crate::policy::{IpBlock, Namespaces, NetworkPolicy, Peer, Peers, PodPeer, PortMatch, Ports};
use crate::port::{PortRange, Protocol};
use crate::world::World;

/// The number of a [`PodPeer`] or [`IpBlock`] in the [`Peers`](Atoms) that rules mention.
pub(super) type AtomId = usize;

/// One kind of peer that a rule admits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Atom {
    /// Every address, and every pod.
    Any,
    /// Pods by labels.
    Pods(AtomId),
    /// Addresses.
    Block(AtomId),
}

/// Destination ports, by number and by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Asked {
    pub(super) numbers: PortSet,
    /// Egress only: looked up on each destination pod.
    pub(super) names: BTreeSet<(Protocol, Str)>,
}

/// What is admitted in one direction; without any peer: nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Rules(pub(super) BTreeMap<Atom, Asked>);

/// All peers that rules mention, each once.
#[derive(Default, Debug)]
pub(super) struct Atoms<'w> {
    pods: Interned<&'w PodPeer>,
    blocks: Interned<&'w IpBlock>,
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

impl<'w> Atoms<'w> {
    /// Unites the rules of all `policies` that isolate for `direction`; `None` when none does.
    pub(super) fn rules(
        &mut self,
        policies: &[&'w NetworkPolicy],
        direction: Direction,
        subject_ports: &[NamedPort],
    ) -> Option<Rules> {
        let mut isolates = false;
        let mut united = Rules::default();
        for rules in policies.iter().filter_map(|policy| policy.rules(direction)) {
            isolates = true;
            for rule in rules {
                let asked = asked(&rule.ports, direction, subject_ports);
                if direction == Direction::Egress {
                    self.names.extend(asked.names.iter().cloned());
                }
                self.each(&rule.peers, |atom| {
                    let found = united.0.entry(atom).or_default();
                    found.numbers.add(&asked.numbers);
                    found.names.extend(asked.names.iter().cloned());
                });
            }
        }
        isolates.then_some(united)
    }

    /// The blocks by number.
    pub(super) fn blocks(&self) -> &[&'w IpBlock] {
        &self.blocks.values
    }

    /// The blocks that hold `address`.
    pub(super) fn blocks_with(&self, address: Option<IpAddr>) -> Vec<AtomId> {
        let Some(address) = address else { return Vec::new() };
        let numbered = self.blocks.values.iter().enumerate();
        numbered.filter(|(_, block)| block.contains(address)).map(|(id, _)| id).collect()
    }

    /// The named ports that some egress rule asks for.
    pub(super) fn asked_for(&self, ports: &[NamedPort]) -> Vec<NamedPort> {
        let asked = |port: &&NamedPort| self.names.contains(&(port.protocol, port.name.clone()));
        ports.iter().filter(asked).cloned().collect()
    }

    fn each(&mut self, peers: &'w Peers, mut visit: impl FnMut(Atom)) {
        match peers {
            Peers::Any => visit(Atom::Any),
            Peers::Listed(items) => {
                for item in items {
                    match item {
                        Peer::Pods(peer) => visit(Atom::Pods(self.pods.number(&peer))),
                        Peer::Block(block) => visit(Atom::Block(self.blocks.number(&block))),
                        Peer::Invalid | Peer::Nodes(_) => {}
                    }
                }
            }
        }
    }
}

impl Rules {
    /// The ports on which a peer is admitted: one that these pod peers match, at that address.
    pub(super) fn admitted(
        &self,
        atoms: &Atoms<'_>,
        pods: &[AtomId],
        address: Option<IpAddr>,
        destination_ports: &[NamedPort],
    ) -> PortSet {
        let mut admitted = PortSet::default();
        for (atom, asked) in &self.0 {
            let matches = match atom {
                Atom::Any => true,
                Atom::Pods(id) => pods.binary_search(id).is_ok(),
                Atom::Block(id) => address.is_some_and(|address| {
                    atoms.blocks().get(*id).is_some_and(|block| block.contains(address))
                }),
            };
            if !matches {
                continue;
            }
            admitted.add(&asked.numbers);
            for port in destination_ports {
                if asked.names.contains(&(port.protocol, port.name.clone())) {
                    admitted.insert(port.protocol, PortRange::single(port.number));
                }
            }
        }
        admitted
    }

    /// Whether the address of a peer can make a difference.
    pub(super) fn has_blocks(&self) -> bool {
        self.0.keys().any(|atom| matches!(atom, Atom::Block(_)))
    }
}

fn asked(ports: &Ports, direction: Direction, subject_ports: &[NamedPort]) -> Asked {
    let mut asked = Asked::default();
    let Ports::Listed(items) = ports else {
        return Asked { numbers: PortSet::everything(), ..asked };
    };
    for item in items {
        match (item, direction) {
            (PortMatch::Invalid, _) => {}
            (PortMatch::Numbers(protocol, range), _) => asked.numbers.insert(*protocol, *range),
            (PortMatch::Named(protocol, name), Direction::Ingress) => subject_ports
                .iter()
                .filter(|port| port.name == *name && port.protocol == *protocol)
                .for_each(|port| asked.numbers.insert(*protocol, PortRange::single(port.number))),
            (PortMatch::Named(protocol, name), Direction::Egress) => {
                asked.names.insert((*protocol, name.clone()));
            }
        }
    }
    asked
}

/// Finds the pod peers that match a pod, matching equal labels of a namespace once.
pub(super) struct Matcher<'a, 'w> {
    world: &'w World,
    atoms: &'a Atoms<'w>,
    named: BTreeMap<&'w Str, Vec<AtomId>>,
    selected: Vec<AtomId>,
    /// The keys that some pod selector mentions: labels are cut down to these.
    keys: BTreeSet<&'w Str>,
    found: BTreeMap<(Str, Labels), Vec<AtomId>>,
}

impl<'a, 'w> Matcher<'a, 'w> {
    pub(super) fn new(world: &'w World, atoms: &'a Atoms<'w>) -> Self {
        let mut named: BTreeMap<&'w Str, Vec<AtomId>> = BTreeMap::new();
        let (mut selected, mut keys) = (Vec::new(), BTreeSet::new());
        for (id, peer) in atoms.pods.values.iter().enumerate() {
            keys.extend(peer.pods.requirements().map(|requirement| &requirement.key));
            match &peer.namespaces {
                Namespaces::Named(name) => named.entry(name).or_default().push(id),
                Namespaces::Selected(_) => selected.push(id),
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
            // A namespace that is not known matches no selector.
            Some(Namespaces::Selected(selector)) => known.is_some_and(|l| selector.matches(l)),
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
