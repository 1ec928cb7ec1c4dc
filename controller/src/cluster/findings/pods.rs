//! The pods that can be subjects and peers, indexed by namespace, label and port name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::PodKey;
use policy_engine::policy::{Namespaces, Peer, Peers, PodPeer, PortMatch, Ports};
use policy_engine::port::Protocol;
use policy_engine::selector::Selector;
use policy_engine::world::World;

use super::index::Index;

/// A port that a policy gives by name.
pub(super) type PortName = (Protocol, Str);

/// What some policy mentions: nothing else tells pods apart.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Mentioned {
    labels: BTreeSet<Str>,
    ports: BTreeSet<Str>,
}

impl Mentioned {
    /// All that the policies of `world` mention.
    pub(super) fn by(world: &World) -> Self {
        let mut mentioned = Self::default();
        for policy in world.policies() {
            policy.subject.pods.iter().for_each(|pods| mentioned.selector(pods));
            // Of policies of the cluster it only matters whom they are about.
            if !policy.name.kind.is_namespaced() {
                continue;
            }
            for rule in policy.all_rules() {
                if let Peers::Listed(peers) = &rule.peers {
                    peers.iter().for_each(|peer| mentioned.peer(peer));
                }
                if let Ports::Listed(ports) = &rule.ports {
                    ports.iter().for_each(|port| mentioned.port(port));
                }
            }
        }
        mentioned
    }

    fn peer(&mut self, peer: &Peer) {
        match peer {
            Peer::Pods(PodPeer { namespaces, pods }) => {
                self.selector(pods);
                match namespaces {
                    Namespaces::Named(_) | Namespaces::Own => {}
                    Namespaces::Selected(selector) => self.selector(selector),
                }
            }
            Peer::Block(_) | Peer::Nodes(_) | Peer::Invalid => {}
        }
    }

    fn port(&mut self, port: &PortMatch) {
        match port {
            PortMatch::Named(_, name) => {
                if !self.ports.contains(name) {
                    self.ports.insert(name.clone());
                }
            }
            PortMatch::Numbers(..) | PortMatch::Invalid => {}
        }
    }

    fn selector(&mut self, selector: &Selector) {
        for requirement in selector.requirements() {
            if !self.labels.contains(&requirement.key) {
                self.labels.insert(requirement.key.clone());
            }
        }
    }

    fn cut(&self, labels: &Labels) -> Labels {
        labels.filtered(|key| self.labels.contains(key))
    }
}

/// Pods of one namespace that no policy tells apart.
#[derive(Default, Debug)]
pub(super) struct Group {
    /// The ports by name that any of them has, as far as a policy mentions the name.
    pub(super) ports: BTreeSet<PortName>,
    /// How many they are.
    pub(super) pods: usize,
    /// The nodes that they are on.
    pub(super) nodes: BTreeSet<Str>,
}

/// The pods of all namespaces, as policies tell them apart.
#[derive(Default, Debug)]
pub(super) struct Pods {
    mentioned: Mentioned,
    /// Per namespace; one that is missing has to be looked at.
    indexes: BTreeMap<Str, Index<Group>>,
    /// The names of the namespaces, by their labels.
    namespaces: Option<Index<Vec<Str>>>,
}

impl Pods {
    /// The pods of a namespace are not what they were.
    pub(super) fn forget(&mut self, namespace: &Str) {
        self.indexes.remove(namespace);
    }

    /// The namespaces are not what they were.
    pub(super) fn forget_namespaces(&mut self) {
        self.namespaces = None;
    }

    /// Indexes what was forgotten, and everything when policies mention something new.
    pub(super) fn refresh(&mut self, world: &World, mentioned: &Mentioned) {
        if self.mentioned != *mentioned {
            *self = Self { mentioned: mentioned.clone(), ..Self::default() };
        }
        if self.namespaces.is_none() {
            let names = world.namespaces().iter();
            let names = names.map(|(name, found)| (mentioned.cut(&found.labels), name.clone()));
            self.namespaces = Some(Index::new(names, Vec::push));
        }
        let mut next = world.pods().first_key_value().map(|(key, _)| key.namespace.clone());
        while let Some(namespace) = next {
            if !self.indexes.contains_key(&namespace) {
                self.indexes.insert(namespace.clone(), self.index(world, &namespace));
            }
            // No name is sorted between a namespace and the same with a zero behind it.
            let behind = PodKey::new(&format!("{namespace}\0"), "");
            next = world.pods().range(behind..).next().map(|(key, _)| key.namespace.clone());
        }
    }

    /// Each namespace that has pods.
    pub(super) fn by_namespace(&self) -> impl Iterator<Item = (&Str, &Index<Group>)> {
        self.indexes.iter()
    }

    /// The groups of pods that a selector matches in a namespace.
    pub(super) fn matching<'p>(
        &'p self,
        namespace: &Str,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Group> {
        self.indexes.get(namespace).into_iter().flat_map(|index| index.matching(selector))
    }

    /// Whether any pod of the cluster has a port of this name.
    pub(super) fn anywhere(&self, wanted: &PortName) -> bool {
        let mut groups = self.indexes.values().flat_map(Index::groups);
        groups.any(|group| group.ports.contains(wanted))
    }

    /// The names of the namespaces that a selector matches.
    pub(super) fn namespaces<'p>(
        &'p self,
        selector: &'p Selector,
    ) -> impl Iterator<Item = &'p Str> {
        self.namespaces.iter().flat_map(|index| index.matching(selector)).flatten()
    }

    fn index(&self, world: &World, namespace: &Str) -> Index<Group> {
        let first = PodKey { namespace: namespace.clone(), name: Str::from("") };
        let pods = world
            .pods()
            .range(first..)
            .map(|(_, pod)| pod)
            .take_while(|pod| pod.key.namespace == *namespace)
            .filter(|pod| pod.takes_part());
        let labelled = pods.map(|pod| (self.mentioned.cut(&pod.labels), pod));
        Index::new(labelled, |group: &mut Group, pod| {
            let known = pod.ports.iter().filter(|port| self.mentioned.ports.contains(&port.name));
            group.ports.extend(known.map(|port| (port.protocol, port.name.clone())));
            group.pods += 1;
            if let Some(node) = pod.node.as_ref().filter(|node| !group.nodes.contains(*node)) {
                group.nodes.insert(node.clone());
            }
        })
    }
}

/// The addresses of all pods that have a port of this name, ascending.
pub(super) fn addresses_with(world: &World, (protocol, name): &PortName) -> Vec<IpAddr> {
    let has =
        |port: &policy_engine::model::NamedPort| port.protocol == *protocol && port.name == *name;
    let pods = world.pods().values().filter(|pod| pod.takes_part() && pod.ports.iter().any(has));
    let mut addresses: Vec<IpAddr> = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
    addresses.sort_unstable();
    addresses
}
