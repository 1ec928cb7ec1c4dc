//! Rows: one value for every class, kept as the value of most classes and the exceptions.
//!
//! ```text
//! stage ──► row of outcomes: ports allowed, ports undecided  (once per stage, shared by rules)
//! rules ──► rows of their stages one after the other ──► row of the ports that are allowed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::{Atom, AtomId, Atoms};
use super::classes::{Class, ClassId};
use super::course::Course;
use super::rules::Stage;
use super::sets::{EVERYTHING, NOTHING, PortSets, PortsId};
use crate::labels::Str;
use crate::model::NamedPort;
use crate::port::Protocol;

/// A value for every class: the value of most classes, and the classes with another value.
#[derive(Clone, Debug)]
pub(super) struct Row<T> {
    pub(super) most: Cell<T>,
    /// Ascending by class; no cell equals `most`.
    pub(super) others: Vec<(ClassId, Cell<T>)>,
}

/// The value for one class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cell<T> {
    /// The same value for all its addresses.
    Same(T),
    /// A value for each address of the class.
    PerAddress(Vec<T>),
}

/// What a stage, or several stages in a row, decide about all ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Outcome {
    allowed: PortsId,
    /// The ports that the next stage decides about.
    undecided: PortsId,
}

/// Which classes an atom matches.
pub(super) struct Members<'c> {
    pods: BTreeMap<AtomId, Vec<ClassId>>,
    /// The classes with the index of the address that the block contains.
    blocks: BTreeMap<AtomId, Vec<(ClassId, usize)>>,
    named: BTreeMap<(Protocol, &'c Str), Vec<ClassId>>,
}

impl<'c> Members<'c> {
    pub(super) fn new(classes: &'c [Class], atoms: &Atoms) -> Self {
        let (mut pods, mut blocks) = (BTreeMap::new(), BTreeMap::new());
        let mut named = BTreeMap::new();
        for (number, class) in classes.iter().enumerate() {
            for peer in &class.peers {
                pods.entry(*peer).or_insert_with(Vec::new).push(number);
            }
            for (at, address) in class.addresses.iter().enumerate() {
                for block in atoms.blocks_with(*address) {
                    blocks.entry(block).or_insert_with(Vec::new).push((number, at));
                }
            }
            for port in &class.ports {
                let name = (port.protocol, &port.name);
                named.entry(name).or_insert_with(Vec::new).push(number);
            }
        }
        Self { pods, blocks, named }
    }

    fn pods(&self, id: AtomId) -> &[ClassId] {
        self.pods.get(&id).map_or(&[], Vec::as_slice)
    }

    fn block(&self, id: AtomId) -> &[(ClassId, usize)] {
        self.blocks.get(&id).map_or(&[], Vec::as_slice)
    }

    fn named<'n>(&'n self, (protocol, name): &'n (Protocol, Str)) -> &'n [ClassId] {
        self.named.get(&(*protocol, name)).map_or(&[], Vec::as_slice)
    }
}

/// The atoms that match a class, without [`Atom::Any`].
#[derive(Default)]
struct Seen {
    atoms: Vec<Atom>,
    /// Atoms that match one address of the class, with the index of the address.
    at: Vec<(usize, Atom)>,
}

/// The outcome of a stage for each class. The cost follows the number of classes that the stage
/// mentions.
pub(super) fn of_stage(
    stage: &Stage,
    classes: &[Class],
    members: &Members<'_>,
    sets: &mut PortSets,
) -> Row<Outcome> {
    let wanted = stage.names();
    let seen = seen(stage, &wanted, members);
    let mut outcomes = Outcomes { stage, sets, known: BTreeMap::new() };
    let no_atom = outcomes.of(Vec::new(), &[]);
    let mut cells: BTreeMap<ClassId, Cell<Outcome>> = BTreeMap::new();
    for (id, Seen { atoms, at }) in seen {
        let class = &classes[id];
        let mentioned = |port: &&NamedPort| wanted.contains(&(port.protocol, port.name.clone()));
        let named = if wanted.is_empty() { &[] } else { class.ports.as_slice() };
        let named: Vec<NamedPort> = named.iter().filter(mentioned).cloned().collect();
        let cell = if at.is_empty() && !class.contested.contains(&true) {
            Cell::Same(outcomes.of(atoms, &named))
        } else {
            let of_address = |place: usize| {
                let here = at.iter().filter(|(at, _)| *at == place).map(|(_, atom)| *atom);
                // Only blocks match a contested address, and no port by name.
                let (atoms, named) = match class.contested.get(place) {
                    Some(true) => (&[][..], &[][..]),
                    Some(false) | None => (&atoms[..], &named[..]),
                };
                outcomes.of(atoms.iter().copied().chain(here).collect(), named)
            };
            Cell::of((0..class.addresses.len()).map(of_address).collect())
        };
        cells.insert(id, cell);
    }
    Row::of(no_atom, cells, classes.len())
}

/// The outcomes of a stage, each computed once.
struct Outcomes<'a> {
    stage: &'a Stage,
    sets: &'a mut PortSets,
    known: BTreeMap<(Vec<Atom>, Vec<NamedPort>), Outcome>,
}

impl Outcomes<'_> {
    /// The outcome for a peer that these atoms and [`Atom::Any`] match, with these named ports of
    /// the destination.
    fn of(&mut self, mut atoms: Vec<Atom>, named: &[NamedPort]) -> Outcome {
        atoms.push(Atom::Any);
        let key = (atoms, named.to_vec());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let mut course = Course::start();
        self.stage.apply(&mut course, &key.0, named);
        let allowed = self.sets.number(&course.allowed);
        let outcome = Outcome { allowed, undecided: self.sets.number(&course.undecided) };
        self.known.insert(key, outcome);
        outcome
    }
}

