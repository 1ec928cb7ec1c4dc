//! What policies change beside the connection that they are for.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::reach::{Difference, Group, PortSet, Reach, outside_difference};
use policy_engine::words::few;
use policy_engine::world::World;

use super::sides;
use crate::endpoint::Side;
use crate::judge::Part;
use crate::judge::groups::{between, to_node};
use crate::model::Cluster;
use crate::output::words;

/// What policies change beside the connection that they are for.
#[derive(Clone, Default, Debug)]
pub struct Effects {
    /// What else is allowed.
    pub allowed: Vec<Effect>,
    /// What is not allowed any more, because a pod is isolated that was not.
    pub denied: Vec<Effect>,
}

/// Connections that change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Effect {
    /// The ports.
    pub ports: PortSet,
    /// Who connects.
    pub from: String,
    /// Whom it connects to.
    pub to: String,
}

/// Pairs of pods by what changes: the ports, and whether they are allowed now.
type Found = BTreeMap<(bool, PortSet), BTreeMap<PodKey, BTreeSet<PodKey>>>;

struct Asked<'p> {
    sources: BTreeSet<&'p PodKey>,
    destinations: BTreeSet<&'p PodKey>,
    ports: PortSet,
    part: &'p Part,
}

impl<'p> Asked<'p> {
    fn new(part: &'p Part) -> Self {
        let pods = |sides: &'p [Side]| {
            let key = |side: &'p Side| match side {
                Side::Pod(key, _) => Some(key),
                Side::Node(..) | Side::Outside(_) => None,
            };
            sides.iter().filter_map(key).collect()
        };
        let (sources, destinations) = &part.between;
        let ports = PortSet::of(part.flow.traffic);
        Self { sources: pods(sources), destinations: pods(destinations), ports, part }
    }

    /// The pods whose policies of a direction were asked about.
    fn subjects(&self, direction: Direction) -> &BTreeSet<&'p PodKey> {
        match direction {
            Direction::Ingress => &self.destinations,
            Direction::Egress => &self.sources,
        }
    }

    fn is_subject(&self, pod: &PodKey, direction: Direction) -> bool {
        self.subjects(direction).contains(pod)
    }

    fn namespaces(&self, direction: Direction) -> BTreeSet<&Str> {
        self.subjects(direction).iter().map(|pod| &pod.namespace).collect()
    }
}

/// What `after` allows and denies that `before` does not, beside what was asked for.
pub(super) fn effects(
    cluster: &Cluster,
    before: &Reach<'_>,
    (world, after): (&World, &Reach<'_>),
    part: &Part,
) -> Effects {
    let asked = Asked::new(part);
    let difference = Difference::new(before, after);
    let mut effects = between_pods(cluster, &difference, &asked);
    for direction in Direction::BOTH {
        // The policies are in the namespaces of their subjects.
        let namespaces = asked.namespaces(direction);
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
            let more = ports.difference(&asked.ports);
            for from in &sources.pods {
                let is_source = asked.sources.contains(from);
                for to in destinations.pods.iter().filter(|to| *to != from) {
                    let is_asked = allowed && is_source && asked.destinations.contains(to);
                    let ports = if is_asked { &more } else { &ports };
                    if !ports.is_empty() {
                        let row = found.entry((allowed, ports.clone())).or_default();
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
    let asked_for = asked.part.outside.as_ref().filter(|_| {
        let outside = |side: &Side| matches!(side, Side::Outside(_));
        sides(asked.part, direction).1.iter().any(outside)
    });
    for piece in outside_difference(&was, &is) {
        let gained = piece.after.difference(&piece.before);
        let (own, other): (BTreeSet<PodKey>, BTreeSet<PodKey>) =
            group.pods.iter().cloned().partition(|pod| asked.is_subject(pod, direction));
        for (pods, is_asked) in [(own, true), (other, false)] {
            let rest = match asked_for.filter(|_| is_asked) {
                Some(set) if gained.difference(&asked.ports).is_empty() => {
                    piece.addresses.difference(set)
                }
                _ => piece.addresses.clone(),
            };
            let who = names(cluster, &pods);
            if !pods.is_empty() && !rest.is_empty() && !gained.is_empty() {
                effects.allowed.push(effect(
                    direction,
                    &gained,
                    who.clone(),
                    words::external(&rest),
                ));
            }
            let lost = piece.before.difference(&piece.after);
            if !pods.is_empty() && !lost.is_empty() {
                let addresses = words::external(&piece.addresses);
                effects.denied.push(effect(direction, &lost, who, addresses));
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
        let is_asked = sides(asked.part, direction).1.iter().any(on_node)
            && pods.iter().all(|pod| asked.is_subject(pod, direction));
        let gained = is.difference(&was);
        let gained = if is_asked { gained.difference(&asked.ports) } else { gained };
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
