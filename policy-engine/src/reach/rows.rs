//! Rows: the places that the pods of one place can connect to, or be connected from, by ports.
//!
//! ```text
//! row of a destination = its ingress rules over all sources ∩ the egress rules of all sources at it
//!                        (direct: a set per peer)             (inverted: who mentions what it is)
//! ```
//!
//! Both sides are sets of points. So the cost of a row follows what its rules mention, not the
//! number of pods. Rows are not kept.

use std::collections::BTreeMap;

use super::atoms::{Atom, Atoms};
use super::classes::{Class, ClassId};
use super::course::Course;
use super::id_set::IdSet;
use super::parts::Parts;
use super::points::{PointId, Points};
use super::ports::PortSet;
use super::rules::{Matches, Rules, RulesId, Stage, StageId, WantedPorts};
use super::sets::{EVERYTHING, PortSets, PortsId};
use crate::direction::Direction;
use crate::model::NamedPort;

/// The connections of one place that are allowed: places by the ports that are allowed, in the
/// order of the ports' numbers. The sets are disjoint.
///
/// A place can be in its own row. If it has only one pod, this has no meaning: a pod can always
/// connect to itself.
pub type Row = Vec<(PortsId, IdSet)>;

/// Computes rows.
pub struct Rows<'r> {
    stages: &'r [Stage],
    rules: &'r [Rules],
    classes: &'r [Class],
    /// The direction of the subjects: `Ingress` if rows are those of destinations.
    direction: Direction,
    points: Points<'r>,
    /// The rules of the peers.
    mentions: Mentions<'r>,
    /// How many places have the same rules.
    times: BTreeMap<RulesId, usize>,
    /// The ports that the rules of several places allow.
    known: BTreeMap<RulesId, Parts>,
    sets: PortSets,
}

