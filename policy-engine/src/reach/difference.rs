//! What differs between the reachability of two worlds, for all pods at once.
//!
//! ```text
//! groups: pods of one class before AND of one class after
//! pair of groups ► edge before, edge after      (sparse: only where one of them exists)
//! ```

use std::collections::BTreeMap;

use super::atoms::Interned;
use super::{ClassId, Outside, PortSet, Reach};
use crate::cidr::CidrSet;
use crate::direction::Direction;
use crate::model::PodKey;

/// The number of a group, from 0, in [`Difference::groups`].
pub type GroupId = usize;

/// Pods that no policy tells apart, neither before nor after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The pods by name; never empty.
    pub pods: Vec<PodKey>,
    /// Their class before; `None`: they were not there.
    pub before: Option<ClassId>,
    /// Their class after; `None`: they are not there any more.
    pub after: Option<ClassId>,
}

/// What the pods of one group may open at those of another, before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'d> {
    /// Who connects.
    pub source: GroupId,
    /// Who is asked; may be the same group, for two different pods of it.
    pub destination: GroupId,
    /// On which ports before; empty: on none.
    pub before: &'d PortSet,
    /// On which ports after; empty: on none.
    pub after: &'d PortSet,
}

/// Addresses outside to or from which something changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Piece {
    /// On which ports before.
    pub before: PortSet,
    /// On which ports after; never the same.
    pub after: PortSet,
    /// The addresses; never empty.
    pub addresses: CidrSet,
}

/// The reachability of two worlds side by side. Pods of one key are one pod.
pub struct Difference {
    /// All groups, in the order of their first pods.
    pub groups: Vec<Group>,
    pairs: Vec<(GroupId, GroupId, usize, usize)>,
    ports: Interned<PortSet>,
}

impl Difference {
    /// Compares two worlds.
    #[must_use]
    pub fn new(before: &Reach<'_>, after: &Reach<'_>) -> Self {
        let groups = groups(before, after);
        let mut ports = Interned::<PortSet>::default();
        let nothing = ports.number(&PortSet::default());
        let mut edges = |reach: &Reach<'_>| -> BTreeMap<(ClassId, ClassId), usize> {
            let edges = reach.edges();
            let numbered = edges.iter();
            numbered.map(|e| ((e.source, e.destination), ports.number(e.allowed))).collect()
        };
        let (old, new) = (edges(before), edges(after));
        let was = members(&groups, before.classes().len(), |group| group.before);
        let is = members(&groups, after.classes().len(), |group| group.after);
        let find = |edges: &BTreeMap<_, usize>, from: Option<ClassId>, to: Option<ClassId>| {
            from.zip(to).and_then(|pair| edges.get(&pair).copied())
        };
        let group = |id: GroupId| groups.get(id);
        let mut pairs = Vec::new();
        for ((from, to), allowed) in &old {
            for (source, destination) in between(&groups, &was, *from, *to) {
                let Some((s, d)) = group(source).zip(group(destination)) else { continue };
                let then = find(&new, s.after, d.after).unwrap_or(nothing);
                pairs.push((source, destination, *allowed, then));
            }
        }
        for ((from, to), allowed) in &new {
            for (source, destination) in between(&groups, &is, *from, *to) {
                let Some((s, d)) = group(source).zip(group(destination)) else { continue };
                if find(&old, s.before, d.before).is_none() {
                    pairs.push((source, destination, nothing, *allowed));
                }
            }
        }
        pairs.sort_unstable();
        Self { groups, pairs, ports }
    }

    /// Every pair between which something is allowed before or after.
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        self.pairs.iter().filter_map(|(source, destination, before, after)| {
            let before = self.ports.values.get(*before)?;
            let after = self.ports.values.get(*after)?;
            Some(Pair { source: *source, destination: *destination, before, after })
        })
    }

    /// The pairs whose ports change.
    pub fn changes(&self) -> impl Iterator<Item = Pair<'_>> {
        self.pairs().filter(|pair| pair.before != pair.after)
    }
}

