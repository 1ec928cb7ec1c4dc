//! Reachability as rows for every output: the sources, the destinations and the ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::model::PodKey;
use policy_engine::reach::{ClassId, IdSet, PortSet, Reach};

use super::json::{Entry, External};
use super::rows::{About, is_alone};
use crate::args::By;
use crate::model::{Cluster, Unit, Units};
use crate::output::json::{self, Ports};
use crate::output::words;

/// The part of the reachability that a question asks for.
#[derive(Clone, Debug)]
pub struct Focus {
    /// The side that the blocks are for.
    pub about: About,
    /// Only these pods on that side.
    pub subjects: Option<BTreeSet<PodKey>>,
    /// Only these external addresses, and no pods.
    pub outside: Option<CidrSet>,
    /// The directions in which external addresses are evaluated.
    pub outside_directions: Vec<Direction>,
    /// Only these ports.
    pub ports: Option<PortSet>,
}

impl Focus {
    /// All connections between pods.
    #[must_use]
    pub fn all(about: About) -> Self {
        let outside_directions = Vec::new();
        Self { about, subjects: None, outside: None, outside_directions, ports: None }
    }
}

/// External addresses, with what is allowed between them and a class.
pub type Part = (CidrSet, PortSet);

/// Peers by the ports that are allowed: classes by the number of the ports.
pub(super) type Row = BTreeMap<usize, IdSet>;

/// All connections that are asked for, between units.
pub struct Matrix {
    /// All units, by class: the peers.
    pub everyone: Units,
    /// The units that the question names, by class.
    pub subjects: Vec<Vec<Unit>>,
    /// The side of the subjects.
    pub about: About,
    /// The subjects with equal rows, by row.
    pub(super) rows: BTreeMap<Row, Vec<ClassId>>,
    /// The sets of ports in rows.
    pub(super) ports: Vec<PortSet>,
    /// Per class and direction what is allowed between it and external addresses.
    pub outside: Vec<(ClassId, Direction, Vec<Part>)>,
    /// The unit of one entry: pods, workloads or namespaces.
    pub by: By,
}

impl Matrix {
    /// The part of all reachability that `focus` asks for.
    #[must_use]
    pub fn new(cluster: &Cluster, reach: &Reach<'_>, by: By, focus: &Focus) -> Self {
        let everyone = Units::new(cluster, reach, by);
        let subjects = restricted(cluster, reach, &everyone, focus.subjects.as_ref(), by);
        let mut numbered = Numbered::default();
        let mut found: BTreeMap<Row, Vec<ClassId>> = BTreeMap::new();
        let mut of_class = reach.rows(focus.about.direction());
        for (class, _) in subjects.iter().enumerate().filter(|(_, units)| !units.is_empty()) {
            let row = if focus.outside.is_some() { Vec::new() } else { of_class.row(class) };
            let mut own = Row::new();
            for (id, peers) in row {
                let allowed = cut(of_class.ports(id), focus);
                if !allowed.is_empty() {
                    let known = own.entry(numbered.number(&allowed)).or_default();
                    *known = known.union(&peers);
                }
            }
            found.entry(own).or_default().push(class);
        }
        let rows = without_own(found, &everyone);
        let mut outside = Vec::new();
        for class in 0..reach.classes().len() {
            for direction in &focus.outside_directions {
                let is_subject = *direction == focus.about.direction();
                let units = if is_subject { of(&subjects, class) } else { everyone.of(class) };
                if units.is_empty() {
                    continue;
                }
                let parts = reach.outside(class, *direction).parts.into_iter();
                let parts = parts.map(|(addresses, ports)| match &focus.outside {
                    Some(asked) => (addresses.intersection(asked), cut(&ports, focus)),
                    None => (addresses, cut(&ports, focus)),
                });
                let parts: Vec<_> =
                    parts.filter(|(a, ports)| !a.is_empty() && !ports.is_empty()).collect();
                if !parts.is_empty() {
                    outside.push((class, *direction, parts));
                }
            }
        }
        let (about, ports) = (focus.about, numbered.sets);
        Self { everyone, subjects, about, rows, ports, outside, by }
    }

    /// The units of a class on the side that has external addresses of this direction.
    pub(super) fn units_at(&self, class: ClassId, direction: Direction) -> &[Unit] {
        if direction == self.about.direction() {
            of(&self.subjects, class)
        } else {
            self.everyone.of(class)
        }
    }

    /// Source and destination of subject and peer.
    pub(super) fn ends<T>(&self, subject: T, peer: T) -> (T, T) {
        match self.about {
            About::Destinations => (peer, subject),
            About::Sources => (subject, peer),
        }
    }