fn seen(
    stage: &Stage,
    names: &BTreeSet<&(Protocol, Str)>,
    members: &Members<'_>,
) -> BTreeMap<ClassId, Seen> {
    let mut seen: BTreeMap<ClassId, Seen> = BTreeMap::new();
    for atom in stage.atoms() {
        match atom {
            // `Any` matches every class, `Nodes` matches none.
            Atom::Any | Atom::Nodes(_) => {}
            Atom::Pods(id) => {
                for class in members.pods(id) {
                    seen.entry(*class).or_default().atoms.push(atom);
                }
            }
            Atom::Block(id) => {
                for (class, place) in members.block(id) {
                    seen.entry(*class).or_default().at.push((*place, atom));
                }
            }
        }
    }
    for class in names.iter().flat_map(|name| members.named(name)) {
        seen.entry(*class).or_default();
    }
    seen
}

impl<T: Copy + Ord> Row<T> {
    /// The row of `classes` classes with the value `rest` for all but `some`.
    fn of(rest: T, mut some: BTreeMap<ClassId, Cell<T>>, classes: usize) -> Self {
        let mut times: BTreeMap<T, usize> = [(rest, classes.saturating_sub(some.len()))].into();
        for cell in some.values() {
            if let Cell::Same(value) = cell {
                *times.entry(*value).or_default() += 1;
            }
        }
        let most =
            times.into_iter().max_by_key(|(_, times)| *times).map_or(rest, |(value, _)| value);
        if most != rest {
            for class in 0..classes {
                some.entry(class).or_insert(Cell::Same(rest));
            }
        }
        let most = Cell::Same(most);
        some.retain(|_, cell| *cell != most);
        Self { most, others: some.into_iter().collect() }
    }

    /// The value for one class.
    pub(super) fn at(&self, class: ClassId) -> &Cell<T> {
        let found = self.others.binary_search_by_key(&class, |(class, _)| *class);
        found.map_or(&self.most, |at| &self.others[at].1)
    }
}

impl Row<PortsId> {
    /// What stages allow together, one after the other.
    pub(super) fn of_stages<'r>(
        mut stages: impl Iterator<Item = &'r Row<Outcome>>,
        sets: &mut PortSets,
    ) -> Self {
        let undecided = Cell::Same(Outcome { allowed: NOTHING, undecided: EVERYTHING });
        let undecided = || Row { most: undecided, others: Vec::new() };
        let before = stages.next().cloned().unwrap_or_else(undecided);
        let row = stages.fold(before, |before, stage| before.then(stage, sets));
        let mut end = |cell: &Cell<Outcome>| cell.map(|outcome| outcome.end(sets));
        let most = end(&row.most);
        let others = row.others.iter().map(|(class, cell)| (*class, end(cell)));
        Self { others: others.filter(|(_, cell)| *cell != most).collect(), most }
    }
}

impl Row<Outcome> {
    fn then(&self, next: &Self, sets: &mut PortSets) -> Self {
        let most = self.most.with(&next.most, |left, right| left.then(right, sets));
        let mut others = Vec::with_capacity(self.others.len().max(next.others.len()));
        let (mut left, mut right) = (self.others.iter().peekable(), next.others.iter().peekable());
        while let Some(class) = [left.peek(), right.peek()].into_iter().flatten().map(|c| c.0).min()
        {
            let before = left.next_if(|(at, _)| *at == class).map_or(&self.most, |(_, cell)| cell);
            let then = right.next_if(|(at, _)| *at == class).map_or(&next.most, |(_, cell)| cell);
            let cell = before.with(then, |left, right| left.then(right, sets));
            if cell != most {
                others.push((class, cell));
            }
        }
        Self { most, others }
    }
}

impl Outcome {
    fn then(self, next: Self, sets: &mut PortSets) -> Self {
        let more = sets.intersection(self.undecided, next.allowed);
        let allowed = sets.union(self.allowed, more);
        Self { allowed, undecided: sets.intersection(self.undecided, next.undecided) }
    }

    /// The ports that are allowed in the end: what no stage has decided about is allowed.
    fn end(self, sets: &mut PortSets) -> PortsId {
        sets.union(self.allowed, self.undecided)
    }
}

impl<T: Copy + PartialEq> Cell<T> {
    /// The cell of one value for each address.
    fn of(addresses: Vec<T>) -> Self {
        match addresses.as_slice() {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => Self::Same(*first),
            _ => Self::PerAddress(addresses),
        }
    }

    pub(super) fn at(&self, address: usize) -> Option<T> {
        match self {
            Self::Same(value) => Some(*value),
            Self::PerAddress(values) => values.get(address).copied(),
        }
    }

    fn map<U: Copy + PartialEq>(&self, mut change: impl FnMut(T) -> U) -> Cell<U> {
        match self {
            Self::Same(value) => Cell::Same(change(*value)),
            Self::PerAddress(values) => Cell::of(values.iter().map(|v| change(*v)).collect()),
        }
    }

    fn with(&self, other: &Self, mut join: impl FnMut(T, T) -> T) -> Self {
        match (self, other) {
            (Self::Same(left), Self::Same(right)) => Self::Same(join(*left, *right)),
            (Self::Same(left), cell) => cell.map(|right| join(*left, right)),
            (cell, Self::Same(right)) => cell.map(|left| join(left, *right)),
            (Self::PerAddress(left), Self::PerAddress(right)) => {
                Self::of(left.iter().zip(right).map(|(l, r)| join(*l, *r)).collect())
            }
        }
    }
}
