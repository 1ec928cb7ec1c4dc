//! Edges: every pair of classes between which something is allowed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::atoms::Atoms;
use super::classes::{Class, ClassId};
use super::ports::PortSet;
use super::rows::{self, Cell, Members, Outcome, Row};
use super::rules::{Rules, Stage};
use super::sets::{NOTHING, PortSets, PortsId};
use crate::cidr::Family;
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
#[derive(Default, Debug)]
pub struct Edges {
    edges: Vec<(ClassId, ClassId, PortsId)>,
    ports: Vec<PortSet>,
}

/// A row for each set of rules, and the sets of ports that are found while rows are joined.
struct Table<'c> {
    classes: &'c [Class],
    rows: Vec<Row<PortsId>>,
    sets: PortSets,
}

const NO_PORTS: Cell<PortsId> = Cell::Same(NOTHING);

impl Edges {
    pub(super) fn new(atoms: &Atoms, stages: &[Stage], rules: &[Rules], classes: &[Class]) -> Self {
        let mut table = Table::new(atoms, stages, rules, classes);
        let (listed, open) = table.destinations();
        let mut edges = Vec::new();
        for source in 0..classes.len() {
            for destination in table.of_source(source, &listed, &open) {
                let allowed = table.between(source, destination);
                if allowed != NOTHING {
                    edges.push((source, destination, allowed));
                }
            }
        }
        Self { edges, ports: table.sets.into_values() }
    }

    /// All edges.
    pub fn iter(&self) -> impl Iterator<Item = Edge<'_>> {
        self.edges.iter().map(|(source, destination, ports)| Edge {
            source: *source,
            destination: *destination,
            allowed: &self.ports[*ports],
        })
    }
}

impl<'c> Table<'c> {
    fn new(atoms: &Atoms, stages: &[Stage], rules: &[Rules], classes: &'c [Class]) -> Self {
        let mut sets = PortSets::new();
        let members = Members::new(classes, atoms);
        let of_stage = |stage| rows::of_stage(stage, classes, &members, &mut sets);
        let of_stages: Vec<Row<Outcome>> = stages.iter().map(of_stage).collect();
        let of_rules =
            |rules: &Rules| Row::of_stages(rules.iter().map(|id| &of_stages[*id]), &mut sets);
        Self { classes, rows: rules.iter().map(of_rules).collect(), sets }
    }

    fn row(&self, class: ClassId, direction: Direction) -> &Row<PortsId> {
        &self.rows[self.classes[class].rules(direction)]
    }

    /// For each source class the destinations that allow it by an exception of their row, and the
    /// destinations that allow most classes; all ascending.
    fn destinations(&self) -> (Vec<Vec<ClassId>>, Vec<ClassId>) {
        let mut listed = vec![Vec::new(); self.classes.len()];
        let mut open = Vec::new();
        for destination in 0..self.classes.len() {
            let row = self.row(destination, Direction::Ingress);
            if row.most != NO_PORTS {
                open.push(destination);
                continue;
            }
            for (source, _) in &row.others {
                listed[*source].push(destination);
            }
        }
        (listed, open)
    }

    /// The destinations that a source may be able to connect to, ascending.
    fn of_source(
        &self,
        source: ClassId,
        listed: &[Vec<ClassId>],
        open: &[ClassId],
    ) -> Vec<ClassId> {
        let row = self.row(source, Direction::Egress);
        if row.most == NO_PORTS {
            return row.others.iter().map(|(destination, _)| *destination).collect();
        }
        let mut all: Vec<ClassId> = listed[source].iter().chain(open).copied().collect();
        all.sort_unstable();
        all
    }

    /// The ports that both sides allow, for some pair of addresses that can connect.
    fn between(&mut self, source: ClassId, destination: ClassId) -> PortsId {
        let (from, to) = (&self.classes[source], &self.classes[destination]);
        if source == destination && from.pods.len() < 2 {
            return NOTHING;
        }
        let egress = self.row(source, Direction::Egress).at(destination);
        let ingress = self.row(destination, Direction::Ingress).at(source);
        if egress == &NO_PORTS || ingress == &NO_PORTS {
            return NOTHING;
        }
        let mut pairs: BTreeSet<(PortsId, PortsId)> = BTreeSet::new();
        for (of_source, source_address) in from.addresses.iter().enumerate() {
            for (of_destination, destination_address) in to.addresses.iter().enumerate() {
                if can_connect(*source_address, *destination_address) {
                    pairs.extend(egress.at(of_destination).zip(ingress.at(of_source)));
                }
            }
        }
        let sets = &mut self.sets;
        pairs.into_iter().fold(NOTHING, |allowed, (egress, ingress)| {
            let more = sets.intersection(egress, ingress);
            sets.union(allowed, more)
        })
    }
}

/// Whether two addresses can connect: they are of one family, or one is not known yet.
fn can_connect(source: Option<IpAddr>, destination: Option<IpAddr>) -> bool {
    match (source, destination) {
        (Some(source), Some(destination)) => Family::of(source) == Family::of(destination),
        _ => true,
    }
}
