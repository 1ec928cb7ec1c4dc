//! Finds the objects that cause a change. Each object is undone alone; if this restores the old
//! result, the object is a cause. If no object alone does, the cause is the smallest set that does
//! together.
//!
//! Only objects that concern a pair are tried, in a world of just that pair and its policies, so
//! the cost of one change follows the policies of two pods, not the size of the cluster.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Selected;
use policy_engine::reach::outside_difference;
use policy_engine::reach::{Group, GroupId, Outside, Pair, Piece, PortSet, Reach};
use policy_engine::world::{Options, World};

use super::kinds::Kinds;
use super::trials::Trials;
use super::{Causes, Changed};
use crate::judge::groups::to_node;
use crate::model::Cluster;
use crate::source::Sources;

/// Numbers of objects.
pub(super) type Numbers = BTreeSet<usize>;

/// Finds causes.
pub(super) struct Judge<'a> {
    sources: &'a Sources,
    pub(super) before: &'a Cluster,
    pub(super) after: &'a Cluster,
    options: Options,
    pub(super) objects: &'a [Changed],
    groups: &'a [Group],
    /// Per group, the objects that can affect it, by direction.
    by_group: Vec<[Numbers; 2]>,
    /// Per object that is not a policy: the cluster without its change.
    undone: Vec<OnceCell<Cluster>>,
}