/// The rules of all points in one direction, by the peers that they mention.
struct Mentions<'r> {
    /// The points that are not isolated.
    open: IdSet,
    /// The traffic that isolating stages allow for a peer, and the points that have such a stage.
    allowed: BTreeMap<Atom, Vec<(&'r WantedPorts, IdSet)>>,
    /// The points by their ordered stages.
    ordered: Vec<(&'r [StageId], IdSet)>,
}

impl<'r> Rows<'r> {
    pub(super) fn new(
        (atoms, stages, rules): (&'r Atoms, &'r [Stage], &'r [Rules]),
        classes: &'r [Class],
        direction: Direction,
        places: Vec<Option<ClassId>>,
    ) -> Self {
        let mut times = BTreeMap::new();
        for class in places.iter().flatten() {
            *times.entry(classes[*class].rules(direction)).or_default() += 1;
        }
        let points = Points::new(classes, atoms, places);
        let mentions = Mentions::new(stages, rules, classes, direction.opposite(), &points);
        let (known, sets) = (BTreeMap::new(), PortSets::new());
        Self { stages, rules, classes, direction, points, mentions, times, known, sets }
    }

    /// The row of a place.
    pub fn row(&mut self, place: usize) -> Row {
        let class = self.points.class_of.get(place).copied().flatten();
        let Some(class) = class.map(|id| &self.classes[id]) else { return Row::new() };
        let own = self.direct(class.rules(self.direction));
        let mut row = Parts::default();
        for point in self.points.of_place(place) {
            let others = self.inverted(point);
            let mut parts = if others.is_everything(&self.points.all) {
                own.clone()
            } else {
                own.meet(&others, &mut self.sets)
            };
            if !self.points.all_meet() {
                parts = parts.within(&self.points.meeting(point));
            }
            // Several points of one place may be in several parts.
            for (ports, points) in parts.iter() {
                row.add(ports, &self.points.places(points), &mut self.sets);
            }
        }
        row.into_sorted()
    }

    /// The ports of a part of a row.
    #[must_use]
    pub fn ports(&self, id: PortsId) -> &PortSet {
        self.sets.get(id)
    }

    /// The number of a set of ports; `None` if no row has it.
    pub(super) fn into_sets(self) -> PortSets {
        self.sets
    }

    /// The ports that the rules allow for each point as a peer.
    fn direct(&mut self, rules: RulesId) -> Parts {
        if let Some(known) = self.known.get(&rules) {
            return known.clone();
        }
        let (ordered, isolating) = split(&self.rules[rules], self.stages);
        let parts = if ordered.is_empty() {
            match isolating {
                Some(matches) => matched(matches, &self.points, &mut self.sets),
                None => self.everything(),
            }
        } else {
            self.in_order(ordered, isolating)
        };
        if self.times.get(&rules).is_some_and(|times| *times > 1) {
            self.known.insert(rules, parts.clone());
        }
        parts
    }

    fn everything(&self) -> Parts {
        let mut parts = Parts::default();
        parts.join(EVERYTHING, self.points.all.clone());
        parts
    }

    fn in_order(&mut self, ordered: &[StageId], isolating: Option<&Matches>) -> Parts {
        let mut courses: BTreeMap<Course, IdSet> =
            [(Course::start(), self.points.all.clone())].into();
        for stage in ordered.iter().map(|id| &self.stages[*id]) {
            let Stage::Ordered(steps) = stage else { continue };
            for (action, matches) in steps {
                let matched = matched(matches, &self.points, &mut self.sets);
                courses = cut(courses, &matched, &self.sets, |course, ports| {
                    course.step(*action, ports);
                });
            }
            courses = cut(courses, &Parts::default(), &self.sets, |course, _| course.leave());
        }
        if let Some(matches) = isolating {
            let matched = matched(matches, &self.points, &mut self.sets);
            courses = cut(courses, &matched, &self.sets, Course::isolate);
        }
        let mut parts = Parts::default();
        for (course, points) in courses {
            parts.join(self.sets.number(&course.end()), points);
        }
        parts
    }

    /// The ports that the rules of each other point allow for a point as their peer.
    fn inverted(&mut self, point: PointId) -> Parts {
        let (peers, named) = self.points.content(point);
        let atoms = self.mentions.matching(point, peers, &self.points);
        let mut by_ports: BTreeMap<PortsId, Vec<&IdSet>> = BTreeMap::new();
        for (wanted, points) in atoms.iter().filter_map(|a| self.mentions.allowed.get(a)).flatten()
        {
            let mut ports = PortSet::default();
            wanted.resolve(named, &mut ports);
            by_ports.entry(self.sets.number(&ports)).or_default().push(points);
        }
        let mut parts = union(by_ports, &mut self.sets);
        parts.join(EVERYTHING, self.mentions.open.clone());
        if self.mentions.ordered.is_empty() {
            parts
        } else {
            self.after_ordered(point, named, &parts)
        }
    }

    /// The ports that all stages allow for a point. The last stages, if they isolate, allow `last`.
    fn after_ordered(&mut self, point: PointId, named: &[NamedPort], last: &Parts) -> Parts {
        let mut found = Parts::default();
        let mut rest = self.points.all.clone();
        for (stages, points) in &self.mentions.ordered {
            rest = rest.difference(points);
            let mut course = Course::start();
            for stage in stages.iter().map(|id| &self.stages[*id]) {
                let mut atoms: Vec<Atom> = stage.atoms().into_iter().collect();
                atoms.retain(|atom| {
                    self.points.matched(*atom).is_some_and(|all| all.contains(point))
                });
                stage.apply(&mut course, &atoms, named);
            }
            let allowed = self.sets.number(&course.allowed);
            let undecided = self.sets.number(&course.undecided);
            let mut others = points.clone();
            for (ports, of_part) in last.iter() {
                let both = of_part.intersection(points);
                others = others.difference(&both);
                let more = self.sets.intersection(undecided, ports);
                found.join(self.sets.union(allowed, more), both);
            }
            found.join(allowed, others);
        }
        for (ports, points) in last.within(&rest).iter() {
            found.join(ports, points.clone());
        }
        found
    }
}

impl<'r> Mentions<'r> {
    fn new(
        stages: &'r [Stage],
        rules: &'r [Rules],
        classes: &[Class],
        direction: Direction,
        points: &Points<'_>,
    ) -> Self {
        let mut of_rules: BTreeMap<RulesId, Vec<PointId>> = BTreeMap::new();
        for (place, class) in points.class_of.iter().enumerate() {
            if let Some(class) = class.map(|id| &classes[id]) {
                of_rules.entry(class.rules(direction)).or_default().extend(points.of_place(place));
            }
        }
        let mut open = Vec::new();
        let mut allowed: BTreeMap<Atom, BTreeMap<&WantedPorts, Vec<PointId>>> = BTreeMap::new();
        let mut ordered: BTreeMap<&[StageId], Vec<PointId>> = BTreeMap::new();
        for (id, points) in of_rules {
            let (prefix, isolating) = split(&rules[id], stages);
            match isolating {
                Some(matches) => {
                    for (atom, wanted) in matches.iter() {
                        let known = allowed.entry(atom).or_default().entry(wanted).or_default();
                        known.extend(&points);
                    }
                }
                None => open.extend(&points),
            }
            if !prefix.is_empty() {
                ordered.entry(prefix).or_default().extend(points);
            }
        }
        let set = |points: Vec<PointId>| points.into_iter().collect::<IdSet>();
        let by_ports = |by_ports: BTreeMap<&'r WantedPorts, Vec<PointId>>| {
            by_ports.into_iter().map(|(wanted, points)| (wanted, set(points))).collect()
        };
        Self {
            open: set(open),
            allowed: allowed.into_iter().map(|(atom, all)| (atom, by_ports(all))).collect(),
            ordered: ordered.into_iter().map(|(rules, points)| (rules, set(points))).collect(),
        }
    }

    /// The peers that isolating stages mention and that match a point.
    fn matching(&self, point: PointId, peers: &[usize], points: &Points<'_>) -> Vec<Atom> {
        let blocks = self.allowed.range(Atom::Block(0)..).map(|(atom, _)| *atom);
        let holding =
            |atom: &Atom| points.matched(*atom).is_some_and(|points| points.contains(point));
        let peers = peers.iter().map(|id| Atom::Pods(*id));
        [Atom::Any].into_iter().chain(peers).chain(blocks.filter(holding)).collect()
    }
}

/// The ordered stages of rules, and what the stage that isolates allows. That one is the last.
fn split<'r>(rules: &'r Rules, stages: &'r [Stage]) -> (&'r [StageId], Option<&'r Matches>) {
    let isolating = rules.last().and_then(|id| stages[*id].isolating_matches());
    let ordered = rules.len() - usize::from(isolating.is_some());
    (rules.get(..ordered).unwrap_or_default(), isolating)
}

