//! Classes: pods that no policy can tell apart, neither as subjects nor as peers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Class;
use super::atoms::{AtomId, Atoms, Matcher};
use super::rules::{Rules, RulesId, Stage};
use super::subjects::Subjects;
use crate::cidr::Family;
use crate::direction::PerDirection;
use crate::model::{NamedPort, Pod, PodKey};
use crate::tier::View;
use crate::world::World;

/// What the pods of one class have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Content {
    /// The rules of each direction.
    rules: PerDirection<RulesId>,
    /// The pod peers that match.
    peers: Vec<AtomId>,
    /// Per address: its family, and the blocks that hold it. One without either: no address.
    addresses: Vec<(Option<Family>, Vec<AtomId>)>,
    /// The named ports that egress rules ask for.
    ports: Vec<NamedPort>,
}

/// Everything that [`super::Reach`] is made from.
pub(super) struct Classified {
    pub(super) atoms: Atoms,
    pub(super) stages: Vec<Stage>,
    pub(super) rules: Vec<Rules>,
    pub(super) classes: Vec<Class>,
}

/// Puts every pod that can be subject and peer into its class.
pub(super) fn classify(world: &World, view: View) -> Classified {
    let pods: Vec<&Pod> =
        world.pods().values().map(AsRef::as_ref).filter(|pod| pod.takes_part()).collect();
    let mut subjects = Subjects::new(world, view);
    // All first: the rules of the last pod may still mention new peers.
    let rules: Vec<PerDirection<RulesId>> = pods.iter().map(|pod| subjects.rules(pod)).collect();
    let Subjects { atoms, stages, rules: all_rules, .. } = subjects;

    let mut matcher = Matcher::new(world, &atoms);
    let mut found: BTreeMap<Content, (Vec<PodKey>, Vec<Option<IpAddr>>)> = BTreeMap::new();
    for (pod, rules) in pods.into_iter().zip(rules) {
        let owned: Vec<IpAddr> = world.owned_addresses(pod).collect();
        let mut addresses: Vec<(_, Option<IpAddr>)> = if owned.is_empty() {
            vec![((None, Vec::new()), None)]
        } else {
            owned
                .into_iter()
                .map(|a| ((Some(Family::of(a)), atoms.blocks_with(Some(a))), Some(a)))
                .collect()
        };
        addresses.sort();
        addresses.dedup_by(|left, right| left.0 == right.0);
        let (signature, representatives) = addresses.into_iter().unzip();
        let content = Content {
            rules,
            peers: matcher.matching(&pod.key.namespace, &pod.labels),
            addresses: signature,
            ports: atoms.asked_for(&pod.ports),
        };
        let class = found.entry(content).or_insert_with(|| (Vec::new(), representatives));
        class.0.push(pod.key.clone());
    }
    let (stages, rules) = (stages.values, all_rules.values);
    let mut classes: Vec<Class> =
        found.into_iter().map(|found| class(found, &stages, &rules)).collect();
    // In the order in which a reader meets the pods.
    classes.sort_by(|left, right| left.pods.cmp(&right.pods));
    Classified { atoms, stages, rules, classes }
}

fn class(
    (content, (pods, addresses)): (Content, (Vec<PodKey>, Vec<Option<IpAddr>>)),
    stages: &[Stage],
    all_rules: &[Rules],
) -> Class {
    let Content { rules, peers, ports, .. } = content;
    let isolated_by = rules.map(|id| {
        let last = all_rules.get(id)?.last()?;
        stages.get(*last)?.isolating()
    });
    Class { pods, rules, isolated_by, peers, addresses, ports }
}
