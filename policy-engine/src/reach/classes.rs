//! Classes: pods that no policy can tell apart, neither as subjects nor as peers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rules::{AtomId, Atoms, Interned, Matcher, Rules};
use super::{Class, RulesId};
use crate::cidr::Family;
use crate::model::{Direction, NamedPort, Pod, PodKey};
use crate::policy::{NetworkPolicy, PolicyKey};
use crate::world::World;

/// What the pods of one class have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Content {
    /// The rules of each direction; `None`: not isolated.
    rules: [Option<RulesId>; 2],
    /// The pod peers that match.
    peers: Vec<AtomId>,
    /// Per address: its family, and the blocks that hold it. One without either: no address.
    addresses: Vec<(Option<Family>, Vec<AtomId>)>,
    /// The named ports that egress rules ask for.
    ports: Vec<NamedPort>,
}

/// Everything that [`super::Reach`] is made from.
pub(super) struct Classified<'w> {
    pub(super) atoms: Atoms<'w>,
    pub(super) rules: Vec<Rules>,
    pub(super) classes: Vec<Class>,
}

/// Puts every pod that can be subject and peer into its class.
pub(super) fn classify(world: &World) -> Classified<'_> {
    let mut atoms = Atoms::default();
    let mut interned = Interned::<Rules>::default();
    let pods: Vec<&Pod> =
        world.pods().values().map(AsRef::as_ref).filter(|pod| pod.takes_part()).collect();
    let isolation = isolation(world, &pods, &mut atoms, &mut interned);

    let mut matcher = Matcher::new(world, &atoms);
    let mut classes: BTreeMap<Content, (Vec<PodKey>, Vec<Option<IpAddr>>)> = BTreeMap::new();
    for (pod, rules) in pods.into_iter().zip(isolation) {
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
        let class = classes.entry(content).or_insert_with(|| (Vec::new(), representatives));
        class.0.push(pod.key.clone());
    }
    let mut classes: Vec<Class> = classes.into_iter().map(class).collect();
    // In the order in which a reader meets the pods.
    classes.sort_by(|left, right| left.pods.cmp(&right.pods));
    Classified { atoms, rules: interned.values, classes }
}

fn class((content, (pods, addresses)): (Content, (Vec<PodKey>, Vec<Option<IpAddr>>))) -> Class {
    let Content { rules, peers, ports, .. } = content;
    let [ingress, egress] = rules;
    Class { pods, ingress, egress, peers, addresses, ports }
}

/// The rules of each pod for ingress and egress. Pods that the same policies select, with the same
/// named ports, share the work.
fn isolation<'w>(
    world: &'w World,
    pods: &[&Pod],
    atoms: &mut Atoms<'w>,
    interned: &mut Interned<Rules>,
) -> Vec<[Option<RulesId>; 2]> {
    type Seen<'w> = (Vec<&'w PolicyKey>, Vec<NamedPort>);
    let mut seen: BTreeMap<Seen<'w>, [Option<RulesId>; 2]> = BTreeMap::new();
    let mut found = Vec::with_capacity(pods.len());
    for pod in pods {
        let policies: Vec<&'w NetworkPolicy> = world
            .policies_in(&pod.key.namespace)
            .map(AsRef::as_ref)
            .filter(|policy| policy.subject.matches(&pod.labels))
            .collect();
        if policies.is_empty() {
            found.push([None, None]);
            continue;
        }
        let names = policies.iter().map(|policy| &policy.key).collect();
        let rules = seen.entry((names, pod.ports.clone())).or_insert_with(|| {
            Direction::BOTH.map(|direction| {
                let rules = atoms.rules(&policies, direction, &pod.ports)?;
                Some(interned.number(&rules))
            })
        });
        found.push(*rules);
    }
    found
}