    /// Every pair of units between which something is allowed.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        if self.by == By::Namespace {
            return self.entries_of_namespaces();
        }
        let mut shared = Shared::default();
        let mut entries = Vec::new();
        for (row, classes) in &self.rows {
            for (ports, peers) in row {
                let allowed = shared.ports(&self.ports[*ports]);
                // The contract has no notation for only the protocols without ports.
                if allowed.is_empty() {
                    continue;
                }
                let peers: Vec<&Unit> = peers.iter().flat_map(|c| self.everyone.of(c)).collect();
                for subject in classes.iter().flat_map(|class| of(&self.subjects, *class)) {
                    for peer in &peers {
                        // A pod can always connect to itself, so this is not listed.
                        if peer.name == subject.name && is_alone(peer) {
                            continue;
                        }
                        let (source, destination) =
                            self.ends(subject.name.clone(), peer.name.clone());
                        entries.push(Entry { source, destination, allowed: allowed.clone() });
                    }
                }
            }
        }
        entries.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
        entries
    }

    fn entries_of_namespaces(&self) -> Vec<Entry> {
        let (names, of_class) = namespace_numbers(&self.everyone);
        // Per namespace of subjects the namespaces of peers, by ports.
        let mut united: BTreeMap<Arc<str>, BTreeMap<usize, IdSet>> = BTreeMap::new();
        for (row, classes) in &self.rows {
            for class in classes {
                for subject in namespaces(of(&self.subjects, *class).iter()).into_keys() {
                    let found = united.entry(subject).or_default();
                    for (ports, peers) in row {
                        // One pod that can connect to itself is not two pods of a namespace.
                        let others =
                            peers.iter().filter(|c| c != class || !is_lone(&self.everyone, *c));
                        let others = others.filter_map(|class| of_class.get(class));
                        let others: IdSet = others.flatten().copied().collect();
                        let known = found.entry(*ports).or_default();
                        *known = known.union(&others);
                    }
                }
            }
        }
        let mut shared = Shared::default();
        let mut entries = Vec::new();
        for (subject, found) in united {
            let mut peers: BTreeMap<usize, PortSet> = BTreeMap::new();
            for (ports, namespaces) in &found {
                for namespace in namespaces.iter() {
                    peers.entry(namespace).or_default().add(&self.ports[*ports]);
                }
            }
            for (peer, allowed) in peers {
                let (source, destination) = self.ends(subject.clone(), names[peer].clone());
                entries.push(Entry { source, destination, allowed: shared.ports(&allowed) });
            }
        }
        entries.retain(|entry| !entry.allowed.is_empty());
        entries.sort_by(|a, b| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)));
        entries
    }

    /// What is allowed between every unit and external addresses.
    #[must_use]
    pub fn external(&self) -> Vec<External> {
        let mut shared = Shared::default();
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (class, direction, parts) in &self.outside {
            let units = self.units_at(*class, *direction);
            let names: Vec<Arc<str>> = match self.by {
                By::Namespace => namespaces(units.iter()).into_keys().collect(),
                By::Pod | By::Workload => units.iter().map(|unit| unit.name.clone()).collect(),
            };
            for (addresses, ports) in parts {
                let (cidrs, allowed) = (shared.cidrs(addresses), shared.ports(ports));
                if allowed.is_empty() {
                    continue;
                }
                for workload in &names {
                    let key = (workload.clone(), *direction, addresses.clone(), ports.clone());
                    // Two classes of one namespace may have the same connections.
                    if self.by != By::Namespace || seen.insert(key) {
                        all.push(External {
                            workload: workload.clone(),
                            direction: (*direction).into(),
                            cidrs: cidrs.clone(),
                            allowed: allowed.clone(),
                        });
                    }
                }
            }
        }
        all.sort_by(|a, b| a.workload.cmp(&b.workload));
        all
    }
}

/// The units of one class.
pub(crate) fn of(units: &[Vec<Unit>], class: ClassId) -> &[Unit] {
    units.get(class).map_or(&[], Vec::as_slice)
}

/// Units by their namespaces; a node, which is in none, by its name.
fn namespaces<'u>(units: impl Iterator<Item = &'u Unit>) -> BTreeMap<Arc<str>, Vec<&'u Unit>> {
    let mut found: BTreeMap<Arc<str>, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        let name = match unit.namespace.as_ref() {
            "" => unit.name.clone(),
            namespace => format!("{namespace}/*").as_str().into(),
        };
        found.entry(name).or_default().push(unit);
    }
    found
}

