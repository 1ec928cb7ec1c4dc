//! The differences between the reachability of two worlds, for all pods at once.
//!
//! ```text
//! groups: pods of one class before AND of one class after
//! row of a group ► peers before, peers after    (rows that are equal change nothing)
//! ```

use std::collections::BTreeMap;

use super::atoms::Interned;
use super::classes::ClassId;
use super::external::Outside;
use super::id_set::IdSet;
use super::ports::PortSet;
use super::query::Reach;
use super::rows::{Row, Rows};
use super::sets::PortsId;
use crate::cidr::CidrSet;
use crate::direction::Direction;
use crate::model::PodKey;

/// The number of a group, from 0, in [`Difference::groups`].
pub type GroupId = usize;

/// Pods that no policy distinguishes in either of the two worlds.
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
    changes: Vec<(GroupId, GroupId, PortsId, PortsId)>,
    ports: Interned<PortSet>,
}

impl Difference {
    /// Compares two worlds.
    #[must_use]
    pub fn new(before: &Reach<'_>, after: &Reach<'_>) -> Self {
        let groups = groups(before, after);
        let (changes, ports) = Comparison::new(&groups, before, after).pairs(true);
        Self { groups, changes, ports }
    }

    /// The pairs whose ports change, by source.
    pub fn changes(&self) -> impl Iterator<Item = Pair<'_>> {
        pairs(&self.changes, &self.ports)
    }

    /// Calls `visit` for every pair between which something is allowed before or after.
    pub fn each_pair(&self, before: &Reach<'_>, after: &Reach<'_>, visit: impl FnMut(Pair<'_>)) {
        let (found, ports) = Comparison::new(&self.groups, before, after).pairs(false);
        pairs(&found, &ports).for_each(visit);
    }

    /// The rows of groups as destinations, before.
    #[must_use]
    pub fn rows_before<'r>(&self, before: &'r Reach<'_>) -> Rows<'r> {
        rows(&self.groups, before, |group| group.before)
    }

    /// The rows of groups as destinations, after.
    #[must_use]
    pub fn rows_after<'r>(&self, after: &'r Reach<'_>) -> Rows<'r> {
        rows(&self.groups, after, |group| group.after)
    }
}

fn rows<'r>(
    groups: &[Group],
    reach: &'r Reach<'_>,
    class: impl Fn(&Group) -> Option<ClassId>,
) -> Rows<'r> {
    reach.rows_of(Direction::Ingress, groups.iter().map(class).collect())
}

fn pairs<'d>(
    pairs: &'d [(GroupId, GroupId, PortsId, PortsId)],
    ports: &'d Interned<PortSet>,
) -> impl Iterator<Item = Pair<'d>> {
    pairs.iter().map(|(source, destination, before, after)| Pair {
        source: *source,
        destination: *destination,
        before: ports.get(*before),
        after: ports.get(*after),
    })
}

/// Source, destination, ports before and after.
type Pairs = Vec<(GroupId, GroupId, PortsId, PortsId)>;

/// The rows of two worlds.
struct Comparison<'r> {
    groups: &'r [Group],
    rows: [Rows<'r>; 2],
    ports: Interned<PortSet>,
}

impl<'r> Comparison<'r> {
    fn new(groups: &'r [Group], before: &'r Reach<'_>, after: &'r Reach<'_>) -> Self {
        let rows =
            [rows(groups, before, |group| group.before), rows(groups, after, |group| group.after)];
        Self { groups, rows, ports: Interned::default() }
    }

    /// All pairs by source, or only those whose ports change.
    fn pairs(mut self, only_changes: bool) -> (Pairs, Interned<PortSet>) {
        let nothing = self.ports.number(&PortSet::default());
        let mut found = Pairs::new();
        for (destination, group) in self.groups.iter().enumerate() {
            let [before, after] = [0, 1].map(|at| self.row(at, destination));
            if only_changes && before == after {
                continue;
            }
            let mut add = |sources: &IdSet, was: PortsId, is: PortsId| {
                if only_changes && was == is {
                    return;
                }
                let others =
                    sources.iter().filter(|source| *source != destination || group.pods.len() > 1);
                found.extend(others.map(|source| (source, destination, was, is)));
            };
            for (was, sources) in &before {
                let mut rest = sources.clone();
                for (is, others) in &after {
                    add(&sources.intersection(others), *was, *is);
                    rest = rest.difference(others);
                }
                add(&rest, *was, nothing);
            }
            for (is, sources) in &after {
                let rest =
                    before.iter().fold(sources.clone(), |rest, (_, all)| rest.difference(all));
                add(&rest, nothing, *is);
            }
        }
        found.sort_unstable();
        (found, self.ports)
    }

    /// A row of one of the worlds, with the numbers of ports that both have in common.
    fn row(&mut self, at: usize, destination: GroupId) -> Row {
        let rows = &mut self.rows[at];
        let row = rows.row(destination);
        let row = row.into_iter().map(|(ports, set)| (self.ports.number(rows.ports(ports)), set));
        let mut row: Row = row.collect();
        row.sort_unstable_by_key(|(ports, _)| *ports);
        row
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
