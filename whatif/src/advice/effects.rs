//! What policies change besides the connection that they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::reach::{Difference, Group, PortSet, Reach, outside_difference};
use policy_engine::words::few;
use policy_engine::world::World;

use crate::endpoint::Side;
use crate::judge::groups::{between, to_node};
use crate::model::Cluster;
use crate::output::words;

/// What policies change besides the connection that they are for.
#[derive(Clone, Default, Debug)]
pub struct Effects {
    /// Other connections that become allowed.
    pub allowed: Vec<Effect>,
    /// Connections that are no longer allowed, because the policies isolate a pod that was not.
    pub denied: Vec<Effect>,
}

/// Connections that change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Effect {
    /// The ports.
    pub ports: PortSet,
    /// The sources.
    pub from: String,
    /// The destinations.
    pub to: String,
}

/// Pairs of pods by the change: whether ports become allowed or denied, and the ports.
type Found = BTreeMap<(bool, PortSet), BTreeMap<PodKey, BTreeSet<PodKey>>>;

/// Connections that the policies are for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// The sources.
    pub(crate) sources: Arc<[Side]>,
    /// The destinations.
    pub(crate) destinations: Arc<[Side]>,
    /// The addresses that an external side stands for, if one is external.
    pub(crate) outside: Option<CidrSet>,
    /// The ports.
    pub(crate) ports: PortSet,
}

impl Wish {
    /// The subjects of the policies of a direction, and their peers.
    pub(crate) fn sides(&self, direction: Direction) -> (&[Side], &[Side]) {
        match direction {
            Direction::Ingress => (&self.destinations, &self.sources),
            Direction::Egress => (&self.sources, &self.destinations),
        }
    }
}

/// The numbers of the wishes that a pod is a subject of.
type Subjects<'w> = BTreeMap<&'w PodKey, BTreeSet<usize>>;

struct Asked<'w> {
    wishes: &'w [Wish],
    sources: Subjects<'w>,
    destinations: Subjects<'w>,
}

impl<'w> Asked<'w> {
    fn new(wishes: &'w [Wish]) -> Self {
        let of = |direction| {
            let mut found = Subjects::new();
            for (number, wish) in wishes.iter().enumerate() {
                let (subjects, _) = wish.sides(direction);
                for pod in subjects.iter().filter_map(Side::pod) {
                    found.entry(pod).or_default().insert(number);
                }
            }
            found
        };
        Self { wishes, sources: of(Direction::Egress), destinations: of(Direction::Ingress) }
    }

    /// The wishes by pod, for the pods whose policies of a direction they concern.
    fn subjects(&self, direction: Direction) -> &Subjects<'w> {
        match direction {
            Direction::Ingress => &self.destinations,
            Direction::Egress => &self.sources,
        }
    }

    /// The ports that were asked for from one pod to another.
    fn ports(&self, from: &PodKey, to: &PodKey) -> PortSet {
        let mut ports = PortSet::default();
        if let Some((from, to)) = self.sources.get(from).zip(self.destinations.get(to)) {
            for wish in from.intersection(to).filter_map(|number| self.wishes.get(*number)) {
                ports.add(&wish.ports);
            }
        }
        ports
    }

    /// Pods of a group, by the wishes that they are subjects of and whose peers `include`.
    fn split(
        &self,
        pods: impl IntoIterator<Item = PodKey>,
        direction: Direction,
        include: impl Fn(&Side) -> bool,
    ) -> Vec<(BTreeSet<PodKey>, Vec<&'w Wish>)> {
        let mut found: BTreeMap<Vec<usize>, BTreeSet<PodKey>> = BTreeMap::new();
        for pod in pods {
            let numbers = self.subjects(direction).get(&pod).into_iter().flatten().copied();
            let included = numbers.filter(|number| {
                let wish = self.wishes.get(*number);
                wish.is_some_and(|wish| wish.sides(direction).1.iter().any(&include))
            });
            found.entry(included.collect()).or_default().insert(pod);
        }
        let wishes = |numbers: Vec<usize>| {
            numbers.into_iter().filter_map(|number| self.wishes.get(number)).collect()
        };
        found.into_iter().map(|(numbers, pods)| (pods, wishes(numbers))).collect()
    }
}