/// The addresses outside for which `before` and `after` say different things.
#[must_use]
pub fn outside_difference(before: &Outside, after: &Outside) -> Vec<Piece> {
    let (old, new) = (whole(before), whole(after));
    let mut found: BTreeMap<(&PortSet, &PortSet), CidrSet> = BTreeMap::new();
    for (there, was) in &old {
        for (here, is) in new.iter().filter(|(_, is)| is != was) {
            let addresses = there.intersection(here);
            if !addresses.is_empty() {
                found.entry((was, is)).or_default().add(&addresses);
            }
        }
    }
    let piece = |((before, after), addresses): ((&PortSet, &PortSet), _)| Piece {
        before: before.clone(),
        after: after.clone(),
        addresses,
    };
    found.into_iter().map(piece).collect()
}

/// The parts with the rest of all addresses, to which nothing is allowed.
fn whole(outside: &Outside) -> Vec<(CidrSet, PortSet)> {
    let all = CidrSet::everything();
    let rest = outside.parts.iter().fold(all, |rest, (part, _)| rest.difference(part));
    outside.parts.iter().cloned().chain([(rest, PortSet::default())]).collect()
}

impl Group {
    /// What was allowed outside before; nothing for pods that were not there.
    #[must_use]
    pub fn outside_before(&self, reach: &Reach<'_>, direction: Direction) -> Outside {
        self.before.map(|class| reach.outside(class, direction)).unwrap_or_default()
    }

    /// What is allowed outside after; nothing for pods that are gone.
    #[must_use]
    pub fn outside_after(&self, reach: &Reach<'_>, direction: Direction) -> Outside {
        self.after.map(|class| reach.outside(class, direction)).unwrap_or_default()
    }
}

fn groups(before: &Reach<'_>, after: &Reach<'_>) -> Vec<Group> {
    let mut pods: BTreeMap<&PodKey, (Option<ClassId>, Option<ClassId>)> = BTreeMap::new();
    for (key, class) in &before.class_of {
        pods.entry(key).or_default().0 = Some(*class);
    }
    for (key, class) in &after.class_of {
        pods.entry(key).or_default().1 = Some(*class);
    }
    let mut groups: BTreeMap<(Option<ClassId>, Option<ClassId>), Vec<PodKey>> = BTreeMap::new();
    for (key, classes) in pods {
        groups.entry(classes).or_default().push(key.clone());
    }
    let group = |((before, after), pods)| Group { pods, before, after };
    let mut groups: Vec<Group> = groups.into_iter().map(group).collect();
    groups.sort_by(|left, right| left.pods.cmp(&right.pods));
    groups
}

/// The groups of each class.
fn members(
    groups: &[Group],
    classes: usize,
    class: impl Fn(&Group) -> Option<ClassId>,
) -> Vec<Vec<GroupId>> {
    let mut members = vec![Vec::new(); classes];
    for (id, group) in groups.iter().enumerate() {
        if let Some(members) = class(group).and_then(|class| members.get_mut(class)) {
            members.push(id);
        }
    }
    members
}

/// All pairs of groups of two classes, but no pod with itself.
fn between<'m>(
    groups: &'m [Group],
    members: &'m [Vec<GroupId>],
    from: ClassId,
    to: ClassId,
) -> impl Iterator<Item = (GroupId, GroupId)> + 'm {
    let of = |class: ClassId| members.get(class).map_or(&[] as &[_], Vec::as_slice);
    let destinations = of(to);
    let pairs = of(from).iter().flat_map(move |source| destinations.iter().map(|d| (*source, *d)));
    let alone = |id: GroupId| groups.get(id).is_some_and(|group| group.pods.len() < 2);
    pairs.filter(move |(source, destination)| source != destination || !alone(*source))
}
