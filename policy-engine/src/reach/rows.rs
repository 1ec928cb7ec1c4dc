//! Rows: what rules say of every class, kept as what they say of most and who is treated otherwise.
//!
//! ```text
//! stage ──► row of outcomes: allowed, still asked           (once per stage, shared by rules)
//! rules ──► rows of their stages one after the other ──► row of what is allowed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::{Atom, AtomId, Atoms};
use super::course::Course;
use super::rules::Stage;
use super::sets::{EVERYTHING, NOTHING, PortSets, PortsId};
use super::{Class, ClassId};
use crate::labels::Str;
use crate::model::NamedPort;
use crate::port::Protocol;

/// One thing that is said of most classes, and the classes of which something else is.
#[derive(Clone, Debug)]
pub(super) struct Row<T> {
    pub(super) most: Cell<T>,
    /// Ascending; none of them says the same as `most`.
    pub(super) others: Vec<(ClassId, Cell<T>)>,
}

/// What is said of a class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cell<T> {
    /// The same of all its addresses.
    Same(T),
    /// Per address of the class.
    PerAddress(Vec<T>),
}

/// What a stage, or several in a row, make of all ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Outcome {
    allowed: PortsId,
    /// What is left for the next stage.
    asked: PortsId,
}

/// Which classes an atom matches.
pub(super) struct Members<'c> {
    pods: BTreeMap<AtomId, Vec<ClassId>>,
    /// With the place of the address that the block holds.
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

/// What matches a class, beside what matches everyone.
#[derive(Default)]
struct Seen {
    atoms: Vec<Atom>,
    /// Those that match one of its addresses.
    at: Vec<(usize, Atom)>,
}

/// What a stage makes of each class. Only those that it can tell from others cost something.
pub(super) fn of_stage(
    stage: &Stage,
    classes: &[Class],
    members: &Members<'_>,
    sets: &mut PortSets,
) -> Row<Outcome> {
    let wanted = stage.names();
    let seen = seen(stage, &wanted, members);
    let mut outcomes = Outcomes { stage, sets, known: BTreeMap::new() };
    let nobody = outcomes.of(Vec::new(), &[]);
    let mut cells: BTreeMap<ClassId, Cell<Outcome>> = BTreeMap::new();
    for (id, Seen { atoms, at }) in seen {
        let Some(class) = classes.get(id) else { continue };
        let asked = |port: &&NamedPort| wanted.contains(&(port.protocol, port.name.clone()));
        let named = if wanted.is_empty() { &[] } else { class.ports.as_slice() };
        let named: Vec<NamedPort> = named.iter().filter(asked).cloned().collect();
        let cell = if at.is_empty() {
            Cell::Same(outcomes.of(atoms, &named))
        } else {
            let of_address = |place: usize| {
                let here = at.iter().filter(|(at, _)| *at == place).map(|(_, atom)| *atom);
                outcomes.of(atoms.iter().copied().chain(here).collect(), &named)
            };
            Cell::of((0..class.addresses.len()).map(of_address).collect(), nobody)
        };
        cells.insert(id, cell);
    }
    Row::of(nobody, cells, classes.len())
}

/// The outcomes of a stage, each found once.
struct Outcomes<'a> {
    stage: &'a Stage,
    sets: &'a mut PortSets,
    known: BTreeMap<(Vec<Atom>, Vec<NamedPort>), Outcome>,
}

impl Outcomes<'_> {
    /// For a peer that these match, beside what matches everyone, with these named ports.
    fn of(&mut self, mut atoms: Vec<Atom>, named: &[NamedPort]) -> Outcome {
        atoms.push(Atom::Any);
        let key = (atoms, named.to_vec());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let mut course = Course::start();
        self.stage.pass(&mut course, &key.0, named);
        let allowed = self.sets.number(&course.allowed);
        let outcome = Outcome { allowed, asked: self.sets.number(&course.asked) };
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
            // Matches all, and no pod is a node.
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
    /// A row that says the same of all classes.
    fn all(said: T) -> Self {
        Self { most: Cell::Same(said), others: Vec::new() }
    }

    /// A row of so many classes that says this of all but some.
    fn of(rest: T, mut some: BTreeMap<ClassId, Cell<T>>, classes: usize) -> Self {
        let mut times: BTreeMap<T, usize> = [(rest, classes.saturating_sub(some.len()))].into();
        for cell in some.values() {
            if let Cell::Same(said) = cell {
                *times.entry(*said).or_default() += 1;
            }
        }
        let most = times.into_iter().max_by_key(|(_, times)| *times).map_or(rest, |(said, _)| said);
        if most != rest {
            for class in 0..classes {
                some.entry(class).or_insert(Cell::Same(rest));
            }
        }
        let most = Cell::Same(most);
        some.retain(|_, cell| *cell != most);
        Self { most, others: some.into_iter().collect() }
    }

    /// What is said of one class.
    pub(super) fn at(&self, class: ClassId) -> &Cell<T> {
        let found = self.others.binary_search_by_key(&class, |(class, _)| *class).ok();
        found.and_then(|at| self.others.get(at)).map_or(&self.most, |(_, cell)| cell)
    }
}

impl Row<PortsId> {
    /// What stages allow together, one after the other.
    pub(super) fn of_stages<'r>(
        mut stages: impl Iterator<Item = &'r Row<Outcome>>,
        sets: &mut PortSets,
    ) -> Self {
        let first = stages.next().cloned();
        let nothing_said = Row::all(Outcome { allowed: NOTHING, asked: EVERYTHING });
        let before = first.unwrap_or(nothing_said);
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
        let more = sets.both(self.asked, next.allowed);
        let allowed = sets.either(self.allowed, more);
        Self { allowed, asked: sets.both(self.asked, next.asked) }
    }

    /// What no stage has decided is allowed.
    fn end(self, sets: &mut PortSets) -> PortsId {
        sets.either(self.allowed, self.asked)
    }
}

impl<T: Copy + PartialEq> Cell<T> {
    fn of(addresses: Vec<T>, none: T) -> Self {
        let first = addresses.first().copied().unwrap_or(none);
        if addresses.iter().all(|said| *said == first) {
            return Self::Same(first);
        }
        Self::PerAddress(addresses)
    }

    pub(super) fn at(&self, address: usize) -> Option<T> {
        match self {
            Self::Same(said) => Some(*said),
            Self::PerAddress(said) => said.get(address).copied(),
        }
    }

    fn map<U: Copy + PartialEq>(&self, mut say: impl FnMut(T) -> U) -> Cell<U> {
        match self {
            Self::Same(said) => Cell::Same(say(*said)),
            Self::PerAddress(said) => {
                let said: Vec<U> = said.iter().map(|said| say(*said)).collect();
                match said.first().copied() {
                    Some(first) => Cell::of(said, first),
                    None => Cell::PerAddress(said),
                }
            }
        }
    }

    fn with(&self, other: &Self, mut say: impl FnMut(T, T) -> T) -> Self {
        match (self, other) {
            (Self::Same(left), Self::Same(right)) => Self::Same(say(*left, *right)),
            (Self::Same(left), cell) => cell.map(|right| say(*left, right)),
            (cell, Self::Same(right)) => cell.map(|left| say(left, *right)),
            (Self::PerAddress(left), Self::PerAddress(right)) => {
                let pairs = left.iter().zip(right);
                let said: Vec<T> = pairs.map(|(left, right)| say(*left, *right)).collect();
                Self::PerAddress(said).map(|said| said)
            }
        }
    }
}
