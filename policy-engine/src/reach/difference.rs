//! The differences between the reachability of two worlds, for all pods at once.
//!
//! ```text
//! groups: pods of one class before AND of one class after
//! pair of groups ► edge before, edge after      (sparse: only where one of them exists)
//! ```

use std::collections::BTreeMap;

use super::atoms::Interned;
use super::classes::ClassId;
use super::external::Outside;
use super::ports::PortSet;
use super::query::Reach;
use crate::cidr::CidrSet;
use crate::direction::Direction;
use crate::model::PodKey;

/// The number of a group, from 0, in [`Difference::groups`].
pub type GroupId = usize;

/// Pods that no policy tells apart, in neither of the two worlds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The pods by name; never empty.
    pub pods: Vec<PodKey>,
    /// Their class before; `None` when they did not exist.
    pub before: Option<ClassId>,
    /// Their class after; `None` when they no longer exist.
    pub after: Option<ClassId>,
}

/// The ports on which the pods of one group can connect to those of another, before and after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'d> {
    /// The group that connects.
    pub source: GroupId,
    /// The group that it connects to; for two different pods of one group the same.
    pub destination: GroupId,
    /// The ports before; empty when nothing was allowed.
    pub before: &'d PortSet,
    /// The ports after; empty when nothing is allowed.
    pub after: &'d PortSet,
}

/// Addresses outside the cluster for which the allowed ports change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Piece {
    /// The ports before.
    pub before: PortSet,
    /// The ports after; never the same.
    pub after: PortSet,
    /// The addresses; never empty.
    pub addresses: CidrSet,
}

/// The reachability of two worlds side by side. A pod of the same key in both is the same pod.
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
        let mut pairs = Vec::new();
        for ((from, to), allowed) in &old {
            for (source, destination) in between(&groups, &was, *from, *to) {
                let then = find(&new, groups[source].after, groups[destination].after);
                let then = then.unwrap_or(nothing);
                pairs.push((source, destination, *allowed, then));
            }
        }
        for ((from, to), allowed) in &new {
            for (source, destination) in between(&groups, &is, *from, *to) {
                if find(&old, groups[source].before, groups[destination].before).is_none() {
                    pairs.push((source, destination, nothing, *allowed));
                }
            }
        }
        pairs.sort_unstable();
        Self { groups, pairs, ports }
    }

    /// Every pair between which something is allowed before or after.
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        self.pairs.iter().map(|(source, destination, before, after)| Pair {
            source: *source,
            destination: *destination,
            before: self.ports.get(*before),
            after: self.ports.get(*after),
        })
    }

    /// The pairs whose ports change.
    pub fn changes(&self) -> impl Iterator<Item = Pair<'_>> {
        self.pairs().filter(|pair| pair.before != pair.after)
    }
}

/// The addresses outside for which `before` and `after` allow different ports.
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

/// The parts, with the rest of all addresses as a part where nothing is allowed.
fn whole(outside: &Outside) -> Vec<(CidrSet, PortSet)> {
    let all = CidrSet::everything();
    let rest = outside.parts.iter().fold(all, |rest, (part, _)| rest.difference(part));
    outside.parts.iter().cloned().chain([(rest, PortSet::default())]).collect()
}

impl Group {
    /// What was allowed outside the cluster before; nothing for pods that did not exist.
    #[must_use]
    pub fn outside_before(&self, reach: &Reach<'_>, direction: Direction) -> Outside {
        self.before.map(|class| reach.outside(class, direction)).unwrap_or_default()
    }

    /// What is allowed outside the cluster after; nothing for pods that no longer exist.
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
        if let Some(class) = class(group) {
            members[class].push(id);
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
    let (sources, destinations) = (&members[from], &members[to]);
    let pairs = sources.iter().flat_map(move |source| destinations.iter().map(|d| (*source, *d)));
    let alone = |id: GroupId| groups[id].pods.len() < 2;
    pairs.filter(move |(source, destination)| source != destination || !alone(*source))
}