/// A world with some changes undone: a base, and the changes of policies by which it differs.
struct Undone<'a> {
    base: &'a World,
    policies: Vec<Change>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        sources: &'a Sources,
        before: &'a Cluster,
        after: &'a Cluster,
        options: Options,
        objects: &'a [Changed],
        groups: &'a [Group],
    ) -> Self {
        let undone = objects.iter().map(|_| OnceCell::new()).collect();
        let by_group = Vec::new();
        let mut judge = Self { sources, before, after, options, objects, groups, by_group, undone };
        // Only objects of the pods' namespace, and those of the whole cluster, can concern a group.
        let mut by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, object) in objects.iter().enumerate() {
            let name = &object.name;
            let place = match name.kind {
                Kind::Namespace => &*name.name,
                // Policies of the whole cluster depend on the addresses of the API server.
                Kind::EndpointSlice | Kind::Endpoints => "",
                _ => &*name.namespace,
            };
            by_namespace.entry(place).or_default().push(number);
        }
        let of_group = groups.iter().map(|group| {
            let namespace = group.pods.first().map_or("", |pod| &pod.namespace);
            let near = ["", namespace].into_iter().filter_map(|name| by_namespace.get(name));
            let near: BTreeSet<usize> = near.flatten().copied().collect();
            Direction::BOTH.map(|direction| {
                let concerning = near.iter().copied().filter(|number| {
                    let object = objects.get(*number);
                    object.is_some_and(|object| judge.concerns(object, group, direction))
                });
                concerning.collect()
            })
        });
        judge.by_group = of_group.collect();
        judge
    }

    /// The causes of a change between two groups.
    pub(super) fn of_pair(&self, pair: &Pair<'_>) -> Causes {
        let concerned = self
            .of_group(pair.source, Direction::Egress)
            .union(self.of_group(pair.destination, Direction::Ingress))
            .copied()
            .collect();
        let concerned = self.concerned(concerned);
        let sides = self.group(pair.source).zip(self.group(pair.destination));
        let pods = sides.and_then(|(from, to)| {
            let source = from.pods.first()?;
            Some((source, to.pods.iter().find(|pod| *pod != source)?))
        });
        match pods {
            Some(pods) if concerned.len() > 1 => {
                Trials::new(self, pods, pair.before, concerned).causes()
            }
            Some(_) | None => concerned.into_iter().collect(),
        }
    }

    /// The causes of a change between a group and external addresses, which are split by cause.
    pub(super) fn of_outside(
        &self,
        group: GroupId,
        at: Direction,
        piece: &Piece,
    ) -> Vec<(CidrSet, Causes)> {
        let mut was = Outside::default();
        if !piece.before.is_empty() {
            was.parts.push((piece.addresses.clone(), piece.before.clone()));
        }
        let pod = self.group(group).and_then(|group| group.pods.first());
        let restored = |undone: &Undone<'_>| {
            let is = pod.map(|pod| outside(undone, pod, at)).unwrap_or_default();
            let differing = outside_difference(&was, &is).into_iter();
            differing.fold(piece.addresses.clone(), |rest, found| rest.difference(&found.addresses))
        };
        let concerned = self.concerned(self.of_group(group, at).clone());
        if concerned.len() < 2 {
            return vec![(piece.addresses.clone(), concerned.into_iter().collect())];
        }
        // The addresses for which undoing some objects restores the old result.
        let kinds = self.kinds(&concerned, pod, at);
        let mut known: BTreeMap<Vec<(usize, bool)>, CidrSet> = BTreeMap::new();
        let mut back = |numbers: &Numbers| {
            let key = kinds.undone(numbers);
            let found = known.entry(key).or_insert_with(|| {
                self.undo(numbers).map(|undone| restored(&undone)).unwrap_or_default()
            });
            found.clone()
        };
        let mut parts = vec![(piece.addresses.clone(), Numbers::new())];
        for number in &concerned {
            let back = back(&[*number].into());
            let halves = parts.into_iter().flat_map(|(addresses, alone)| {
                let with = alone.iter().copied().chain([*number]).collect();
                [(addresses.intersection(&back), with), (addresses.difference(&back), alone)]
            });
            parts = halves.filter(|(addresses, _)| !addresses.is_empty()).collect();
        }
        let mut found: BTreeMap<Numbers, CidrSet> = BTreeMap::new();
        let mut add = |because: Numbers, addresses: &CidrSet| {
            let known = found.entry(because).or_default();
            *known = known.union(addresses);
        };
        for (addresses, alone) in parts {
            if !alone.is_empty() {
                add(alone, &addresses);
                continue;
            }
            for (addresses, needed) in each_together(&addresses, &concerned, &mut back) {
                add(needed, &addresses);
            }
        }
        let found = found.into_iter();
        found.map(|(because, addresses)| (addresses, because.into_iter().collect())).collect()
    }

    /// The causes of a change from a pod of a group to a node.
    pub(super) fn of_node(
        &self,
        pod: &PodKey,
        group: GroupId,
        node: &Str,
        before: &PortSet,
    ) -> Causes {
        let concerned = self.of_group(group, Direction::Egress).clone();
        self.causes(concerned, |undone| {
            let mut world = small(undone, &[pod]);
            if let Some(found) = undone.base.nodes().get(node) {
                world.apply(Change::Node(node.clone(), Some(found.clone())));
            }
            to_node(&Reach::new(&world), &world, pod, node) == *before
        })
    }

    /// The objects that can affect a group in one direction.
    pub(super) fn of_group(&self, group: GroupId, direction: Direction) -> &Numbers {
        static NONE: Numbers = BTreeSet::new();
        let of_group = self.by_group.get(group);
        of_group.map_or(&NONE, |[ingress, egress]| match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        })
    }

    /// The objects that can be causes: `known`, or all objects that are not policies if `known` is
    /// empty.
    fn concerned(&self, known: Numbers) -> Numbers {
        if !known.is_empty() {
            return known;
        }
        // An address was moved from one pod to another, which only objects that are not policies
        // can cause.
        let others = self.objects.iter().enumerate();
        let others = others.filter(|(_, object)| !object.name.kind.is_policy());
        others.map(|(number, _)| number).collect()
    }

    /// The objects that are causes each alone; if there are none, those that are a cause together.
    fn causes(&self, known: Numbers, restores: impl Fn(&Undone<'_>) -> bool) -> Causes {
        let concerned = self.concerned(known);
        if concerned.len() < 2 {
            return concerned.into_iter().collect();
        }
        let restores_alone =
            |number: &&usize| self.undo(&[**number].into()).is_some_and(|undone| restores(&undone));
        let alone: Causes = concerned.iter().filter(restores_alone).copied().collect();
        if alone.is_empty() { self.together(concerned, restores) } else { alone }
    }

    /// The objects of `concerned` that are needed to restore the old result.
    fn together(&self, mut concerned: Numbers, restores: impl Fn(&Undone<'_>) -> bool) -> Causes {
        // An object may become unneeded when others are removed: repeat until all that remain are
        // needed.
        while let Some(fewer) = concerned.iter().find_map(|number| {
            let mut fewer = concerned.clone();
            fewer.remove(number);
            self.undo(&fewer).is_some_and(|undone| restores(&undone)).then_some(fewer)
        }) {
            concerned = fewer;
        }
        concerned.into_iter().collect()
    }

    /// The world after, without the changes of some objects. `None` when several of these are not
    /// policies, because each of them needs a cluster of its own.
    fn undo(&self, numbers: &Numbers) -> Option<Undone<'_>> {
        let mut undone = Undone { base: &self.after.world, policies: Vec::new() };
        let mut others = Vec::new();
        for number in numbers {
            let name = &self.objects.get(*number)?.name;
            if name.kind.is_policy() {
                let was = self.before.world.policy(name).cloned();
                undone.policies.push(Change::Policy(name.clone(), was));
            } else {
                others.push(*number);
            }
        }
        match others.as_slice() {
            [] => {}
            [number] => undone.base = &self.cluster_without(*number)?.world,
            _ => return None,
        }
        Some(undone)
    }

    /// The cluster after, without the change of an object that is not a policy.
    pub(super) fn cluster_without(&self, number: usize) -> Option<&Cluster> {
        let name = &self.objects.get(number)?.name;
        Some(self.undone.get(number)?.get_or_init(|| {
            let mut inventory = self.sources.after.clone();
            let old = self.sources.before.get(name).cloned();
            inventory.put(name.clone(), old);
            Cluster::new(&inventory, self.options.clone())
        }))
    }

    /// The kinds of objects for a pod. If one of them is not a policy, undoing it makes another
    /// cluster, in which policies may decide differently.
    fn kinds(&self, concerned: &Numbers, pod: Option<&PodKey>, at: Direction) -> Kinds {
        let worlds = [&self.before.world, &self.after.world];
        let pod = pod.and_then(|pod| self.after.world.pods().get(pod));
        let name = |number: &usize| self.objects.get(*number).map(|object| &object.name);
        let is_policy = |number: &usize| name(number).is_some_and(|name| name.kind.is_policy());
        let Some(pod) = pod.filter(|_| concerned.iter().all(is_policy)) else {
            return Kinds::alone(concerned);
        };
        let versions = concerned.iter().filter_map(|number| {
            let name = name(number)?;
            Some((*number, worlds.map(|world| world.policy(name).map(AsRef::as_ref))))
        });
        Kinds::new(&self.after.world, pod, at, versions)
    }

    fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// Whether a change of `object` may affect what policies allow to or from the pods of a group.
    fn concerns(&self, object: &Changed, group: &Group, direction: Direction) -> bool {
        let Some(pod) = group.pods.first() else { return false };
        let name = &object.name;
        if name.kind.is_policy() {
            let worlds = [&self.before.world, &self.after.world];
            // The pod may have had other labels before: a policy that selects the old or the new
            // ones counts.
            return worlds.into_iter().any(|world| {
                let pods =
                    worlds.into_iter().filter_map(|known| Some((known, known.pods().get(pod)?)));
                pods.into_iter().any(|(known, pod)| applies_to(world, name, known, pod, direction))
            });
        }
        match name.kind {
            Kind::Namespace => name.name == pod.namespace,
            Kind::Node => true,
            Kind::EndpointSlice | Kind::Endpoints => {
                let worlds = [&self.before.world, &self.after.world];
                direction == Direction::Egress
                    && worlds
                        .into_iter()
                        .any(|world| world.policies_in("").any(|policy| policy.names_api_server()))
            }
            Kind::Pod => group.pods.contains(&PodKey::new(&name.namespace, &name.name)),
            // A workload, or its ReplicaSet or Job, which has another name than the workload.
            _ if name.namespace != pod.namespace => false,
            kind => {
                let owners = [self.before, self.after].map(|cluster| cluster.workload_of(pod));
                let mut owners = owners.into_iter().flatten();
                let controlled = matches!(kind, Kind::ReplicaSet | Kind::Job);
                controlled || owners.any(|owner| is(owner, kind, &name.name))
            }
        }
    }
}

