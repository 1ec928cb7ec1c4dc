//! Parts: disjoint sets of numbers, each with the ports that are allowed.

use super::id_set::IdSet;
use super::sets::{EVERYTHING, NOTHING, PortSets, PortsId};

/// Disjoint sets, each with other ports. Numbers in no set have no ports.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct Parts(Vec<(PortsId, IdSet)>);

impl Parts {
    /// The parts in the order of their ports.
    pub(super) fn into_sorted(mut self) -> Vec<(PortsId, IdSet)> {
        self.0.sort_unstable_by_key(|(ports, _)| *ports);
        self.0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PortsId, &IdSet)> {
        self.0.iter().map(|(ports, set)| (*ports, set))
    }

    /// Makes numbers that are in no part yet a part.
    pub(super) fn join(&mut self, ports: PortsId, numbers: IdSet) {
        if ports == NOTHING || numbers.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, known)) => *known = known.union(&numbers),
            None => self.0.push((ports, numbers)),
        }
    }

    /// Adds ports to those of some numbers.
    pub(super) fn add(&mut self, ports: PortsId, numbers: &IdSet, sets: &mut PortSets) {
        let mut rest = numbers.clone();
        let mut found = Self(Vec::with_capacity(self.0.len() + 1));
        for (known, own) in std::mem::take(&mut self.0) {
            let both = if rest.is_empty() { IdSet::default() } else { own.intersection(&rest) };
            if both.is_empty() {
                found.join(known, own);
                continue;
            }
            rest = rest.difference(&both);
            found.join(known, own.difference(&both));
            found.join(sets.union(known, ports), both);
        }
        found.join(ports, rest);
        *self = found;
    }

    /// The ports that both have.
    pub(super) fn meet(&self, other: &Self, sets: &mut PortSets) -> Self {
        let mut found = Self::default();
        for (left, own) in &self.0 {
            for (right, others) in &other.0 {
                found.join(sets.intersection(*left, *right), own.intersection(others));
            }
        }
        found
    }

    /// The parts of some numbers.
    pub(super) fn within(&self, numbers: &IdSet) -> Self {
        let mut found = Self::default();
        for (ports, own) in &self.0 {
            found.join(*ports, own.intersection(numbers));
        }
        found
    }

    /// Whether `numbers` are one part with every port.
    pub(super) fn is_everything(&self, numbers: &IdSet) -> bool {
        matches!(self.0.as_slice(), [(EVERYTHING, own)] if own == numbers)
    }
}
