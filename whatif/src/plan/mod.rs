//! Finds what a change of objects changes for connections, and which objects cause each change.
//!
//! ```text
//! cluster before ┐                                       ┌► changes of pairs, and outside
//!                ├► Difference: pairs of groups of pods ─┤
//! cluster after  ┘                                       └► risks
//! objects that differ ► causes: undone alone or together, they restore the old result
//! ```

mod causes;
mod kinds;
mod nodes;
mod objects;
mod risks;
mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::reach::{Difference, Group, GroupId, PortSet, Reach, outside_difference};
use policy_engine::tier::Mode;
use policy_engine::world::{Options, World};

use self::causes::Judge;
use crate::model::{Cluster, Unit, Units};
use crate::source::Sources;
pub use objects::{Changed, How};
pub use risks::{Risk, RiskKind};

/// The numbers of the objects that cause a change, in [`Plan::objects`].
pub type Causes = Arc<[usize]>;

/// The difference that a hypothesis makes.
pub struct Plan<'c> {
    /// The cluster without the hypothesis.
    pub before: &'c Cluster,
    /// The cluster with it.
    pub after: &'c Cluster,
    /// The groups of pods, and all pairs of them.
    pub difference: Difference,
    /// The names of the pods of each group.
    pub units: Units,
    /// Every object that is added, removed or modified.
    pub objects: Vec<Changed>,
    /// What changes between pods.
    pub changes: Vec<Change>,
    /// What changes between pods and external addresses.
    pub external: Vec<ExternalChange>,
    /// Risks that a reviewer has to know first.
    pub risks: Vec<Risk>,
    /// Per group: the policies that apply to it.
    pub isolation: Vec<Isolation>,
}

/// What changes from one group of pods to another.
#[derive(Clone, Debug)]
pub struct Change {
    /// The group that connects.
    pub source: GroupId,
    /// The group that it connects to.
    pub destination: GroupId,
    /// The ports that were allowed.
    pub before: PortSet,
    /// The ports that are allowed after the change.
    pub after: PortSet,
    /// The objects that cause it.
    pub because: Causes,
}

/// What changes between a group of pods and external addresses, or from the group to nodes.
#[derive(Clone, Debug)]
pub struct ExternalChange {
    /// The pods.
    pub group: GroupId,
    /// Ingress: from external addresses to the pods.
    pub direction: Direction,
    /// The addresses.
    pub addresses: CidrSet,
    /// The nodes that have the addresses, where policies name nodes; empty for external addresses.
    pub nodes: BTreeSet<Str>,
    /// The ports that were allowed.
    pub before: PortSet,
    /// The ports that are allowed after the change.
    pub after: PortSet,
    /// The objects that cause it.
    pub because: Causes,
}

/// The kind of a change of the allowed ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// Nothing was allowed before.
    Opened,
    /// More is allowed than before.
    Widened,
    /// Some ports are newly allowed, and some are no longer allowed.
    Changed,
    /// Less is allowed than before.
    Narrowed,
    /// Nothing is allowed after the change.
    Closed,
}

impl Effect {
    /// The kind of the change from `before` to `after`.
    #[must_use]
    pub fn of(before: &PortSet, after: &PortSet) -> Self {
        let gains = !after.difference(before).is_empty();
        let loses = !before.difference(after).is_empty();
        match (gains, loses) {
            _ if before.is_empty() => Self::Opened,
            _ if after.is_empty() => Self::Closed,
            (true, true) => Self::Changed,
            (true, false) => Self::Widened,
            (false, _) => Self::Narrowed,
        }
    }

    /// Whether ports are newly allowed.
    #[must_use]
    pub fn gains(self) -> bool {
        matches!(self, Self::Opened | Self::Widened | Self::Changed)
    }

    /// Whether ports are no longer allowed.
    #[must_use]
    pub fn loses(self) -> bool {
        matches!(self, Self::Closed | Self::Narrowed | Self::Changed)
    }
}

/// The policies that apply to a group, per direction: ingress first.
#[derive(Clone, Default, Debug)]
pub struct Isolation {
    /// Before.
    pub before: [Vec<String>; 2],
    /// After.
    pub after: [Vec<String>; 2],
}

impl<'c> Plan<'c> {
    /// Compares the clusters of the two inventories of `sources`.
    #[must_use]
    pub fn new(
        sources: &Sources,
        before: &'c Cluster,
        after: &'c Cluster,
        options: Options,
    ) -> Self {
        let (old, new) = (Reach::new(&before.world), Reach::new(&after.world));
        let difference = Difference::new(&old, &new);
        let objects = objects::changed(sources);
        let judge = Judge::new(sources, before, after, options, &objects, &difference.groups);
        let units = units(before, after, &difference);
        let changes = changes(&difference, &units, &judge);
        let mut external = external(&difference, &units, &judge, &old, &new);
        let (clusters, reaches) = ([before, after], [&old, &new]);
        external.extend(nodes::changes(clusters, reaches, &difference, &units, &judge));
        let isolation = isolation(before, after, &difference);
        let found = Found { difference: &difference, changes: &changes, external: &external };
        let risks = risks::find(&found, [before, after], [&old, &new], &judge);
        drop(judge);
        Self { before, after, difference, units, objects, changes, external, risks, isolation }
    }

