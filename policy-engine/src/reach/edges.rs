//! Edges: every pair of classes between which something is allowed.

use super::classes::ClassId;
use super::ports::PortSet;
use super::query::Reach;
use super::sets::{PortSets, PortsId};
use crate::direction::Direction;

/// The ports on which pods of one class can connect to pods of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge<'r> {
    /// The class of the pod that connects.
    pub source: ClassId,
    /// The class of the pod that it connects to; for two different pods of one class the same.
    pub destination: ClassId,
    /// The destination ports; never empty.
    pub allowed: &'r PortSet,
}

/// Every pair of classes between which something is allowed, by source.
///
/// In a large cluster there are far more of them than rows: see [`Reach::rows`].
pub struct Edges {
    edges: Vec<(ClassId, ClassId, PortsId)>,
    sets: PortSets,
}

impl Edges {
    pub(super) fn new(reach: &Reach<'_>) -> Self {
        let mut rows = reach.rows(Direction::Egress);
        let mut edges = Vec::new();
        for (source, class) in reach.classes().iter().enumerate() {
            for (ports, destinations) in rows.row(source) {
                let others = destinations.iter().filter(|d| *d != source || class.pods.len() > 1);
                edges.extend(others.map(|destination| (source, destination, ports)));
            }
        }
        edges.sort_unstable();
        Self { edges, sets: rows.into_sets() }
    }

    /// All edges.
    pub fn iter(&self) -> impl Iterator<Item = Edge<'_>> {
        self.edges.iter().map(|(source, destination, ports)| Edge {
            source: *source,
            destination: *destination,
            allowed: self.sets.get(*ports),
        })
    }
}
