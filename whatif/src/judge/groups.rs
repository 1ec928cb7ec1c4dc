//! Groups of endpoints that policies treat alike: one flow stands for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::direction::Direction;
use policy_engine::flow::Endpoint;
use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::reach::{ClassId, PortSet, Reach};
use policy_engine::world::World;

use super::Views;
use crate::endpoint::{Party, PortAsked, Resolved, Side};
use crate::model::Cluster;

/// The class of pods by the enforced policies, and with those in audit; and the node of the pods,
/// where the peer is that node.
type Class = (ClassId, Option<Option<ClassId>>, Option<Str>);

/// Flows as their two sides.
type Flows = Vec<(Endpoint, Endpoint)>;

/// A group of sources, a group of destinations, and the flows that stand for all between them.
pub(crate) struct Pair {
    pub(crate) sources: Vec<String>,
    pub(crate) destinations: Vec<String>,
    /// All sources, and all destinations.
    pub(crate) between: (Arc<[Side]>, Arc<[Side]>),
    pub(crate) ports: Vec<PortAsked>,
    /// The addresses that an external side stands for, if one is external.
    pub(crate) outside: Option<CidrSet>,
    /// Whether some address of each side is of the same family.
    pub(crate) meets: bool,
    /// One flow per pair of addresses of one family; without such a pair, one for the explanation.
    pub(crate) flows: Flows,
}

/// Parties of one kind.
struct Group<'p> {
    names: Vec<String>,
    members: Vec<&'p Side>,
    ports: &'p [PortAsked],
}

impl Group<'_> {
    fn sides(&self) -> Arc<[Side]> {
        self.members.iter().map(|side| (*side).clone()).collect()
    }
}

/// All pairs of groups, in the order in which the parties are given.
pub(crate) fn pairs(
    cluster: &Cluster,
    views: Views<'_, '_>,
    source: &Resolved,
    destination: &Resolved,
) -> Vec<Pair> {
    let sources = groups(cluster, views, source, &nodes(cluster, destination));
    let destinations = groups(cluster, views, destination, &nodes(cluster, source));
    let mut pairs = Vec::new();
    for from in &sources {
        for to in &destinations {
            let Some(first) = from.members.first() else { continue };
            // Two different pods, where there are two: a pod always reaches itself.
            let other = to.members.iter().find(|side| side != &first).or(to.members.first());
            let Some(second) = other else { continue };
            let found = pair(cluster, views, (from, first), (to, second));
            if found.iter().any(|pair| !pair.flows.is_empty()) {
                pairs.extend(found);
            } else {
                pairs.extend(without_common_family(cluster, (from, first), (to, second)));
            }
        }
    }
    pairs
}

/// The nodes that a side is, or whose traffic its hostNetwork pods have.
fn nodes(cluster: &Cluster, side: &Resolved) -> BTreeSet<Str> {
    let node = |party: &Party| match &party.side {
        Side::Node(name, _) => Some(name.clone()),
        Side::Pod(key, _) => {
            let pod = cluster.world.pods().get(key).filter(|pod| pod.host_network)?;
            pod.node.clone()
        }
        Side::Outside(_) => None,
    };
    side.parties.iter().filter_map(node).collect()
}

/// The parties of a side, grouped by what policies distinguish. A pod on one of `others`, the nodes
/// of the peer, is treated differently from a pod that is not.
fn groups<'p>(
    cluster: &Cluster,
    views: Views<'_, '_>,
    side: &'p Resolved,
    others: &BTreeSet<Str>,
) -> Vec<Group<'p>> {
    let class = |party: &Party| match &party.side {
        Side::Pod(key, None) => {
            let audited = views.audited.map(|reach| reach.class_of(key));
            let node = cluster.world.pods().get(key).and_then(|pod| pod.node.clone());
            let node = node.filter(|node| others.contains(node));
            views.enforced.class_of(key).map(|class| (class, audited, node))
        }
        Side::Pod(_, Some(_)) | Side::Node(..) | Side::Outside(_) => None,
    };
    let mut groups: Vec<(Option<Class>, Group<'p>)> = Vec::new();
    for party in &side.parties {
        let class = class(party);
        let known = groups.iter_mut().find(|(known, group)| {
            class.is_some() && *known == class && group.ports == party.ports
        });
        if let Some((_, group)) = known {
            if !group.names.contains(&party.name) {
                group.names.push(party.name.clone());
            }
            group.members.push(&party.side);
        } else {
            let names = vec![party.name.clone()];
            let group = Group { names, members: vec![&party.side], ports: &party.ports };
            groups.push((class, group));
        }
    }
    let mut groups: Vec<Group<'p>> = groups.into_iter().map(|(_, group)| group).collect();
    if let [group] = groups.as_mut_slice() {
        group.names = vec![side.name.clone()];
    } else {
        name_pods_of_split_workloads(cluster, &mut groups);
    }
    groups
}