/// As [`Judge::together`], for each address separately: sets of addresses, with the needed objects.
fn each_together(
    addresses: &CidrSet,
    concerned: &Numbers,
    mut back: impl FnMut(&Numbers) -> CidrSet,
) -> Vec<(CidrSet, Numbers)> {
    let mut parts = vec![(addresses.clone(), concerned.clone())];
    loop {
        let before = parts.clone();
        for number in concerned {
            let halves = parts.into_iter().flat_map(|(addresses, needed)| {
                let mut fewer = needed.clone();
                let back = if fewer.remove(number) { back(&fewer) } else { CidrSet::default() };
                [(addresses.intersection(&back), fewer), (addresses.difference(&back), needed)]
            });
            parts = halves.filter(|(addresses, _)| !addresses.is_empty()).collect();
        }
        if parts == before {
            return parts;
        }
    }
}

fn is(owner: &crate::model::WorkloadRef, kind: Kind, name: &Str) -> bool {
    owner.kind.as_ref() == kind.lower() && owner.name == *name
}

/// Whether a policy of `world` applies to a pod in one direction. The labels of the pod's namespace
/// are those in `known`.
fn applies_to(
    world: &World,
    policy: &ObjectRef,
    known: &World,
    pod: &Pod,
    direction: Direction,
) -> bool {
    world.policy(policy).is_some_and(|policy| {
        policy.applies(direction) && known.selected(policy, pod) != Selected::No
    })
}