/// The ports on which each point is matched.
fn matched(matches: &Matches, points: &Points<'_>, sets: &mut PortSets) -> Parts {
    let mut by_ports: BTreeMap<PortsId, Vec<&IdSet>> = BTreeMap::new();
    let mut by_name: BTreeMap<PortsId, Vec<IdSet>> = BTreeMap::new();
    for (atom, wanted) in matches.iter() {
        let Some(found) = points.matched(atom) else { continue };
        if !wanted.numbers.is_empty() {
            by_ports.entry(sets.number(&wanted.numbers)).or_default().push(found);
        }
        for (numbers, named) in wanted.names.iter().flat_map(|name| points.named(name)) {
            by_name.entry(sets.number(numbers)).or_default().push(found.intersection(named));
        }
    }
    for (ports, found) in &by_name {
        by_ports.entry(*ports).or_default().extend(found);
    }
    union(by_ports, sets)
}

/// The parts of sets that may overlap.
fn union(by_ports: BTreeMap<PortsId, Vec<&IdSet>>, sets: &mut PortSets) -> Parts {
    let mut parts = Parts::default();
    for (ports, found) in by_ports {
        parts.add(ports, &IdSet::of_all(found), sets);
    }
    parts
}

/// Cuts each set by parts, and applies `change` to the decisions about the points in each part,
/// with no ports for points in no part.
fn cut(
    courses: BTreeMap<Course, IdSet>,
    parts: &Parts,
    sets: &PortSets,
    change: impl Fn(&mut Course, &PortSet),
) -> BTreeMap<Course, IdSet> {
    let mut found: BTreeMap<Course, IdSet> = BTreeMap::new();
    let mut join = |mut course: Course, ports: &PortSet, points: IdSet| {
        if !points.is_empty() {
            change(&mut course, ports);
            let known = found.entry(course).or_default();
            *known = known.union(&points);
        }
    };
    for (course, points) in courses {
        let mut rest = points;
        for (ports, of_part) in parts.iter() {
            let both = rest.intersection(of_part);
            rest = rest.difference(&both);
            join(course.clone(), sets.get(ports), both);
        }
        join(course, &PortSet::default(), rest);
    }
    found
}
