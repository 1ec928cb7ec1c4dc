//! Edges: every pair of classes between which something is allowed.

use std::collections::BTreeSet;

use super::atoms::Atoms;
use super::ports::PortSet;
use super::rows::{self, Cell, Members, Outcome, Row};
use super::rules::{Rules, Stage};
use super::sets::{NOTHING, PortSets, PortsId};
use super::{Class, ClassId, Edge, can_meet};
use crate::direction::Direction;

/// Every pair of classes between which something is allowed, by source.
#[derive(Default, Debug)]
pub struct Edges {
    edges: Vec<(ClassId, ClassId, PortsId)>,
    ports: Vec<PortSet>,
}

/// A row for each set of rules, and what is found while they are joined.
struct Table<'c> {
    classes: &'c [Class],
    rows: Vec<Row<PortsId>>,
    sets: PortSets,
}

const SAYS_NOTHING: Cell<PortsId> = Cell::Same(NOTHING);

impl Edges {
    pub(super) fn new(atoms: &Atoms, stages: &[Stage], rules: &[Rules], classes: &[Class]) -> Self {
        let mut table = Table::new(atoms, stages, rules, classes);
        let (heard, open) = table.destinations();
        let mut edges = Vec::new();
        for (source, class) in classes.iter().enumerate() {
            for destination in table.of_source(source, class, &heard, &open) {
                let allowed = table.meet(source, destination);
                if allowed != NOTHING {
                    edges.push((source, destination, allowed));
                }
            }
        }
        Self { edges, ports: table.sets.into_values() }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Edge<'_>> {
        self.edges.iter().filter_map(|(source, destination, ports)| {
            let allowed = self.ports.get(*ports)?;
            Some(Edge { source: *source, destination: *destination, allowed })
        })
    }
}

impl<'c> Table<'c> {
    fn new(atoms: &Atoms, stages: &[Stage], rules: &[Rules], classes: &'c [Class]) -> Self {
        let mut sets = PortSets::new();
        let members = Members::new(classes, atoms);
        let of_stage = |stage| rows::of_stage(stage, classes, &members, &mut sets);
        let of_stages: Vec<Row<Outcome>> = stages.iter().map(of_stage).collect();
        let of_rules = |rules: &Rules| {
            let stages = rules.iter().filter_map(|stage| of_stages.get(*stage));
            Row::of_stages(stages, &mut sets)
        };
        Self { classes, rows: rules.iter().map(of_rules).collect(), sets }
    }

    fn row(&self, class: &Class, direction: Direction) -> Option<&Row<PortsId>> {
        self.rows.get(class.rules(direction))
    }

    /// Per source class the destinations that listen to few and to it, and the destinations that
    /// listen to most; all ascending.
    fn destinations(&self) -> (Vec<Vec<ClassId>>, Vec<ClassId>) {
        let mut heard = vec![Vec::new(); self.classes.len()];
        let mut open = Vec::new();
        for (destination, class) in self.classes.iter().enumerate() {
            let Some(row) = self.row(class, Direction::Ingress) else { continue };
            if row.most != SAYS_NOTHING {
                open.push(destination);
                continue;
            }
            for (source, _) in &row.others {
                if let Some(heard) = heard.get_mut(*source) {
                    heard.push(destination);
                }
            }
        }
        (heard, open)
    }

    /// The destinations at which a source may be able to open something, ascending.
    fn of_source(
        &self,
        source: ClassId,
        class: &Class,
        heard: &[Vec<ClassId>],
        open: &[ClassId],
    ) -> Vec<ClassId> {
        let Some(row) = self.row(class, Direction::Egress) else { return Vec::new() };
        if row.most == SAYS_NOTHING {
            return row.others.iter().map(|(destination, _)| *destination).collect();
        }
        let heard = heard.get(source).into_iter().flatten();
        let mut all: Vec<ClassId> = heard.chain(open).copied().collect();
        all.sort_unstable();
        all
    }

    /// The ports that both sides allow, for some pair of addresses that can meet.
    fn meet(&mut self, source: ClassId, destination: ClassId) -> PortsId {
        let sides = self.classes.get(source).zip(self.classes.get(destination));
        let Some((from, to)) = sides else { return NOTHING };
        if source == destination && from.pods.len() < 2 {
            return NOTHING;
        }
        let out = self.row(from, Direction::Egress).map(|row| row.at(destination));
        let into = self.row(to, Direction::Ingress).map(|row| row.at(source));
        let Some((out, into)) = out.zip(into) else { return NOTHING };
        if out == &SAYS_NOTHING || into == &SAYS_NOTHING {
            return NOTHING;
        }
        let mut pairs: BTreeSet<(PortsId, PortsId)> = BTreeSet::new();
        for (at, source_address) in from.addresses.iter().enumerate() {
            for (behind, destination_address) in to.addresses.iter().enumerate() {
                if can_meet(*source_address, *destination_address) {
                    pairs.extend(out.at(behind).zip(into.at(at)));
                }
            }
        }
        let mut allowed = NOTHING;
        for (out, into) in pairs {
            let more = self.sets.both(out, into);
            allowed = self.sets.either(allowed, more);
        }
        allowed
    }
}
