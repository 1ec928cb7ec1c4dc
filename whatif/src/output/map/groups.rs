//! Groups: pods that policies treat alike, and what is allowed between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::reach::{ClassId, IdSet, PortSet};

use super::json::{Edge, ExternalEdge, Group};
use super::matrix::{Matrix, Shared, of};
use crate::model::Unit;

/// All groups of an answer by number, and their edges.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) all: Vec<Group>,
    pub(super) edges: Vec<Edge>,
    pub(super) external: Vec<ExternalEdge>,
}

/// The groups of the classes of one matrix.
struct Numbers {
    /// The units that the question names.
    subjects: BTreeMap<ClassId, usize>,
    /// All units. A class of which the question names only some units has two groups.
    everyone: Vec<Vec<usize>>,
}

impl Groups {
    pub(super) fn new(matrices: &[Matrix]) -> Self {
        let mut groups = Self::default();
        let mut shared = Shared::default();
        for matrix in matrices {
            let numbers = groups.number(matrix);
            groups.edges(matrix, &numbers, &mut shared);
            groups.external(matrix, &numbers, &mut shared);
        }
        groups
    }

    fn number(&mut self, matrix: &Matrix) -> Numbers {
        let mut numbers = Numbers { subjects: BTreeMap::new(), everyone: Vec::new() };
        // Units that the question does not name are listed only as peers.
        let mut peers = IdSet::default();
        for row in matrix.rows.keys().flat_map(BTreeMap::values) {
            peers = peers.union(row);
        }
        let outside = matrix.outside.iter().filter(|(_, at, _)| *at != matrix.about.direction());
        peers = peers.union(&outside.map(|(class, ..)| *class).collect());
        let classes = matrix.subjects.len().max(matrix.everyone.of_class.len());
        for class in 0..classes {
            let (subjects, all) = (of(&matrix.subjects, class), matrix.everyone.of(class));
            let mut own = Vec::new();
            if !subjects.is_empty() {
                let number = self.add(subjects.iter());
                numbers.subjects.insert(class, number);
                own.push(number);
            }
            let mut rest = all.iter().filter(|unit| !subjects.contains(unit)).peekable();
            if rest.peek().is_some() && peers.contains(class) {
                own.push(self.add(rest));
            }
            numbers.everyone.push(if all.is_empty() { Vec::new() } else { own });
        }
        numbers
    }

    fn add<'u>(&mut self, units: impl Iterator<Item = &'u Unit>) -> usize {
        let id = self.all.len();
        let members = units.map(|unit| unit.name.clone()).collect();
        self.all.push(Group { id, members, groups: Vec::new() });
        id
    }

    /// Adds a group for each set of several peers that several edges share; returns the groups of
    /// each set.
    fn sets<'m>(
        &mut self,
        matrix: &'m Matrix,
        numbers: &Numbers,
    ) -> BTreeMap<&'m IdSet, Arc<[usize]>> {
        let mut times: BTreeMap<&IdSet, usize> = BTreeMap::new();
        for peers in matrix.rows.keys().flat_map(BTreeMap::values) {
            *times.entry(peers).or_default() += 1;
        }
        let set = |(peers, times): (&'m IdSet, usize)| {
            let found = peers.iter().filter_map(|class| numbers.everyone.get(class));
            let groups: Vec<usize> = found.flatten().copied().collect();
            if times < 2 || groups.len() < 2 {
                return (peers, groups.into());
            }
            let id = self.all.len();
            self.all.push(Group { id, members: Vec::new(), groups });
            (peers, [id].into())
        };
        times.into_iter().map(set).collect()
    }

    fn edges(&mut self, matrix: &Matrix, numbers: &Numbers, shared: &mut Shared) {
        let sets = self.sets(matrix, numbers);
        for (row, classes) in &matrix.rows {
            let subjects = classes.iter().filter_map(|class| numbers.subjects.get(class));
            let subjects: Arc<[usize]> = subjects.copied().collect();
            for (ports, peers) in row {
                let allowed = shared.ports(&matrix.ports[*ports]);
                let Some(peers) = sets.get(peers).filter(|peers| !peers.is_empty()) else {
                    continue;
                };
                // The contract has no notation for only the protocols without ports.
                if !allowed.is_empty() {
                    let (from, to) = matrix.ends(subjects.clone(), peers.clone());
                    self.edges.push(Edge { from, to, allowed });
                }
            }
        }
    }

    fn external(&mut self, matrix: &Matrix, numbers: &Numbers, shared: &mut Shared) {
        let mut alike: BTreeMap<(Direction, &CidrSet, &PortSet), Vec<usize>> = BTreeMap::new();
        for (class, direction, parts) in &matrix.outside {
            let groups = if *direction == matrix.about.direction() {
                numbers.subjects.get(class).into_iter().copied().collect()
            } else {
                numbers.everyone.get(*class).cloned().unwrap_or_default()
            };
            for (addresses, ports) in parts {
                alike.entry((*direction, addresses, ports)).or_default().extend(&groups);
            }
        }
        for ((direction, addresses, ports), groups) in alike {
            let (cidrs, allowed) = (shared.cidrs(addresses), shared.ports(ports));
            if !allowed.is_empty() {
                self.external.push(ExternalEdge {
                    groups,
                    direction: direction.into(),
                    cidrs,
                    allowed,
                });
            }
        }
    }
}