/// A world with only these pods, in which the same policies decide about them.
fn small(undone: &Undone<'_>, pods: &[&PodKey]) -> World {
    let base = undone.base;
    let mut world = World::new(base.options.clone());
    for key in pods {
        let Some(pod) = base.pods().get(*key).filter(|pod| pod.takes_part()) else { continue };
        let addresses: Vec<_> = base.owned_addresses(pod).collect();
        for address in addresses.iter().filter(|address| base.is_contested(**address)) {
            // The other pods that claim the address are needed, so that it stays contested.
            for other in base.claimants(*address).filter(|other| !pods.contains(&&other.key)) {
                world.apply(Change::Pod(other.key.clone(), Some(other.clone())));
            }
        }
        let alone = Pod { addresses: addresses.into(), ..Pod::clone(pod) };
        world.apply(Change::Pod(alone.key.clone(), Some(Arc::new(alone))));
        let namespace = base.namespaces().get(&key.namespace).cloned();
        world.apply(Change::Namespace(key.namespace.clone(), namespace));
        for (policy, _) in base.selecting(pod) {
            world.apply(Change::Policy(policy.name.clone(), Some(policy.clone())));
        }
    }
    undone.policies.iter().for_each(|change| world.apply(change.clone()));
    world
}

fn outside(undone: &Undone<'_>, pod: &PodKey, direction: Direction) -> Outside {
    let world = small(undone, &[pod]);
    let reach = Reach::new(&world);
    reach.class_of(pod).map(|class| reach.outside(class, direction)).unwrap_or_default()
}
