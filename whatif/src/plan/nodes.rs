//! Changes from pods to nodes, where policies name nodes by labels: external addresses do not show
//! them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::policy::{Peer, Peers, Rule};
use policy_engine::reach::{Difference, Group, Reach};
use policy_engine::world::World;

use super::ExternalChange;
use super::causes::Judge;
use crate::judge::groups::to_node;
use crate::model::{Cluster, Units};

/// Every change from a group to nodes that policies treat alike.
pub(super) fn changes(
    [before, after]: [&Cluster; 2],
    reaches: [&Reach<'_>; 2],
    difference: &Difference,
    units: &Units,
    judge: &Judge<'_>,
) -> Vec<ExternalChange> {
    let worlds = [&before.world, &after.world];
    let mut found = Vec::new();
    for nodes in alike(worlds) {
        for (group, pods) in difference.groups.iter().enumerate() {
            let stays = pods.before.is_some() && pods.after.is_some();
            if !stays || units.of(group).is_empty() {
                continue;
            }
            let nodes = judged(worlds, pods, &nodes);
            let Some((node, pod)) = nodes.first().and_then(|node| {
                Some((node, pods.pods.iter().find(|pod| !is_exempt(worlds, pod, node))?))
            }) else {
                continue;
            };
            let [was, is] = [0, 1].map(|at| to_node(reaches[at], worlds[at], pod, node));
            if was != is {
                found.push(ExternalChange {
                    group,
                    direction: Direction::Egress,
                    addresses: addresses(&after.world, &nodes),
                    because: judge.of_node(pod, group, node, &was),
                    nodes,
                    before: was,
                    after: is,
                });
            }
        }
    }
    found
}

/// The nodes of `nodes` at which policies apply to some pod of the group.
fn judged(worlds: [&World; 2], group: &Group, nodes: &BTreeSet<Str>) -> BTreeSet<Str> {
    let is_judged = |node: &&Str| group.pods.iter().any(|pod| !is_exempt(worlds, pod, node));
    nodes.iter().filter(is_judged).cloned().collect()
}

/// Whether an option exempts egress from the pod to the node, because it is the pod's own node.
fn is_exempt(worlds: [&World; 2], pod: &PodKey, node: &Str) -> bool {
    worlds.into_iter().any(|world| {
        let own = world.pods().get(pod).and_then(|pod| pod.node.as_ref());
        world.options.allow_egress_to_own_node && own == Some(node)
    })
}

fn addresses(world: &World, nodes: &BTreeSet<Str>) -> CidrSet {
    let nodes = nodes.iter().filter_map(|name| world.nodes().get(name));
    nodes.flat_map(|node| &node.addresses).copied().map(IpNet::from).collect()
}

/// The properties of a node by which rules of one world distinguish it: the labels that rules ask
/// for, and per address its family and the blocks that contain it. Pods can connect only over a
/// family that both have.
type Traits = (Vec<(Str, Str)>, BTreeSet<(Family, Vec<bool>)>);

/// Sets of nodes that no rule of both worlds distinguishes; empty where no rule names nodes.
fn alike(worlds: [&World; 2]) -> Vec<BTreeSet<Str>> {
    let (mut keys, mut blocks) = (BTreeSet::new(), BTreeSet::new());
    for rule in worlds.into_iter().flat_map(egress) {
        let Peers::Listed(peers) = &rule.peers else { continue };
        for peer in peers {
            match peer {
                Peer::Nodes(selector) => {
                    keys.extend(selector.requirements().map(|one| Some(one.key.clone())));
                    keys.insert(None);
                }
                Peer::Block(block) => drop(blocks.insert(block)),
                Peer::Pods(_) | Peer::Invalid => {}
            }
        }
    }
    if keys.is_empty() {
        return Vec::new();
    }
    let traits = |world: &World, name: &Str| -> Option<Traits> {
        let node = world.nodes().get(name)?;
        let labels = node.labels.iter();
        let labels = labels.filter(|(key, _)| keys.contains(&Some((*key).clone())));
        let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        let addresses = node.addresses.iter().map(|address| {
            let held = blocks.iter().map(|block| block.contains(*address)).collect();
            (Family::of(*address), held)
        });
        Some((labels, addresses.collect()))
    };
    let mut classes: BTreeMap<(Traits, Traits), BTreeSet<Str>> = BTreeMap::new();
    let [before, after] = worlds;
    for name in after.nodes().keys() {
        if let Some(class) = traits(before, name).zip(traits(after, name)) {
            classes.entry(class).or_default().insert(name.clone());
        }
    }
    classes.into_values().collect()
}

/// All rules for egress.
fn egress(world: &World) -> impl Iterator<Item = &Rule> {
    world.policies().flat_map(|policy| policy.rules(Direction::Egress))
}
