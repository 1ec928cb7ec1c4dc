//! The rows of a matrix: the one value from which every format is written.
//!
//! ```text
//! matrix ──► rows ─┬─► text, wide
//!                  └─► entries ──► json, yaml, csv, md, dot, mermaid, and all of them by namespace
//! ```
//!
//! That a row lists a pod as its own peer has no meaning: a pod can always connect to itself.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::Direction;
use policy_engine::reach::{ClassId, IdSet, PortSet};

use super::matrix::{Matrix, Part, Row, of};
use crate::model::Unit;

/// The side that the blocks are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// The sources that can connect to each destination.
    Destinations,
    /// The destinations that each source can connect to.
    Sources,
}

/// Units with equal rows, and what is allowed between them and all others.
pub(super) struct Block<'m> {
    /// The units that the block is for.
    pub(super) subjects: BTreeSet<&'m Unit>,
    /// The peers, as classes, by the ports that are allowed.
    pub(super) peers: Vec<(&'m PortSet, &'m IdSet)>,
    /// External addresses, each part with the ports that are allowed.
    pub(super) external: Vec<&'m Part>,
}

impl About {
    /// The direction of the policies of the subjects.
    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Self::Destinations => Direction::Ingress,
            Self::Sources => Direction::Egress,
        }
    }

    /// The word before the peers.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Destinations => "from",
            Self::Sources => "to",
        }
    }
}

impl Matrix {
    /// Every unit that the question names, in blocks of units with equal rows. Blocks are in the
    /// order of their first names, but those with every port for some peer come last: users look
    /// for what policies restrict.
    pub(super) fn blocks(&self) -> Vec<Block<'_>> {
        let mut external: BTreeMap<ClassId, Vec<&Part>> = BTreeMap::new();
        for (class, direction, parts) in &self.outside {
            if *direction == self.about.direction() {
                external.entry(*class).or_default().extend(parts);
            }
        }
        let mut blocks = Vec::new();
        for (row, classes) in &self.rows {
            let mut alike: BTreeMap<&[&Part], Vec<ClassId>> = BTreeMap::new();
            for class in classes {
                let parts = external.get(class).map_or(&[] as &[_], Vec::as_slice);
                alike.entry(parts).or_default().push(*class);
            }
            for (external, classes) in alike {
                blocks.push(self.block(row, &classes, external.to_vec()));
            }
        }
        let is_open =
            |block: &Block<'_>| block.peers.iter().any(|(ports, _)| ports.is_everything());
        blocks.sort_by_cached_key(|block| (is_open(block), block.subjects.first().copied()));
        blocks
    }

    fn block<'m>(
        &'m self,
        row: &'m Row,
        classes: &[ClassId],
        external: Vec<&'m Part>,
    ) -> Block<'m> {
        let mut peers: Vec<(&PortSet, &IdSet)> =
            row.iter().map(|(id, peers)| (&self.ports[*id], peers)).collect();
        peers.sort_unstable_by_key(|(ports, _)| *ports);
        let subjects = classes.iter().flat_map(|class| of(&self.subjects, *class)).collect();
        Block { subjects, peers, external }
    }
}

/// Whether a row may list this unit as its own peer, because this has no meaning.
pub(super) fn is_alone(unit: &Unit) -> bool {
    unit.pods < 2
}
