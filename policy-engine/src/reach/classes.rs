//! Classes: pods that no policy can distinguish, neither as subjects nor as peers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::atoms::{AtomId, Atoms, Matcher};
use super::blocks::{BlockSetId, BlockSets, NO_BLOCK};
use super::rules::{Rules, RulesId, Stage};
use super::subjects::Subjects;
use crate::cidr::Family;
use crate::direction::{Direction, PerDirection};
use crate::model::{NamedPort, Pod, PodKey};
use crate::tier::{Tier, View};
use crate::world::World;

/// The number of a class, from 0, in [`Reach::classes`](super::Reach::classes).
pub type ClassId = usize;

/// Pods that no policy distinguishes: they can connect to the same peers, and the same peers can
/// connect to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// The pods by name; never empty.
    pub pods: Vec<PodKey>,
    pub(super) rules: PerDirection<RulesId>,
    isolated_by: PerDirection<Option<Tier>>,
    /// The pod peers that match these pods, ascending.
    pub(super) peers: Vec<AtomId>,
    /// One address of each kind that policies distinguish, of the first pod; `None` in place of an
    /// address for a pod without one.
    pub(super) addresses: Vec<Option<IpAddr>>,
    /// For each address whether it is contested: then no peer in [`Class::peers`] matches it.
    pub(super) contested: Vec<bool>,
    /// The named ports that egress rules mention.
    pub(super) ports: Vec<NamedPort>,
}

impl Class {
    /// Whether the pods are isolated in `direction`: see [`Class::isolated_by`].
    #[must_use]
    pub fn is_isolated(&self, direction: Direction) -> bool {
        self.isolated_by(direction).is_some()
    }

    /// The tier that isolates the pods in `direction`, NetworkPolicy or Default: it denies what
    /// neither its rules nor those of a tier above allow. A ClusterNetworkPolicy never isolates,
    /// whatever its rules deny.
    #[must_use]
    pub fn isolated_by(&self, direction: Direction) -> Option<Tier> {
        *self.isolated_by.get(direction)
    }

    /// The addresses that policies distinguish, by index.
    pub(super) fn points(&self) -> impl Iterator<Item = (usize, Option<IpAddr>)> {
        self.addresses.iter().copied().enumerate()
    }

    pub(super) fn rules(&self, direction: Direction) -> RulesId {
        *self.rules.get(direction)
    }
}

/// The properties that all pods of one class share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Content {
    /// The rules of each direction.
    rules: PerDirection<RulesId>,
    /// The pod peers that match.
    peers: Vec<AtomId>,
    /// For each address its family, whether it is contested, and the blocks that contain it; one
    /// item with none of these for pods without an address.
    addresses: Vec<(Option<Family>, bool, BlockSetId)>,
    /// The named ports that egress rules mention.
    ports: Vec<NamedPort>,
}

/// Everything that [`super::Reach`] is made from.
pub(super) struct Classified {
    pub(super) atoms: Atoms,
    pub(super) stages: Vec<Stage>,
    pub(super) rules: Vec<Rules>,
    pub(super) classes: Vec<Class>,
}

/// Puts those of `pods` that policies can select and match into their classes.
pub(super) fn classify<'w>(
    world: &'w World,
    view: View,
    pods: impl Iterator<Item = &'w Pod>,
) -> Classified {
    let pods: Vec<&Pod> = pods.filter(|pod| pod.takes_part()).collect();
    let mut subjects = Subjects::new(world, view);
    // The rules of all pods come first: those of the last pod may still mention new peers.
    let rules: Vec<PerDirection<RulesId>> = pods.iter().map(|pod| subjects.rules(pod)).collect();
    let Subjects { atoms, stages, rules: all_rules, .. } = subjects;

    let blocks = BlockSets::new(&atoms);
    let mut matcher = Matcher::new(world, &atoms);
    let mut found: BTreeMap<Content, (Vec<PodKey>, Vec<Option<IpAddr>>)> = BTreeMap::new();
    for (pod, rules) in pods.into_iter().zip(rules) {
        let owned: Vec<IpAddr> = world.owned_addresses(pod).collect();
        let mut addresses: Vec<(_, Option<IpAddr>)> = if owned.is_empty() {
            vec![((None, false, NO_BLOCK), None)]
        } else {
            let signature = |a| (Some(Family::of(a)), world.is_contested(a), blocks.of(a));
            owned.into_iter().map(|a| (signature(a), Some(a))).collect()
        };
        addresses.sort();
        addresses.dedup_by(|left, right| left.0 == right.0);
        let (signature, representatives) = addresses.into_iter().unzip();
        let content = Content {
            rules,
            peers: matcher.matching(&pod.key.namespace, &pod.labels),
            addresses: signature,
            ports: atoms.mentioned(&pod.ports),
        };
        let class = found.entry(content).or_insert_with(|| (Vec::new(), representatives));
        class.0.push(pod.key.clone());
    }
    let (stages, rules) = (stages.into_values(), all_rules.into_values());
    let class = |(content, (pods, addresses)): (Content, _)| {
        let Content { rules: of_class, peers, ports, addresses: signature } = content;
        let contested = signature.into_iter().map(|(_, contested, _)| contested).collect();
        let isolated_by =
            of_class.map(|id| rules[id].last().and_then(|id| stages[*id].isolating()));
        Class { pods, rules: of_class, isolated_by, peers, addresses, contested, ports }
    };
    let mut classes: Vec<Class> = found.into_iter().map(class).collect();
    // In the order of the first pods of the classes.
    classes.sort_by(|left, right| left.pods.cmp(&right.pods));
    Classified { atoms, stages, rules, classes }
}
