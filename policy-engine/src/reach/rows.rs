//! Rows: for each set of rules, the classes that it admits, with the ports.

use std::collections::{BTreeMap, BTreeSet};

use super::ports::PortSet;
use super::rules::{Atom, Atoms, Interned, Rules};
use super::{Class, ClassId, Edge, RulesId, can_meet};
use crate::model::Direction;

/// The number of a [`PortSet`].
type PortsId = usize;

const NOTHING: PortsId = 0;
const EVERYTHING: PortsId = 1;

/// Every pair of classes between which something is allowed, by source.
#[derive(Default, Debug)]
pub struct Edges {
    edges: Vec<(ClassId, ClassId, PortsId)>,
    ports: Vec<PortSet>,
}

/// What rules admit, for every class that they admit anything of.
type Row = Vec<(ClassId, Cell)>;

/// All rows, and what is found while they are joined.
struct Table<'c> {
    classes: &'c [Class],
    rows: BTreeMap<(Direction, RulesId), Row>,
    ports: Interned<PortSet>,
    /// Per pair of port sets what is in both.
    common: BTreeMap<(PortsId, PortsId), PortsId>,
}

/// The ports that are admitted of a class.
#[derive(Clone, Debug)]
enum Cell {
    /// The same for all of its addresses.
    Same(PortsId),
    /// Per address of the class.
    PerAddress(Vec<PortsId>),
}

impl Edges {
    pub(super) fn new(atoms: &Atoms<'_>, rules: &[Rules], classes: &[Class]) -> Self {
        let mut table = Table::new(atoms, rules, classes);
        let (heard, open) = table.destinations();
        let mut edges = Vec::new();
        for (source, class) in classes.iter().enumerate() {
            let destinations: Vec<ClassId> = match class.rules(Direction::Egress) {
                None => {
                    let heard = heard.get(source).into_iter().flatten();
                    let mut all: Vec<ClassId> = heard.chain(&open).copied().collect();
                    all.sort_unstable();
                    all
                }
                Some(id) => table.row(Direction::Egress, id).iter().map(|(d, _)| *d).collect(),
            };
            for destination in destinations {
                let allowed = table.meet(source, destination);
                if allowed != NOTHING {
                    edges.push((source, destination, allowed));
                }
            }
        }
        Self { edges, ports: table.ports.values }
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
    fn new(atoms: &Atoms<'_>, rules: &[Rules], classes: &'c [Class]) -> Self {
        let mut ports = Interned::<PortSet>::default();
        ports.number(&PortSet::default());
        ports.number(&PortSet::everything());
        let members = Members::new(classes, atoms);
        let used: BTreeSet<(Direction, RulesId)> = classes
            .iter()
            .flat_map(|class| Direction::BOTH.map(|d| class.rules(d).map(|id| (d, id))))
            .flatten()
            .collect();
        let mut rows = BTreeMap::new();
        for key @ (direction, id) in used {
            if let Some(rules) = rules.get(id) {
                let row = row(direction, rules, atoms, classes, &members, &mut ports);
                rows.insert(key, row);
            }
        }
        Self { classes, rows, ports, common: BTreeMap::new() }
    }

    /// Per source class the isolated destinations whose ingress admits it, and the destinations
    /// that are not isolated; both ascending.
    fn destinations(&self) -> (Vec<Vec<ClassId>>, Vec<ClassId>) {
        let mut heard = vec![Vec::new(); self.classes.len()];
        let mut open = Vec::new();
        for (destination, class) in self.classes.iter().enumerate() {
            let Some(id) = class.rules(Direction::Ingress) else {
                open.push(destination);
                continue;
            };
            for (source, _) in self.row(Direction::Ingress, id) {
                if let Some(heard) = heard.get_mut(*source) {
                    heard.push(destination);
                }
            }
        }
        (heard, open)
    }

    fn row(&self, direction: Direction, id: RulesId) -> &[(ClassId, Cell)] {
        self.rows.get(&(direction, id)).map_or(&[], Vec::as_slice)
    }

    /// What the rules of one side admit of the class `peer`; without rules everything.
    fn cell(&self, direction: Direction, rules: Option<RulesId>, peer: ClassId) -> &Cell {
        let Some(id) = rules else { return &Cell::Same(EVERYTHING) };
        let row = self.row(direction, id);
        let found = row.binary_search_by_key(&peer, |(class, _)| *class).ok();
        found.and_then(|at| row.get(at)).map_or(&Cell::Same(NOTHING), |(_, cell)| cell)
    }

    /// The ports that both sides admit, for some pair of addresses that can meet.
    fn meet(&mut self, source: ClassId, destination: ClassId) -> PortsId {
        let sides = self.classes.get(source).zip(self.classes.get(destination));
        let Some((from, to)) = sides else { return NOTHING };
        if source == destination && from.pods.len() < 2 {
            return NOTHING;
        }
        let out = self.cell(Direction::Egress, from.rules(Direction::Egress), destination);
        let into = self.cell(Direction::Ingress, to.rules(Direction::Ingress), source);
        let mut pairs: BTreeSet<(PortsId, PortsId)> = BTreeSet::new();
        for (at, source_address) in from.addresses.iter().enumerate() {
            for (behind, destination_address) in to.addresses.iter().enumerate() {
                if can_meet(*source_address, *destination_address) {
                    pairs.insert((out.at(behind), into.at(at)));
                }
            }
        }
        let mut allowed = NOTHING;
        for (out, into) in pairs {
            let more = self.both(out, into);
            allowed = self.either(allowed, more);
        }
        allowed
    }

    fn both(&mut self, left: PortsId, right: PortsId) -> PortsId {
        match (left, right) {
            (NOTHING, _) | (_, NOTHING) => return NOTHING,
            (EVERYTHING, other) | (other, EVERYTHING) => return other,
            _ if left == right => return left,
            _ => {}
        }
        if let Some(known) = self.common.get(&(left, right)) {
            return *known;
        }
        let sets = self.ports.values.get(left).zip(self.ports.values.get(right));
        let set = sets.map(|(left, right)| left.intersection(right)).unwrap_or_default();
        let number = self.ports.number(&set);
        self.common.insert((left, right), number);
        number
    }

    fn either(&mut self, left: PortsId, right: PortsId) -> PortsId {
        if left == NOTHING || left == right {
            return right;
        }
        let sets = self.ports.values.get(left).cloned().zip(self.ports.values.get(right));
        let set = sets.map(|(left, right)| left.union(right)).unwrap_or_default();
        self.ports.number(&set)
    }
}

impl Cell {
    fn at(&self, address: usize) -> PortsId {
        match self {
            Self::Same(ports) => *ports,
            Self::PerAddress(ports) => ports.get(address).copied().unwrap_or(NOTHING),
        }
    }
}

/// Which classes an atom matches.
struct Members {
    pods: BTreeMap<usize, Vec<ClassId>>,
    blocks: BTreeMap<usize, Vec<ClassId>>,
    all: Vec<ClassId>,
}

impl Members {
    fn new(classes: &[Class], atoms: &Atoms<'_>) -> Self {
        let (mut pods, mut blocks) = (BTreeMap::new(), BTreeMap::new());
        for (number, class) in classes.iter().enumerate() {
            for peer in &class.peers {
                pods.entry(*peer).or_insert_with(Vec::new).push(number);
            }
            let held = class.addresses.iter().flat_map(|address| atoms.blocks_with(*address));
            for block in held.collect::<BTreeSet<_>>() {
                blocks.entry(block).or_insert_with(Vec::new).push(number);
            }
        }
        Self { pods, blocks, all: (0..classes.len()).collect() }
    }

