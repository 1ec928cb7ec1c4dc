//! The rows of a matrix: the one value from which every format is written.
//!
//! ```text
//! matrix ──► rows ─┬─► text, wide
//!                  └─► entries ──► json, yaml, csv, md, dot, mermaid, and all of them by namespace
//! ```
//!
//! A row may list a pod as its own peer only if that says nothing: a pod can always connect to itself.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::direction::Direction;
use policy_engine::reach::{ClassId, PortSet};

use super::matrix::{Matrix, Part, of};
use crate::model::Unit;
use crate::output::names::Names;

/// Which side the blocks are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// Who reaches each destination.
    Destinations,
    /// What each source reaches.
    Sources,
}

/// Units with equal rows, and what is allowed between them and all others.
pub(super) struct Block<'m> {
    /// The units that the block is about.
    pub(super) subjects: BTreeSet<&'m Unit>,
    /// The peers by the ports that are allowed.
    pub(super) peers: Peers<'m>,
    /// External addresses, each part with the ports that are allowed.
    pub(super) external: Vec<&'m Part>,
}

/// Peers by the ports that are allowed.
pub(super) type Peers<'m> = BTreeMap<&'m PortSet, BTreeSet<&'m Unit>>;

impl About {
    /// The direction of the policies of the subjects.
    pub(super) fn direction(self) -> Direction {
        match self {
            Self::Destinations => Direction::Ingress,
            Self::Sources => Direction::Egress,
        }
    }

    /// What stands before the peers.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Destinations => "from",
            Self::Sources => "to",
        }
    }
}

impl Matrix {
    /// Every unit that is asked about, in blocks of units with equal rows. In the order of their
    /// first names, but those to whom some have every port last: people look for what policies
    /// restrict.
    pub(super) fn blocks(&self, about: About) -> Vec<Block<'_>> {
        let subjects = match about {
            About::Destinations => &self.destinations,
            About::Sources => &self.sources,
        };
        let mut rows: BTreeMap<ClassId, (Peers<'_>, Vec<&Part>)> = BTreeMap::new();
        for (class, units) in subjects.iter().enumerate() {
            if !units.is_empty() {
                rows.insert(class, (Peers::new(), Vec::new()));
            }
        }
        for (source, destination, ports) in &self.edges {
            let (class, peers) = match about {
                About::Destinations => (destination, of(&self.sources, *source)),
                About::Sources => (source, of(&self.destinations, *destination)),
            };
            if let Some((row, _)) = rows.get_mut(class) {
                row.entry(ports).or_default().extend(peers);
            }
        }
        for (class, direction, parts) in &self.outside {
            let fits = *direction == about.direction();
            if let Some((_, external)) = rows.get_mut(class).filter(|_| fits) {
                external.extend(parts);
            }
        }
        let names = Names::new(&self.everyone, false);
        let mut blocks: BTreeMap<(Peers<'_>, Vec<&Part>), BTreeSet<&Unit>> = BTreeMap::new();
        for (class, (mut row, external)) in rows {
            // A pod that is alone in its class and that reaches all others reaches every pod, for it
            // reaches itself. Several pods of a class may not reach each other.
            if let [own] = self.everyone.of(class)
                && own.pods == 1
            {
                for peers in row.values_mut() {
                    let with_itself: BTreeSet<&Unit> = peers.iter().copied().chain([own]).collect();
                    if names.is_everyone(&with_itself) {
                        *peers = with_itself;
                    }
                }
            }
            blocks.entry((row, external)).or_default().extend(of(subjects, class));
        }
        let block = |((peers, external), subjects)| Block { subjects, peers, external };
        let mut blocks: Vec<Block<'_>> = blocks.into_iter().map(block).collect();
        let is_open = |block: &Block<'_>| block.peers.keys().any(|ports| ports.is_everything());
        blocks.sort_by(|left, right| {
            (is_open(left), left.subjects.first()).cmp(&(is_open(right), right.subjects.first()))
        });
        blocks
    }
}

/// Whether a row may name this unit as its own peer without meaning anything.
pub(super) fn is_alone(unit: &Unit) -> bool {
    unit.pods < 2
}