    /// Whether every connection is allowed as before.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.changes.is_empty() && self.external.is_empty()
    }

    /// The units that a risk is about.
    #[must_use]
    pub fn units_of(&self, risk: &Risk) -> Vec<&Unit> {
        let units = self.units.of(risk.group).iter();
        let RiskKind::BackendLost(.., pods) = &risk.kind else { return units.collect() };
        let names = |pod| {
            let workload = self.after.workload_of(pod).map(ToString::to_string);
            [Some(self.after.pod_ref(pod)), workload].into_iter().flatten()
        };
        let names: BTreeSet<String> = pods.iter().flat_map(names).collect();
        units.filter(|unit| names.contains(&*unit.name)).collect()
    }

    /// The pairs of units between which something changes: never one pod with itself.
    pub fn unit_pairs(&self, change: &Change) -> impl Iterator<Item = (&Unit, &Unit)> {
        unit_pairs(&self.units, change.source, change.destination)
    }
}

/// The pairs of units of two groups: never one pod with itself.
pub fn unit_pairs(
    units: &Units,
    source: GroupId,
    destination: GroupId,
) -> impl Iterator<Item = (&Unit, &Unit)> {
    let destinations = units.of(destination);
    let pairs = units.of(source).iter();
    let pairs = pairs.flat_map(move |from| destinations.iter().map(move |to| (from, to)));
    pairs.filter(|(from, to)| from.name != to.name || from.pods > 1)
}

/// The changes that were found so far.
struct Found<'p> {
    difference: &'p Difference,
    changes: &'p [Change],
    external: &'p [ExternalChange],
}

fn changes(difference: &Difference, units: &Units, judge: &Judge<'_>) -> Vec<Change> {
    let is_listed = |pair: &policy_engine::reach::Pair<'_>| {
        unit_pairs(units, pair.source, pair.destination).next().is_some()
    };
    let change = |pair: policy_engine::reach::Pair<'_>| Change {
        source: pair.source,
        destination: pair.destination,
        before: pair.before.clone(),
        after: pair.after.clone(),
        because: judge.of_pair(&pair),
    };
    difference.changes().filter(is_listed).map(change).collect()
}

fn external(
    difference: &Difference,
    units: &Units,
    judge: &Judge<'_>,
    old: &Reach<'_>,
    new: &Reach<'_>,
) -> Vec<ExternalChange> {
    let mut found = Vec::new();
    for (group, pods) in difference.groups.iter().enumerate() {
        for direction in Direction::BOTH.into_iter().filter(|_| !units.of(group).is_empty()) {
            let was = pods.outside_before(old, direction);
            let is = pods.outside_after(new, direction);
            for piece in outside_difference(&was, &is) {
                let parts = judge.of_outside(group, direction, &piece).into_iter();
                found.extend(parts.map(|(addresses, because)| ExternalChange {
                    group,
                    direction,
                    addresses,
                    nodes: BTreeSet::new(),
                    before: piece.before.clone(),
                    after: piece.after.clone(),
                    because,
                }));
            }
        }
    }
    found
}

/// The names of each group. A workload with pods of different groups is listed pod by pod.
fn units(before: &Cluster, after: &Cluster, difference: &Difference) -> Units {
    let workload = |pod: &PodKey| after.workload_of(pod).or_else(|| before.workload_of(pod));
    let mut groups_of: BTreeMap<_, BTreeSet<GroupId>> = BTreeMap::new();
    for (id, group) in difference.groups.iter().enumerate() {
        for name in group.pods.iter().filter_map(workload) {
            groups_of.entry(name).or_default().insert(id);
        }
    }
    let name = |pod: &PodKey| match workload(pod) {
        Some(name) if groups_of.get(name).is_some_and(|ids| ids.len() == 1) => name.to_string(),
        _ if after.workload_of(pod).is_some() => after.pod_ref(pod),
        _ => before.pod_ref(pod),
    };
    // Replicas that do not run yet share one name, so a larger number of them is not a change.
    let stays = |group: &Group| group.before.is_some() && group.after.is_some();
    let staying = difference.groups.iter().filter(|group| stays(group));
    let known: BTreeSet<String> = staying.flat_map(|group| group.pods.iter().map(name)).collect();
    let of_group = difference.groups.iter().map(|group| {
        let named = group.pods.iter().map(|pod| (pod, name(pod)));
        Unit::count(named.filter(|(_, name)| stays(group) || !known.contains(name)))
    });
    Units { of_class: of_group.collect() }
}

/// The enforced policies that apply to a pod in one direction, in the order of their tiers. The
/// list ends with a tier that isolates the pod, since lower tiers are not evaluated.
fn deciding(world: &World, pod: &Pod, direction: Direction) -> Vec<String> {
    let mut policies = world.selecting(pod);
    policies.retain(|(policy, _)| policy.mode == Mode::Enforce && policy.applies(direction));
    let isolating = policies.iter().find(|(policy, _)| policy.isolates(direction));
    let last = isolating.map(|(policy, _)| policy.tier);
    let asked = policies.iter().filter(|(policy, _)| last.is_none_or(|last| policy.tier <= last));
    asked.map(|(policy, _)| policy.name.short()).collect()
}

fn isolation(before: &Cluster, after: &Cluster, difference: &Difference) -> Vec<Isolation> {
    let policies = |cluster: &Cluster, pod: Option<&PodKey>| {
        let pod = pod.and_then(|pod| cluster.world.pods().get(pod)).filter(|p| p.takes_part());
        Direction::BOTH.map(|direction| {
            let Some(pod) = pod else { return Vec::new() };
            deciding(&cluster.world, pod, direction)
        })
    };
    let of_group = difference.groups.iter().map(|group| {
        let pod = group.pods.first();
        Isolation { before: policies(before, pod), after: policies(after, pod) }
    });
    of_group.collect()
}