/// Names pods instead of their workload where the workload is in several groups.
fn name_pods_of_split_workloads(cluster: &Cluster, groups: &mut [Group<'_>]) {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for name in groups.iter().flat_map(|group| &group.names) {
        *times.entry(name.clone()).or_default() += 1;
    }
    for group in groups {
        if group.names.iter().any(|name| times.get(name).is_some_and(|times| *times > 1)) {
            let pods = group.members.iter().filter_map(|side| match side {
                Side::Pod(key, _) => Some(cluster.pod_ref(key)),
                Side::Node(..) | Side::Outside(_) => None,
            });
            let pods: Vec<String> = pods.collect();
            group.names = pods;
            group.names.dedup();
        }
    }
}

fn pair(
    cluster: &Cluster,
    views: Views<'_, '_>,
    (from, source): (&Group<'_>, &Side),
    (to, destination): (&Group<'_>, &Side),
) -> Vec<Pair> {
    let between = (from.sides(), to.sides());
    let made = |sources: Vec<String>, destinations: Vec<String>, flows| Pair {
        sources,
        destinations,
        between: between.clone(),
        ports: to.ports.to_vec(),
        outside: None,
        meets: true,
        flows,
    };
    match (source, destination) {
        (Side::Outside(set), Side::Outside(_) | Side::Node(..)) => {
            // Policies apply to neither side.
            let flows = flow_without_pod(cluster, set, destination);
            vec![made(from.names.clone(), to.names.clone(), flows)]
        }
        (Side::Node(..), Side::Outside(set)) => {
            let mut flows = flow_without_pod(cluster, set, source);
            flows.iter_mut().for_each(|(from, to)| std::mem::swap(from, to));
            vec![made(from.names.clone(), to.names.clone(), flows)]
        }
        (Side::Outside(set), Side::Pod(pod, _)) => {
            let sides = endpoints(&cluster.world, destination);
            let pieces = pieces(cluster, views, pod, Direction::Ingress, set, &sides, &from.names);
            let piece = |(names, flows, set): (Vec<String>, Flows, CidrSet)| {
                let flows = flows.into_iter().map(|(pod, outside)| (outside, pod)).collect();
                Pair { outside: Some(set), ..made(names, to.names.clone(), flows) }
            };
            pieces.into_iter().map(piece).collect()
        }
        (Side::Pod(pod, _), Side::Outside(set)) => {
            let sides = endpoints(&cluster.world, source);
            let pieces = pieces(cluster, views, pod, Direction::Egress, set, &sides, &to.names);
            let piece = |(names, flows, set)| Pair {
                outside: Some(set),
                ..made(from.names.clone(), names, flows)
            };
            pieces.into_iter().map(piece).collect()
        }
        _ => {
            let flows = flows(&cluster.world, source, destination);
            vec![made(from.names.clone(), to.names.clone(), flows)]
        }
    }
}

/// Two sides without an address family in common.
fn without_common_family(
    cluster: &Cluster,
    (from, source): (&Group<'_>, &Side),
    (to, destination): (&Group<'_>, &Side),
) -> Option<Pair> {
    let source = endpoints(&cluster.world, source).into_iter().next()?;
    let destination = endpoints(&cluster.world, destination).into_iter().next()?;
    Some(Pair {
        sources: from.names.clone(),
        destinations: to.names.clone(),
        between: (from.sides(), to.sides()),
        ports: to.ports.to_vec(),
        outside: None,
        meets: false,
        flows: vec![(source, destination)],
    })
}

/// The ports on which one side can connect to the peer, over any pair of addresses.
pub(crate) fn between(
    reach: &Reach<'_>,
    world: &World,
    source: &Side,
    destination: &Side,
) -> PortSet {
    let mut ports = PortSet::default();
    for (from, to) in flows(world, source, destination) {
        ports.add(&reach.between(&from, &to));
    }
    ports
}

/// The ports on which a pod can connect to a node, at any of its addresses.
pub(crate) fn to_node(reach: &Reach<'_>, world: &World, pod: &PodKey, node: &Str) -> PortSet {
    between(reach, world, &Side::Pod(pod.clone(), None), &Side::Node(node.clone(), None))
}

/// The flows from the source to the destination: one for each pair of addresses of one family.
pub(crate) fn flows(world: &World, source: &Side, destination: &Side) -> Flows {
    let mut flows = Flows::new();
    for from in endpoints(world, source) {
        for to in endpoints(world, destination) {
            if can_meet(from.address(), to.address()) {
                flows.push((from.clone(), to));
            }
        }
    }
    flows
}

/// The endpoints of a pod, a node or external addresses in flows.
fn endpoints(world: &World, side: &Side) -> Vec<Endpoint> {
    match side {
        Side::Pod(key, Some(address)) => vec![Endpoint::Pod(key.clone(), Some(*address))],
        Side::Node(name, Some(address)) => vec![Endpoint::Node(name.clone(), Some(*address))],
        Side::Node(name, None) => {
            let addresses = world.nodes().get(name).map(|node| node.addresses.clone());
            each(addresses.unwrap_or_default(), |address| Endpoint::Node(name.clone(), address))
        }
        Side::Pod(key, None) => {
            let Some(pod) = world.pods().get(key) else { return Vec::new() };
            // A hostNetwork pod sends and receives with the addresses of its node.
            match pod.node.as_ref().filter(|_| pod.host_network) {
                Some(node) => {
                    each(pod.addresses.to_vec(), |address| Endpoint::Node(node.clone(), address))
                }
                None => each(world.owned_addresses(pod).collect(), |address| {
                    Endpoint::Pod(key.clone(), address)
                }),
            }
        }
        Side::Outside(set) => {
            let first = |family| set.networks(family).first().map(ipnet::IpNet::addr);
            Family::BOTH.into_iter().filter_map(first).map(Endpoint::External).collect()
        }
    }
}

fn each(addresses: Vec<IpAddr>, make: impl Fn(Option<IpAddr>) -> Endpoint) -> Vec<Endpoint> {
    if addresses.is_empty() {
        return vec![make(None)];
    }
    addresses.into_iter().map(|address| make(Some(address))).collect()
}

fn can_meet(source: Option<IpAddr>, destination: Option<IpAddr>) -> bool {
    match (source, destination) {
        (Some(source), Some(destination)) => Family::of(source) == Family::of(destination),
        _ => true,
    }
}

/// One flow from an external address to a side to which policies do not apply.
fn flow_without_pod(cluster: &Cluster, set: &CidrSet, other: &Side) -> Flows {
    let outside = endpoints(&cluster.world, &Side::Outside(set.clone())).into_iter().next();
    let other = endpoints(&cluster.world, other).into_iter().next();
    outside.zip(other).into_iter().collect()
}

/// `set`, cut into pieces that the rules of the pod treat alike. Each item has the names of the
/// piece, the flows between it and the pod, and its addresses.
fn pieces(
    cluster: &Cluster,
    views: Views<'_, '_>,
    pod: &PodKey,
    direction: Direction,
    set: &CidrSet,
    sides: &[Endpoint],
    whole: &[String],
) -> Vec<(Vec<String>, Flows, CidrSet)> {
    let set = in_families(set, sides);
    let reaches = [Some(views.enforced), views.audited].into_iter().flatten();
    let mut cut: Vec<CidrSet> = if set.is_empty() { Vec::new() } else { vec![set] };
    for reach in reaches {
        let class = reach.class_of(pod);
        let parts = class.map(|id| reach.outside(id, direction).parts).unwrap_or_default();
        for (addresses, _) in parts {
            let halves = cut
                .iter()
                .flat_map(|piece| [piece.intersection(&addresses), piece.difference(&addresses)]);
            cut = halves.filter(|piece| !piece.is_empty()).collect();
        }
    }
    let alone = cut.len() == 1;
    let piece = |piece: CidrSet| {
        let nets = Family::BOTH.into_iter().flat_map(|family| piece.networks(family));
        let names = if alone { whole.to_vec() } else { nets.map(|net| net.to_string()).collect() };
        let mut flows = Vec::new();
        for outside in endpoints(&cluster.world, &Side::Outside(piece.clone())) {
            for side in sides {
                if can_meet(side.address(), outside.address()) {
                    flows.push((side.clone(), outside.clone()));
                }
            }
        }
        (names, flows, piece)
    };
    cut.into_iter().map(piece).collect()
}

/// The addresses of `set` in the families that the pod has.
fn in_families(set: &CidrSet, sides: &[Endpoint]) -> CidrSet {
    let mut met = CidrSet::default();
    for family in Family::BOTH {
        let meets = |side: &Endpoint| side.address().is_none_or(|a| Family::of(a) == family);
        if sides.iter().any(meets) {
            met = met.union(&set.of_family(family));
        }
    }
    met
}