/// What `after` allows and denies and `before` does not, besides what was asked for.
pub(crate) fn effects(
    cluster: &Cluster,
    before: &Reach<'_>,
    (world, after): (&World, &Reach<'_>),
    wishes: &[Wish],
) -> Effects {
    let asked = Asked::new(wishes);
    let difference = Difference::new(before, after);
    let mut effects = between_pods(cluster, &difference, &asked);
    for direction in Direction::BOTH {
        // The policies are in the namespaces of their subjects.
        let subjects = asked.subjects(direction).keys();
        let namespaces: BTreeSet<&Str> = subjects.map(|pod| &pod.namespace).collect();
        let concerned =
            |group: &&Group| group.pods.iter().any(|p| namespaces.contains(&p.namespace));
        for group in difference.groups.iter().filter(concerned) {
            external(cluster, group, (before, after), direction, &asked, &mut effects);
            nodes(cluster, group, (before, world, after), direction, &asked, &mut effects);
        }
    }
    effects.allowed.sort();
    effects.denied.sort();
    effects
}

fn between_pods(cluster: &Cluster, difference: &Difference, asked: &Asked<'_>) -> Effects {
    let mut found = Found::new();
    for pair in difference.changes() {
        let changes = [
            (true, pair.after.difference(pair.before)),
            (false, pair.before.difference(pair.after)),
        ];
        let [sources, destinations] =
            [pair.source, pair.destination].map(|id| difference.groups.get(id));
        let (Some(sources), Some(destinations)) = (sources, destinations) else { continue };
        for (allowed, ports) in changes.into_iter().filter(|(_, ports)| !ports.is_empty()) {
            for from in &sources.pods {
                for to in destinations.pods.iter().filter(|to| *to != from) {
                    let asked = if allowed { asked.ports(from, to) } else { PortSet::default() };
                    let ports = ports.difference(&asked);
                    if !ports.is_empty() {
                        let row = found.entry((allowed, ports)).or_default();
                        row.entry(from.clone()).or_default().insert(to.clone());
                    }
                }
            }
        }
    }
    let mut effects = Effects::default();
    for ((allowed, ports), pairs) in found {
        // Sources with the same destinations are one line.
        let mut lines: BTreeMap<BTreeSet<PodKey>, BTreeSet<PodKey>> = BTreeMap::new();
        for (from, to) in pairs {
            lines.entry(to).or_default().insert(from);
        }
        for (to, from) in lines {
            let (from, to) = (names(cluster, &from), names(cluster, &to));
            let effect = Effect { ports: ports.clone(), from, to };
            if allowed { effects.allowed.push(effect) } else { effects.denied.push(effect) }
        }
    }
    effects
}

fn external(
    cluster: &Cluster,
    group: &Group,
    (before, after): (&Reach<'_>, &Reach<'_>),
    direction: Direction,
    asked: &Asked<'_>,
    effects: &mut Effects,
) {
    let was = group.outside_before(before, direction);
    let is = group.outside_after(after, direction);
    let parts =
        asked.split(group.pods.iter().cloned(), direction, |side| matches!(side, Side::Outside(_)));
    let nodes = cluster.world.nodes().values().flat_map(|node| &node.addresses);
    let of_nodes: CidrSet = nodes.copied().map(ipnet::IpNet::from).collect();
    for piece in outside_difference(&was, &is) {
        let gained = piece.after.difference(&piece.before);
        let lost = piece.before.difference(&piece.after);
        for (pods, wishes) in &parts {
            let who = || names(cluster, pods);
            // The part of the piece that no wish asked for.
            let mut rest = vec![(piece.addresses.clone(), gained.clone())];
            for wish in wishes {
                let Some(set) = &wish.outside else { continue };
                let cut = rest.iter().flat_map(|(addresses, ports)| {
                    let inside = (addresses.intersection(set), ports.difference(&wish.ports));
                    [inside, (addresses.difference(set), ports.clone())]
                });
                rest = cut.filter(|(set, ports)| !set.is_empty() && !ports.is_empty()).collect();
            }
            // An address of a node is that node, which has lines of its own.
            let is_external = |(set, ports): &&(CidrSet, PortSet)| {
                !ports.is_empty() && !set.difference(&of_nodes).is_empty()
            };
            for (addresses, ports) in rest.iter().filter(is_external) {
                let addresses = words::external(addresses);
                effects.allowed.push(effect(direction, ports, who(), addresses));
            }
            if !lost.is_empty() {
                let addresses = words::external(&piece.addresses);
                effects.denied.push(effect(direction, &lost, who(), addresses));
            }
        }
    }
}

fn nodes(
    cluster: &Cluster,
    group: &Group,
    (before, world, after): (&Reach<'_>, &World, &Reach<'_>),
    direction: Direction,
    asked: &Asked<'_>,
    effects: &mut Effects,
) {
    for node in world.nodes().keys() {
        // Pods on the node itself: policies do not decide about them.
        let elsewhere = |pod: &&PodKey| {
            world.pods().get(*pod).is_none_or(|found| found.node.as_ref() != Some(node))
        };
        let pods: BTreeSet<PodKey> = group.pods.iter().filter(elsewhere).cloned().collect();
        let Some(pod) = pods.first() else { continue };
        let ports = |reach: &Reach<'_>, world: &World| match direction {
            Direction::Egress => to_node(reach, world, pod, node),
            Direction::Ingress => {
                let (node, pod) = (Side::Node(node.clone(), None), Side::Pod(pod.clone(), None));
                between(reach, world, &node, &pod)
            }
        };
        let (was, is) = (ports(before, &cluster.world), ports(after, world));
        if was == is {
            continue;
        }
        let on_node = |side: &Side| match side {
            Side::Node(name, _) => name == node,
            Side::Pod(key, _) => {
                let pod = world.pods().get(key).filter(|pod| pod.host_network);
                pod.is_some_and(|pod| pod.node.as_ref() == Some(node))
            }
            Side::Outside(_) => false,
        };
        for (pods, wishes) in asked.split(pods, direction, on_node) {
            let mut gained = is.difference(&was);
            for wish in wishes {
                gained = gained.difference(&wish.ports);
            }
            let lost = was.difference(&is);
            let (who, node) = (names(cluster, &pods), format!("node/{node}"));
            if !gained.is_empty() {
                effects.allowed.push(effect(direction, &gained, who.clone(), node.clone()));
            }
            if !lost.is_empty() {
                effects.denied.push(effect(direction, &lost, who, node));
            }
        }
    }
}

fn effect(direction: Direction, ports: &PortSet, subject: String, peer: String) -> Effect {
    let (from, to) = match direction {
        Direction::Ingress => (peer, subject),
        Direction::Egress => (subject, peer),
    };
    Effect { ports: ports.clone(), from, to }
}

/// Pods by name; workloads whose pods are all among them by theirs.
fn names(cluster: &Cluster, pods: &BTreeSet<PodKey>) -> String {
    const SHOWN: usize = 6;
    let name = |pod: &PodKey| {
        let workload = cluster.workload_of(pod).filter(|workload| {
            let all = cluster.workloads.get(*workload).map(|found| &found.pods);
            all.is_some_and(|all| all.iter().all(|pod| pods.contains(pod)))
        });
        workload.map_or_else(|| cluster.pod_ref(pod), ToString::to_string)
    };
    let names: BTreeSet<String> = pods.iter().map(name).collect();
    few(names.iter().map(|name| crate::output::short(name)), SHOWN)
}