    fn of(&self, atom: Atom) -> &[ClassId] {
        match atom {
            Atom::Any => &self.all,
            Atom::Pods(id) => self.pods.get(&id).map_or(&[], Vec::as_slice),
            Atom::Block(id) => self.blocks.get(&id).map_or(&[], Vec::as_slice),
        }
    }
}

fn row(
    direction: Direction,
    rules: &Rules,
    atoms: &Atoms<'_>,
    classes: &[Class],
    members: &Members,
    ports: &mut Interned<PortSet>,
) -> Row {
    let mut admitted: Vec<ClassId> =
        rules.0.keys().flat_map(|atom| members.of(*atom)).copied().collect();
    admitted.sort_unstable();
    admitted.dedup();
    let by_address = rules.has_blocks();
    let mut row = Vec::with_capacity(admitted.len());
    for id in admitted {
        let Some(class) = classes.get(id) else { continue };
        // Egress names are looked up on the destination: the peer. Ingress names are numbers by now.
        let named = match direction {
            Direction::Egress => class.ports.as_slice(),
            Direction::Ingress => &[],
        };
        let mut cell = |address| {
            let set = rules.admitted(atoms, &class.peers, address, named);
            ports.number(&set)
        };
        let cell = match class.addresses.as_slice() {
            addresses @ [_, _, ..] if by_address => {
                Cell::PerAddress(addresses.iter().map(|address| cell(*address)).collect())
            }
            addresses => Cell::Same(cell(addresses.first().copied().flatten())),
        };
        row.push((id, cell));
    }
    row
}