/// All namespaces by number, and the numbers of the namespaces of each class.
fn namespace_numbers(everyone: &Units) -> (Vec<Arc<str>>, Vec<Vec<usize>>) {
    let mut numbers: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let (mut names, mut of_class) = (Vec::new(), Vec::new());
    for units in &everyone.of_class {
        let numbered = namespaces(units.iter()).into_keys().map(|name| {
            *numbers.entry(name.clone()).or_insert_with(|| {
                names.push(name);
                names.len() - 1
            })
        });
        of_class.push(numbered.collect());
    }
    (names, of_class)
}

/// Whether a class is one pod. Then it means nothing that the class is its own peer.
fn is_lone(everyone: &Units, class: ClassId) -> bool {
    matches!(everyone.of(class), [unit] if is_alone(unit))
}

/// Removes a pod from its own row, if it has a class and a row of its own. If the row has all other
/// units, the pod stays: the row then means every pod, and a pod can always connect to itself.
fn without_own(rows: BTreeMap<Row, Vec<ClassId>>, everyone: &Units) -> BTreeMap<Row, Vec<ClassId>> {
    let others = everyone.of_class.len().saturating_sub(1);
    let mut found: BTreeMap<Row, Vec<ClassId>> = BTreeMap::new();
    for (mut row, classes) in rows {
        if let [class] = classes.as_slice()
            && is_lone(everyone, *class)
        {
            let own: IdSet = [*class].into_iter().collect();
            for peers in row.values_mut() {
                let without = peers.difference(&own);
                let all = without.len() == others;
                *peers = if all { without.union(&own) } else { without };
            }
            row.retain(|_, peers| !peers.is_empty());
        }
        found.entry(row).or_default().extend(classes);
    }
    found.values_mut().for_each(|classes| classes.sort_unstable());
    found
}

/// The part of a set of ports that is asked for.
fn cut(ports: &PortSet, focus: &Focus) -> PortSet {
    match &focus.ports {
        Some(asked) => ports.intersection(asked),
        None => ports.clone(),
    }
}

/// Sets of ports by number.
#[derive(Default, Debug)]
pub(super) struct Numbered {
    numbers: BTreeMap<PortSet, usize>,
    pub(super) sets: Vec<PortSet>,
}

impl Numbered {
    /// The set of a number that this value returned.
    pub(super) fn get(&self, number: usize) -> &PortSet {
        &self.sets[number]
    }

    pub(super) fn number(&mut self, set: &PortSet) -> usize {
        if let Some(known) = self.numbers.get(set) {
            return *known;
        }
        self.numbers.insert(set.clone(), self.sets.len());
        self.sets.push(set.clone());
        self.sets.len() - 1
    }
}

/// Units of these pods only. A unit of which the question names some pods is listed as a whole.
fn restricted(
    cluster: &Cluster,
    reach: &Reach<'_>,
    everyone: &Units,
    only: Option<&BTreeSet<PodKey>>,
    by: By,
) -> Vec<Vec<Unit>> {
    let Some(only) = only else { return everyone.of_class.clone() };
    let each = reach.classes().iter().enumerate().map(|(id, class)| {
        let pods = class.pods.iter().filter(|pod| only.contains(*pod));
        let names: BTreeSet<String> = pods
            .flat_map(|pod| {
                let workload = cluster.workload_of(pod).map(ToString::to_string);
                [Some(cluster.pod_ref(pod)), workload.filter(|_| by != By::Pod)]
            })
            .flatten()
            .collect();
        let units = everyone.of(id).iter().filter(|unit| names.contains(unit.name.as_ref()));
        units.cloned().collect()
    });
    each.collect()
}

/// Values that many rows have in common.
#[derive(Default)]
pub(super) struct Shared {
    ports: BTreeMap<PortSet, Arc<[Ports]>>,
    cidrs: BTreeMap<CidrSet, Arc<[String]>>,
}

impl Shared {
    pub(super) fn ports(&mut self, set: &PortSet) -> Arc<[Ports]> {
        if let Some(known) = self.ports.get(set) {
            return known.clone();
        }
        let made: Arc<[Ports]> = json::ports(set).into();
        self.ports.insert(set.clone(), made.clone());
        made
    }

    pub(super) fn cidrs(&mut self, set: &CidrSet) -> Arc<[String]> {
        let made = || words::networks(set).into();
        self.cidrs.entry(set.clone()).or_insert_with(made).clone()
    }
}
